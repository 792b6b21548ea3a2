"""Where the foreground of masks lies, so that figures are computed there and not on the whole scan."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

Box = tuple[slice, ...]


def foreground_box(mask: np.ndarray) -> Box | None:
    """Return the smallest box (I, J, K) that holds everything but background; None where there is nothing.

    Parameters
    ----------
    mask : ndarray of shape (I, J, K), bool or unsigned integers
    """
    values = mask.view(np.uint8) if mask.dtype == bool else mask
    if not values.size:
        return None
    plane = values.max(axis=0)
    middle, last = _span(plane.max(axis=1)), _span(plane.max(axis=0))
    if middle is None or last is None:
        return None
    first = _span(values[:, middle, last].max(axis=2).max(axis=1))
    assert first is not None
    return first, middle, last


def label_boxes(prediction: np.ndarray, reference: np.ndarray, labels: list[int]) -> dict[int, tuple[Box, Box]]:
    """Return, for each label that both masks have, its box in each of them.

    Parameters
    ----------
    prediction, reference : ndarray of one shape (I, J, K), unsigned integers
    """
    found = []
    for mask in (prediction, reference):
        whole = foreground_box(mask)
        boxes = ndimage.find_objects(mask[whole], max_label=max(labels, default=0)) if whole else []
        found.append({n: _moved(box, whole) for n, box in enumerate(boxes, start=1) if box and whole})
    return {n: (found[0][n], found[1][n]) for n in labels if n in found[0] and n in found[1]}


def joined(boxes: Sequence[Box], shape: tuple[int, ...]) -> Box:
    """Return the box that holds all of them, one voxel wider where the image has one."""
    return tuple(
        slice(max(0, min(part.start for part in parts) - 1), min(length, max(part.stop for part in parts) + 1))
        for parts, length in zip(zip(*boxes, strict=True), shape, strict=True)
    )


def _span(line: np.ndarray) -> slice | None:
    inside = np.flatnonzero(line)
    return slice(int(inside[0]), int(inside[-1]) + 1) if inside.size else None


def _moved(box: Box, whole: Box) -> Box:
    return tuple(
        slice(part.start + frame.start, part.stop + frame.start) for part, frame in zip(box, whole, strict=True)
    )
