"""Where series from a PACS come down: out of sight until they are whole, under names that say nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from medml.io.files import sync_path

PART = ".part"
SPOOL = ".spool"


class Names(Protocol):
    """Private names of what has a UID: `medml.io.files.Pseudonyms`."""

    def study(self, uid: str) -> str:
        """Name a study."""

    def file(self, text: str) -> str:
        """Name a file or folder."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where one series lies.

    Attributes
    ----------
    part : Path
        While it is incomplete: a hidden folder, which no walk reads.
    whole : Path
        From then on.
    """

    part: Path
    whole: Path

    @property
    def name(self) -> str:
        """The series's private name, study first."""
        return f"{self.whole.parent.name}/{self.whole.name}"

    def files(self) -> list[Path]:
        """Return the instances that are there, handed over or not."""
        return [path for folder in (self.part, self.whole) if folder.is_dir() for path in sorted(folder.glob("*.dcm"))]

    def hand_over(self) -> None:
        """Show the series to walks: rename the folder, or move what came late into the one that is there.

        It is durable on return, and can be done again after an interruption.
        """
        if not self.whole.exists():
            os.rename(self.part, self.whole)
            sync_path(self.whole.parent)
            return
        for path in sorted(self.part.glob("*.dcm")):
            os.replace(path, _free(self.whole, path.name))
        sync_path(self.whole)
        for left in self.part.iterdir():  # what a killed writer left behind
            left.unlink()
        self.part.rmdir()


@dataclass(frozen=True, slots=True)
class Landing:
    """The folder of one PACS in the inbox: a folder for each study, in it one for each series."""

    folder: Path
    names: Names

    def place(self, study_uid: str, series_uid: str) -> Place:
        """Return where a series lies."""
        study = self.folder / self.names.study(study_uid)
        series = self.names.file(series_uid)
        return Place(study / f".{series}{PART}", study / series)

    def instance(self, sop_uid: str) -> str:
        """Return the file name of an instance: the same for the same instance."""
        return f"{self.names.file(sop_uid)}.dcm"

    def incomplete(self) -> Iterator[Place]:
        """Yield what has come in and was not handed over."""
        for part in sorted(self.folder.glob(f"*/.*{PART}")):
            yield Place(part, part.with_name(part.name.removeprefix(".").removesuffix(PART)))


def newest_change(folder: Path, stat: Callable[[Path], os.stat_result] = os.stat) -> float:
    """Return when anything of a folder last changed, in seconds since 1970: written, renamed or linked.

    Modification times can be set back, as copying programs do, these cannot.
    """
    newest = stat(folder).st_ctime
    for path in folder.iterdir():
        newest = max(newest, stat(path).st_ctime)
    return newest


def _free(folder: Path, name: str) -> Path:
    """Return a path that nobody has yet: a late instance never takes another's place."""
    path, number = folder / name, 0
    while path.exists():
        number += 1
        path = folder / f"late{number:04d}-{name}"
    return path
