from __future__ import annotations

import numpy as np
import torch
from monai.transforms import KeepLargestConnectedComponent

from medml.transforms.postprocessing import keep_largest


def test_of_each_label_only_the_largest_piece_stays() -> None:
    mask = np.zeros((8, 4, 4), dtype=np.uint8)
    mask[0:2, 0:2, 0:2] = 1  # 8 voxels
    mask[4, 0, 0] = 1
    mask[2:4, 3, 3] = 2
    mask[7, 3, 0:3] = 2  # 3 voxels
    expected = mask.copy()
    expected[4, 0, 0] = 0
    expected[2:4, 3, 3] = 0
    np.testing.assert_array_equal(keep_largest(mask), expected)


def test_pieces_that_touch_at_a_corner_are_one() -> None:
    mask = np.zeros((4, 4, 4), dtype=np.uint8)
    mask[0, 0, 0] = mask[1, 1, 1] = 3
    np.testing.assert_array_equal(keep_largest(mask), mask)


def test_equal_to_monai() -> None:
    mask = (np.random.default_rng(0).random((12, 12, 12)) > 0.85).astype(np.uint8)
    mask[6:] *= 2
    theirs = KeepLargestConnectedComponent(applied_labels=[1, 2], is_onehot=False, independent=True)(
        torch.from_numpy(mask[np.newaxis])
    )
    np.testing.assert_array_equal(keep_largest(mask), np.asarray(theirs[0]))


def test_an_empty_mask_stays_empty() -> None:
    assert not keep_largest(np.zeros((3, 3, 3), dtype=np.uint8)).any()
