"""The proof that slices stand at equal distances along one normal, or what mends them.

Tolerances: scanners round ImagePositionPatient to about 0.01 mm and ImageOrientationPatient to 1e-4 or so. A position
may lie 0.05 mm (a tenth of the spacing, if that is less) or 1 % of the spacing, the larger, from where a regular grid
has it; directions may differ by 1e-3; the slices may shift sideways by 0.5 degrees, which the affine keeps, as it goes
from the first position to the last.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from medml.catalogue.policies import DEFAULT, Policies
from medml.errors import GeometryError
from medml.io.deskew import Kind
from medml.io.dicom import Header, slice_normal
from medml.records.scan import Finding

POSITION_MM = 0.05
POSITION_SHARE = 0.01
DIRECTION = 1e-3
SPACING_SHARE = 1e-3
TILT_DEGREES = 0.5
MAX_TILT_DEGREES = 45.0
WIDEST_REPAIR = 2.0


@dataclass(frozen=True, slots=True, eq=False)
class Proof:
    """Slices in order along +normal, and what must be done to make one regular grid of them."""

    headers: list[Header]
    findings: list[Finding]
    repair: Kind | None = None


def prove_positions(headers: Sequence[Header], policies: Policies = DEFAULT) -> Proof:
    """Prove that slices form one regular grid, as they are or as the policies mend them.

    Raises
    ------
    GeometryError
        If geometry is missing, orientations or pixel spacings are mixed, positions repeat, a slice is missing,
        distances vary or the gantry was tilted, and no policy mends it.
    """
    require_geometry(headers)
    _require_one_orientation(headers)
    if len(headers) == 1:
        return Proof(list(headers), _single(headers[0]))
    normal = slice_normal(headers[0])
    points = np.array([header.position for header in headers])
    order = np.argsort(points @ normal, kind="stable")
    ordered, points = [headers[index] for index in order], points[order]
    along = points @ normal
    _require_distinct(ordered, along)
    degrees = _tilt(points, normal)
    if degrees > TILT_DEGREES:
        return _tilted(ordered, points, normal, degrees, policies)
    spacing = regular_spacing(points, along)
    if spacing is None:
        return _uneven(ordered, points, along, policies)
    return Proof(ordered, _disagreements(ordered, spacing))


def along_normal(headers: Sequence[Header]) -> np.ndarray:
    """Return where slices of one orientation stand along the first one's normal, in mm, in the order given."""
    return np.asarray(np.array([header.position for header in headers]) @ slice_normal(headers[0]))


def regular_spacing(points: np.ndarray, along: np.ndarray) -> float | None:
    """Return the spacing in mm of ordered slices that stand on one straight line at equal distances, else None."""
    spacing = float(np.median(np.diff(along)))
    tolerance = tolerance_of(spacing)
    if np.abs(np.diff(along) - spacing).max() > tolerance or _strays(points).max() > 2 * tolerance:
        return None
    return spacing


def tolerance_of(spacing: float) -> float:
    """Return how far from its place on a regular grid a slice may lie, in mm."""
    return max(min(POSITION_MM, 0.1 * spacing), POSITION_SHARE * spacing)


def places_of(headers: Sequence[Header]) -> np.ndarray:
    """Return for each image of one orientation the number of its place along the normal, from 0.

    Images within 0.01 mm (a fiftieth of a pixel, if that is less) stand at one place; within a fiftieth of the slice
    thickness, at most 0.1 mm, where all other distances are ten times that.
    """
    along = along_normal(headers)
    order = np.argsort(along, kind="stable")
    gaps = np.diff(along[order])
    pixel = min(headers[0].pixel_spacing or (1.0,))
    strict, wide = min(0.01, 0.02 * pixel), min(0.1, 0.02 * (headers[0].thickness or 0.0))
    apart = gaps[gaps >= wide]
    clear = wide > strict and (not len(apart) or apart.min() >= 10 * wide)
    breaks = gaps >= wide
    if not clear or max(map(np.ptp, np.split(along[order], np.flatnonzero(breaks) + 1))) > wide:
        breaks = gaps >= strict
    places = np.empty(len(along), dtype=int)
    places[order] = np.concatenate([[0], np.cumsum(breaks)])
    return places


