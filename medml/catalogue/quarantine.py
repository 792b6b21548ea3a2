"""Images that may show the patient's name in their pixels: which they are, and how a person lets one through.

An entry names files by the sha256 of their bytes, so a release holds for exactly what was looked at.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from medml.errors import NotFound, Refusal
from medml.io.dicom_header import Header
from medml.io.files import read_record, sha256_file, write_record
from medml.records.quarantine import Held, Release

_STORAGE = "1.2.840.10008.5.1.4.1.1."
_SECONDARY_CAPTURE = _STORAGE + "7"
_ULTRASOUND = tuple(_STORAGE + end for end in ("3", "3.1", "6", "6.1", "6.2", "6.3"))
# Conversions of what was on a screen, on film or on paper (PS3.3 C.8.6.1).
_COPIED = ("DF", "DRW", "DV", "SD", "SI", "SYN", "WSD")
# Modalities whose pictures are taken in colour: photography, endoscopy, microscopy, the eye, the skin; ultrasound.
_COLOUR = ("DMS", "ES", "GM", "IVOCT", "IVUS", "OP", "OPM", "OPT", "SM", "US", "XC")
_ID = re.compile(r"q-[0-9a-f]{16}")

CODES = ("burned_in_annotation", "secondary_capture", "colour_capture")

EntryT = TypeVar("EntryT", Held, Release)
Released = Callable[[Path], bool]


def risk_of(
    *, sop_class: str, burned_in: str, conversion_type: str, photometric: str, modality: str
) -> tuple[str, str] | None:
    """Return code and reason if an image with these attributes may show a name; None if nothing says so.

    ImageType DERIVED or SECONDARY alone is no reason: many images of the patient are so.
    """
    if burned_in == "YES":
        return "burned_in_annotation", "the pixels are marked as showing text (BurnedInAnnotation YES)"
    if sop_class == _SECONDARY_CAPTURE or sop_class.startswith(_SECONDARY_CAPTURE + "."):
        return "secondary_capture", "a secondary capture (screen shot), which may show the patient's name"
    if conversion_type in _COPIED:
        return (
            "secondary_capture",
            f"a secondary capture (ConversionType {conversion_type}: a screen, film or paper), which may show a name",
        )
    if sop_class in _ULTRASOUND and burned_in != "NO":
        return (
            "burned_in_annotation",
            "ultrasound, which often shows the patient's name, and BurnedInAnnotation is not NO",
        )
    colour = bool(photometric) and not photometric.startswith("MONOCHROME")
    if colour and modality not in _COLOUR and burned_in != "NO":
        return (
            "colour_capture",
            "colour pixels in a modality of grey images, and BurnedInAnnotation is not NO: a report or screen shot, "
            "which may show the patient's name",
        )
    return None


def refuse_risky(headers: Iterable[Header], released: Released | None = None) -> None:
    """Refuse images that may show the patient's name, unless a person has released these very files.

    Raises
    ------
    Refusal
        With one of `CODES`.
    """
    for header in headers:
        risk = risk_of(
            sop_class=header.sop_class,
            burned_in=header.burned_in,
            conversion_type=header.conversion_type,
            photometric=header.photometric,
            modality=header.modality,
        )
        if risk is not None and not (released is not None and released(header.path)):
            raise Refusal(*risk)


class Quarantine:
    """What is held back below one folder (operator side, 0600), and what a person has let through.

    Parameters
    ----------
    folder : Path
        ``Home.quarantine``; made when first needed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._released: frozenset[str] | None = None
        self._digests: dict[tuple[Path, int, int], str] = {}

    def released(self, path: Path) -> bool:
        """Say whether a person has released a file of exactly these bytes."""
        if self._released is None:
            self._released = frozenset(
                digest for found in self._read("*.release.json", Release) for digest in found.files
            )
        return bool(self._released) and self._digest(path) in self._released

    def hold(self, code: str, files: Sequence[Path]) -> str:
        """Write an entry for files that were not taken; return its id. The same files have the same id."""
        digests = tuple(sorted({self._digest(path) for path in files}))
        name = f"q-{hashlib.sha256(''.join(digests).encode()).hexdigest()[:16]}"
        path = self._folder / f"{name}.json"
        if not path.exists():
            write_record(path, Held(id=name, code=code, files=digests, held=_now()), mode=0o600)
        return name

    def waiting(self) -> list[Held]:
        """Return the entries that nobody has released, by id."""
        done = {found.id for found in self._read("*.release.json", Release)}
        return [held for held in self._read("q-????????????????.json", Held) if held.id not in done]

    def release(self, names: Sequence[str], *, by: str, note: str = "") -> list[Release]:
        """Let the files of entries through, and record who did.

        Raises
        ------
        NotFound
            If there is no such entry; then none is released.
        """
        unknown = [name for name in names if not _ID.fullmatch(name) or not (self._folder / f"{name}.json").is_file()]
        if unknown:
            there = ", ".join(held.id for held in self.waiting()[:20]) or "nothing"
            raise NotFound(
                f"{len(unknown)} of {len(names)} names are not in quarantine; waiting: {there}. "
                "The reports of ingest and deidentify name them"
            )
        releases = []
        for name in names:
            held = read_record(self._folder / f"{name}.json", Held)
            release = Release(id=name, code=held.code, files=held.files, by=by, note=note, released=_now())
            write_record(self._folder / f"{name}.release.json", release, mode=0o600)
            releases.append(release)
        self._released = None
        return releases

    def _digest(self, path: Path) -> str:
        status = path.stat()
        key = (path, status.st_size, status.st_mtime_ns)
        if key not in self._digests:
            self._digests[key] = sha256_file(path)
        return self._digests[key]

    def _read(self, pattern: str, schema: type[EntryT]) -> list[EntryT]:
        return [read_record(path, schema) for path in sorted(self._folder.glob(pattern))]


def advice(name: str) -> str:
    """Return what a person does about an entry."""
    return f"look at it, and if it shows no name: medml release {name}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
