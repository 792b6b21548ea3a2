"""Something that ingest or inference may read: known by its headers, its voxels still on disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from medml.records.scan import Column, Finding, SourceGrid, Volume
from medml.records.selection import SeriesFacts

FileState = tuple[str, int, int]


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """What reading a candidate gave.

    Attributes
    ----------
    volume : Volume
        Canonical (closest to RAS+), HU for CT; (C, I, J, K).
    grid : SourceGrid
        The way back to the source's own grid.
    mask : ndarray of shape (I, J, K) or None
        uint8 labels on the canonical grid.
    columns : dict
        Facts that only reading tells, beside the candidate's.
    """

    volume: Volume
    grid: SourceGrid
    findings: tuple[Finding, ...] = ()
    mask: Any = None
    columns: Mapping[str, Column] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """One scan to be. Everything here may name a patient: it stays in memory and in the private crosswalk.

    Attributes
    ----------
    source : str
        Path relative to SRC (of the folder for a DICOM series, of the file otherwise; plus ``#…`` inside an archive
        such as MedMNIST, or where one folder holds several series).
    files : int
        How many files it accounts for.
    identity : str
        What makes the scan this scan wherever it lies: the series UID, else collection and relative path.
    stamp : str
        sha256 over relative paths, sizes and modification times: changes when the files do, cheap to compute.
    read : callable
        Returns the `Reading`; raises `Refusal`.
    patient : tuple of str
        Issuer and patient id, blanks stripped.
    classes : tuple of int or None
        Class labels that hold; None if unknown.
    locator : dict
        JSON-able, private: absolute paths, ordered SOP instance UIDs, positions.
    series : SeriesFacts or None
        What rules of selection look at, of a DICOM series.
    seen : tuple
        Path, size in bytes (-1 for a folder) and modification time in ns of what it is read from, as the walk saw
        them: if one has changed since, the scan is refused.
    """

    source: str
    files: int
    identity: str
    stamp: str
    read: Callable[[], Reading]
    patient: tuple[str, str]
    study: str
    group: str
    channel: int = 0
    channel_names: tuple[str, ...] = ("image",)
    modality: str = "OT"
    columns: dict[str, Column] = field(default_factory=dict)
    mask_labels: dict[int, str] | None = None
    classes: tuple[int, ...] | None = None
    class_labels: dict[int, str] | None = None
    multi_label: bool = False
    origin: str = ""
    locator: dict[str, Any] = field(default_factory=dict)
    series: SeriesFacts | None = None
    seen: tuple[FileState, ...] = ()

    @property
    def bytes(self) -> int:
        """How large its files are together: a guide to how much work it is."""
        return sum(size for _, size, _ in self.seen if size > 0)
