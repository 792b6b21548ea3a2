"""Lesions in the table of cases, the outer mask, conformal sets: worked by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from medml.evaluation.detection import froc_curve, lesion_metrics, lesion_scores, lesions_of
from medml.evaluation.evaluate import case_table, summarise
from medml.metrics.intervals import Resamples
from medml.records.batch import Prediction
from medml.records.calibration import Calibration
from medml.records.scan import Volume

LABELS = {1: "lesion"}
KEYS = {1: "lesion"}


def _scene() -> tuple[Prediction, np.ndarray]:
    """Two lesions in the reference; one is found with 0.9, one is missed, one false one has 0.6."""
    reference, mask = np.zeros((12, 12, 4), np.uint8), np.zeros((12, 12, 4), np.uint8)
    reference[0:3, 0:3, 1] = reference[9:11, 9:11, 1] = 1
    mask[0:3, 0:3, 1] = mask[5:7, 5:7, 2] = 1
    shares = np.zeros((2, 12, 12, 4), np.float16)
    shares[1, 0:3, 0:3, 1], shares[1, 5:7, 5:7, 2], shares[1, 9:11, 9:11, 1] = 0.9, 0.6, 0.2
    shares[0] = 1 - shares[1]
    return Prediction(mask=mask, label_probabilities=shares), reference


def test_the_row_says_how_sure_the_model_was() -> None:
    row = lesion_scores(*_scene(), LABELS, KEYS, {1: 0.25})
    assert row["lesions_found_lesion"] == "0.900 -"
    assert row["lesions_false_lesion"] == "0.600"
    assert row["outer_missed_lesion"] == pytest.approx(4 / 13)  # the second lesion, 4 of 13 voxels, has 0.2
    assert lesion_scores(*_scene(), LABELS, KEYS, {1: 0.1})["outer_missed_lesion"] == 0.0
    assert "outer_missed_lesion" not in lesion_scores(*_scene(), LABELS, KEYS, {})


def test_figures_follow_from_the_table_alone() -> None:
    table = pd.DataFrame(
        {"lesions_found_lesion": ["0.900 -", "", "0.500"], "lesions_false_lesion": ["0.600", "", None]}
    )
    assert [(case.tp, case.fn, case.fp) for case in lesions_of(table, "lesion")] == [(1, 1, 1), (0, 0, 0), (1, 0, 0)]
    figures = lesion_metrics(table, "lesion", Resamples(np.arange(3)))
    assert figures["lesion_sensitivity_lesion"].value == pytest.approx(2 / 3)
    assert figures["lesion_false_per_scan_lesion"].value == pytest.approx(1 / 3)
    assert figures["lesion_f1_lesion"].value == pytest.approx(4 / 6)
    assert figures["lesion_sensitivity_lesion"].too_few
    false, found = froc_curve(table, "lesion")  # at 0.9, 0.6, 0.5
    assert false == pytest.approx([0, 1 / 3, 1 / 3], abs=1e-4)
    assert found == pytest.approx([1 / 3, 1 / 3, 2 / 3], abs=1e-4)
    assert lesion_metrics(table.iloc[[1]], "lesion", Resamples(np.arange(1))) == {}


def test_conformal_sets_are_in_the_table_and_their_coverage_in_the_summary(class_bench: Any, make_model: Any) -> None:
    def answer(volume: Volume) -> Prediction:
        ill = 0.8 if int(volume.voxels.max()) % 2 else 0.45
        return Prediction(probabilities=np.array([1 - ill, ill]))

    dataset = class_bench.dataset
    model = make_model(answer, task="classify", labels=dataset.labels)
    calibration = Calibration(quantile=0.55)
    table = case_table(model, dataset.cases, class_bench.scans, dataset.labels, part="test", calibration=calibration)
    assert set(table["conformal_set"]) == {"ill", "healthy; ill"}
    metrics = summarise(table, dataset, "m", "test").summary.metrics
    assert metrics["coverage"] == 1.0
    assert metrics["set_size"] == 1.5
    assert metrics["certain"] == 0.5
    assert metrics["coverage_low"] is not None


def test_a_promised_coverage_comes_with_the_exact_range_of_one_test(class_bench: Any, make_model: Any) -> None:
    """9 calibration and 24 test patients: P(at most k of 24 covered) = C(k + 9, 9) / C(33, 9), so 15 to 24."""

    def answer(volume: Volume) -> Prediction:
        return Prediction(probabilities=np.array([0.5, 0.5]))

    dataset, calibration = class_bench.dataset, Calibration(quantile=0.55, patients=9)
    model = make_model(answer, task="classify", labels=dataset.labels)
    table = case_table(model, dataset.cases, class_bench.scans, dataset.labels, part="test", calibration=calibration)
    metrics = summarise(table, dataset, "m", "test", calibration=calibration).summary.metrics
    assert metrics["coverage_promised"] == 0.9
    assert (metrics["coverage_promised_low"], metrics["coverage_promised_high"]) == (15 / 24, 1.0)
    for unknown in (None, Calibration(quantile=0.55)):
        assert "coverage_promised" not in summarise(table, dataset, "m", "test", calibration=unknown).summary.metrics
