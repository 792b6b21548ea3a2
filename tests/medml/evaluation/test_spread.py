"""How far single trainings lie apart, by hand."""

from __future__ import annotations

import math

import pytest

from medml.evaluation.spread import spread_of, spread_section
from medml.records.report import SingleRun


def run(fold: int, seed: int, value: float | None) -> SingleRun:
    return SingleRun(fold=fold, seed=seed, cases=10, metrics={"dice_mean": value})


def test_starts_and_folds_are_told_apart() -> None:
    # starts: variances 0.02 and 0 (n - 1), pooled 0.01; folds: means 0.7 and 0.9
    found = spread_of([run(0, 0, 0.6), run(0, 1, 0.8), run(1, 0, 0.9), run(1, 1, 0.9)]).deviations["dice_mean"]
    assert found.mean == pytest.approx(0.8)
    assert found.seeds == pytest.approx(0.1)
    assert found.folds == pytest.approx(0.2 / math.sqrt(2))


def test_one_start_or_one_fold_says_nothing_of_a_spread() -> None:
    assert spread_of([run(0, 0, 0.6), run(1, 0, 0.8)]).deviations["dice_mean"].seeds is None
    assert spread_of([run(0, 0, 0.6), run(0, 1, 0.8)]).deviations["dice_mean"].folds is None


def test_an_undefined_figure_is_left_out() -> None:
    found = spread_of([run(0, 0, None), run(0, 1, 0.8)]).deviations["dice_mean"]
    assert (found.mean, found.seeds) == (0.8, None)


def test_the_report_names_every_training_and_the_spread_it_can_know() -> None:
    section = spread_section(spread_of([run(0, 0, 0.6), run(1, 0, 0.8)]))
    assert section.title == "Run-to-run spread"
    rows = [list(row) for row in section.tables[0].rows]
    assert rows[0][:3] == ["fold 0, seed 0", 10, 0.6]
    assert [row[0] for row in rows] == ["fold 0, seed 0", "fold 1, seed 0", "mean", "deviation between folds"]
