"""Conformal sets: worked by hand, and the promise over many splits."""

from __future__ import annotations

import numpy as np
import pytest

from medml.metrics.conformal import (
    conformal_quantile,
    coverage_interval,
    covered_share,
    prediction_sets,
    risk_controlled,
)


def test_quantile_is_the_ceiling_of_n_plus_one() -> None:
    scores = np.arange(1, 10) / 10  # nine patients: the (9 + 1) x 0.8 = 8th smallest
    assert conformal_quantile(scores, np.arange(9), 0.2) == pytest.approx(0.8)
    assert conformal_quantile(scores, np.arange(9), 0.05) == np.inf  # 9.5 of 9 patients: no promise
    assert conformal_quantile(np.empty(0), np.empty(0), 0.1) == np.inf


def test_a_patient_with_many_cases_counts_once() -> None:
    scores = np.array([0.9, 0.9, 0.9, 0.9, 0.1, 0.2, 0.3])
    patients = np.array([0, 0, 0, 0, 1, 2, 3])
    assert conformal_quantile(scores, patients, 0.4) == pytest.approx(0.3)  # 3 of 4 patients, 0.6 x 5


def test_the_likeliest_class_is_never_ruled_out() -> None:
    sets = prediction_sets(np.array([[0.5, 0.3, 0.2], [0.95, 0.03, 0.02]]), 0.4)
    assert sets.tolist() == [[True, False, False], [True, False, False]]
    assert prediction_sets(np.array([[0.7, 0.3]]), np.inf).all()
    assert covered_share(sets, np.array([1, 0]), np.array([0, 1])) == 0.5
    assert covered_share(sets, np.array([1, 0]), np.array([0, 0])) == 0.5


def test_coverage_over_many_splits_is_the_promise() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 400)
    scores = rng.normal(size=(400, 3)) + 1.5 * np.eye(3)[truth]
    probabilities = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    true = 1 - probabilities[np.arange(400), truth]
    shares = []
    for _ in range(500):
        order = rng.permutation(400)
        here, there = order[:150], order[150:]
        sets = prediction_sets(probabilities[there], conformal_quantile(true[here], here, 0.1))
        shares.append(covered_share(sets, truth[there], there))
    assert np.mean(shares) == pytest.approx(0.9, abs=0.01)
    low, high = coverage_interval(150, 250, 0.1)
    # Drawn again and again from 400 known cases splits differ less than fresh ones would.
    assert np.mean([(low <= share <= high) for share in shares]) >= 0.95


def test_interval_of_one_split() -> None:
    low, high = coverage_interval(99, 100, 0.1)
    assert 0.80 < low < 0.9 < high < 0.98
    assert coverage_interval(5, 100, 0.1) == (1.0, 1.0)  # six patients cannot promise 90 %: everything belongs


def test_risk_is_controlled_with_a_margin_for_few_patients() -> None:
    losses = np.tile([0.0, 0.05, 0.2], (39, 1))  # (39 x 0.05 + 1) / 40 = 0.074
    assert risk_controlled(losses, np.arange(39), 0.1) == 1
    assert risk_controlled(losses[:9], np.arange(9), 0.1) == 0  # (0 + 1) / 10
    assert risk_controlled(losses[:5], np.arange(5), 0.1) is None
    assert risk_controlled(np.empty((0, 3)), np.empty(0), 0.1) is None
