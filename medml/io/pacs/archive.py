"""What all ways to a PACS share: what is asked, what is found, fetched files, pace and patience."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

from pydicom.dataset import Dataset

from medml.errors import MedmlError
from medml.io.files import write_atomic

Found = TypeVar("Found")
WAIT_SECONDS = 1.0
LONGEST_WAIT = 60.0


class PacsError(MedmlError):
    """A PACS did not do what it was asked, after as many attempts as configured."""


@dataclass(frozen=True, slots=True)
class Query:
    """Which series are wanted; empty matches all.

    Attributes
    ----------
    dates : str
        StudyDate as DICOM matches it: ``20260131``, or a range ``20260101-20260131``, open at either end.
    description, body_part : str
        SeriesDescription, where ``*`` and ``?`` stand for anything; BodyPartExamined.
    patient, accession, study_uid : str
        Identities: they go to the PACS and nowhere else.
    """

    modality: str = ""
    dates: str = ""
    patient: str = ""
    accession: str = ""
    study_uid: str = ""
    description: str = ""
    body_part: str = ""


@dataclass(frozen=True, slots=True)
class RemoteSeries:
    """A series in a PACS. Private: UIDs.

    Attributes
    ----------
    date : str
        StudyDate, ``20260131``.
    instances : int or None
        How many images it has, if the PACS says so.
    """

    study_uid: str
    series_uid: str
    modality: str = ""
    description: str = ""
    body_part: str = ""
    date: str = ""
    instances: int | None = None


class Archive(Protocol):
    """A PACS."""

    def check(self) -> None:
        """Ask for a sign of life: a C-ECHO, or a search for one study.

        Raises
        ------
        PacsError
            If there is none.
        """

    def find(self, query: Query) -> list[RemoteSeries]:
        """Return the series that match."""

    def instances(self, series: RemoteSeries) -> list[str]:
        """Return the SOP instance UIDs of a series."""

    def fetch(self, series: RemoteSeries, folder: Path, there: Collection[str] = ()) -> int:
        """Write the instances that the folder lacks, but those that are ``there``; return how many that were."""

    def send(self, paths: Sequence[Path], sent: Callable[[Path], object] | None = None) -> None:
        """Store files; all of them, or an error. ``sent`` is told of each that the PACS acknowledged, at once."""


@dataclass(slots=True)
class Pace:
    """Lets at most so many things a second pass.

    Attributes
    ----------
    per_second : float or None
        None: no limit.
    """

    per_second: float | None
    _next: float = field(default=0.0, init=False)

    def wait(self) -> None:
        """Wait until the next may pass."""
        if self.per_second is None:
            return
        now = time.monotonic()
        if now < self._next:
            time.sleep(self._next - now)
        self._next = max(now, self._next) + 1 / self.per_second


def patiently(work: Callable[[], Found], attempts: int, passing: tuple[type[Exception], ...], what: str) -> Found:
    """Return what ``work`` returns, tried again with growing waits after a fault that may pass.

    Raises
    ------
    PacsError
        If the last attempt fails too.
    """
    for attempt in range(attempts):
        try:
            return work()
        except passing as error:
            if attempt + 1 == attempts:
                raise PacsError(
                    f"the PACS failed {attempts} times at {what} ({type(error).__name__}); is it up, and its address "
                    "right?"
                ) from None
            time.sleep(min(LONGEST_WAIT, WAIT_SECONDS * 2**attempt))
    raise ValueError("attempts must be at least 1")


def instance_path(folder: Path, number: int) -> Path:
    """Return where an instance goes: named by its place, as a UID from outside never becomes a path."""
    return folder / f"{number:06d}.dcm"


def keep(data: Dataset, path: Path) -> None:
    """Write one instance as it came, for its owner's eyes."""
    write_atomic(path, lambda temporary: data.save_as(temporary, enforce_file_format=True), mode=0o600)


def missing(folder: Path, uids: Sequence[str], uid_of: Callable[[Path], str]) -> Iterator[tuple[str, Path]]:
    """Yield each instance that the folder lacks, and its path; files that are there count by what they hold."""
    there = {uid_of(path) for path in folder.glob("*.dcm")} if folder.is_dir() else set()
    taken = {path.name for path in folder.glob("*.dcm")} if folder.is_dir() else set()
    number = 0
    for uid in uids:
        if uid in there:
            continue
        while instance_path(folder, number).name in taken:
            number += 1
        yield uid, instance_path(folder, number)
        number += 1
