"""Surface distances: worked by hand, against brute force, and against MONAI where the definition is the same."""

import math
import sys
import warnings

import numpy as np
import pytest
import torch
from monai.metrics.hausdorff_distance import compute_hausdorff_distance
from scipy.ndimage import binary_erosion

from medml.errors import ConfigError
from medml.metrics.surface import border, label_surface_scores, surface_scores


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


def test_labels_are_scored_as_if_each_were_alone() -> None:
    prediction, reference = (np.where(blobs(n), 1, 3 * blobs(n + 50)).astype(np.uint8) for n in (1, 2))
    prediction[0, 0, 0] = 7  # a label that nobody asked for
    spacing = (0.8, 1.0, 2.5)
    found = label_surface_scores(prediction, reference, [1, 2, 3], spacing, 1.5)
    for label in (1, 3):
        assert found[label] == surface_scores(prediction == label, reference == label, spacing, 1.5)
        assert found[label].definition == "border"
    assert math.isnan(found[2].hd95)
    with pytest.raises(ValueError, match="image's own grid"):
        label_surface_scores(prediction, reference[1:], [1], spacing)


def test_nothing_anywhere_is_undefined_for_every_label() -> None:
    empty = np.zeros((4, 4, 4), np.uint8)
    found = label_surface_scores(empty, empty, [1, 2], (1.0, 1.0, 1.0))
    assert all(math.isnan(scores.assd) for scores in found.values())


def test_a_flat_mask_in_a_thick_image_keeps_its_two_faces() -> None:
    mask = np.zeros((7, 7, 5), bool)
    mask[1:6, 1:6, 2] = True
    hole = mask.copy()
    hole[3, 3, 2] = False
    # All 25 voxels are border, being one voxel thick; the middle one is 1 mm from its neighbours.
    scores = surface_scores(mask, hole, (1.0, 1.0, 1.0), tolerance_mm=0.5)
    assert (scores.nsd, scores.assd) == (pytest.approx(48 / 49), pytest.approx(1 / 49))


def test_area_weighted_scores_are_those_of_surface_distance_and_say_so() -> None:
    package = pytest.importorskip("surface_distance")
    prediction, reference, spacing = blobs(3), blobs(103), (0.8, 1.0, 2.5)
    scores = surface_scores(prediction, reference, spacing, 1.5, definition="area")
    exact = package.compute_surface_distances(reference, prediction, spacing)
    assert scores.definition == "area"
    assert scores.hd95 == pytest.approx(package.compute_robust_hausdorff(exact, 95), abs=1e-9)
    assert scores.nsd == pytest.approx(package.compute_surface_dice_at_tolerance(exact, 1.5), abs=1e-9)
    weighed = [(exact["distances_gt_to_pred"], exact["surfel_areas_gt"])]
    weighed.append((exact["distances_pred_to_gt"], exact["surfel_areas_pred"]))
    total = sum(float((distance * area).sum()) for distance, area in weighed)
    assert scores.assd == pytest.approx(total / sum(float(area.sum()) for _, area in weighed), abs=1e-9)


def test_an_area_weighted_square_in_one_slice_has_a_contour() -> None:
    pytest.importorskip("surface_distance")
    square, moved = np.zeros((12, 12, 1), bool), np.zeros((12, 12, 1), bool)
    square[2:8, 2:8] = True
    moved[4:10, 2:8] = True
    same = surface_scores(square, square, (1.0, 1.0, 5.0), definition="area")
    assert (same.hd95, same.nsd, same.assd) == (0.0, 1.0, 0.0)
    assert surface_scores(square, moved, (1.0, 1.0, 5.0), definition="area").hd95 == pytest.approx(2.0)


def test_an_unknown_definition_and_a_missing_package_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = np.ones((3, 3, 3), bool)
    with pytest.raises(ConfigError, match="definition 'volume' of surface scores is unknown; use border or area"):
        surface_scores(mask, mask, (1.0, 1.0, 1.0), definition="volume")  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "surface_distance", None)
    with pytest.raises(ConfigError, match=r"surface-distance, which is not installed; pip install 'medml\[area\]'"):
        surface_scores(mask, mask, (1.0, 1.0, 1.0), definition="area")


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
