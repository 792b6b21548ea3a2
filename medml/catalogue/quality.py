"""What the voxels of one scan say about its quality; one full pass, the rest on a sample.

`assess` sees one scan. What only shows beside others (outliers, the same picture twice) is in `quality_collection`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from medml.catalogue.quality_body import edge_findings
from medml.catalogue.quality_masks import mask_findings
from medml.catalogue.quality_rules import QualityLimits, finding, worst_first
from medml.catalogue.quality_values import Sample, ct_findings, statistics, take_sample
from medml.geometry import spacing_of
from medml.metrics.likeness import fingerprint
from medml.records.scan import Finding, Volume

MAX_WIDTH_MM = 1000.0


@dataclass(frozen=True, slots=True)
class Assessment:
    """What is known of one scan's quality.

    Attributes
    ----------
    numbers : dict
        Statistics that scans of one collection and modality are compared by; see `quality_values.statistics`.
    likeness : str
        See `medml.metrics.likeness.fingerprint`.
    """

    findings: tuple[Finding, ...]
    numbers: dict[str, float] = field(default_factory=dict)
    likeness: str = ""


def assess(
    volume: Volume,
    *,
    modality: str = "OT",
    slice_axis: int = 2,
    masks: Mapping[str, np.ndarray] | None = None,
    labels: Mapping[int, str] | None = None,
    limits: QualityLimits | None = None,
) -> Assessment:
    """Look at one scan and its masks.

    Parameters
    ----------
    volume : Volume
        Canonical, (C, I, J, K). Statistics are those of the first component; of the mean of three in one slice (RGB).
    modality : str
        DICOM modality; "CT" and "MR" have rules of their own.
    slice_axis : int
        The canonical axis along which slices were taken.
    masks : mapping of str to ndarray of shape (I, J, K)
        Label values, 0 is background.
    labels : mapping of int to str
        The labels that the source declares; None if it declares none.
    """
    limits = limits or QualityLimits()
    image = _one_component(volume.voxels)
    spacing = spacing_of(volume.affine) if volume.geometry == "mm" else None
    found = _geometry(image.shape, spacing, slice_axis, limits)
    lows, highs = _slice_ends(volume.voxels, slice_axis)
    low, high = float(lows.min()), float(highs.max())
    if not np.isfinite([low, high]).all():
        return Assessment(worst_first((*found, _non_finite(volume.voxels))))
    if low == high:
        message = f"all {volume.voxels.size} voxels are {low:g}"
        return Assessment(worst_first((*found, finding("constant_image", message, value=low))))
    sample = take_sample(image, low, high, modality)
    found += _empty_slices(lows, highs, sample) + _saturation(sample, limits)
    if modality == "CT":
        found += ct_findings(sample)
    if modality in ("CT", "MR") and spacing is not None and image.shape[2] > 1:
        found += edge_findings(image, spacing, modality, sample, limits)
    for mask in (masks or {}).values():
        found += mask_findings(mask, image, spacing, labels, sample, limits)
    return Assessment(worst_first(tuple(found)), statistics(sample), fingerprint(image))


def slice_axis_of(spacing: tuple[float, float, float] | None, axis: int) -> int:
    """Return the canonical axis along which slices were taken, where no header says so.

    The one whose voxel side differs from two equal others; ``axis``, the third of the file, if there is none.
    """
    if spacing is None:
        return axis
    for odd in range(3):
        one, other = (spacing[n] for n in range(3) if n != odd)
        if abs(one - other) < 1e-3 * one and abs(spacing[odd] - one) > 0.02 * one:
            return odd
    return axis


def _one_component(voxels: np.ndarray) -> np.ndarray:
    colour = voxels.shape[0] == 3 and voxels.shape[3] == 1
    return np.asarray(voxels.mean(axis=0, dtype=np.float32) if colour else voxels[0])


def _slice_ends(voxels: np.ndarray, slice_axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the smallest and largest value of each slice; NaN where a slice has one."""
    others = tuple(axis for axis in range(4) if axis != slice_axis + 1)
    return voxels.min(axis=others), voxels.max(axis=others)


def _non_finite(voxels: np.ndarray) -> Finding:
    count = voxels.size - int(np.count_nonzero(np.isfinite(voxels)))
    return finding("non_finite", f"{count} of {voxels.size} voxels are NaN or infinite", voxels=count)


