"""Distances between the surfaces of two masks, by two definitions; every score names its own.

``border``, ours: a mask's surface is its border voxels, those with at least one of their face neighbours (6 in 3D, 4 in
a single slice) outside the mask or outside the image. Distances run between voxel centres, in mm, from each border
voxel of one mask to the nearest border voxel of the other, both ways. HD95 is the larger of the two directed 95th
percentiles (as MONAI); NSD the share of all border voxels that lie within the tolerance (MONAI's with
``use_subvoxels=False``); ASSD the mean over all of them (MONAI's ``symmetric=True``).

``area``: surfaces are cut through the voxels' corners, and each piece counts by its area (google-deepmind's
surface-distance, which is called; Nikolov et al., JMIR 23:e26151, 2021). HD95 is the larger of the two directed
percentiles, NSD and ASSD pool both surfaces.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.spatial import cKDTree

from medml.errors import ConfigError
from medml.metrics.boxes import foreground_box, joined, label_boxes

Definition = Literal["border", "area"]
Spacing = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class SurfaceScores:
    """Surface agreement of two masks; NaN where either is empty.

    Attributes
    ----------
    hd95, assd : float
        95th percentile and mean of the surface distances, in mm.
    nsd : float
        Normalised surface dice at the tolerance, in [0, 1].
    definition : str
        "border" or "area": what counts as surface, as this module says.
    """

    hd95: float
    nsd: float
    assd: float
    definition: Definition = "border"


def surface_scores(
    prediction: np.ndarray,
    reference: np.ndarray,
    spacing_mm: Spacing,
    tolerance_mm: float = 1.0,
    *,
    definition: Definition = "border",
) -> SurfaceScores:
    """Compare the surfaces of two boolean masks.

    Parameters
    ----------
    prediction, reference : ndarray of shape (I, J, K), bool
        If either is empty every score is NaN; the caller counts it as missed or false.
    spacing_mm : tuple of float
        Voxel size along I, J and K.
    tolerance_mm : float
        Distance up to which surface counts as agreeing in NSD.
    definition : str
        "border" or "area".

    Raises
    ------
    ValueError
        If the shapes differ.
    ConfigError
        If the definition is unknown, or surface-distance is not installed.
    """
    prediction, reference = np.asarray(prediction, dtype=bool), np.asarray(reference, dtype=bool)
    _check(prediction, reference, definition)
    boxes = foreground_box(prediction), foreground_box(reference)
    if boxes[0] is None or boxes[1] is None:
        return _undefined(definition)
    box = joined((boxes[0], boxes[1]), prediction.shape)
    score = border_scores if definition == "border" else area_scores
    return score(prediction[box], reference[box], spacing_mm, tolerance_mm)


def label_surface_scores(
    prediction: np.ndarray,
    reference: np.ndarray,
    labels: list[int],
    spacing_mm: Spacing,
    tolerance_mm: float = 1.0,
    *,
    definition: Definition = "border",
) -> dict[int, SurfaceScores]:
    """Compare the surfaces of every label of two label masks; the masks are read whole only once.

    Parameters
    ----------
    prediction, reference : ndarray of shape (I, J, K), unsigned integers
        Label values; 0 is background. What is said of `surface_scores` holds label by label.
    """
    _check(prediction, reference, definition)
    boxes = label_boxes(prediction, reference, labels)
    score = border_scores if definition == "border" else area_scores
    scores = dict.fromkeys(labels, _undefined(definition))
    for label, both in boxes.items():
        box = joined(both, prediction.shape)
        scores[label] = score(prediction[box] == label, reference[box] == label, spacing_mm, tolerance_mm)
    return scores


def border_scores(
    prediction: np.ndarray, reference: np.ndarray, spacing_mm: Spacing, tolerance_mm: float
) -> SurfaceScores:
    """Return the scores of border voxels of two boolean masks (I, J, K), neither empty."""
    one, other = border_mask(prediction), border_mask(reference)
    shared = one & other  # these lie 0 mm apart, which needs no search
    places = [np.argwhere(mask) * np.asarray(spacing_mm) for mask in (one, other)]
    apart = [np.argwhere(mask & ~shared) * np.asarray(spacing_mm) for mask in (one, other)]
    same = np.zeros(np.count_nonzero(shared))
    forth = np.concatenate([same, _nearest(apart[0], places[1])])
    back = np.concatenate([same, _nearest(apart[1], places[0])])
    close = np.count_nonzero(forth <= tolerance_mm + 1e-9) + np.count_nonzero(back <= tolerance_mm + 1e-9)
    size = forth.size + back.size
    return SurfaceScores(
        hd95=float(max(np.percentile(forth, 95), np.percentile(back, 95))),
        nsd=close / size,
        assd=float((forth.sum() + back.sum()) / size),
    )


def area_scores(
    prediction: np.ndarray, reference: np.ndarray, spacing_mm: Spacing, tolerance_mm: float
) -> SurfaceScores:
    """Return the area-weighted scores of two boolean masks (I, J, K), neither empty; a single slice has contours.

    Raises
    ------
    ConfigError
        If surface-distance is not installed.
    """
    try:
        import surface_distance
    except ImportError:
        raise ConfigError(
            "definition 'area' is computed by surface-distance, which is not installed; "
            "pip install 'medml[area]', or use definition 'border'"
        ) from None
    axes = [axis for axis in range(3) if prediction.shape[axis] > 1]
    flat = tuple(slice(None) if axis in axes else 0 for axis in range(3))
    spacing = [spacing_mm[axis] for axis in axes]
    found = surface_distance.compute_surface_distances(reference[flat], prediction[flat], spacing)
    distances = np.concatenate([found["distances_gt_to_pred"], found["distances_pred_to_gt"]])
    areas = np.concatenate([found["surfel_areas_gt"], found["surfel_areas_pred"]])
    return SurfaceScores(
        hd95=float(surface_distance.compute_robust_hausdorff(found, 95)),
        nsd=float(surface_distance.compute_surface_dice_at_tolerance(found, tolerance_mm)),
        assd=float((distances * areas).sum() / areas.sum()),
        definition="area",
    )


def border(mask: np.ndarray) -> np.ndarray:
    """Return the indices (N, 3) of the border voxels of a boolean mask."""
    return np.argwhere(border_mask(mask))


def border_mask(mask: np.ndarray) -> np.ndarray:
    """Return which voxels of a boolean mask are its border; axes of length 1 have no neighbours."""
    if mask.size == 1:
        return mask.copy()
    inner = mask.copy()
    for axis in range(mask.ndim):
        if mask.shape[axis] == 1:
            continue
        moved, kept = np.moveaxis(mask, axis, 0), np.moveaxis(inner, axis, 0)
        kept[1:] &= moved[:-1]
        kept[:-1] &= moved[1:]
        kept[0] = kept[-1] = False
    result: np.ndarray = mask & ~inner
    return result


def _nearest(points: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the distance (N,) from each of ``points`` (N, 3) to the nearest of ``others`` (M, 3).

    On a grid of voxels many coordinates are equal, which makes the search for medians of a balanced tree slow.
    """
    if not len(points):
        return np.zeros(0)
    distances: np.ndarray = cKDTree(others, balanced_tree=False).query(points)[0]
    return distances


def _undefined(definition: Definition) -> SurfaceScores:
    return SurfaceScores(float("nan"), float("nan"), float("nan"), definition)


def _check(prediction: np.ndarray, reference: np.ndarray, definition: Definition) -> None:
    if prediction.shape != reference.shape:
        raise ValueError(
            f"the prediction has shape {prediction.shape}, the reference {reference.shape}; "
            "both must lie on the image's own grid"
        )
    if definition not in ("border", "area"):
        raise ConfigError(f"definition {definition!r} of surface scores is unknown; use border or area")
