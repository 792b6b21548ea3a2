"""A scan, what is known about it, and what ingest did with each file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from medml.records.record import Record

Matrix = tuple[tuple[float, ...], ...]
Column = str | int | float | None
# Modalities of signals over time: catalogued, stored as (1, samples, channels, 1), and no images.
WAVEFORMS = frozenset({"ECG", "EEG", "EMG", "EOG", "EPS", "HD", "RESP"})


@dataclass(frozen=True, slots=True, eq=False)
class Volume:
    """A sampled image and the map from its voxels to the patient.

    Attributes
    ----------
    voxels : ndarray of shape (C, I, J, K)
        Intensities (any real dtype; HU for CT) or labels (uint8 or uint16). A 2D image has K = 1.
    affine : ndarray of shape (4, 4)
        Voxel index to RAS position, in mm. Identity when ``geometry`` is "none".
    geometry : "mm" or "none"
        "none" when the spacing is unknown; then no figure in mm or mL may be derived.
    """

    voxels: np.ndarray
    affine: np.ndarray
    geometry: Literal["mm", "none"] = "mm"


class SliceMap(Record):
    """Where the slices of a repaired source lie in the regular grid that they were resampled to.

    Attributes
    ----------
    kind : "gantry_tilt" or "variable_spacing"
        What was repaired.
    shape : tuple of int
        The source's own shape: (column, row, slice along +normal).
    affine : 4x4 or None
        Source voxel index to RAS mm; None where the slices stand at varying distances, so that no affine is true.
    places : tuple of (i, j, k)
        For each source slice, the index in the regular grid where its first voxel lies; columns run along i, rows
        along j.
    """

    kind: Literal["gantry_tilt", "variable_spacing"]
    shape: tuple[int, int, int]
    affine: Matrix | None
    places: tuple[tuple[float, float, float], ...]


class SourceGrid(Record):
    """How a canonical (closest to RAS+) image maps back to the grid of its source.

    Attributes
    ----------
    shape : tuple of int
        Source shape. DICOM: (column, row, slice along +normal). NIfTI: as in the file. Pictures: (column, row, 1).
        Of a repaired source, that of the regular grid.
    affine : 4x4
        Source voxel index to RAS mm.
    axes : tuple of int
        Canonical axis n is source axis ``axes[n]``.
    flips : tuple of bool
        Whether canonical axis n runs against its source axis.
    repair : SliceMap or None
        How a tilted or unevenly spaced source maps to the regular grid that ``shape`` and ``affine`` describe.
    """

    shape: tuple[int, int, int]
    affine: Matrix
    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]
    repair: SliceMap | None = None


class Finding(Record):
    """One quality observation: what, how bad, the numbers, what to do."""

    code: str
    severity: Literal["info", "warning", "error"]
    message: str
    numbers: dict[str, float] = {}
    advice: str = ""


class Scan(Record):
    """One accepted volume or 2D image, as stored in ``scan.json``. Holds no identity.

    Attributes
    ----------
    scan_id : str
        24 hex digits: HMAC of source identity and content, a private name.
    patient, study : str
        Pseudonyms.
    group : str
        Pseudonym of what belongs together as one case (a study, an MSD or nnU-Net case name).
    channel : int
        Place among the channels of its group, from the file suffix, the 4D index or the manifest; 0 if alone.
    channel_names : tuple of str
        One name per component of the stored image, e.g. ("MRI",), ("T1", "T2") for a 4D file, ("R", "G", "B").
    content : str
        sha256 of canonical voxels and affine.
    columns : dict
        Allow-listed facts for subgroups and splits: sex, age, scanner, site, view, split, …
    quality : dict
        Statistics that scans of a collection are compared by: noise, snr, contrast, percentiles.
    likeness : str
        Fingerprint of the picture, the same for flipped, rescaled and recompressed copies; empty if unknown.
    """

    scan_id: str
    collection: str
    patient: str
    study: str
    group: str
    channel: int = 0
    channel_names: tuple[str, ...] = ("image",)
    modality: str = "OT"
    shape: tuple[int, int, int]
    affine: Matrix
    geometry: Literal["mm", "none"] = "mm"
    spacing_mm: tuple[float, float, float] | None
    content: str
    source_grid: SourceGrid
    columns: dict[str, Column] = {}
    findings: tuple[Finding, ...] = ()
    quality: dict[str, float] = {}
    likeness: str = ""


class Reviewed(Record):
    """Where a person's word on a model's result comes from. Holds no name: research side.

    Attributes
    ----------
    verdict : "accepted" or "replaced"
        Whether the model's result stands or was corrected.
    reviewer : str
        Opaque, the same for the same person in one home.
    decided : str
        When, UTC.
    model, model_digest : str
        Name and version of the model, and the digest of its package.
    base : str
        Digest of the result that was looked at.
    """

    verdict: Literal["accepted", "replaced"]
    reviewer: str
    decided: str
    model: str
    model_digest: str
    base: str


class Annotation(Record):
    """What is known about a scan: a label mask on the scan's grid, or class labels.

    Attributes
    ----------
    labels : dict
        Value to name. Masks: 0 is "background". Classes: every class the source can name, not only those present.
    classes : tuple of int
        The classes that hold (kind "class"); several or none only if ``multi_label``.
    file : str
        File beside ``image.nii.gz`` (kind "mask").
    content : str
        sha256 of the canonical mask or of the class labels.
    codes : dict
        Value to coding scheme and code (``SCT:10200004``), as far as the source has them (kind "mask").
    findings : tuple of Finding
        About the annotation, e.g. the threshold of a fractional segmentation.
    review : Reviewed or None
        Whose word it is, where a person accepted or corrected a model's result (origin ``review``).
    """

    scan_id: str
    kind: Literal["mask", "class"]
    labels: dict[int, str]
    classes: tuple[int, ...] = ()
    multi_label: bool = False
    origin: str
    file: str | None = None
    content: str
    codes: dict[int, str] = {}
    findings: tuple[Finding, ...] = ()
    review: Reviewed | None = None


class Outcome(Record):
    """What ingest did with one series, file or image; every file seen stands in exactly one outcome.

    Attributes
    ----------
    source : str
        Path relative to SRC (operator side: kept in 0600 reports only).
    files : int
        How many files this outcome accounts for.
    code : str
        Reason code, e.g. "accepted", "known" (already in the catalogue), "missing_slice", "not_an_image".
    scan_ids : tuple of str
        The scans it became; empty unless accepted.
    """

    source: str
    files: int = 1
    outcome: Literal["accepted", "refused", "ignored"]
    code: str
    reason: str = ""
    scan_ids: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()
