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


class Pause:
    """When to start something again that has ended: after a pause that doubles each time, up to a minute."""

    def __init__(self) -> None:
        self._failures = 0
        self._since = time.monotonic()
        self._due = 0.0
        self.seconds = 0.0

    def over(self, running: bool) -> bool:
        """Say whether it has ended and its pause is over; from then on it counts as started again."""
        now = time.monotonic()
        if running:
            if now - self._since > LONGEST_PAUSE:
                self._failures = 0
            return False
        if not self._due:
            self.seconds = min(2.0**self._failures, LONGEST_PAUSE)
            self._failures, self._due = self._failures + 1, now + self.seconds
            return False
        if now < self._due:
            return False
        self._since, self._due = now, 0.0
        return True

    @property
    def begins(self) -> bool:
        """Whether a pause is being waited for."""
        return bool(self._due)


@dataclass
class Child:
    """A process that is started again when it ends, after a `Pause`.

    Attributes
    ----------
    name : str
        What messages call it, e.g. "the MLflow server".
    command : sequence of str
        The program's absolute path and its arguments.
    log : Path
        Where its output is appended.
    restarts : int
        How often it was started again.
    """

    name: str
    command: Sequence[str]
    log: Path
    environment: dict[str, str]
    process: subprocess.Popen[bytes] = field(init=False)
    restarts: int = 0
    _pause: Pause = field(default_factory=Pause)

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

    def look_after(self) -> None:
        """Start the process again if it has ended and its pause is over."""
        code, waits = self.process.poll(), self._pause.begins
        if self._pause.over(code is None):
            self.launch()
            self.restarts += 1
        elif self._pause.begins and not waits:
            _end_group(self.process)
            told = "%s ended (code %s); starting it again in %.0f s; log: %s"
            logger.warning(told, self.name, code, self._pause.seconds, self.log)

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
