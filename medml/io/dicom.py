"""DICOM series in: headers without pixels, and proved slices to a canonical volume."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from medml.errors import GeometryError, Refusal
from medml.geometry import canonical_affine, canonical_grid, flip_lps_ras, to_canonical
from medml.io.dicom_header import Header, columns_of, read_header
from medml.io.dicom_pixels import check_format, check_size, decoder_missing, read_stored
from medml.io.rescale import rescale
from medml.records.scan import Finding, Outcome, SourceGrid, Volume

__all__ = [
    "Header",
    "affine_of",
    "check_format",
    "check_size",
    "check_values",
    "columns_of",
    "decoder_missing",
    "has_geometry",
    "read_header",
    "read_headers",
    "read_series",
    "slice_normal",
]


def read_headers(paths: Iterable[Path], *, root: Path | None = None) -> Iterator[Header | Outcome]:
    """Read headers one by one; what is not DICOM, or cannot be parsed, gives its outcome instead.

    Parameters
    ----------
    paths : iterable of Path
    root : Path, optional
        Outcomes name files relative to it; by default by their name alone.
    """
    for path in paths:
        source = os.path.relpath(path, root) if root is not None else path.name
        try:
            header = read_header(path)
        except Refusal as refusal:
            yield Outcome(source=source, outcome="refused", code=refusal.code, reason=str(refusal))
            continue
        if header is None:
            yield Outcome(source=source, outcome="ignored", code="not_dicom", reason="no DICOM file")
        else:
            yield header


def read_series(headers: Sequence[Header]) -> tuple[Volume, SourceGrid, tuple[Finding, ...]]:
    """Read one proved series, or one flat image, as a canonical volume.

    Parameters
    ----------
    headers : sequence of Header
        In the order of the slices along +normal, as the proof of the series gave them.

    Returns
    -------
    volume : Volume
        (1, I, J, K), or (3, I, J, 1) in colour. Rescaled: HU for CT. A flat image without PixelSpacing has the
        geometry "none".
    grid : SourceGrid
        Source axes are column, row, and slice along +normal.
    findings : tuple of Finding

    Raises
    ------
    Refusal
        If the pixels are over a cap, truncated, damaged, or of a kind that is not read.
    GeometryError
        If the affine is damaged.
    """
    check_values(headers)
    stored = read_stored(headers)
    first = headers[0]
    shape = (first.columns, first.rows, len(headers))
    if not has_geometry(first):
        return _flat(stored, first)
    grid = canonical_grid(shape, flip_lps_ras(affine_of(headers)))
    real, findings = _real_values(stored, headers)
    voxels = to_canonical(_axes(real), grid)
    return Volume(voxels, canonical_affine(grid)), grid, findings


def check_values(headers: Sequence[Header]) -> None:
    """Refuse headers whose pixels mean something that is not read yet."""
    for header in headers:
        if header.frames > 1:
            raise Refusal(
                "multiframe_unsupported",
                f"{header.frames} frames in one file; export the series as single-frame images, "
                "a later version reads enhanced ones",
            )
        if header.modality_lut:
            raise Refusal(
                "modality_lut", "the pixels need a modality lookup table, which is not read; export real values"
            )


def has_geometry(header: Header) -> bool:
    """Say whether a header places its image in the patient."""
    return header.position is not None and header.orientation is not None and header.pixel_spacing is not None


def slice_normal(header: Header) -> np.ndarray:
    """Return the unit normal (3,) of a slice, LPS: along the row, then down the column, right-handed.

    Raises
    ------
    GeometryError
        If the orientation is absent, not of unit length or not at right angles (to one part in a hundred).
    """
    row, column = _directions(header)
    return np.cross(row, column)


def affine_of(headers: Sequence[Header]) -> np.ndarray:
    """Return the affine (4, 4) of proved slices: (column, row, slice) index to LPS mm (PS3.3 C.7.6.2.1.1).

    The step from slice to slice is the mean one from the first to the last; a single slice has its thickness, or 1 mm.
    """
    first, last = headers[0], headers[-1]
    if first.position is None or last.position is None or first.pixel_spacing is None:
        raise GeometryError("missing_geometry", "position or pixel spacing is missing; the series cannot be placed")
    row, column = _directions(first)
    between_rows, between_columns = first.pixel_spacing
    affine = np.eye(4)
    affine[:3, 0] = row * between_columns
    affine[:3, 1] = column * between_rows
    if len(headers) > 1:
        affine[:3, 2] = (np.array(last.position) - np.array(first.position)) / (len(headers) - 1)
    else:
        affine[:3, 2] = np.cross(row, column) * (first.thickness or 1.0)
    affine[:3, 3] = first.position
    return affine


def _directions(header: Header) -> tuple[np.ndarray, np.ndarray]:
    if header.orientation is None:
        raise GeometryError("missing_geometry", "ImageOrientationPatient is missing; the series cannot be placed")
    row, column = np.array(header.orientation[:3]), np.array(header.orientation[3:])
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    cosine = float(row @ column)
    if max(abs(length - 1) for length in lengths) > 0.01 or abs(cosine) > 0.01:
        raise GeometryError(
            "bad_orientation",
            f"the rows and columns have the lengths {lengths[0]:.3f} and {lengths[1]:.3f} and the cosine {cosine:.3f}, "
            "expected 1, 1 and 0; the header is damaged",
        )
    return row / lengths[0], column / lengths[1]


def _axes(stored: np.ndarray) -> np.ndarray:
    """Turn (slices, rows, columns[, 3]) into (C, columns, rows, slices), a view."""
    if stored.ndim == 3:
        return stored[None].transpose(0, 3, 2, 1)
    return stored.transpose(3, 2, 1, 0)


def _flat(stored: np.ndarray, header: Header) -> tuple[Volume, SourceGrid, tuple[Finding, ...]]:
    """Return one image that nothing places in the patient: axes column and row, as pictures have them."""
    spacing = header.pixel_spacing
    affine = np.eye(4) if spacing is None else np.diag([spacing[1], spacing[0], 1.0, 1.0])
    real, findings = _real_values(stored, [header])
    grid = SourceGrid(
        shape=(header.columns, header.rows, 1),
        affine=tuple(tuple(float(value) for value in row) for row in affine),
        axes=(0, 1, 2),
        flips=(False, False, False),
    )
    return Volume(_axes(real), affine, "none" if spacing is None else "mm"), grid, findings


def _real_values(stored: np.ndarray, headers: Sequence[Header]) -> tuple[np.ndarray, tuple[Finding, ...]]:
    """Apply the rescale of each slice; one for all slices where they agree."""
    scales = [(header.slope if header.slope is not None else 1.0, header.intercept or 0.0) for header in headers]
    if any(slope == 0 for slope, _ in scales):
        raise Refusal("bad_rescale", "RescaleSlope is 0 in a slice; the header is damaged")
    findings = _rescale_findings(headers)
    if len(set(scales)) == 1:
        return rescale(stored, *scales[0]), findings
    slices = [rescale(values, slope, intercept) for values, (slope, intercept) in zip(stored, scales, strict=True)]
    return np.stack(slices), findings


def _rescale_findings(headers: Sequence[Header]) -> tuple[Finding, ...]:
    without = sum(header.intercept is None for header in headers)
    if headers[0].modality != "CT" or not without:
        return ()
    return (
        Finding(
            code="no_rescale",
            severity="warning",
            message=f"{without} of {len(headers)} CT slices give no rescale: their values may not be Hounsfield units",
            numbers={"slices": float(without)},
            advice="check that air is near -1000 and water near 0",
        ),
    )
