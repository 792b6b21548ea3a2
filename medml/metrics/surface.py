"""Distances between the surfaces of two masks.

Definition: a mask's surface is its border voxels, those with at least one of their face neighbours (6 in 3D, 4 in a
single slice) outside the mask or outside the image. Distances run between voxel centres, in mm, from each border voxel
of one mask to the nearest border voxel of the other, both ways. HD95 is the larger of the two directed 95th
percentiles (as MONAI); NSD the share of all border voxels that lie within the tolerance; ASSD the mean over all of
them. Surfaces are not weighted by area, so figures differ from packages that do.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree


@dataclass(frozen=True, slots=True)
class SurfaceScores:
    """Surface agreement of two masks; NaN where either is empty.

    Attributes
    ----------
    hd95, assd : float
        95th percentile and mean of the surface distances, in mm.
    nsd : float
        Normalised surface dice at the tolerance, in [0, 1].
    """

    hd95: float
    nsd: float
    assd: float


UNDEFINED = SurfaceScores(float("nan"), float("nan"), float("nan"))


def surface_scores(
    prediction: np.ndarray,
    reference: np.ndarray,
    spacing_mm: tuple[float, float, float],
    tolerance_mm: float = 1.0,
) -> SurfaceScores:
    """Compare the surfaces of two boolean masks.

    Parameters
    ----------
    prediction, reference : ndarray of shape (I, J, K), bool
        If either is empty every score is NaN; the caller counts it as missed or false.
    spacing_mm : tuple of float
        Voxel size along I, J and K.
    tolerance_mm : float
        Distance up to which a surface voxel counts as agreeing in NSD.

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    prediction, reference = np.asarray(prediction, dtype=bool), np.asarray(reference, dtype=bool)
    if prediction.shape != reference.shape:
        raise ValueError(
            f"the prediction has shape {prediction.shape}, the reference {reference.shape}; "
            "both must lie on the image's own grid"
        )
    box = _box(prediction, reference)
    if box is None:
        return UNDEFINED
    points = [border(mask[box]) * np.asarray(spacing_mm) for mask in (prediction, reference)]
    forth, back = _nearest(points[0], points[1]), _nearest(points[1], points[0])
    both = np.concatenate([forth, back])
    return SurfaceScores(
        hd95=float(max(np.percentile(forth, 95), np.percentile(back, 95))),
        nsd=float(np.count_nonzero(both <= tolerance_mm + 1e-9) / both.size),
        assd=float(both.mean()),
    )


def border(mask: np.ndarray) -> np.ndarray:
    """Return the indices (N, 3) of the border voxels of a boolean mask; axes of length 1 have no neighbours."""
    inner = mask.copy()
    for axis in range(mask.ndim):
        if mask.shape[axis] == 1:
            continue
        moved, kept = np.moveaxis(mask, axis, 0), np.moveaxis(inner, axis, 0)
        kept[1:] &= moved[:-1]
        kept[:-1] &= moved[1:]
        kept[0] = kept[-1] = False
    return np.argwhere(mask & ~inner)


def _box(prediction: np.ndarray, reference: np.ndarray) -> tuple[slice, ...] | None:
    """Return the smallest box that holds both masks, None if either is empty.

    Cutting at the box changes no border: outside of it there is no mask. An axis that the image has more than once but
    the masks only once stays wider, so that a flat mask keeps its two faces.
    """
    box = []
    for axis in range(prediction.ndim):
        others = tuple(other for other in range(prediction.ndim) if other != axis)
        found = [np.flatnonzero(mask.any(axis=others)) for mask in (prediction, reference)]
        if not found[0].size or not found[1].size:
            return None
        start, stop = min(f[0] for f in found), max(f[-1] for f in found) + 1
        box.append(slice(max(0, int(start) - 1), int(stop) + 1))
    return tuple(box)


def _nearest(points: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the distance (N,) from each of ``points`` (N, 3) to the nearest of ``others`` (M, 3)."""
    distances: np.ndarray = cKDTree(others).query(points)[0]
    return distances
