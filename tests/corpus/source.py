"""What a case fills: a folder, its own UIDs, and what is expected of reading it."""

from __future__ import annotations

import logging
import re
import warnings
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pydicom
from corpus.phantom import Truth
from corpus.planted import UID_ROOT


@dataclass(frozen=True)
class Expected:
    """What ingest must say and keep.

    Attributes
    ----------
    scans : tuple of Truth
        One per accepted scan, in any order.
    maybe : tuple of Truth
        Scans that may be accepted too, right, or be refused.
    refused, ignored : tuple of str
        Reason codes that must stand among the outcomes (each a regular expression, matched whole); no other code may.
        One that begins with "?" may be absent.
    findings : tuple of str
        Finding codes (regular expressions) that some outcome must carry.
    either : bool
        Refusing the whole case is as good as accepting it right; then ``refused`` and ``findings`` are not asked for.
    free : bool
        Scans are looked at by ``check`` alone.
    truth : tuple of Truth
        What the source really holds, where we refuse it; to judge others by.
    config : dict
        What the ingest configuration says differently.
    files : int or None
        How many files ingest must account for; None counts the entries of the folder.
    patients : int or None
        How many different patients the scans belong to.
    check : callable
        More to look at: takes (home, report, scans with their volumes) and yields complaints.
    """

    scans: tuple[Truth, ...] = ()
    maybe: tuple[Truth, ...] = ()
    refused: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    findings: tuple[str, ...] = ()
    either: bool = False
    free: bool = False
    truth: tuple[Truth, ...] = ()
    config: dict[str, Any] = field(default_factory=dict)
    files: int | None = None
    patients: int | None = None
    check: Callable[..., Iterable[str]] | None = None

    @property
    def held(self) -> tuple[Truth, ...]:
        """What the source really holds."""
        return self.scans or self.truth


def accepted(*scans: Truth, **more: Any) -> Expected:
    """Expect these scans, right in every voxel."""
    return Expected(scans=scans, **_tuples(more))


def refused(*codes: str, **more: Any) -> Expected:
    """Expect no scan, and these reason codes."""
    return Expected(refused=codes, **_tuples(more))


def ignored(*codes: str, **more: Any) -> Expected:
    """Expect no scan and nothing refused."""
    return Expected(ignored=codes, **_tuples(more))


def either(*scans: Truth, **more: Any) -> Expected:
    """Expect these scans, right in every voxel, or a refusal with a reason: what must not be is another volume."""
    return Expected(scans=scans, either=True, **_tuples(more))


def _tuples(more: dict[str, Any]) -> dict[str, Any]:
    names = ("findings", "refused", "ignored", "truth", "maybe")
    return {
        name: (value,) if name in names and isinstance(value, str | Truth) else value for name, value in more.items()
    }


class Source:
    """A folder that a case fills; UIDs are its own, so that all cases may lie in one tree.

    Attributes
    ----------
    outside : Path
        A folder that ingest is not given, for links and paths that lead out.
    """

    def __init__(self, folder: Path, name: str, outside: Path | None = None) -> None:
        self.folder = folder
        self.name = name
        self.outside = outside or folder.parent / "outside"
        self._number = zlib.crc32(name.encode())
        folder.mkdir(parents=True, exist_ok=True)

    def uid(self, *parts: int) -> str:
        """Return a UID that holds the planted root."""
        return ".".join([UID_ROOT, str(self._number), *map(str, parts)])

    def path(self, name: str) -> Path:
        """Return a path in the folder, whose parent exists."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def bytes(self, name: str, data: bytes) -> Path:
        """Write a file."""
        path = self.path(name)
        path.write_bytes(data)
        return path


@dataclass(frozen=True)
class Case:
    """One entry of the corpus."""

    group: str
    name: str
    title: str
    build: Callable[[Source], Expected]

    @property
    def id(self) -> str:
        return f"{self.group}-{self.name}"

    def make(self, source: Source) -> Expected:
        """Fill the folder; pydicom's warnings about what we plant on purpose are kept off the log."""
        settings, disabled = pydicom.config.settings, logging.root.manager.disable
        mode = settings.reading_validation_mode, settings.writing_validation_mode
        logging.disable(logging.CRITICAL)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                settings.reading_validation_mode = settings.writing_validation_mode = pydicom.config.IGNORE
                return self.build(source)
        finally:
            settings.reading_validation_mode, settings.writing_validation_mode = mode
            logging.disable(disabled)


CASES: dict[str, Case] = {}


def case(title: str) -> Callable[[Callable[[Source], Expected]], Callable[[Source], Expected]]:
    """Register a function as a case of the group that its module is named after."""

    def register(build: Callable[[Source], Expected]) -> Callable[[Source], Expected]:
        group = build.__module__.rpartition(".")[2].removeprefix("cases_")
        found = Case(group, build.__name__, title, build)
        if found.id in CASES:
            raise ValueError(f"two cases are named {found.id}")
        CASES[found.id] = found
        return build

    return register


def case_of(group: str, name: str, title: str, build: Callable[[Source], Expected]) -> None:
    """Register one of a family of cases."""
    name = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    found = Case(group, name, title, build)
    if found.id in CASES:
        raise ValueError(f"two cases are named {found.id}")
    CASES[found.id] = found
