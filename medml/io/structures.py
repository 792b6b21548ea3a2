"""Structures drawn on a DICOM series: where its slices lie, how structures become label maps, what they are called."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from medml.errors import Refusal
from medml.records.scan import Finding

MAX_STRUCTURES = 255
MAX_NAME = 64
# Whatever stands in these elements of an annotation must not come back in the name of a structure.
_IDENTITY = (
    "PatientName",
    "PatientID",
    "OtherPatientIDs",
    "OtherPatientNames",
    "PatientBirthName",
    "PatientMotherBirthName",
    "PatientBirthDate",
    "PatientAddress",
    "PatientTelephoneNumbers",
    "ReferringPhysicianName",
    "PerformingPhysicianName",
    "PhysiciansOfRecord",
    "OperatorsName",
    "ContentCreatorName",
    "ReviewerName",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "SeriesDate",
    "StructureSetDate",
    "ContentDate",
    "InstitutionName",
    "InstitutionAddress",
    "StationName",
)


@dataclass(frozen=True, slots=True, eq=False)
class References:
    """What an annotation object says it was drawn on. Private: UIDs.

    Attributes
    ----------
    kind : str
        "dicom_seg" or "rtstruct".
    studies : tuple of str
        Its own study, and others it names.
    series : tuple of str
        The series it names.
    images : frozenset of str
        Every SOP instance UID it names.
    frame_uid : str
        Frame of reference, empty if it names none or several.
    """

    kind: str
    studies: tuple[str, ...]
    series: tuple[str, ...]
    images: frozenset[str]
    frame_uid: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class SourceSlices:
    """The slices that a scan was made of, as the source has them.

    Attributes
    ----------
    shape : tuple of int
        Columns, rows, slices.
    sop_uids : tuple of str
        One per slice; those of one multi-frame file are the same.
    frames : tuple of int
        The frame of each slice in its file, from 0.
    affine : ndarray of shape (4, 4) or None
        (column, row, slice) to LPS mm; None for a flat image that nothing places.
    origins : ndarray of shape (N, 3) or None
        Position of the first pixel of each slice, LPS mm.
    stacked : tuple of tuple of str
        The instances of each further component of a scan that stacks several (time points, echoes) on one grid.
    """

    shape: tuple[int, int, int]
    sop_uids: tuple[str, ...]
    frames: tuple[int, ...]
    affine: np.ndarray | None
    origins: np.ndarray | None
    stacked: tuple[tuple[str, ...], ...] = ()

    @property
    def instances(self) -> frozenset[str]:
        """Every SOP instance UID that the scan was made of."""
        return frozenset(self.sop_uids).union(*self.stacked)

    def slices_of(self, sop_uid: str) -> list[int]:
        """Return the slices that came from one instance."""
        return [
            number
            for component in (self.sop_uids, *self.stacked)
            for number, uid in enumerate(component)
            if uid == sop_uid
        ]


@dataclass(frozen=True, slots=True, eq=False)
class Structure:
    """One segment or region of interest, as the box of voxels that holds it.

    Attributes
    ----------
    number : int
        Its number in the object.
    start : tuple of int
        First column, row and slice of the box.
    inside : ndarray of bool, (columns, rows, slices) of the box
        Which voxels it holds; empty if none.
    code : str
        What it is by a coding scheme, e.g. ``SCT:10200004``; empty if not coded.
    """

    number: int
    name: str
    start: tuple[int, int, int]
    inside: np.ndarray
    code: str = ""

    @property
    def box(self) -> tuple[slice, slice, slice]:
        """Where the box lies on the source slices."""
        i, j, k = (slice(first, first + n) for first, n in zip(self.start, self.inside.shape, strict=True))
        return i, j, k


@dataclass(frozen=True, slots=True, eq=False)
class LabelMap:
    """Structures that do not overlap, as one map on the source slices.

    Attributes
    ----------
    voxels : ndarray of uint8, (columns, rows, slices)
    labels : dict
        Value to name, with 0 background.
    codes : dict
        Value to code, of those that have one.
    """

    voxels: np.ndarray
    labels: dict[int, str]
    codes: dict[int, str] = field(default_factory=dict)


def structure_of(
    number: int, name: str, pieces: Sequence[np.ndarray], shape: tuple[int, int, int], code: str = ""
) -> Structure:
    """Return a structure from pieces of flat indices into ``shape`` (C order), each of which needs little memory."""
    corners = [
        [(int(axis.min()), int(axis.max())) for axis in np.unravel_index(piece, shape)]
        for piece in pieces
        if piece.size
    ]
    if not corners:
        return Structure(number, name, (0, 0, 0), np.zeros((0, 0, 0), dtype=bool), code)
    low, high = np.array(corners)[..., 0].min(axis=0), np.array(corners)[..., 1].max(axis=0)
    inside = np.zeros(tuple(high - low + 1), dtype=bool)
    for piece in pieces:
        i, j, k = np.unravel_index(piece, shape)
        inside[i - low[0], j - low[1], k - low[2]] = True
    return Structure(number, name, (int(low[0]), int(low[1]), int(low[2])), inside, code)


def layers_of(
    structures: Sequence[Structure],
    shape: tuple[int, int, int],
    *,
    labels: Mapping[int, str] | None = None,
    overlaps: str = "split",
) -> tuple[list[LabelMap], tuple[Finding, ...]]:
    """Lay structures on as few label maps as their overlaps ask for: each on the first where its voxels are free.

    Parameters
    ----------
    labels : mapping
        Value to name, when only these structures are wanted, under these values; else each keeps its number (or gets
        its place in the list, if a number is not 1 to 255).
    overlaps : "split" or "refuse"
        What to do with structures that overlap.

    Raises
    ------
    Refusal
        ``overlapping_segments``, ``no_structure``, or ``too_many_structures``.
    """
    valued, findings = _valued(structures, labels)
    maps: list[LabelMap] = []
    for value, structure in valued:
        layer = next((m for m in maps if not m.voxels[structure.box][structure.inside].any()), None)
        if layer is None:
            if maps and overlaps == "refuse":
                raise Refusal(
                    "overlapping_segments",
                    f"structure {structure.number} overlaps others, expected none to (overlaps: refuse); "
                    "ingest with overlaps: split for several label maps",
                )
            layer = LabelMap(np.zeros(shape, dtype=np.uint8), {0: "background"}, {})
            maps.append(layer)
        layer.voxels[structure.box][structure.inside] = value
        layer.labels[value] = structure.name
        if structure.code:
            layer.codes[value] = structure.code
    if len(maps) > 1:
        findings += (
            Finding(
                code="overlapping_segments",
                severity="warning",
                message=f"{len(valued)} structures overlap and became {len(maps)} label maps",
                numbers={"structures": float(len(valued)), "maps": float(len(maps))},
                advice="name those to train on in `labels` of the ingest configuration",
            ),
        )
    return maps, findings


def clean_name(text: str, identity: frozenset[str], fallback: str) -> str:
    """Return a structure's name in snake_case, or the fallback where the text is empty or tells who the patient is.

    Withheld are names with a word of the identity elements in them, or with a run of six digits or more, which may be
    a date or an id.
    """
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    words = re.findall(r"[a-z0-9]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", plain).lower())
    whole = "".join(words)
    telling = re.search(r"\d{6}", whole) or any(word in identity for word in words)
    if not words or telling or any(secret in whole for secret in identity if len(secret) >= 5):
        return fallback
    return "_".join(words)[:MAX_NAME].strip("_")


def identity_words(data: Dataset) -> frozenset[str]:
    """Return the words, of at least three letters or digits, of the elements of an object that tell who it is of."""
    words: set[str] = set()
    for keyword in _IDENTITY:
        value = data.get(keyword)
        for part in value if isinstance(value, list | MultiValue) else [value]:
            plain = unicodedata.normalize("NFKD", str(part or "")).encode("ascii", "ignore").decode().lower()
            words.update(re.findall(r"[a-z0-9]{3,}", plain))
            words.add(re.sub(r"[^a-z0-9]+", "", plain))
    return frozenset(word for word in words if len(word) >= 3)


def warn(code: str, message: str, advice: str = "", **numbers: float) -> Finding:
    """Return a finding of severity "warning"."""
    return Finding(code=code, severity="warning", message=message, advice=advice, numbers=numbers)


def _valued(
    structures: Sequence[Structure], labels: Mapping[int, str] | None
) -> tuple[list[tuple[int, Structure]], tuple[Finding, ...]]:
    """Return the structures that are kept, with their values."""
    findings: tuple[Finding, ...] = ()
    if labels:
        values = {"_".join(re.findall(r"[a-z0-9]+", name.lower())): value for value, name in labels.items() if value}
        kept = [(values[item.name], item) for item in structures if item.name in values]
        if len(kept) < len(structures):
            left = len(structures) - len(kept)
            message = f"{left} of {len(structures)} structures are not among the configured labels and were left out"
            findings = (Finding(code="structures_left", severity="info", message=message, numbers={"left": left}),)
    elif all(1 <= item.number <= MAX_STRUCTURES for item in structures):
        kept = [(item.number, item) for item in structures]
    else:
        kept = list(enumerate(structures, start=1))
    empty = sum(not item.inside.any() for _, item in kept)
    if not kept:
        found, expected = len(structures), sorted(labels.values()) if labels else "at least one"
        raise Refusal("no_structure", f"found {found} structures, none of them wanted; expected {expected}")
    if len(kept) > MAX_STRUCTURES:
        raise Refusal("too_many_structures", f"{len(kept)} structures, expected at most {MAX_STRUCTURES}")
    if empty:
        findings += (warn("empty_structure", f"{empty} of {len(kept)} structures hold no voxel", empty=empty),)
    return kept, findings
