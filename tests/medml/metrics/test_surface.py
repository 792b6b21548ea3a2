"""Surface distances: worked by hand, against brute force, and against MONAI where the definition is the same."""

import math
import warnings

import numpy as np
import pytest
import torch
from monai.metrics.hausdorff_distance import compute_hausdorff_distance
from scipy.ndimage import binary_erosion

from medml.metrics.surface import border, surface_scores


def test_two_voxels_three_apart_at_two_millimetres() -> None:
    prediction, reference = np.zeros((9, 3, 3), bool), np.zeros((9, 3, 3), bool)
    prediction[1, 1, 1] = True
    reference[4, 1, 1] = True
    scores = surface_scores(prediction, reference, (2.0, 1.0, 1.0))
    assert (scores.hd95, scores.nsd, scores.assd) == (6.0, 0.0, 6.0)


def test_a_cube_grown_by_one_voxel_on_one_side() -> None:
    prediction, reference = np.zeros((8, 8, 8), bool), np.zeros((8, 8, 8), bool)
    prediction[2:5, 2:5, 2:5] = True  # 27 voxels, 26 of them border
    reference[2:6, 2:5, 2:5] = True  # 36 voxels, 34 of them border
    scores = surface_scores(prediction, reference, (1.0, 1.0, 1.0), tolerance_mm=0.5)
    # Of the 26, the centre of the face at 4 is no border of the reference: 1 mm away. Of the 34, the 9 at 5 lie 1 mm
    # away; everything else coincides.
    assert scores.nsd == pytest.approx((25 + 25) / 60)
    assert scores.assd == pytest.approx(10 / 60)
    assert scores.hd95 == 1.0


def test_scores_are_undefined_when_a_side_is_empty() -> None:
    empty, full = np.zeros((3, 3, 3), bool), np.ones((3, 3, 3), bool)
    for pair in ((empty, full), (full, empty), (empty, empty)):
        scores = surface_scores(*pair, (1.0, 1.0, 1.0))
        assert all(math.isnan(value) for value in (scores.hd95, scores.nsd, scores.assd))


def test_a_single_slice_has_no_neighbours_through_the_plane() -> None:
    mask = np.ones((5, 5, 1), bool)
    assert len(border(mask)) == 16  # the rim of a 5 x 5 square


def test_different_grids_are_refused() -> None:
    with pytest.raises(ValueError, match="image's own grid"):
        surface_scores(np.ones((2, 2, 2)), np.ones((2, 2, 3)), (1.0, 1.0, 1.0))


@pytest.mark.parametrize("seed", range(4))
def test_equals_brute_force_and_monai(seed: int) -> None:
    prediction, reference = blobs(seed), blobs(seed + 100)
    spacing = (0.8, 1.0, 2.5)
    scores = surface_scores(prediction, reference, spacing, tolerance_mm=1.5)
    forth, back = brute_force(prediction, reference, spacing)
    assert scores.hd95 == pytest.approx(max(np.percentile(forth, 95), np.percentile(back, 95)), abs=1e-6)
    assert scores.nsd == pytest.approx(np.mean(np.concatenate([forth, back]) <= 1.5))
    assert scores.assd == pytest.approx(np.concatenate([forth, back]).mean())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        monai = compute_hausdorff_distance(
            torch.tensor(prediction)[None, None].float(),
            torch.tensor(reference)[None, None].float(),
            include_background=True,
            percentile=95,
            spacing=spacing,
        )
    assert scores.hd95 == pytest.approx(float(monai), abs=1e-4)


def blobs(seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    grid = np.stack(np.mgrid[:14, :12, :9], axis=-1)
    mask = np.zeros((14, 12, 9), bool)
    for _ in range(3):
        mask |= ((grid - random.uniform(2, 9, 3)) ** 2).sum(axis=-1) < random.uniform(4, 14)
    return mask


def brute_force(
    prediction: np.ndarray, reference: np.ndarray, spacing: tuple[float, float, float]
) -> tuple[np.ndarray, np.ndarray]:
    first, second = (np.argwhere(mask & ~binary_erosion(mask)) * np.array(spacing) for mask in (prediction, reference))
    distances = np.linalg.norm(first[:, None] - second[None], axis=-1)
    return distances.min(axis=1), distances.min(axis=0)
