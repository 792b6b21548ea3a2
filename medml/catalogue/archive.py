"""What annotations that come after their images are made of: the files, and where scans are found again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from medml.catalogue.tables import Table
from medml.io.files import Pseudonyms
from medml.records.candidate import FileState
from medml.records.home import Home

if TYPE_CHECKING:  # the processes that read know these names, and need no database
    from medml.store.catalogue import Catalogue
    from medml.store.crosswalk import Crosswalk


@dataclass(frozen=True, slots=True)
class DrawingRules:
    """What the ingest configuration says about annotations.

    Attributes
    ----------
    labels : tuple of (value, name)
        The structures wanted and their values; all, under their own numbers, if empty.
    """

    labels: tuple[tuple[int, str], ...] = ()
    threshold: float = 0.5
    overlaps: str = "split"


@dataclass(frozen=True, slots=True, eq=False)
class AnnotationFile:
    """A SEG, an RTSTRUCT or a table of classes that the walk has found. Private, like a candidate.

    Attributes
    ----------
    source : str
        Path relative to SRC.
    kind : str
        "dicom_seg", "rtstruct" or "classes".
    stamp : str
        Changes when the file or the rules do.
    owner : tuple of str
        Issuer and id of the patient that a DICOM object names.
    seen : tuple
        As of a candidate.
    table : Table or None
        What a table says.
    issuers : tuple of str
        Of the patient ids in the source, for a table that names patients only.
    """

    source: str
    path: Path
    kind: str
    stamp: str
    rules: DrawingRules = DrawingRules()
    owner: tuple[str, str] = ("", "")
    seen: tuple[FileState, ...] = ()
    table: Table | None = None
    issuers: tuple[str, ...] = ("",)


@dataclass(frozen=True, slots=True, eq=False)
class Archive:
    """Where annotations find their scans and go to."""

    home: Home
    catalogue: Catalogue
    crosswalk: Crosswalk
    pseudonyms: Pseudonyms


def series_name(pseudonyms: Pseudonyms, series_uid: str) -> str:
    """Return the pseudonym under which the crosswalk finds the scans of a series; empty for none."""
    return pseudonyms.group(f"series {series_uid.strip()}") if series_uid.strip() else ""
