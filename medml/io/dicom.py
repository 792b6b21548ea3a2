"""DICOM series in: headers without pixels, and proved slices to a canonical volume."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from itertools import islice
from pathlib import Path

import numpy as np

from medml.errors import GeometryError, Refusal
from medml.geometry import canonical_affine, canonical_grid, flip_lps_ras, to_canonical
from medml.io.deskew import Kind, Straight, resample, straighten
from medml.io.dicom_columns import columns_of
from medml.io.dicom_frames import Cine, expand
from medml.io.dicom_header import Header, read_header
from medml.io.dicom_kinds import flat_spacing
from medml.io.dicom_padding import fill_padding
from medml.io.dicom_pixels import check_format, check_size, decoder_missing, read_stored
from medml.io.rescale import rescale
from medml.records.scan import Finding, SourceGrid, Volume

__all__ = [
    "Header",
    "affine_of",
    "check_format",
    "check_rescale",
    "check_size",
    "check_values",
    "columns_of",
    "decoder_missing",
    "has_geometry",
    "read_frames",
    "read_header",
    "read_headers",
    "read_series",
    "slice_normal",
    "straight_grid",
]

# Files that a process reads at a time, and how many such chunks are under way.
CHUNK_FILES = 64
CHUNKS_AHEAD = 32
Found = tuple[Header, ...] | Refusal | None


def read_frames(path: Path, cine: Cine = "refuse") -> tuple[Header, ...] | None:
    """Return one header per image of a file (see `medml.io.dicom_frames.expand`); None if it is not DICOM.

    Raises
    ------
    Refusal
        If it looks like DICOM but cannot be parsed, or its frames do not fit their descriptions.
    """
    header = read_header(path)
    return None if header is None else expand(header, cine)


def read_headers(
    paths: Iterable[Path], *, cine: Cine = "refuse", executor: Executor | None = None
) -> Iterator[tuple[Path, Found]]:
    """Read the headers of files, in their order: of each what `read_frames` gives, or its refusal.

    Parameters
    ----------
    paths : iterable of Path
        Taken as they are needed.
    executor : Executor, optional
        Processes to share the work among; pydicom holds the interpreter, so threads gain nothing.
    """
    remaining = iter(paths)
    waiting: deque[tuple[list[Path], Future[list[Found]]]] = deque()
    while chunk := list(islice(remaining, CHUNK_FILES)):
        if executor is None:
            yield from zip(chunk, _read_chunk(chunk, cine), strict=True)
            continue
        waiting.append((chunk, executor.submit(_read_chunk, chunk, cine)))
        if len(waiting) == CHUNKS_AHEAD:
            done, future = waiting.popleft()
            yield from zip(done, future.result(), strict=True)
    for done, future in waiting:
        yield from zip(done, future.result(), strict=True)


def _read_chunk(paths: Sequence[Path], cine: Cine) -> list[Found]:
    found: list[Found] = []
    for path in paths:
        try:
            found.append(read_frames(path, cine))
        except Refusal as refusal:
            found.append(refusal)
    return found


def read_series(
    headers: Sequence[Header], *, components: int = 1, repair: Kind | None = None
) -> tuple[Volume, SourceGrid, tuple[Finding, ...]]:
    """Read one proved series, or one flat image, as a canonical volume.

    Parameters
    ----------
    headers : sequence of Header
        In the order of the slices along +normal, as the proof of the series gave them; a stack has all slices of its
        first component, then those of the next.
    components : int
        How many images of one grid (echoes, time points) are stacked.
    repair : "gantry_tilt" or "variable_spacing", optional
        What the proof found that resampling to a regular grid mends.

    Returns
    -------
    volume : Volume
        (C, I, J, K), or (3, I, J, 1) in colour. Rescaled: HU for CT. A flat image without PixelSpacing has the
        geometry "none".
    grid : SourceGrid
        Source axes are column, row, and slice along +normal; with the way back to the slices if they were repaired.
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
    if not has_geometry(first):
        return _flat(stored, first)
    real, findings = _real_values(stored, headers)
    if repair is not None:
        straight = straight_grid(headers, repair, components)
        real = _straightened(real, straight, components)
        grid = canonical_grid(straight.shape, flip_lps_ras(straight.affine))
        grid = grid.model_copy(update={"repair": straight.slices})
    else:
        count = len(headers) // components
        affine = affine_of(headers[:count])
        grid = canonical_grid((first.columns, first.rows, count), flip_lps_ras(affine))
    voxels = to_canonical(_axes(real, components), grid)
    return Volume(voxels, canonical_affine(grid)), grid, findings


def straight_grid(headers: Sequence[Header], repair: Kind, components: int = 1) -> Straight:
    """Return the regular grid that `read_series` resamples slices to, from their headers alone."""
    slices = headers[: len(headers) // components]
    shape = (slices[0].columns, slices[0].rows, len(slices))
    return straighten(repair, np.array([header.position for header in slices]), affine_of(slices), shape)


def check_values(headers: Sequence[Header]) -> None:
    """Refuse headers whose pixels mean something that is not read yet."""
    for header in headers:
        if header.frames > 1 and not header.expanded:
            raise Refusal(
                "multiframe_cine",
                f"{header.frames} frames in one file that nothing places in the patient: a film, no volume; "
                "set `cine: frames` to take each as a flat image",
            )
        if header.modality_lut:
            raise Refusal(
                "modality_lut", "the pixels need a modality lookup table, which is not read; export real values"
            )


def check_rescale(headers: Sequence[Header]) -> None:
    """Refuse one volume of which some slices give a rescale and others none: what these hold is unknown."""
    for name, word in (("slope", "RescaleSlope"), ("intercept", "RescaleIntercept")):
        without = sum(getattr(header, name) is None for header in headers)
        if 0 < without < len(headers):
            raise Refusal(
                "mixed_rescale",
                f"{word} is missing in {without} of {len(headers)} slices, expected in all or none; "
                "what their values mean is unknown",
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


def _straightened(real: np.ndarray, straight: Straight, components: int) -> np.ndarray:
    """Resample (C x slices, rows, columns); what no slice covers holds the lowest value, air in CT."""
    fill = float(real.min())
    return np.concatenate([resample(part, straight, fill) for part in np.split(real, components)])


def _axes(stored: np.ndarray, components: int = 1) -> np.ndarray:
    """Turn (C x slices, rows, columns), or (slices, rows, columns, C), into (C, columns, rows, slices), a view."""
    if stored.ndim == 3:
        return stored.reshape(components, -1, *stored.shape[1:]).transpose(0, 3, 2, 1)
    return stored.transpose(3, 2, 1, 0)


def _flat(stored: np.ndarray, header: Header) -> tuple[Volume, SourceGrid, tuple[Finding, ...]]:
    """Return one image that nothing places in the patient: axes column and row, as pictures have them."""
    spacing, _ = flat_spacing(header)
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
    findings = fill_padding(stored, headers) + _rescale_findings(headers)
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
