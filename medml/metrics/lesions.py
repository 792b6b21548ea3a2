"""Lesion by lesion: which ones of the reference are found, which of the prediction are false.

A lesion is a connected component (neighbours by face, edge or corner). A predicted lesion and one of the reference
match if they overlap with an IoU of at least ``min_iou`` (0.1 by default: small lesions are outlined too differently
for more). Pairs are made one to one, the largest IoU first, so that one large blob cannot find ten lesions, nor ten
fragments count as ten hits. What is left over in the reference is missed (FN), in the prediction false (FP).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import label
from scipy.ndimage import maximum as maximum_of

MIN_IOU = 0.1


@dataclass(frozen=True, slots=True, eq=False)
class Lesions:
    """The lesions of one case.

    Attributes
    ----------
    reference_voxels : ndarray of shape (R,)
        Size of each lesion of the reference.
    found : ndarray of shape (R,)
        How sure the prediction was of the lesion that matches it; NaN where it is missed.
    false : ndarray of shape (F,)
        How sure it was of each lesion that matches none.
    """

    reference_voxels: np.ndarray
    found: np.ndarray
    false: np.ndarray

    @property
    def tp(self) -> int:
        """Lesions of the reference that are found."""
        return int(np.isfinite(self.found).sum())

    @property
    def fn(self) -> int:
        """Lesions of the reference that are missed."""
        return len(self.found) - self.tp

    @property
    def fp(self) -> int:
        """Predicted lesions that are none."""
        return len(self.false)


def match_lesions(
    prediction: np.ndarray, reference: np.ndarray, probability: np.ndarray | None = None, *, min_iou: float = MIN_IOU
) -> Lesions:
    """Match the lesions of two boolean masks.

    Parameters
    ----------
    prediction, reference : ndarray of shape (I, J, K), bool
    probability : ndarray of shape (I, J, K)
        Of the lesion's class; a predicted lesion is as sure as its surest voxel. 1 everywhere if None.

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    if prediction.shape != reference.shape:
        raise ValueError(
            f"the prediction has shape {prediction.shape}, the reference {reference.shape}; "
            "both must lie on the image's own grid"
        )
    corners = np.ones((3,) * prediction.ndim, dtype=bool)
    ours, predicted = label(prediction, corners)
    theirs, wanted = label(reference, corners)
    if probability is None:
        sure = np.ones(predicted)
    else:
        sure = np.atleast_1d(np.asarray(maximum_of(probability, ours, np.arange(1, predicted + 1)), dtype=float))
    table = np.bincount((ours * (wanted + 1) + theirs).ravel(), minlength=(predicted + 1) * (wanted + 1))
    table = table.reshape(predicted + 1, wanted + 1)
    sizes, wanted_sizes, both = table.sum(axis=1)[1:], table.sum(axis=0)[1:], table[1:, 1:]
    iou = both / np.maximum(sizes[:, np.newaxis] + wanted_sizes[np.newaxis] - both, 1)
    found, used = np.full(wanted, np.nan), np.zeros(predicted, dtype=bool)
    for cell in np.argsort(-iou, axis=None, kind="stable"):
        mine, its = divmod(int(cell), max(1, wanted))
        if iou.flat[cell] < min_iou:
            break
        if not used[mine] and np.isnan(found[its]):
            found[its], used[mine] = sure[mine], True
    return Lesions(wanted_sizes.astype(int), found, sure[~used])


def froc(cases: list[Lesions]) -> tuple[np.ndarray, np.ndarray]:
    """Return false lesions per case and share of lesions found, as the asked sureness falls; both rise.

    Empty if no case has a lesion in its reference.
    """
    wanted = sum(len(case.found) for case in cases)
    if not wanted:
        return np.empty(0), np.empty(0)
    hits = np.concatenate([case.found[np.isfinite(case.found)] for case in cases])
    misses = np.concatenate([case.false for case in cases])
    levels = np.unique(np.concatenate([hits, misses]))[::-1]
    found = (hits[np.newaxis] >= levels[:, np.newaxis]).sum(axis=1) / wanted
    false = (misses[np.newaxis] >= levels[:, np.newaxis]).sum(axis=1) / len(cases)
    return false, found
