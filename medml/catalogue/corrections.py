"""A mask that a person corrected elsewhere, read onto the scan it was drawn on: NIfTI or DICOM SEG."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from medml.catalogue.dicom_annotations import slices_on
from medml.catalogue.pairs import grid_difference
from medml.errors import Refusal
from medml.geometry import (
    canonical_affine,
    canonical_grid,
    canonical_shape,
    from_source,
    same_grid,
    source_affine,
    source_shape,
    to_source,
)
from medml.io import dicom_seg
from medml.io.nifti import read_labels
from medml.io.structures import Structure, layers_of
from medml.records.candidate import Reading
from medml.records.scan import Volume


def read_correction(
    path: Path, reading: Reading, labels: Mapping[int, str], locator: Mapping[str, Any] | None = None
) -> np.ndarray:
    """Return the labels (I, J, K), uint8, of a mask file on the canonical grid of a scan.

    A NIfTI may have its axes in any order, as long as its voxels are those of the scan; one of a repaired source may
    lie on the source's own slices or on the regular grid.

    Parameters
    ----------
    labels : mapping
        Every value that the mask may hold, with its name; a SEG's segments are found by their names.
    locator : mapping
        Where the scan came from; needed for a SEG, which names its source's slices.

    Raises
    ------
    Refusal
        If the file is neither, damaged, over a cap, on another grid, or holds what is no label of the model.
    """
    drawn = _kind(path) == "dicom"
    mask = _from_seg(path, reading, labels, locator or {}) if drawn else _from_nifti(path, reading)
    values = [int(value) for value in np.unique(mask) if value and int(value) not in labels]
    if values:
        listed = ", ".join(f"{value} {name}" for value, name in sorted(labels.items()))
        raise Refusal("unknown_label", f"the mask holds the values {values[:8]}, expected those of the model: {listed}")
    return mask


def _kind(path: Path) -> str:
    """Tell a DICOM file from a NIfTI by its first bytes; what it is called does not matter."""
    with path.open("rb") as file:
        start = file.read(348)
    if start[128:132] == b"DICM":
        return "dicom"
    if start[:2] == b"\x1f\x8b" or start[:4] in (b"\x5c\x01\x00\x00", b"\x00\x00\x01\x5c"):
        return "nifti"
    if start[:4] in (b"\x1c\x02\x00\x00", b"\x00\x00\x02\x1c"):  # NIfTI-2
        return "nifti"
    raise Refusal("not_a_mask", "the file is neither a NIfTI (.nii, .nii.gz) nor a DICOM SEG; export it as one of them")


def _from_nifti(path: Path, reading: Reading) -> np.ndarray:
    found, _ = read_labels(path)
    image = reading.volume
    shape = image.voxels.shape[1:]
    wanted = np.eye(4) if image.geometry == "none" else image.affine
    if same_grid(found.voxels.shape[1:], found.affine, shape, wanted):
        return np.asarray(found.voxels[0])
    if image.geometry == "none" and found.voxels.shape[1:] == shape:
        return np.asarray(found.voxels[0])  # pixels without a size: only their order can be compared
    own = source_affine(reading.grid) if reading.grid.repair is not None else None
    if own is not None:
        slices = canonical_grid(source_shape(reading.grid), own)
        if same_grid(found.voxels.shape[1:], found.affine, canonical_shape(slices), canonical_affine(slices)):
            return from_source(to_source(found.voxels[0], slices), reading.grid)
    raise Refusal("grid_mismatch", grid_difference(found, Volume(image.voxels, wanted, image.geometry)))


def _from_seg(path: Path, reading: Reading, labels: Mapping[int, str], locator: Mapping[str, Any]) -> np.ndarray:
    if not locator.get("sop_uids"):
        raise Refusal("not_from_dicom", "a DICOM SEG fits only a scan that came from DICOM; upload a NIfTI")
    slices = slices_on(reading.grid, reading.volume.geometry, locator)
    references = dicom_seg.read_references(path)
    if references.images and not references.images & slices.instances:
        raise Refusal(
            "dangling_reference", "the SEG was drawn on other images than this scan's; expected its own series"
        )
    structures, _ = dicom_seg.read_segments(path, slices)
    _check_names(structures, labels)
    wanted = {value: name for value, name in labels.items() if value}
    layers, _ = layers_of(structures, slices.shape, labels=wanted, overlaps="refuse")
    return np.ascontiguousarray(from_source(layers[0].voxels, reading.grid))


def _check_names(structures: list[Structure], labels: Mapping[int, str]) -> None:
    known = {_plain(name) for value, name in labels.items() if value}
    strange = [item.name for item in structures if item.inside.any() and _plain(item.name) not in known]
    if strange:
        listed = ", ".join(name for value, name in sorted(labels.items()) if value)
        raise Refusal(
            "unknown_label",
            f"the SEG holds the segments {', '.join(strange[:8])}; expected those of the model: {listed}",
        )


def _plain(name: str) -> str:
    """Return a label's name as structures are named: lower-case words joined by underscores."""
    return "_".join(re.findall(r"[a-z0-9]+", name.lower()))