def _strays(points: np.ndarray) -> np.ndarray:
    """Return how far each slice lies from its place on the straight, even line from the first to the last."""
    steps = np.arange(len(points))[:, None] / (len(points) - 1)
    return np.asarray(np.linalg.norm(points - (points[0] + steps * (points[-1] - points[0])), axis=1))


def _tilt(points: np.ndarray, normal: np.ndarray) -> float:
    """Return the angle in degrees between the normal and the line from the first slice to the last."""
    run = points[-1] - points[0]
    along = float(run @ normal)
    return math.degrees(math.atan2(float(np.linalg.norm(run - along * normal)), along))


def _tilted(ordered: list[Header], points: np.ndarray, normal: np.ndarray, degrees: float, policies: Policies) -> Proof:
    along = points @ normal
    spacing = regular_spacing(points, along)
    if spacing is None:
        raise _irregular(points, along)
    run = points[-1] - points[0]
    depth = float(run @ normal)
    sideways = float(np.linalg.norm(run - depth * normal))
    found = f"the slices shift sideways by {sideways:.2f} mm over {depth:.2f} mm ({degrees:.2f} degrees"
    if policies.gantry_tilt == "refuse" or degrees > MAX_TILT_DEGREES:
        limit = TILT_DEGREES if policies.gantry_tilt == "refuse" else MAX_TILT_DEGREES
        raise GeometryError("gantry_tilt", f"{found}, expected at most {limit}): a tilted gantry; resample it straight")
    finding = Finding(
        code="gantry_tilt",
        severity="warning",
        message=f"{found}): a tilted gantry; sheared back to a regular grid",
        numbers={"degrees": degrees, "sideways_mm": sideways, "slices": float(len(ordered))},
        advice="masks return to the source's own slices by nearest neighbour",
    )
    return Proof(ordered, [finding, *_disagreements(ordered, spacing)], "gantry_tilt")


def _uneven(ordered: list[Header], points: np.ndarray, along: np.ndarray, policies: Policies) -> Proof:
    error = _irregular(points, along)
    gaps = np.diff(along)
    spacing = float(np.median(gaps))
    mendable = error.code == "variable_spacing" and gaps.max() <= WIDEST_REPAIR * spacing
    sideways = np.ptp(points - along[:, None] * slice_normal(ordered[0]), axis=0).max()
    if policies.variable_spacing == "refuse" or not mendable or sideways > 2 * tolerance_of(spacing):
        raise error
    finding = Finding(
        code="variable_spacing",
        severity="warning",
        message=f"distances of slices run from {gaps.min():.2f} to {gaps.max():.2f} mm; resampled to {spacing:.2f} mm",
        numbers={"lowest_mm": float(gaps.min()), "highest_mm": float(gaps.max()), "spacing_mm": spacing},
        advice="do not measure finer than the widest distance",
    )
    return Proof(ordered, [finding], "variable_spacing")


def require_geometry(headers: Sequence[Header]) -> None:
    """Refuse images of which one does not say where it lies.

    Raises
    ------
    GeometryError
        With the number of those that do not.
    """
    for name, word in (
        ("position", "ImagePositionPatient"),
        ("orientation", "ImageOrientationPatient"),
        ("pixel_spacing", "PixelSpacing"),
    ):
        missing = sum(getattr(header, name) is None for header in headers)
        if missing:
            raise GeometryError(
                "missing_geometry",
                f"{word} is missing or damaged in {missing} of {len(headers)} slices, expected in all; "
                "where they lie is unknown",
            )
    for header in headers:
        if header.pixel_spacing is not None and min(header.pixel_spacing) <= 0:
            low = min(header.pixel_spacing)
            raise GeometryError("bad_spacing", f"PixelSpacing is {low:g} mm, expected more than 0")


def _require_one_orientation(headers: Sequence[Header]) -> None:
    slice_normal(headers[0])
    directions = np.array([header.orientation for header in headers])
    apart = np.abs(directions - directions[0]).max(axis=1)
    if apart.max() > DIRECTION:
        others = int((apart > DIRECTION).sum())
        raise GeometryError(
            "mixed_orientation",
            f"{others} of {len(headers)} slices lie in another orientation than the first (cosines {apart.max():.3f} "
            f"apart, expected at most {DIRECTION}); several stacks are mixed in one series",
        )
    spacings = np.array([header.pixel_spacing for header in headers])
    low, high = spacings.min(axis=0), spacings.max(axis=0)
    if ((high - low) > SPACING_SHARE * low).any():
        axis = int(np.argmax((high - low) / low))
        raise GeometryError(
            "mixed_spacing",
            f"PixelSpacing runs from {low[axis]:.4f} to {high[axis]:.4f} mm, expected one value; "
            "several images are mixed in one series",
        )


