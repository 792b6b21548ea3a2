"""Classifier figures on a handful of cases worked out by hand."""

import math

import numpy as np
import pytest
from sklearn.metrics import matthews_corrcoef

from medml.metrics.classification import (
    auroc,
    average_precision,
    brier,
    calibration_error,
    confusion,
    decisions,
    macro,
    multiclass_mcc,
    reliability,
    youden_threshold,
)

TRUTH = np.array([0, 0, 1, 0, 1, 1], bool)
SCORE = np.array([0.1, 0.2, 0.3, 0.4, 0.8, 0.9])


def test_auroc_counts_the_pairs_in_order() -> None:
    assert auroc(TRUTH, SCORE) == pytest.approx(8 / 9)  # 9 pairs, only (0.3, 0.4) is out of order
    assert auroc(np.array([0, 1]), np.array([0.5, 0.5])) == 0.5


def test_average_precision_adds_precision_at_each_positive() -> None:
    assert average_precision(TRUTH, SCORE) == pytest.approx((1 + 1 + 3 / 4) / 3)


def test_one_class_only_is_undefined() -> None:
    assert math.isnan(auroc(np.ones(3, bool), SCORE[:3]))
    assert math.isnan(average_precision(np.zeros(3, bool), SCORE[:3]))
    assert youden_threshold(np.ones(3, bool), SCORE[:3]) == 0.5


def test_decisions_at_a_threshold() -> None:
    found = decisions(TRUTH, SCORE >= 0.35)
    assert (found.tp, found.fp, found.tn, found.fn) == (2, 1, 2, 1)
    assert found.sensitivity == pytest.approx(2 / 3)
    assert found.specificity == pytest.approx(2 / 3)
    assert found.precision == pytest.approx(2 / 3)
    assert found.accuracy == pytest.approx(4 / 6)
    assert found.balanced_accuracy == pytest.approx(2 / 3)
    assert found.f1 == pytest.approx(2 / 3)
    assert found.mcc == pytest.approx(3 / 9)


def test_a_rate_without_its_event_is_undefined() -> None:
    found = decisions(np.zeros(3, bool), np.zeros(3, bool))
    assert np.isnan(found.sensitivity)
    assert np.isnan(found.mcc)
    assert found.specificity == 1


def test_macro_averages_what_is_defined() -> None:
    assert macro(np.array([0.5, math.nan, 1.0])) == 0.75
    assert np.isnan(macro(np.array([math.nan])))


def test_youden_threshold_lies_between_two_scores() -> None:
    # From 0.8: 2 of 3 found, no false alarm. From 0.3: 3 of 3 found, 1 false alarm of 3: as good, and it finds more.
    assert youden_threshold(TRUTH, SCORE) == pytest.approx((0.3 + 0.2) / 2)
    assert youden_threshold(np.array([0, 0, 1], bool), np.array([0.2, 0.4, 0.8])) == pytest.approx(0.6)


def test_brier_of_yes_or_no_and_of_several_classes() -> None:
    assert brier(np.array([1, 0]), np.array([0.8, 0.4])) == pytest.approx((0.04 + 0.16) / 2)
    assert brier(np.eye(2), np.array([[0.8, 0.2], [0.4, 0.6]])) == pytest.approx((0.08 + 0.32) / 2)
    assert math.isnan(brier(np.empty(0), np.empty(0)))


def test_calibration_error_weights_bins_by_cases() -> None:
    truth, probability = np.array([0, 1, 1, 1]), np.array([0.15, 0.15, 0.95, 1.0])
    curve = reliability(truth, probability)
    assert curve.predicted == pytest.approx([0.15, 0.975])
    assert curve.observed == pytest.approx([0.5, 1.0])
    assert curve.count.tolist() == [2, 2]
    assert calibration_error(truth, probability) == pytest.approx((0.35 * 2 + 0.025 * 2) / 4)
    assert math.isnan(calibration_error(np.empty(0), np.empty(0)))


def test_confusion_has_the_truth_in_rows() -> None:
    table = confusion(np.array([0, 0, 1, 2]), np.array([0, 1, 1, 1]), 3)
    assert table.tolist() == [[1, 1, 0], [0, 1, 0], [0, 1, 0]]


def test_multiclass_mcc_equals_scikit_learn() -> None:
    truth, predicted = np.array([0, 1, 2, 2, 1, 0, 1]), np.array([0, 2, 2, 2, 1, 1, 1])
    assert multiclass_mcc(confusion(truth, predicted, 3)) == pytest.approx(matthews_corrcoef(truth, predicted))
    assert np.isnan(multiclass_mcc(confusion(truth, np.zeros(7, int), 3)))
