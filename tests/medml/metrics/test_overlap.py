"""Overlap: hand-counted voxels, and what an empty mask means."""

import math

import numpy as np
import pytest

from medml.metrics.overlap import Overlap, dice, iou, overlaps, volume_ml


def test_dice_and_iou_of_two_bars_that_share_two_of_four_voxels() -> None:
    prediction, reference = np.zeros((6, 1, 1), bool), np.zeros((6, 1, 1), bool)
    prediction[0:4] = True
    reference[2:6] = True
    assert dice(prediction, reference) == 0.5
    assert iou(prediction, reference) == pytest.approx(2 / 6)


def test_dice_is_undefined_when_both_are_empty_and_zero_when_one_is() -> None:
    empty, full = np.zeros((2, 2, 2), bool), np.ones((2, 2, 2), bool)
    assert math.isnan(dice(empty, empty))
    assert math.isnan(iou(empty, empty))
    assert dice(full, empty) == dice(empty, full) == 0.0


def test_every_label_is_counted_in_one_pass() -> None:
    prediction = np.array([0, 1, 1, 2, 7, 0], np.uint8).reshape(6, 1, 1)
    reference = np.array([0, 1, 2, 2, 0, 3], np.uint8).reshape(6, 1, 1)
    counts = overlaps(prediction, reference, [1, 2, 3])
    assert counts == {1: Overlap(2, 1, 1), 2: Overlap(1, 2, 1), 3: Overlap(0, 1, 0)}
    assert counts[3].missed
    assert not counts[3].false
    assert counts[1].dice == dice(prediction == 1, reference == 1)


def test_masks_on_different_grids_are_refused() -> None:
    with pytest.raises(ValueError, match=r"has shape \(2, 2, 2\), the reference \(2, 2, 3\)"):
        dice(np.ones((2, 2, 2)), np.ones((2, 2, 3)))
    with pytest.raises(ValueError, match="image's own grid"):
        overlaps(np.ones((2, 2, 2), np.uint8), np.ones((2, 2, 3), np.uint8), [1])


def test_a_thousand_voxels_of_two_cubic_millimetres_are_two_millilitres() -> None:
    assert volume_ml(1000, (1.0, 0.5, 4.0)) == 2.0
