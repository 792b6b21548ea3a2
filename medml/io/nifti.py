"""NIfTI-1 and -2 in and out.

nibabel reads and makes the headers (`nifti_header`); the voxels are read and written here, so that declared
sizes are checked before memory is taken and ISA-L does the (de)compression.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

from medml.errors import GeometryError, Refusal
from medml.geometry import canonical_affine, canonical_shape, source_affine, to_canonical, to_source
from medml.io.files import open_regular, write_atomic
from medml.io.limits import IMAGE_LIMITS, MASK_LIMITS, Limits
from medml.io.nifti_header import Conflict, NiftiHeader, parse_header
from medml.io.nifti_write import save_nifti
from medml.io.rescale import rescale
from medml.io.streams import decoded, fill, is_gzip, read_to_end, skip
from medml.records.candidate import Reading
from medml.records.scan import Finding, SourceGrid, Volume


def read_nifti(path: Path) -> tuple[Volume, SourceGrid]:
    """Read any 3D or 4D NIfTI (``.nii``, ``.nii.gz``, or a pair by either name) as a canonical volume in mm.

    Axes are permuted and flipped to the orientation closest to RAS+, never resampled; the fourth axis becomes the
    components. See `read_checked` for what is refused, and for the findings that this leaves out.
    """
    reading = read_checked(path)
    return reading.volume, reading.grid


def read_checked(path: Path, *, limits: Limits = IMAGE_LIMITS, conflict: Conflict = "refuse") -> Reading:
    """Read a NIfTI file as `read_nifti` does, with the findings about it.

    Parameters
    ----------
    conflict : "refuse", "sform" or "qform"
        What counts where sform and qform are both set and put a corner more than half a voxel apart.

    Raises
    ------
    Refusal
        If the file is not NIfTI, damaged, truncated, over a cap, has more than 16 components, or holds infinities.
    GeometryError
        If its affine is not finite or singular.
    """
    with _opened(path) as (header_file, voxel_file):
        header = parse_header(header_file, conflict=conflict, pair=voxel_file is not header_file)
        _check_size(header, voxel_file, limits)
        stored = _read_voxels(header, voxel_file)
    voxels, findings = real_values(stored, header.slope, header.intercept)
    voxels = to_canonical(np.moveaxis(voxels, 3, 0), header.grid)
    return Reading(Volume(voxels, canonical_affine(header.grid)), header.grid, header.findings + findings)


def read_labels(path: Path, *, conflict: Conflict = "refuse") -> tuple[Volume, SourceGrid]:
    """Read a NIfTI label mask: one component of whole numbers 0 to 255, given as uint8 (1, I, J, K).

    Raises
    ------
    Refusal
        As `read_checked`, and if there are several components or values that are no label.
    """
    return as_labels(read_checked(path, limits=MASK_LIMITS, conflict=conflict))


def as_labels(reading: Reading) -> tuple[Volume, SourceGrid]:
    """Return a volume as a label mask: one component of whole numbers 0 to 255, uint8 (1, I, J, K).

    Raises
    ------
    Refusal
        If there are several components or values that are no label.
    """
    voxels = reading.volume.voxels
    if voxels.shape[0] != 1:
        raise Refusal("mask_components", f"the mask has {voxels.shape[0]} components, expected 1")
    low, high = float(voxels.min()), float(voxels.max())
    if low < 0 or high > 255:
        raise Refusal("bad_labels", f"mask values run from {low:g} to {high:g}, expected labels from 0 to 255")
    labels = np.rint(voxels).astype(np.uint8)
    apart = float(np.abs(voxels - labels).max()) if voxels.dtype.kind == "f" else 0.0
    if apart > 1e-3:
        raise Refusal(
            "bad_labels", f"mask values lie up to {apart:.3g} from a whole number; expected labels, not intensities"
        )
    return Volume(labels, reading.volume.affine), reading.grid


def read_nifti_header(path: Path) -> NiftiHeader:
    """Read only the header, with the checks that need no voxels."""
    with _opened(path) as (header_file, voxel_file):
        return parse_header(header_file, pair=voxel_file is not header_file)


def write_nifti(path: Path, volume: Volume) -> None:
    """Write a ``.nii.gz`` with a header built new, atomically; equal input gives equal bytes.

    Components are the fourth axis. The affine is kept as sform and, unless it is sheared, as qform, both with code 1
    (scanner); units are mm. Where the spacing is unknown the units are "unknown" and the codes 2 (aligned).
    """
    write_atomic(path, lambda temporary: save_nifti(temporary, volume))


def write_on_grid(path: Path, labels: np.ndarray, grid: SourceGrid) -> None:
    """Write canonical labels (I, J, K) as uint8 on the grid of their source: its shape, axis order and affine.

    A source whose slices stood at varying distances has no affine: its labels are written on the regular grid that it
    was resampled to.
    """
    affine = source_affine(grid)
    if affine is None:
        grid = grid.model_copy(update={"repair": None})
        affine = np.asarray(grid.affine)
    if labels.shape != canonical_shape(grid):
        raise GeometryError(
            "shape_mismatch", f"labels have the shape {labels.shape}, expected {canonical_shape(grid)} as the image has"
        )
    source = to_source(np.asarray(labels, dtype=np.uint8), grid)
    write_nifti(path, Volume(source[None], affine))


@contextmanager
def _opened(path: Path) -> Iterator[tuple[BinaryIO, BinaryIO]]:
    """Open the file of the header and the file of the voxels, which are one and the same unless it is a pair."""
    header_path, voxel_path = _pair(path)
    with open_regular(header_path) as header_file:
        if voxel_path == header_path:
            yield header_file, header_file
        else:
            with open_regular(voxel_path) as voxel_file:
                yield header_file, voxel_file


def _pair(path: Path) -> tuple[Path, Path]:
    for end in (".gz", ""):
        for header, voxels in ((".hdr", ".img"), (".HDR", ".IMG")):
            for suffix in (header, voxels):
                if path.name.endswith(suffix + end):
                    stem = path.name.removesuffix(suffix + end)
                    return path.with_name(stem + header + end), path.with_name(stem + voxels + end)
    return path, path


def _check_size(header: NiftiHeader, file: BinaryIO, limits: Limits) -> None:
    file.seek(0, 2)
    size = file.tell()
    shape = (*header.grid.shape, header.components)
    limits.check(shape, header.dtype.itemsize, size)
    if not is_gzip(file):
        _check_length(math.prod(shape) * header.dtype.itemsize, size - header.offset)


def _check_length(declared: int, found: int) -> None:
    if found < declared:
        raise Refusal(
            "truncated",
            f"the header declares {declared} bytes of voxels, the file holds {max(0, found)}; copy it again",
        )


def _read_voxels(header: NiftiHeader, file: BinaryIO) -> np.ndarray:
    """Read the stored voxels as (I, J, K, C), a view on memory that runs as the file does."""
    i, j, k = header.grid.shape
    stored = np.empty((header.components, k, j, i), dtype=header.dtype)
    target = memoryview(stored.reshape(-1).view(np.uint8).data)
    with decoded(file) as stream:
        skip(stream, header.offset)
        _check_length(len(target), fill(stream, target))
        read_to_end(stream)
    return stored.transpose(3, 2, 1, 0)


def real_values(stored: np.ndarray, slope: float, intercept: float) -> tuple[np.ndarray, tuple[Finding, ...]]:
    """Apply the scaling, narrow 64-bit and swapped types, and clear NaN; infinities are refused."""
    voxels = stored if stored.dtype.isnative else stored.astype(stored.dtype.newbyteorder("="))
    if voxels.dtype.kind in "iu" and voxels.dtype.itemsize == 8:
        voxels = _narrow(voxels)
    with np.errstate(over="ignore", invalid="ignore"):
        voxels = rescale(voxels, slope, intercept)
        if voxels.dtype.kind in "iu":
            return voxels, ()
        voxels = voxels.astype(np.float32, copy=False)
    if np.isfinite(voxels.sum(dtype=np.float64)):
        return voxels, ()
    infinite, missing = int(np.isinf(voxels).sum()), np.isnan(voxels)
    if infinite:
        raise Refusal("not_finite", f"{infinite} of {voxels.size} voxels are infinite; repair the image at its source")
    voxels = np.where(missing, np.float32(0), voxels)
    finding = Finding(
        code="nan_voxels",
        severity="warning",
        message=f"{int(missing.sum())} of {voxels.size} voxels were NaN and are set to 0",
        numbers={"voxels": float(missing.sum())},
        advice="expected outside a mask or field of view; check the image if they lie inside the patient",
    )
    return voxels, (finding,)


def _narrow(voxels: np.ndarray) -> np.ndarray:
    low, high = int(voxels.min()), int(voxels.max())
    for kind in (np.int16, np.int32):
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return voxels.astype(kind)
    return voxels
