"""Stored values to real ones."""

from __future__ import annotations

import numpy as np

from medml.io.rescale import rescale


def test_nothing_to_do_gives_the_input_itself() -> None:
    stored = np.array([1, 2], np.uint8)
    assert rescale(stored, 1.0, 0.0) is stored


def test_hounsfield_units_stay_int16_where_they_fit() -> None:
    real = rescale(np.array([0, 4095], np.uint16), 1.0, -1024.0)
    assert real.dtype == np.int16
    assert real.tolist() == [-1024, 3071]


def test_values_that_only_fit_after_the_intercept_are_right() -> None:
    real = rescale(np.array([40000, 65535], np.uint16), 1.0, -40000.0)
    assert real.dtype == np.int16
    assert real.tolist() == [0, 25535]


def test_wider_integers_become_int32() -> None:
    real = rescale(np.array([-3, 30000], np.int16), -2.0, 5.0)
    assert real.dtype == np.int32
    assert real.tolist() == [11, -59995]


def test_a_broken_slope_gives_float32() -> None:
    real = rescale(np.array([0, 3], np.int16), 0.5, 1.0)
    assert real.dtype == np.float32
    assert real.tolist() == [1.0, 2.5]
