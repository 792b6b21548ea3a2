"""What one label of a mask looks like: how much, in how many pieces, and whether it leaves the image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

LARGE_PIECE = 0.1  # of the label's voxels
MOST_VOXELS = 1 << 24  # of the label's box, before it is looked at in blocks of 2 x 2 x 2


@dataclass(frozen=True, slots=True)
class Shape:
    """One label in one mask.

    Attributes
    ----------
    pieces : int
        Components (faces, edges and corners join) with at least a tenth of the label's voxels.
    touching : bool
        Whether it reaches the first or last voxel along an axis that has more than one.
    """

    voxels: int
    pieces: int
    touching: bool


def shape_of(mask: np.ndarray, label: int, box: tuple[slice, ...] | None) -> Shape:
    """Look at one label of a mask (I, J, K), in its box as `scipy.ndimage.find_objects` gives it; None: no voxel."""
    if box is None:
        return Shape(0, 0, False)
    inside = mask[box] == label
    sides = zip(box, mask.shape, strict=True)
    touching = any(size > 1 and (part.start == 0 or part.stop == size) for part, size in sides)
    return Shape(int(np.count_nonzero(inside)), _pieces(inside), touching)


def shapes_of(mask: np.ndarray, labels: list[int]) -> dict[int, Shape]:
    """Look at every label of a mask (I, J, K), one pass over it and one over the box of each."""
    boxes = ndimage.find_objects(mask, max_label=max(labels, default=0))
    return {label: shape_of(mask, label, boxes[label - 1]) for label in labels}


def _pieces(inside: np.ndarray) -> int:
    while inside.size > MOST_VOXELS:
        even = np.pad(inside, [(0, size % 2) for size in inside.shape])
        i, j, k = (size // 2 for size in even.shape)
        inside = np.asarray(even.reshape(i, 2, j, 2, k, 2).any(axis=(1, 3, 5)))
    labelled, count = ndimage.label(inside, structure=np.ones((3, 3, 3)))
    sizes = np.bincount(labelled.ravel(), minlength=count + 1)[1:]
    return int((sizes >= LARGE_PIECE * sizes.sum()).sum())
