"""Averages, intervals and notes from tables of cases written down by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from medml.evaluation.evaluate import case_table, choose_threshold, summarise
from medml.records.batch import Prediction


def segment_table(dice: list[float]) -> pd.DataFrame:
    """Return twelve patients with one lobe each."""
    size = len(dice)
    return pd.DataFrame(
        {
            "case_id": [f"c{n}" for n in range(size)],
            "patient": [f"p{n}" for n in range(size)],
            "status": "done",
            "reason": "",
            "seconds": 1.0,
            "sex": ["F", "M"] * (size // 2),
            "dice": dice,
            "dice_left_lobe": dice,
            "dice_lesion": [math.nan] * size,
            "missed_left_lobe": [int(value == 0) for value in dice],
            "false_left_lobe": 0,
        }
    )


def class_table(truth: np.ndarray, score: np.ndarray) -> pd.DataFrame:
    names = np.array(["healthy", "ill"])
    return pd.DataFrame(
        {
            "case_id": [f"c{n}" for n in range(len(truth))],
            "patient": [f"p{n}" for n in range(len(truth))],
            "status": "done",
            "reason": "",
            "seconds": 1.0,
            "sex": np.where(np.arange(len(truth)) % 3 == 0, "F", "M"),
            "prob_healthy": 1 - score,
            "prob_ill": score,
            "truth": names[truth.astype(int)],
            "predicted": names[(score >= 0.5).astype(int)],
        }
    )


def cohort(size: int = 90) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(5)
    truth = random.random(size) < 0.4
    return truth, np.clip(0.3 * truth + random.uniform(0, 0.7, size), 0, 1)


def test_dice_mean_with_interval_and_counts(segment_bench: Any) -> None:
    table = segment_table([0.8, 0.9] * 5 + [0.0, 1.0])
    evaluation = summarise(table, segment_bench.dataset, "lobes", "test")
    metrics = evaluation.summary.metrics
    assert metrics["dice_mean"] == pytest.approx((0.8 * 5 + 0.9 * 5 + 1) / 12)
    low, high = metrics["dice_mean_low"], metrics["dice_mean_high"]
    assert low is not None
    assert high is not None
    assert low < metrics["dice_mean"] < high
    assert metrics["missed_left_lobe"] == 1
    assert metrics["dice_lesion"] is None
    assert metrics["failed"] == 0
    assert evaluation.summary.n == 12
    assert evaluation.summary.test_digest == "e" * 64
    notes = " ".join(evaluation.notes)
    assert "lesion: in 12 of 12 cases neither has it" in notes
    assert "spacing is unknown" in notes


def test_failed_cases_are_in_no_figure_but_counted_with_their_reasons(segment_bench: Any) -> None:
    table = segment_table([0.5] * 12)
    table.loc[:1, "status"], table.loc[:1, "reason"], table.loc[:1, "dice"] = "failed", "out of memory", math.nan
    evaluation = summarise(table, segment_bench.dataset, "lobes", "test")
    assert evaluation.summary.n == 10
    assert evaluation.summary.metrics["failed"] == 2
    assert evaluation.summary.metrics["dice_mean"] == 0.5
    assert any("2 of 12 cases could not be scored" in note and "2 x out of memory" in note for note in evaluation.notes)


@pytest.mark.parametrize("task", ["segment_bench", "class_bench"])
def test_nothing_scored_is_undefined_not_zero(task: str, request: pytest.FixtureRequest) -> None:
    dataset = request.getfixturevalue(task).dataset
    table = pd.DataFrame(
        {"case_id": ["a"], "patient": ["p"], "status": ["failed"], "reason": ["broken"], "seconds": [0.1], "sex": ["F"]}
    )
    evaluation = summarise(table, dataset, "m", "test")
    assert evaluation.summary.n == 0
    assert evaluation.summary.metrics["dice_mean" if dataset.task == "segment" else "auroc"] is None
    assert evaluation.subgroups == ()


def test_binary_classifier_is_scored_at_the_threshold_given(class_bench: Any) -> None:
    truth, score = cohort()
    evaluation = summarise(class_table(truth, score), class_bench.dataset, "m", "test", threshold=0.4)
    metrics, said = evaluation.summary.metrics, score >= 0.4
    assert metrics["auroc"] == pytest.approx(roc_auc_score(truth, score))
    assert metrics["average_precision"] == pytest.approx(average_precision_score(truth, score))
    assert metrics["sensitivity"] == pytest.approx((said & truth).sum() / truth.sum())
    assert metrics["specificity"] == pytest.approx((~said & ~truth).sum() / (~truth).sum())
    assert metrics["accuracy"] == pytest.approx((said == truth).mean())
    assert metrics["brier"] == pytest.approx(((score - truth) ** 2).mean())
    assert evaluation.threshold == 0.4
    assert evaluation.confusion == (
        (int((~said & ~truth).sum()), int((said & ~truth).sum())),
        (int((~said & truth).sum()), int((said & truth).sum())),
    )
    assert "auroc_ill" not in metrics
    assert all(metrics[f"{key}_low"] < metrics[key] < metrics[f"{key}_high"] for key in ("auroc", "f1", "mcc", "ece"))


def test_the_threshold_is_chosen_on_validation_only(class_bench: Any) -> None:
    truth, score = cohort()
    table = class_table(truth, score)
    validation = summarise(table, class_bench.dataset, "m", "validation")
    assert validation.threshold == choose_threshold(table, class_bench.dataset)
    assert validation.threshold != 0.5
    assert summarise(table, class_bench.dataset, "m", "test").threshold == 0.5


def test_several_classes_are_averaged_one_against_the_rest(class_bench: Any) -> None:
    random = np.random.default_rng(2)
    truth = random.integers(0, 3, 120)
    probabilities = random.dirichlet([1, 1, 1], 120) * 0.5 + 0.5 * np.eye(3)[truth] * random.random((120, 1))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    labels = {0: "a", 1: "b", 2: "c"}
    table = pd.DataFrame({"case_id": range(120), "patient": range(120), "status": "done", "reason": "", "seconds": 1.0})
    table = table.assign(
        truth=[labels[value] for value in truth], **{f"prob_{labels[n]}": probabilities[:, n] for n in labels}
    )
    evaluation = summarise(table, class_bench.dataset.model_copy(update={"labels": labels}), "m", "test")
    metrics = evaluation.summary.metrics
    each = [roc_auc_score(truth == n, probabilities[:, n]) for n in range(3)]
    assert metrics["auroc"] == pytest.approx(np.mean(each))
    assert [metrics[f"auroc_{name}"] for name in "abc"] == pytest.approx(each)
    assert metrics["accuracy"] == pytest.approx((probabilities.argmax(axis=1) == truth).mean())
    assert metrics["balanced_accuracy"] == metrics["sensitivity"]
    assert metrics["auroc_low"] is not None
    assert evaluation.threshold is None
    assert np.sum(evaluation.confusion) == 120


def test_several_classes_at_once_have_no_confusion_table(class_bench: Any) -> None:
    random = np.random.default_rng(2)
    truth = random.random((60, 2)) < 0.5
    score = np.clip(truth * 0.4 + random.random((60, 2)) * 0.6, 0, 1)
    table = pd.DataFrame({"case_id": range(60), "patient": range(60), "status": "done", "reason": "", "seconds": 1.0})
    table = table.assign(
        truth_healthy=truth[:, 0], truth_ill=truth[:, 1], prob_healthy=score[:, 0], prob_ill=score[:, 1]
    )
    dataset = class_bench.dataset.model_copy(update={"multi_label": True})
    evaluation = summarise(table, dataset, "m", "test")
    assert evaluation.confusion is None
    assert evaluation.summary.metrics["auroc"] == pytest.approx(roc_auc_score(truth, score))
    assert evaluation.summary.metrics["accuracy"] == pytest.approx(((score >= 0.5) == truth).mean())


def test_every_subgroup_is_shown_and_small_ones_without_interval(segment_bench: Any) -> None:
    table = segment_table([0.9, 0.7] * 15)
    table["scanner"] = ["A"] * 27 + [None, "B", "B"]
    evaluation = summarise(table, segment_bench.dataset, "m", "test")
    groups = {(group.column, group.level): group for group in evaluation.subgroups}
    assert set(groups) == {("sex", "F"), ("sex", "M"), ("scanner", "A"), ("scanner", "B"), ("scanner", "not recorded")}
    women = groups["sex", "F"]
    assert (women.patients, women.cases, women.note) == (15, 15, "")
    assert women.value == pytest.approx(0.9)
    assert women.gap == pytest.approx(0.2)
    assert (women.gap_low, women.gap_high) == pytest.approx((0.2, 0.2))
    few = groups["scanner", "B"]
    assert (few.low, few.high) == (None, None)
    assert few.note == "too few (n = 2)"
    assert few.value == pytest.approx(0.8)
    assert any("not audited: site" in note for note in evaluation.notes)


def test_many_levels_are_put_together(segment_bench: Any) -> None:
    table = segment_table([0.9, 0.7] * 15)
    table["scanner"] = [f"s{n % 20}" for n in range(30)]
    levels = [g.level for g in summarise(table, segment_bench.dataset, "m", "test").subgroups if g.column == "scanner"]
    assert len(levels) == 12
    assert "others (9 levels)" in levels


def test_levels_stand_in_the_order_a_reader_expects(segment_bench: Any) -> None:
    table = segment_table([0.9, 0.7] * 15)
    table["scanner"] = ["80+", "<40", None, "40-59", "60-79"] * 6
    levels = [g.level for g in summarise(table, segment_bench.dataset, "m", "test").subgroups if g.column == "scanner"]
    assert levels == ["<40", "40-59", "60-79", "80+", "not recorded"]


def test_same_table_same_summary(class_bench: Any, make_model: Any) -> None:
    model = make_model(
        lambda volume: Prediction(
            probabilities=np.array([0.7, 0.3]) if volume.voxels.max() % 2 else np.array([0.2, 0.8])
        ),
        task="classify",
    )
    table = case_table(model, class_bench.dataset.cases, class_bench.scans, class_bench.dataset.labels, part="test")
    first = summarise(table, class_bench.dataset, "m", "test")
    assert first == summarise(table, class_bench.dataset, "m", "test")
    assert first.summary.metrics["auroc"] == 0.0  # 100 + number: odd numbers are ill
