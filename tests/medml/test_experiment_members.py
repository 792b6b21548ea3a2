"""Which trainings an experiment asks for, and what its tuning may try."""

from __future__ import annotations

from typing import Any

import pytest

from medml.config import validate
from medml.errors import ConfigError
from medml.records.experiment import Experiment, Knob
from medml.records.plan import Member


def experiment(**values: Any) -> Experiment:
    return Experiment.model_validate({"name": "liver", "task": "segment", "dataset": {"name": "liver"}, **values})


@pytest.mark.parametrize(
    ("folds", "seeds", "expected"),
    [
        (0, None, [(0, 0)]),
        (2, 2, [(2, 0), (2, 1)]),
        ([2, 0], 1, [(2, 0), (0, 0)]),
        ("all", 2, [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]),
    ],
)
def test_each_fold_is_trained_from_each_start(folds: Any, seeds: int | None, expected: list[tuple[int, int]]) -> None:
    asked = experiment(folds=folds, seeds=seeds)
    assert [(member.fold, member.seed) for member in asked.members(3)] == expected
    assert asked.fold == expected[0][0]
    assert Experiment.model_validate(asked.model_dump(mode="json")) == asked


def test_the_plan_says_how_many_starts_where_the_experiment_does_not() -> None:
    assert len(experiment().members(5, starts=3)) == 3
    assert len(experiment(seeds=1).members(5, starts=3)) == 1


@pytest.mark.parametrize("folds", [3, [0, 0], [0, 3], []])
def test_folds_that_are_not_there_or_named_twice_are_refused(folds: Any) -> None:
    with pytest.raises(ConfigError, match=r"the dataset has 3, counted from 0; expected 'all', one, or several diff"):
        experiment(folds=folds).members(3)


def test_a_member_says_which_it_is() -> None:
    assert Member(fold=2, seed=1).name == "fold 2, seed 1"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "expected either choices, or low and high"),
        ({"low": 1.0}, "expected either choices, or low and high"),
        ({"low": 1.0, "high": 2.0, "choices": [1]}, "expected either choices, or low and high"),
        ({"low": 2.0, "high": 1.0}, "low 2 is not below high 1"),
        ({"low": 0.0, "high": 1.0, "log": True}, "log needs low and high above 0"),
    ],
)
def test_a_knob_that_cannot_be_turned_is_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        validate(values, Knob, name="tune.space.learning_rate")