def _geometry(
    shape: tuple[int, ...], spacing: tuple[float, float, float] | None, slice_axis: int, limits: QualityLimits
) -> list[Finding]:
    found: list[Finding] = []
    slices = shape[slice_axis]
    if 1 < slices < limits.min_slices:
        message = f"{slices} slices, expected at least {limits.min_slices}"
        found.append(finding("few_slices", message, slices=slices))
    if spacing is None:
        return found
    first, second = (spacing[axis] for axis in range(3) if axis != slice_axis)
    if abs(first - second) > limits.non_square * min(first, second):
        message = f"pixels are {first:.3g} x {second:.3g} mm"
        found.append(finding("non_square_pixels", message, first_mm=first, second_mm=second))
    used = spacing if slices > 1 else (first, second)
    ratio = max(used) / min(used)
    if slices > 1 and ratio > limits.anisotropy:
        message = f"voxels are {' x '.join(f'{value:.3g}' for value in spacing)} mm: {ratio:.1f} to 1"
        found.append(finding("anisotropic", message, ratio=ratio))
    return found + _field_of_view(shape, spacing, slice_axis, limits)


def _field_of_view(
    shape: tuple[int, ...], spacing: tuple[float, float, float], slice_axis: int, limits: QualityLimits
) -> list[Finding]:
    """Find sides that no patient has. A thick slice alone has no side along its normal."""
    axes = [axis for axis in range(3) if shape[axis] > 1 or axis != slice_axis]
    sides = {axis: shape[axis] * spacing[axis] for axis in axes}
    longest = max(sides.values())
    width = min(sorted(sides.values())[-2:])
    numbers = {"longest_mm": longest, "second_mm": width}
    seen = f"the field of view is {' x '.join(f'{side:.4g}' for side in sides.values())} mm"
    if longest < limits.min_extent_mm:
        message = f"{seen}, its longest side expected at least {limits.min_extent_mm:g} mm"
        return [finding("small_field_of_view", message, **numbers)]
    if longest > limits.max_extent_mm or width > MAX_WIDTH_MM:
        message = f"{seen}, expected at most {limits.max_extent_mm:g} mm, across the body {MAX_WIDTH_MM:g} mm"
        return [finding("large_field_of_view", message, **numbers)]
    return []


def _empty_slices(lows: np.ndarray, highs: np.ndarray, sample: Sample) -> list[Finding]:
    """Tell constant slices inside the volume from those at its ends; a drawn shape may well have gaps."""
    empty = lows == highs
    if not empty.any():
        return []
    filled = np.flatnonzero(~empty)
    inside = np.flatnonzero(empty[filled[0] : filled[-1] + 1]) + filled[0]
    ends = int(empty.sum()) - len(inside)
    found = []
    if len(inside) and not sample.is_drawn:
        message = f"{len(inside)} of {len(empty)} slices hold one value each: {_ranges(inside)} (counted from 0)"
        numbers = {"slices": len(inside), "first": int(inside[0]), "last": int(inside[-1])}
        found.append(finding("empty_slices", message, **numbers))
    if ends:
        before, after = int(filled[0]), len(empty) - 1 - int(filled[-1])
        message = f"{before} slices at the start and {after} at the end of {len(empty)} hold one value each"
        found.append(finding("empty_ends", message, start=before, end=after))
    return found


def _ranges(places: np.ndarray, most: int = 5) -> str:
    """Return "3-5, 9" for 3, 4, 5, 9."""
    runs = np.split(places, np.flatnonzero(np.diff(places) > 1) + 1)
    shown = [f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs[:most]]
    return ", ".join(shown) + (", …" if len(runs) > most else "")


def _saturation(sample: Sample, limits: QualityLimits) -> list[Finding]:
    """Find a spike at the largest value; images of few values (shapes, labels) have one by nature."""
    values = sample.values
    at_top = len(values) - int(np.searchsorted(values, sample.high, side="left"))
    if at_top < limits.saturated_share * len(values) or sample.is_drawn:
        return []
    near = values[np.searchsorted(values, sample.high - 0.05 * (sample.high - sample.low)) : len(values) - at_top]
    typical = len(near) / max(1, len(np.unique(near)))
    if at_top < 10 * typical:
        return []
    share = at_top / len(values)
    message = f"{100 * share:.1f} % of the voxels have the largest value, {sample.high:g}"
    return [finding("saturated", message, share=share, value=sample.high)]
