"""Distances from training data, and shapes of labels, worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from medml.metrics.novelty import FEWEST, distance, fit_aspect
from medml.metrics.structures import Shape, shapes_of
from medml.records.norms import Aspect

# Two numbers: the first scaled varies by 2 along its axis, everything else by 0.5.
ASPECT = Aspect(centre=(10.0, 0.0), scale=(1.0, 2.0), axes=((1.0, 0.0),), variances=(4.0,), rest=0.25, reach=1.0)


@pytest.mark.parametrize(
    ("sample", "expected"),
    [
        ([10.0, 0.0], 0.0),
        ([14.0, 0.0], np.sqrt(4**2 / 4 / 2)),  # along the axis
        ([10.0, 2.0], np.sqrt(1 / 0.25 / 2)),  # across it: one scale of 2
        ([14.0, -2.0], np.sqrt((4 + 4) / 2)),
    ],
)
def test_distance_is_mahalanobis_per_number(sample: list[float], expected: float) -> None:
    assert distance(ASPECT, np.array(sample)) == pytest.approx(expected)


def test_the_farthest_known_scan_is_at_the_reach() -> None:
    rng = np.random.default_rng(0)
    learned = rng.normal(0, 1, (40, 3)) @ np.diag([5.0, 1.0, 0.1])
    judged = np.array([[20.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    aspect = fit_aspect(learned, judged, least_scale=1e-3)
    assert aspect is not None
    assert distance(aspect, judged[0]) == pytest.approx(aspect.reach)
    # Across the way that training scans vary, a tenth of that is farther.
    assert distance(aspect, np.array([0.0, 0.0, 2.0])) > aspect.reach


def test_what_never_varied_is_judged_by_the_least_scale() -> None:
    learned = np.stack([np.arange(10.0), np.full(10, 7.0)], axis=1)
    aspect = fit_aspect(learned, np.zeros((0, 2)), least_scale=0.5)
    assert aspect is not None
    assert aspect.scale == (pytest.approx(np.std(np.arange(10), ddof=1)), 0.5)
    assert distance(aspect, np.array([4.5, 7.0])) == pytest.approx(0.0, abs=1e-6)


def test_scans_that_are_all_the_same_leave_room_for_another() -> None:
    aspect = fit_aspect(np.full((8, 2), 3.0), np.full((4, 2), 3.0), least_scale=0.2)
    assert aspect is not None
    assert aspect.reach == 0.5
    # One least scale away in both numbers: sqrt(1 / 0.25) = 2.
    assert distance(aspect, np.array([3.2, 3.2])) == pytest.approx(2.0)


def test_too_few_scans_say_nothing() -> None:
    assert fit_aspect(np.zeros((FEWEST - 1, 2)), np.zeros((0, 2)), least_scale=1.0) is None


def test_pieces_borders_and_voxels_of_each_label() -> None:
    mask = np.zeros((10, 10, 6), dtype=np.uint8)
    mask[1:4, 1:4, 1:3] = 1  # 18 voxels
    mask[6:8, 6:8, 4] = 1  # 4 voxels, a fifth of the label
    mask[5, 1, 4] = 1  # a speck
    mask[0:2, 8:10, 3] = 2
    assert shapes_of(mask, [1, 2, 3]) == {1: Shape(23, 2, False), 2: Shape(4, 1, True), 3: Shape(0, 0, False)}


def test_diagonal_neighbours_are_one_piece_and_a_single_slice_is_no_border() -> None:
    mask = np.zeros((6, 6, 1), dtype=np.uint8)
    mask[1, 1, 0] = mask[2, 2, 0] = 1
    assert shapes_of(mask, [1]) == {1: Shape(2, 1, False)}


def test_large_boxes_are_looked_at_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medml.metrics.structures.MOST_VOXELS", 100)
    mask = np.zeros((21, 8, 8), dtype=np.uint8)
    mask[1:5, 1:4, 1:4] = mask[15:20, 1:4, 1:4] = 1
    assert shapes_of(mask, [1]) == {1: Shape(81, 2, False)}
