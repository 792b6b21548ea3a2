"""What `medml up` runs, as it notes it for `medml status`: each part, its process, its address, how often it ended."""

from __future__ import annotations

from datetime import UTC, datetime

import psutil

from medml.io.files import read_record, write_record
from medml.records.home import Home
from medml.records.record import Record

MLFLOW_PAGE = "http://127.0.0.1:5000"


class Part(Record):
    """One process that is looked after.

    Attributes
    ----------
    started : float
        When the process began, in seconds since 1970; with its id it names the process.
    address : str
        Where it answers; empty for one that does not.
    restarts : int
        How often it was started again since `medml up` began.
    """

    name: str
    pid: int
    started: float
    address: str = ""
    restarts: int = 0

    @property
    def alive(self) -> bool:
        """Whether that process still lives."""
        try:
            process = psutil.Process(self.pid)
            return bool(abs(process.create_time() - self.started) < 1.0 and process.status() != psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return False


class Parts(Record):
    """What ``prefect/up.json`` holds."""

    parts: tuple[Part, ...] = ()
    noted: str = ""


def part_of(name: str, pid: int, address: str = "", restarts: int = 0) -> Part:
    """Return the part that a process is now; one that has just ended has started at 0."""
    try:
        started = psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:
        started = 0.0
    return Part(name=name, pid=pid, started=started, address=address, restarts=restarts)


def note_parts(home: Home, parts: tuple[Part, ...]) -> None:
    """Write down what runs now."""
    noted = datetime.now(UTC).isoformat(timespec="seconds")
    write_record(home.prefect / "up.json", Parts(parts=parts, noted=noted))


def forget_parts(home: Home) -> None:
    """Note that nothing runs any more."""
    (home.prefect / "up.json").unlink(missing_ok=True)


def read_parts(home: Home) -> tuple[Part, ...]:
    """Return what `medml up` noted last; nothing if it was stopped, or never ran."""
    path = home.prefect / "up.json"
    return read_record(path, Parts).parts if path.exists() else ()


def mlflow_page(home: Home) -> str:
    """Return the address of the home's MLflow page; where it would be, if it does not run."""
    return next((part.address for part in read_parts(home) if part.name == "MLflow server"), MLFLOW_PAGE)
