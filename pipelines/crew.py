"""The workers of a batch: processes of this machine, or tasks on a Dask cluster. Who dies is replaced."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from medml.errors import ConfigError, MedmlError
from medml.records.home import Home
from pipelines.child import die_with_parent, last_words

logger = logging.getLogger(__name__)

STOP_SECONDS = 60.0
MOST_DEATHS = 5  # of workers in a row, with no scan ended between


class Crew(Protocol):
    """Whoever works on the list."""

    def look(self, ended: int, waiting: int) -> None:
        """Start the workers that are wanted, and look after them.

        Parameters
        ----------
        ended, waiting : int
            How many scans have ended, and how many have not.

        Raises
        ------
        MedmlError
            If one of them met what would stop the others too.
        """


def share_devices(device: str, workers: int | None) -> tuple[str, ...]:
    """Return the device of each worker: every GPU that is asked for has one, the CPU as many as are asked for.

    Parameters
    ----------
    device : str
        "auto", "cpu", or GPUs such as "cuda:0,cuda:1".
    workers : int or None
        How many; None: one for each GPU, one on the CPU.

    Raises
    ------
    ConfigError
        If there are more workers than GPUs.
    """
    if device == "cpu":
        return ("cpu",) * (workers or 1)
    from medml.networks.precision import choose_device, choose_devices  # torch takes seconds

    found = choose_devices() if device == "auto" else tuple(str(choose_device(d)) for d in device.split(","))
    if found == ("cpu",):
        return found * (workers or 1)
    if workers is not None and workers > len(found):
        raise ConfigError(f"{workers} workers were asked for, found {len(found)} GPUs: a GPU takes one worker")
    return found[: workers or len(found)]


@contextmanager
def local_crew(home: Home, listing: str, devices: Sequence[str], log: str) -> Iterator[Crew]:
    """Have a process for each device, once there is work; at the end they stop, and put back what they hold.

    Parameters
    ----------
    log : str
        What their logs in the home's ``logs/batches`` are called.
    """
    crew = _Local(home, listing, devices, log)
    try:
        yield crew
    finally:
        crew.stop()


@contextmanager
def task_crew(submit: Callable[[str, int, str], Any], listing: str, devices: Sequence[str]) -> Iterator[Crew]:
    """Have the flow's runner start a task for each device, once there is work; they end when the batch's lease does."""
    yield _Tasks(lambda number: submit(listing, number, devices[number]), len(devices))


class _Local:
    def __init__(self, home: Home, listing: str, devices: Sequence[str], log: str) -> None:
        self.listing, self.devices = listing, devices
        folder = home.logs / "batches"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.logs = [folder / f"{log}-{number}.log" for number in range(len(devices))]
        threads = max(1, len(os.sched_getaffinity(0)) // len(devices))
        self.environment = {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE", **os.environ}
        self.children: dict[int, subprocess.Popen[bytes]] = {}
        self.ended, self.deaths = 0, 0

    def look(self, ended: int, waiting: int) -> None:
        if ended > self.ended:
            self.ended, self.deaths = ended, 0
        self._bury()
        for number in range(len(self.devices)):
            if number not in self.children and waiting > len(self.children):
                self._start(number)

    def _bury(self) -> None:
        for number, child in list(self.children.items()):
            code = child.poll()
            if code is None:
                continue
            del self.children[number]
            if code == 0:
                continue
            if code == 1:
                raise MedmlError(f"a worker stopped: {last_words(self.logs[number])}")
            self.deaths += 1
            logger.warning("worker %d died (exit code %d); another one takes its place", number, code)
            if self.deaths >= MOST_DEATHS:
                raise MedmlError(
                    f"workers died {self.deaths} times and no scan ended meanwhile (the last exit code was {code}); "
                    f"see {self.logs[number]}, and whether there is enough memory"
                )

    def stop(self) -> None:
        """Tell them to stop, and end those that do not."""
        for child in self.children.values():
            if child.poll() is None:
                child.terminate()
        until = time.monotonic() + STOP_SECONDS
        for child in self.children.values():
            try:
                child.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()

    def _start(self, number: int) -> None:
        command = [sys.executable, "-m", "pipelines.worker", self.listing, str(number), self.devices[number]]
        with _private(self.logs[number]) as log:
            self.children[number] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.environment,
                preexec_fn=die_with_parent,
            )  # fmt: skip


class _Tasks:
    def __init__(self, submit: Callable[[int], Any], number: int) -> None:
        self.submit, self.number = submit, number
        self.futures: dict[int, Any] = {}

    def look(self, ended: int, waiting: int) -> None:
        for number, future in list(self.futures.items()):
            if future.wrapped_future.done():
                del self.futures[number]
                future.result()  # raises what stopped it
        for number in range(self.number):
            if number not in self.futures and waiting > len(self.futures):
                self.futures[number] = self.submit(number)


@contextmanager
def _private(path: Path) -> Iterator[Any]:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as log:
        yield log
