"""Paired tests and many comparisons, worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import permutation_test

from medml.metrics.comparison import holm, permutation_p


def test_all_signs_of_four_patients() -> None:
    # 16 sign patterns; only all plus and all minus reach the mean: 2 / 16
    assert permutation_p(np.array([1.0, 2.0, 3.0, 4.0]), np.arange(4)) == pytest.approx(2 / 16)


def test_a_patients_cases_change_sign_together() -> None:
    assert permutation_p(np.array([1.0, 1.0, 1.0, 1.0]), np.array([0, 0, 0, 1])) == pytest.approx(2 / 4)
    assert np.isnan(permutation_p(np.array([np.nan]), np.array([0])))


def test_agrees_with_scipy() -> None:
    values = np.random.default_rng(0).normal(0.3, 1, 30)
    theirs = permutation_test((values,), np.mean, permutation_type="samples", n_resamples=10_000, rng=1)
    assert permutation_p(values, np.arange(30)) == pytest.approx(theirs.pvalue, abs=0.02)


def test_alike_models_are_called_different_in_five_of_a_hundred() -> None:
    rng = np.random.default_rng(0)
    small = [permutation_p(rng.normal(size=20), np.arange(20), swaps=500, seed=s) <= 0.05 for s in range(600)]
    assert 0.03 <= np.mean(small) <= 0.07


def test_holm_by_hand() -> None:
    # sorted 0.01 x 3, 0.02 x 2, 0.03 x 1 -> 0.03, 0.04, 0.04 (never falling)
    assert holm(np.array([0.03, 0.01, np.nan, 0.02])) == pytest.approx([0.04, 0.03, np.nan, 0.04], nan_ok=True)
    assert holm(np.array([0.9, 0.8])).tolist() == [1.0, 1.0]
