"""The proof that slices stand at equal distances along one normal.

Tolerances: scanners round ImagePositionPatient to about 0.01 mm and ImageOrientationPatient to 1e-4 or so. A position
may lie 0.05 mm or 1 % of the spacing (the larger) from where a regular grid has it; directions may differ by 1e-3; the
slices may shift sideways by 0.5 degrees, which the affine keeps, as it goes from the first position to the last.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from medml.errors import GeometryError
from medml.io.dicom import Header, slice_normal
from medml.records.scan import Finding

POSITION_MM = 0.05
POSITION_SHARE = 0.01
DIRECTION = 1e-3
SPACING_SHARE = 1e-3
TILT_DEGREES = 0.5


def prove_positions(headers: Sequence[Header]) -> tuple[list[Header], list[Finding]]:
    """Return the slices in order along +normal, and findings about them.

    Raises
    ------
    GeometryError
        If geometry is missing, orientations or pixel spacings are mixed, positions repeat, a slice is missing,
        distances vary, or the gantry was tilted.
    """
    _require_geometry(headers)
    _require_one_orientation(headers)
    if len(headers) == 1:
        return list(headers), _single(headers[0])
    normal = slice_normal(headers[0])
    points = np.array([header.position for header in headers])
    order = np.argsort(points @ normal, kind="stable")
    ordered, points = [headers[index] for index in order], points[order]
    along = points @ normal
    _require_distinct(ordered, along)
    _require_no_tilt(points, normal)
    spacing = _require_regular(points, along)
    return ordered, _disagreements(ordered, spacing)


def _require_geometry(headers: Sequence[Header]) -> None:
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
    """Refuse slices at one position: several volumes if their tags or their number say so, else duplicates."""
    repeats = np.flatnonzero(np.diff(along) < POSITION_MM / 5)
    if not len(repeats):
        return
    groups = np.concatenate([[0], np.cumsum(np.diff(along) >= POSITION_MM / 5)])
    counts = Counter(Counter(groups.tolist()).values())
    positions, most = int(groups[-1]) + 1, max(counts)
    varying = _varying(headers)
    if varying or (len(counts) == 1 and positions > 1 and most > 1):
        raise GeometryError(
            "several_volumes",
            f"{len(headers)} images at {positions} positions, up to {most} each, expected one each"
            f"{f'; {varying} varies' if varying else ''}: time points, echoes or diffusion weights in one series; "
            "export them one by one",
        )
    first = int(repeats[0])
    numbers = f"{headers[first].instance} and {headers[first + 1].instance}"
    raise GeometryError(
        "duplicate_positions",
        f"{len(repeats)} of {len(headers)} slices stand where another one does, first at {along[first]:.2f} mm "
        f"(instance numbers {numbers}), expected one slice a position; remove the repeats",
    )


def _varying(headers: Sequence[Header]) -> str:
    """Return the words for what tells images at one position apart."""
    tags = (
        ("echo time", [header.echo_time for header in headers]),
        ("echo number", [header.echo_number for header in headers]),
        ("temporal position", [header.temporal_position for header in headers]),
        ("b-value", [header.b_value for header in headers]),
        ("trigger time", [header.trigger_time for header in headers]),
        ("acquisition number", [header.acquisition for header in headers]),
    )
    return " and ".join(name for name, values in tags if len(set(values)) > 1)


def _require_no_tilt(points: np.ndarray, normal: np.ndarray) -> None:
    run = points[-1] - points[0]
    sideways = run - (run @ normal) * normal
    degrees = math.degrees(math.atan2(float(np.linalg.norm(sideways)), float(run @ normal)))
    if degrees > TILT_DEGREES:
        raise GeometryError(
            "gantry_tilt",
            f"the slices shift sideways by {np.linalg.norm(sideways):.2f} mm over {run @ normal:.2f} mm "
            f"({degrees:.2f} degrees, expected at most {TILT_DEGREES}): a tilted gantry; resample it straight",
        )


def _require_regular(points: np.ndarray, along: np.ndarray) -> float:
    """Return the spacing in mm; refuse gaps, varying distances, and slices off the straight line."""
    gaps = np.diff(along)
    spacing = float(np.median(gaps))
    tolerance = max(POSITION_MM, POSITION_SHARE * spacing)
    off = np.abs(gaps - spacing)
    if off.max() > tolerance:
        at = int(np.argmax(gaps)) if gaps.max() > 1.5 * spacing else int(np.argmax(off))
        _refuse_gap(gaps, along, spacing, at)
    steps = np.arange(len(points))[:, None] / (len(points) - 1)
    strays = np.linalg.norm(points - (points[0] + steps * (points[-1] - points[0])), axis=1)
    if strays.max() > 2 * tolerance:
        at = int(np.argmax(strays))
        raise GeometryError(
            "variable_spacing",
            f"the slice at {along[at]:.2f} mm lies {strays[at]:.2f} mm from the regular grid, expected at most "
            f"{2 * tolerance:.2f} mm; the spacing varies or the table moved",
        )
    return spacing


def _refuse_gap(gaps: np.ndarray, along: np.ndarray, spacing: float, at: int) -> None:
    where = f"the slice after {along[at]:.2f} mm is {gaps[at]:.2f} mm away, expected {spacing:.2f} mm"
    multiples = gaps / spacing
    whole = np.abs(multiples - np.rint(multiples)) * spacing <= max(2 * POSITION_MM, 0.05 * spacing)
    missing = int((np.rint(multiples) - 1).sum())
    if missing and whole.all() and (np.rint(multiples) >= 1).all():
        raise GeometryError("missing_slice", f"{where}: {missing} of {len(along) + missing} slices are missing")
    raise GeometryError(
        "variable_spacing",
        f"{where}; distances run from {gaps.min():.2f} to {gaps.max():.2f} mm: resample it to a regular grid",
    )


def _disagreements(headers: Sequence[Header], spacing: float) -> list[Finding]:
    """Compare the positions with what the headers say of the spacing and the order."""
    stated = headers[0].spacing_between
    if not stated or stated <= 0 or abs(stated - spacing) <= max(POSITION_MM, 0.02 * spacing):
        return []
    numbers = [header.instance for header in headers if header.instance is not None]
    strides = {abs(b - a) for a, b in pairwise(numbers)}
    times = round(spacing / stated)
    if (
        len(numbers) == len(headers)
        and strides == {times}
        and times > 1
        and abs(times * stated - spacing) < 0.1 * stated
    ):
        raise GeometryError(
            "missing_slice",
            f"slices are {spacing:.2f} mm apart and their numbers {times}, expected {stated:.2f} mm and 1: "
            f"only one of every {times} slices is here",
        )
    return [
        Finding(
            code="spacing_disagrees",
            severity="warning",
            message=f"slices are {spacing:.2f} mm apart, SpacingBetweenSlices says {stated:.2f} mm; positions win",
            numbers={"spacing_mm": spacing, "stated_mm": stated},
            advice="some scanners store the gap there; check that no slices are missing",
        )
    ]
