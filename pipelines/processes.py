"""Child processes that are looked after: started again when they end, ended when we do."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from medml.errors import MedmlError

logger = logging.getLogger(__name__)

STOP_SECONDS = 20.0
POLL_SECONDS = 0.5
LONGEST_PAUSE = 60.0

# Has the kernel send SIGTERM when the parent dies (PR_SET_PDEATHSIG), then becomes the command it is given.
_TIED = "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 15); os.execv(sys.argv[1], sys.argv[1:])"


@dataclass
class Child:
    """A process that is started again when it ends, after a pause that doubles each time up to a minute.

    Attributes
    ----------
    name : str
        What messages call it, e.g. "the MLflow server".
    command : sequence of str
        The program's absolute path and its arguments.
    log : Path
        Where its output is appended.
    """

    name: str
    command: Sequence[str]
    log: Path
    environment: dict[str, str]
    process: subprocess.Popen[bytes] = field(init=False)
    _failures: int = 0
    _started: float = 0.0
    _due: float = 0.0

    def launch(self) -> None:
        """Start the process, in a process group of its own."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _TIED, *self.command],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._started, self._due = time.monotonic(), 0.0

    def look_after(self) -> None:
        """Start the process again if it has ended and its pause is over."""
        now = time.monotonic()
        code = self.process.poll()
        if code is None:
            if now - self._started > LONGEST_PAUSE:
                self._failures = 0
        elif not self._due:
            _end_group(self.process)
            pause = min(2.0**self._failures, LONGEST_PAUSE)
            self._failures += 1
            self._due = now + pause
            logger.warning("%s ended (code %s); starting it again in %.0f s; log: %s", self.name, code, pause, self.log)
        elif now >= self._due:
            self.launch()

    def wait_until(self, ready: Callable[[], bool], stopped: Sequence[int], timeout: float) -> None:
        """Wait until it is ready, or we are told to stop.

        Raises
        ------
        MedmlError
            If the process ends, or takes longer than ``timeout`` seconds.
        """
        deadline = time.monotonic() + timeout
        while not stopped and not ready():
            code = self.process.poll()
            if code is not None:
                raise MedmlError(f"{self.name} ended while starting (code {code}); its log says why: {self.log}")
            if time.monotonic() > deadline:
                raise MedmlError(f"{self.name} was not ready within {timeout:.0f} s; its log may say why: {self.log}")
            time.sleep(POLL_SECONDS)

    def stop(self) -> None:
        """Ask the process to end, and end what is left of it and its children after a while."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                logger.warning("%s did not stop within %.0f s; ending it", self.name, STOP_SECONDS)
        _end_group(self.process)
        self.process.wait()


@contextmanager
def stop_on_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM in a list; a second one interrupts."""
    seen: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if seen:
            raise KeyboardInterrupt
        seen.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End what is left of a child's process group; nothing being left is the usual case."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
