"""Lesions: counted by hand on small grids."""

from __future__ import annotations

import numpy as np
import pytest

from medml.metrics.lesions import froc, match_lesions


def _grid(*boxes: tuple[slice, slice]) -> np.ndarray:
    mask = np.zeros((20, 20, 3), dtype=bool)
    for rows, columns in boxes:
        mask[rows, columns, 1] = True
    return mask


A, B, C = (slice(0, 4), slice(0, 4)), (slice(8, 12), slice(8, 12)), (slice(15, 19), slice(0, 4))


def test_found_missed_and_false() -> None:
    lesions = match_lesions(_grid(A, C), _grid(A, B))
    assert (lesions.tp, lesions.fn, lesions.fp) == (1, 1, 1)
    assert lesions.reference_voxels.tolist() == [16, 16]


def test_a_touch_is_no_match() -> None:
    one_voxel = _grid((slice(3, 7), slice(3, 7)))  # IoU 1 / 31
    lesions = match_lesions(one_voxel, _grid(A))
    assert (lesions.tp, lesions.fn, lesions.fp) == (0, 1, 1)
    assert match_lesions(one_voxel, _grid(A), min_iou=0.03).tp == 1


def test_one_blob_finds_one_lesion_only() -> None:
    reference = _grid((slice(0, 4), slice(0, 4)), (slice(0, 4), slice(6, 10)))
    blob = _grid((slice(0, 4), slice(0, 10)))
    lesions = match_lesions(blob, reference)
    assert (lesions.tp, lesions.fn, lesions.fp) == (1, 1, 0)
    again = match_lesions(reference, blob)
    assert (again.tp, again.fn, again.fp) == (1, 0, 1)


def test_corners_connect() -> None:
    mask = np.zeros((4, 4, 1), dtype=bool)
    mask[0, 0, 0] = mask[1, 1, 0] = True
    assert len(match_lesions(mask, mask).found) == 1


def test_empty_sides() -> None:
    nothing = match_lesions(_grid(), _grid())
    assert (nothing.tp, nothing.fn, nothing.fp) == (0, 0, 0)
    assert match_lesions(_grid(), _grid(A, B)).fn == 2
    assert match_lesions(_grid(A, B), _grid()).fp == 2
    with pytest.raises(ValueError, match="own grid"):
        match_lesions(_grid(), np.zeros((2, 2, 2), dtype=bool))


def test_froc_by_hand() -> None:
    probability = np.zeros((20, 20, 3))
    probability[_grid(A)], probability[_grid(C)] = 0.9, 0.6
    first = match_lesions(_grid(A, C), _grid(A, B), probability)
    second = match_lesions(_grid(C), _grid(C), probability)
    false, found = froc([first, second])  # at 0.9: 1 of 3 found; at 0.6: 2 of 3, one false in two cases
    assert false.tolist() == [0.0, 0.5]
    assert found == pytest.approx([1 / 3, 2 / 3])
    assert froc([match_lesions(_grid(A), _grid())])[0].size == 0
