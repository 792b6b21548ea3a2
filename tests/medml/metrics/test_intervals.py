"""Intervals: the patient is the unit, too few give none, equal seeds give equal numbers."""

import math
import time

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from medml.metrics.intervals import (
    Resamples,
    bootstrap,
    weighted_auroc,
    weighted_average_precision,
    wilson,
)


def test_wilson_of_eight_in_ten() -> None:
    interval = wilson(8, 10)
    assert (interval.value, interval.low, interval.high) == pytest.approx((0.8, 0.4902, 0.9433), abs=1e-4)
    assert math.isnan(wilson(0, 0).value)


def test_the_mean_has_the_interval_of_the_normal_approximation() -> None:
    values = np.random.default_rng(1).normal(5, 2, 400)
    interval = bootstrap(values, np.arange(400))
    half = 1.96 * values.std() / 20
    assert interval.value == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - half, abs=0.03)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.03)


def test_copies_of_a_patients_scan_do_not_narrow_the_interval() -> None:
    values = np.random.default_rng(1).normal(size=40)
    alone = bootstrap(values, np.arange(40))
    copied = bootstrap(np.repeat(values, 9), np.repeat(np.arange(40), 9))
    assert copied.high - copied.low == pytest.approx(alone.high - alone.low, rel=1e-6)


def test_nine_patients_give_no_interval_ten_do() -> None:
    assert bootstrap(np.arange(9.0), np.arange(9)).too_few
    assert not bootstrap(np.arange(10.0), np.arange(10)).too_few
    assert bootstrap(np.arange(90.0), np.arange(90) % 9).too_few


def test_undefined_values_are_left_out() -> None:
    values = np.r_[np.full(20, 2.0), np.full(5, np.nan)]
    interval = bootstrap(values, np.arange(25))
    assert (interval.value, interval.low, interval.high) == (2.0, 2.0, 2.0)
    assert math.isnan(bootstrap(np.full(12, np.nan), np.arange(12)).value)
    assert math.isnan(bootstrap(np.empty(0), np.empty(0)).value)


def test_the_same_seed_gives_the_same_interval() -> None:
    values, patients = np.arange(30.0), np.arange(30)
    assert bootstrap(values, patients, seed=3) == bootstrap(values, patients, seed=3)
    assert bootstrap(values, patients, seed=3) != bootstrap(values, patients, seed=4)


def test_any_statistic_agrees_with_the_vectorised_one() -> None:
    truth, score = cohort(60)
    draws = Resamples(np.arange(60), resamples=300)
    fast = draws.ranking(weighted_auroc, truth, score)
    slow = draws.statistic(lambda chosen: roc_auc_score(truth[chosen], score[chosen]))
    assert fast.draws == pytest.approx(slow.draws)
    assert fast.value == slow.value
    assert bootstrap(score, np.arange(60), np.median).value == np.median(score)


def test_weighted_figures_equal_scikit_learn_with_ties() -> None:
    truth, score = cohort(80)
    weights = np.random.default_rng(2).integers(0, 4, (5, 80)).astype(np.float32)
    areas, precisions = weighted_auroc(truth, score, weights), weighted_average_precision(truth, score, weights)
    for row, area, precision in zip(weights, areas, precisions, strict=True):
        assert area == pytest.approx(roc_auc_score(truth, score, sample_weight=row))
        assert precision == pytest.approx(average_precision_score(truth, score, sample_weight=row))


def test_a_rate_uses_wilson_for_one_scan_per_patient_and_clusters_else() -> None:
    whole, part = np.ones(40, bool), np.arange(40) < 40
    single = Resamples(np.arange(40)).ratio(part, whole).interval()
    assert single == wilson(40, 40)
    assert single.low < 1.0
    clustered = Resamples(np.arange(40) // 2).ratio(np.arange(40) % 4 < 2, whole)
    assert clustered.exact is None
    assert clustered.interval().low < 0.5 < clustered.interval().high


def test_a_rate_with_nine_events_has_no_interval() -> None:
    interval = Resamples(np.arange(40)).ratio(np.ones(40, bool), np.arange(40) < 9).interval()
    assert interval.value == 1.0
    assert interval.too_few


def test_ranking_with_one_class_is_undefined() -> None:
    assert math.isnan(Resamples(np.arange(5)).ranking(weighted_auroc, np.ones(5), np.arange(5.0)).value)


def test_differences_stay_paired() -> None:
    draws = Resamples(np.arange(50))
    first = np.random.default_rng(0).normal(size=50)
    gap = draws.mean(first + 0.1).minus(draws.mean(first)).interval()
    assert (gap.low, gap.high) == pytest.approx((0.1, 0.1))


def test_two_thousand_resamples_of_an_auroc_of_500_patients_take_under_a_second() -> None:
    truth, score = cohort(500)
    started = time.process_time()
    Resamples(np.arange(500)).ranking(weighted_auroc, truth, score).interval()
    assert time.process_time() - started < 1.0


def cohort(size: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(7)
    truth = random.random(size) < 0.4
    return truth, np.round(truth * 0.8 + random.normal(size=size), 1)
