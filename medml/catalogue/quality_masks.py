"""What a label mask says about itself, and beside its image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from medml.catalogue.quality_rules import QualityLimits, finding
from medml.catalogue.quality_values import Sample
from medml.records.scan import Finding

Box = tuple[slice, slice, slice]
Triple = tuple[float, float, float]
MOST_COMPONENT_VOXELS = 64 << 20
THIN_VOXELS = 20


def mask_findings(
    mask: np.ndarray,
    image: np.ndarray | None,
    spacing: Triple | None,
    labels: Mapping[int, str] | None,
    sample: Sample | None,
    limits: QualityLimits,
) -> list[Finding]:
    """Look at a mask (I, J, K) on the grid of ``image`` (I, J, K); alone, if image and sample are None.

    Parameters
    ----------
    spacing : tuple of float or None
        Voxel size in mm; None measures in voxels.
    labels : mapping of int to str
        What the source declares; None if it declares nothing.
    """
    box = _box_of(mask)
    if box is None:
        return [finding("mask_empty", f"none of {mask.size} voxels has a label")]
    inside = mask[box]
    counts = np.bincount(inside.ravel())
    found = _labels(counts, labels)
    if image is not None and sample is not None:
        found += _outside(inside, box, image, sample, limits)
    at_border, thin, tiny, far = [], [], [], []
    for value, region in _regions(inside):
        here = _shifted(region, box)
        sides = [part.stop - part.start for part in here]
        if mask.shape[2] > 1:
            if any(part.start == 0 or part.stop == n for part, n in zip(here, mask.shape, strict=True)):
                at_border.append(value)
            if counts[value] >= THIN_VOXELS and any(
                side == 1 < min(5, n) <= n for side, n in zip(sides, mask.shape, strict=True)
            ):
                thin.append(value)
        specks, strays = _components(inside[region] == value, spacing or (1.0, 1.0, 1.0), limits)
        tiny += [value] * specks
        far += [value] * strays
    for code, values, words in (
        ("label_at_border", at_border, "labels reach the edge of the image"),
        ("thin_label", thin, "labels are one voxel thick"),
        ("tiny_components", tiny, "specks"),
        ("far_components", far, "components far from the rest of their label"),
    ):
        if values:
            named = ", ".join(str(value) for value in sorted(set(values))[:8])
            found.append(finding(code, f"{len(values)} {words} (label {named})", count=len(values)))
    return found


def _labels(counts: np.ndarray, labels: Mapping[int, str] | None) -> list[Finding]:
    if labels is None:
        return []
    present = {int(value) for value in np.flatnonzero(counts) if value}
    declared = {value for value in labels if value}
    found = []
    for code, values, words in (
        ("undeclared_label", present - declared, "are in the mask and not declared"),
        ("absent_label", declared - present, "are declared and not in the mask"),
    ):
        if values:
            named = ", ".join(str(value) for value in sorted(values)[:8])
            message = f"{len(values)} values {words}: {named}"
            found.append(finding(code, message, values=len(values), declared=len(declared)))
    return found


def _outside(inside: np.ndarray, box: Box, image: np.ndarray, sample: Sample, limits: QualityLimits) -> list[Finding]:
    """Find labels outside the box around the body, which is known to one step of the sample, and on padding."""
    labelled = int(np.count_nonzero(inside))
    body = _box_of(sample.grid > sample.body)
    if body is None:
        return []
    kept = tuple(
        slice(
            max(part.start, (found.start - 1) * step) - part.start,
            max(0, min(part.stop, found.stop * step + 1) - part.start),
        )
        for part, found, step in zip(box, body, sample.step, strict=True)
    )
    beyond = (labelled - int(np.count_nonzero(inside[kept]))) / labelled
    thinned = tuple(slice(None, None, step) for step in sample.step)
    background = image[box][thinned][inside[thinned] > 0] == sample.low
    empty = float(background.mean()) if background.size and _has_background(sample) else 0.0
    if beyond <= limits.mask_outside_share and empty <= 0.5:
        return []
    message = f"{100 * beyond:.1f} % of the labels lie outside the body, {100 * empty:.0f} % on the background's value"
    return [finding("mask_outside_body", message, outside_share=beyond, background_share=empty)]


def _has_background(sample: Sample) -> bool:
    """Say whether one value fills a twentieth of the image, as padding and cleared background do."""
    return int(np.searchsorted(sample.values, sample.low, side="right")) > 0.05 * len(sample.values)


def _regions(inside: np.ndarray) -> list[tuple[int, Box]]:
    from scipy.ndimage import find_objects

    return [(n + 1, region) for n, region in enumerate(find_objects(inside)) if region is not None]


def _components(region: np.ndarray, spacing: Triple, limits: QualityLimits) -> tuple[int, int]:
    """Count specks, and small components further from the largest one than that is long; neighbours touch by corners.

    Labels whose box is beyond some 67 million voxels are not taken apart.
    """
    if region.size > MOST_COMPONENT_VOXELS:
        return 0, 0
    from scipy.ndimage import find_objects, label

    parts, number = label(region, structure=np.ones((3, 3, 3), dtype=np.uint8))
    if number < 2:
        return 0, 0
    sizes = np.bincount(parts.ravel())[1:]
    small = sizes < limits.tiny_component_share * sizes.sum()
    specks = small & (sizes < limits.tiny_component_voxels)
    boxes = find_objects(parts)
    main = boxes[int(np.argmax(sizes))]
    length = max((part.stop - part.start) * side for part, side in zip(main, spacing, strict=True))
    strays = [n for n in np.flatnonzero(small) if _gap(boxes[n], main, spacing) > length]
    return int(specks.sum()), len(strays)


def _gap(one: Sequence[slice], other: Sequence[slice], spacing: Triple) -> float:
    """Return the distance between two boxes, in mm."""
    apart = [max(0, a.start - b.stop, b.start - a.stop) * side for a, b, side in zip(one, other, spacing, strict=True)]
    return float(np.linalg.norm(apart))


def _box_of(mask: np.ndarray) -> Box | None:
    """Return the box around what is not 0."""
    box = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        filled = np.flatnonzero(mask.any(axis=others))
        if not len(filled):
            return None
        box.append(slice(int(filled[0]), int(filled[-1]) + 1))
    return box[0], box[1], box[2]


def _shifted(region: Box, box: Box) -> Box:
    a, b, c = (
        slice(part.start + outer.start, part.stop + outer.start) for part, outer in zip(region, box, strict=True)
    )
    return a, b, c
