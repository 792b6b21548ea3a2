"""RTSTRUCT contours, filled on the slices of their source series.

Rules: a voxel belongs to a region if its centre lies inside the contour (even-odd, so that a keyhole cuts a hole) or on
it: some programs draw contours through the centres of a mask's outermost voxels, around holes too.
Contours of one region on one slice add up from the largest to the smallest; one that lies wholly inside what is filled
so far cuts a hole, and one inside a hole fills again. Contours that cross each other are united, with a finding;
CLOSEDPLANAR_XOR ones are combined by exclusive or. Nothing is drawn between slices.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset

from medml.errors import GeometryError, Refusal
from medml.io.structures import References, SourceSlices, Structure, clean_name, identity_words, structure_of
from medml.records.scan import Finding

STRUCTURE_SET = "1.2.840.10008.5.1.4.1.1.481.3"
XOR = "CLOSEDPLANAR_XOR"
CLOSED = ("CLOSED_PLANAR", XOR)
MAX_POINTS = 20_000_000
_SHIFTS = np.array([(-1, -1), (-1, 1), (1, -1), (1, 1)]) * 1e-3


@dataclass(frozen=True, slots=True, eq=False)
class _Contour:
    """One contour on one slice.

    Attributes
    ----------
    points : ndarray of shape (N, 2)
        Column and row, in pixels from the centre of the first.
    """

    slice: int
    kind: str
    points: np.ndarray

    @property
    def area(self) -> float:
        x, y = self.points.T
        return float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2)


def read_references(path: Path) -> References:
    """Return what a structure set says it was drawn on."""
    data = pydicom.dcmread(path, stop_before_pixels=True)
    studies, series = [str(data.get("StudyInstanceUID", ""))], []
    images: set[str] = set()
    for frame in data.get("ReferencedFrameOfReferenceSequence") or []:
        for study in frame.get("RTReferencedStudySequence") or []:
            studies.append(str(study.get("ReferencedSOPInstanceUID", "")))
            for item in study.get("RTReferencedSeriesSequence") or []:
                series.append(str(item.get("SeriesInstanceUID", "")))
                images |= _images(item)
    for region in data.get("ROIContourSequence") or []:
        for contour in region.get("ContourSequence") or []:
            images |= _images(contour)
    frames = {str(r.get("ReferencedFrameOfReferenceUID", "")) for r in data.get("StructureSetROISequence") or []}
    return References(
        "rtstruct",
        tuple(dict.fromkeys(studies)),
        tuple(series),
        frozenset(images),
        frames.pop() if len(frames) == 1 else "",
    )


def read_regions(
    path: Path, slices: SourceSlices, *, wanted: frozenset[str] | None = None, elsewhere: frozenset[str] = frozenset()
) -> tuple[list[Structure], tuple[Finding, ...]]:
    """Return the regions of a structure set as voxels of its source slices.

    Parameters
    ----------
    wanted : set of str
        Names (snake_case) of the only regions to look at.
    elsewhere : set of str
        SOP instance UIDs of other scans made of the same series; contours drawn on those are passed over.

    Raises
    ------
    GeometryError
        ``off_plane`` if a contour is not in the plane of a slice, within half the distance to the next.
    Refusal
        ``dangling_reference`` if a contour's image is not there, ``open_contour``, ``no_structure``, ``damaged``.
    """
    data = pydicom.dcmread(path)
    identity = identity_words(data)
    contours = {int(item.ReferencedROINumber): item for item in data.get("ROIContourSequence") or []}
    structures: list[Structure] = []
    counts: Counter[str] = Counter()
    for region in data.get("StructureSetROISequence") or []:
        number = int(region.ROINumber)
        name = clean_name(str(region.get("ROIName", "")), identity, f"region_{number}")
        if wanted is not None and name not in wanted:
            continue
        drawn = contours.get(number, Dataset()).get("ContourSequence") or []
        closed = [item for item in drawn if not _is_point(item, counts)]
        if drawn and not closed:
            continue
        _check_images(closed, slices, elsewhere)
        here = [item for item in closed if not (_images(item) and _images(item) <= elsewhere)]
        placed = [_placed(item, slices) for item in here]
        structures.append(structure_of(number, name, _filled(placed, slices.shape, counts), slices.shape))
    if not structures:
        raise Refusal("no_structure", f"{len(contours)} regions, none of them with closed contours that are wanted")
    return structures, _findings(counts)


def _is_point(item: Dataset, counts: Counter[str]) -> bool:
    """Say whether a contour is a point; open ones are refused."""
    kind = str(item.get("ContourGeometricType", ""))
    if kind == "POINT":
        counts["points"] += 1
        return True
    if kind not in CLOSED:
        name = kind if kind in ("OPEN_PLANAR", "OPEN_NONPLANAR") else "an unknown type"
        raise Refusal(
            "open_contour",
            f"a contour is {name}, which encloses nothing; expected CLOSED_PLANAR. Leave its region out by naming the "
            "others in `labels` of the ingest configuration",
        )
    return False


def _check_images(contours: Sequence[Dataset], slices: SourceSlices, elsewhere: frozenset[str]) -> None:
    named = {uid for item in contours for uid in _images(item)}
    absent = named - slices.instances - elsewhere
    if absent:
        raise Refusal(
            "dangling_reference",
            f"{len(absent)} of the {len(named)} images that contours were drawn on are not among the "
            f"{len(slices.sop_uids)} of the series; ingest the whole series",
        )


def _placed(item: Dataset, slices: SourceSlices) -> _Contour:
    """Return a contour in pixels of the slice it lies on."""
    values = np.array(item.get("ContourData") or [], dtype=float)
    declared = int(item.get("NumberOfContourPoints", 0) or 0)
    if values.size != 3 * declared or declared < 3 or declared > MAX_POINTS or not np.isfinite(values).all():
        raise Refusal(
            "damaged",
            f"a closed contour declares {declared} points and holds {values.size} numbers, expected 3 a point",
        )
    if slices.affine is None or slices.origins is None:
        raise GeometryError("grid_mismatch", "the source image has no position, so contours in mm cannot be placed")
    inverse = np.linalg.inv(slices.affine[:3, :3])
    points = values.reshape(-1, 3) @ inverse.T
    origins = slices.origins @ inverse.T
    nearest = int(np.abs(origins[:, 2] - points[:, 2].mean()).argmin())
    local = points - origins[nearest]
    off = float(np.abs(local[:, 2]).max())
    if off > 0.5:
        raise GeometryError(
            "off_plane",
            f"a contour lies up to {off:.2f} slice distances from the nearest of {slices.shape[2]} slices, expected at "
            "most 0.5; it was drawn on another series, or in another plane",
        )
    named = {number for uid in _images(item) for number in slices.slices_of(uid)}
    if named and nearest not in named:
        raise GeometryError(
            "off_plane",
            f"a contour names slice {min(named)} of the source series but lies on slice {nearest}; "
            "the object contradicts itself",
        )
    return _Contour(nearest, str(item.ContourGeometricType), local[:, :2])


def _filled(contours: Sequence[_Contour], shape: tuple[int, int, int], counts: Counter[str]) -> list[np.ndarray]:
    """Return the voxels inside the contours of one region, slice by slice, as flat indices."""
    by_slice: dict[int, list[_Contour]] = defaultdict(list)
    for contour in contours:
        by_slice[contour.slice].append(contour)
    found = []
    for number, drawn in sorted(by_slice.items()):
        plane = _fill_slice(drawn, shape[:2], counts)
        columns, rows = np.nonzero(plane)
        found.append(np.ravel_multi_index((columns, rows, np.full_like(rows, number)), shape))
    if by_slice:
        counts["gaps"] += max(by_slice) - min(by_slice) + 1 - len(by_slice)
    return found


def _fill_slice(contours: Sequence[_Contour], shape: tuple[int, int], counts: Counter[str]) -> np.ndarray:
    plane = np.zeros(shape, dtype=bool)
    seen: set[bytes] = set()
    for contour in sorted(contours, key=lambda item: -item.area):
        points, key = contour.points, contour.points.tobytes()
        if key in seen and contour.kind != XOR:
            counts["copies"] += 1
            continue
        seen.add(key)
        counts["outside"] += bool((points < -0.5).any() or (points > np.array(shape) - 0.5).any())
        box = _box(points, shape)
        filled, inside = plane[box], _closed(points, box)
        if not inside.any():
            counts["small"] += 1
        elif contour.kind == XOR:
            filled ^= inside
        elif not (filled & inside).any():
            filled |= inside
        elif not (inside & ~filled).any():
            filled &= ~_open(points, box)
            counts["holes"] += 1
        else:
            filled |= inside
            counts["crossing"] += 1
    return plane


def _box(points: np.ndarray, shape: tuple[int, int]) -> tuple[slice, slice]:
    """Return the part of a slice in which the centres near a polygon lie."""
    low = np.clip(np.floor(points.min(axis=0)), 0, shape).astype(int)
    high = np.clip(np.ceil(points.max(axis=0)) + 1, 0, shape).astype(int)
    return slice(low[0], high[0]), slice(low[1], high[1])


def _closed(points: np.ndarray, box: tuple[slice, slice]) -> np.ndarray:
    """Return which centres lie inside a polygon or on it, within a thousandth of a pixel."""
    return np.asarray(np.logical_or.reduce([_inside(points + shift, box) for shift in _SHIFTS]))


def _open(points: np.ndarray, box: tuple[slice, slice]) -> np.ndarray:
    """Return which centres lie inside a polygon and not on it."""
    return np.asarray(np.logical_and.reduce([_inside(points + shift, box) for shift in _SHIFTS]))


def _inside(points: np.ndarray, box: tuple[slice, slice]) -> np.ndarray:
    """Return which centres of a box lie inside a polygon, by the even-odd rule.

    Every edge that crosses a row of centres turns inside to outside, or back, from its crossing on.
    """
    columns, rows = box[0].stop - box[0].start, box[1].stop - box[1].start
    if min(columns, rows) < 1:
        return np.zeros((max(columns, 0), max(rows, 0)), dtype=bool)
    local = points - [box[0].start, box[1].start]
    ends = np.stack([local, np.roll(local, -1, axis=0)])
    upper, lower = np.take_along_axis(ends, ends[:, :, 1:].argsort(axis=0), axis=0)
    first = np.clip(np.ceil(upper[:, 1]), 0, rows).astype(int)
    crossed = np.clip(np.ceil(lower[:, 1]), 0, rows).astype(int) - first
    edge = np.repeat(np.arange(len(local)), crossed)
    row = np.arange(edge.size) - np.repeat(np.cumsum(crossed) - crossed, crossed) + first[edge]
    slope = (lower - upper)[edge]
    column = upper[edge, 0] + (row - upper[edge, 1]) * slope[:, 0] / slope[:, 1]
    start = np.clip(np.ceil(column), 0, columns).astype(int)
    turns = np.bincount(start * rows + row, minlength=(columns + 1) * rows).astype(np.uint8)
    turned = turns.reshape(columns + 1, rows).cumsum(axis=0, dtype=np.uint8)
    return np.asarray(turned[:columns] & 1, dtype=bool)


def _findings(counts: Counter[str]) -> tuple[Finding, ...]:
    told = (
        ("points", "point_contours", "info", "points are no regions and were left out", ""),
        ("copies", "duplicate_contours", "warning", "contours are copies of others and count once", ""),
        ("crossing", "crossing_contours", "warning", "contours cross others of their region and were united", "look"),
        ("small", "small_contours", "warning", "contours enclose no voxel centre", "the image is coarser than they"),
        ("outside", "contours_outside", "warning", "contours reach beyond the image and were cut", "check the source"),
        ("gaps", "contour_gaps", "warning", "slices between contours have none; nothing was interpolated", ""),
        ("holes", "contour_holes", "info", "contours lie inside others and cut holes", ""),
    )
    return tuple(
        Finding.model_validate(
            {
                "code": code,
                "severity": severity,
                "message": f"{counts[key]} {text}",
                "numbers": {"count": float(counts[key])},
                "advice": advice,
            }
        )
        for key, code, severity, text, advice in told
        if counts[key]
    )


def _images(item: Dataset) -> set[str]:
    images = item.get("ContourImageSequence") or []
    return {str(image.get("ReferencedSOPInstanceUID", "")) for image in images}