def _single(header: Header) -> list[Finding]:
    if header.thickness and header.thickness > 0:
        return []
    message = "one slice without SliceThickness; taken as 1 mm"
    return [Finding(code="no_thickness", severity="warning", message=message, advice="do not trust volumes in mL")]


def _require_distinct(headers: Sequence[Header], along: np.ndarray) -> None:
    """Refuse slices at one position: what tells images apart has split them before."""
    repeats = np.flatnonzero(np.diff(places_of(headers)) == 0)
    if not len(repeats):
        return
    first = int(repeats[0])
    numbers = f"{headers[first].instance} and {headers[first + 1].instance}"
    raise GeometryError(
        "duplicate_positions",
        f"{len(repeats)} of {len(headers)} slices stand where another one does, first at {along[first]:.2f} mm "
        f"(instance numbers {numbers}), expected one slice a position; remove the repeats",
    )


def _irregular(points: np.ndarray, along: np.ndarray) -> GeometryError:
    """Return why slices are no regular grid: a gap, varying distances, or slices off the straight line."""
    gaps = np.diff(along)
    spacing = float(np.median(gaps))
    tolerance = tolerance_of(spacing)
    off = np.abs(gaps - spacing)
    if off.max() > tolerance:
        at = int(np.argmax(gaps)) if gaps.max() > 1.5 * spacing else int(np.argmax(off))
        return _gap(gaps, along, spacing, at)
    strays = _strays(points)
    at = int(np.argmax(strays))
    return GeometryError(
        "variable_spacing",
        f"the slice at {along[at]:.2f} mm lies {strays[at]:.2f} mm from the regular grid, expected at most "
        f"{2 * tolerance:.2f} mm; the spacing varies or the table moved",
    )


def _gap(gaps: np.ndarray, along: np.ndarray, spacing: float, at: int) -> GeometryError:
    where = f"the slice after {along[at]:.2f} mm is {gaps[at]:.2f} mm away, expected {spacing:.2f} mm"
    multiples = gaps / spacing
    whole = np.abs(multiples - np.rint(multiples)) * spacing <= max(2 * tolerance_of(spacing), 0.05 * spacing)
    missing = int((np.rint(multiples) - 1).sum())
    if missing and whole.all() and (np.rint(multiples) >= 1).all():
        return GeometryError("missing_slice", f"{where}: {missing} of {len(along) + missing} slices are missing")
    return GeometryError(
        "variable_spacing",
        f"{where}; distances run from {gaps.min():.2f} to {gaps.max():.2f} mm: resample it to a regular grid",
    )


def _disagreements(headers: Sequence[Header], spacing: float) -> list[Finding]:
    """Compare the positions with what the headers say of the spacing and the order."""
    stated = headers[0].spacing_between or 0.0
    for length in (stated, headers[0].thickness or 0.0):
        times = round(spacing / length) if length > 0 else 0
        if times > 1 and stride_of(headers) == times and abs(times * length - spacing) < 0.1 * length:
            raise GeometryError(
                "missing_slice",
                f"slices are {spacing:.2f} mm apart and their numbers {times}, expected {length:.2f} mm and 1: "
                f"only one of every {times} slices is here",
            )
    if stated <= 0 or abs(stated - spacing) <= max(POSITION_MM, 0.02 * spacing):
        return []
    return [
        Finding(
            code="spacing_disagrees",
            severity="warning",
            message=f"slices are {spacing:.2f} mm apart, SpacingBetweenSlices says {stated:.2f} mm; positions win",
            numbers={"spacing_mm": spacing, "stated_mm": stated},
            advice="some scanners store the gap there; check that no slices are missing",
        )
    ]


def stride_of(headers: Sequence[Header]) -> int:
    """Return by how much InstanceNumber grows or falls from slice to slice; 0 if it does not do so evenly."""
    numbers = [header.instance for header in headers]
    strides = {abs(b - a) if a is not None and b is not None else 0 for a, b in pairwise(numbers)}
    return strides.pop() if len(strides) == 1 else 0
