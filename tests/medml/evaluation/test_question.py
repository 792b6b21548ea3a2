"""A model is evaluated only on a dataset that asks what it answers."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from medml.errors import ConfigError
from medml.evaluation.question import check_question
from medml.records.dataset import Dataset
from medml.records.plan import Plan


@pytest.fixture
def plan(make_plan: Callable[..., Plan]) -> Plan:
    return make_plan(labels={0: "background", 1: "Left_kidney", 2: "liver"})


def asked(**changes: object) -> Dataset:
    values: dict[str, object] = {
        "name": "other",
        "digest": "d" * 64,
        "created": "2026-01-01T00:00:00+00:00",
        "task": "segment",
        "select": {},
        "split": "patient",
        "seed": 0,
        "labels": {0: "background", 1: "left kidney", 2: "liver"},
        "channels": ("MRI",),
        "modality": "MR",
        "geometry": "mm",
        "cases": (),
        "test": (),
        "folds": (),
        "test_digest": "e" * 64,
    }
    return Dataset.model_validate(values | changes)


def test_the_same_question_has_no_notes_however_names_are_spelled(plan: Plan) -> None:
    assert check_question(plan, asked()) == ()


def test_other_names_and_another_modality_are_told_to_the_reader(plan: Plan) -> None:
    notes = check_question(plan, asked(labels={0: "background", 1: "left kidney", 2: "hepar"}, modality="CT"))
    assert notes[0].endswith("taken to mean the same: liver / hepar.")
    assert notes[1] == "The model is for MR images, the dataset holds CT images."


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"task": "classify"}, "task of the model: segment, of the dataset: classify"),
        ({"channels": ("T1", "T2")}, "number of channels of the model: 1, of the dataset: 2"),
        (
            {"labels": {0: "background", 1: "liver"}},
            r"label values of the model: \[0, 1, 2\], of the dataset: \[0, 1\]",
        ),
        ({"labels": {0: "background", 1: "liver", 2: "left kidney"}}, "2 labels stand at another value, first liver"),
    ],
)
def test_another_question_is_refused(plan: Plan, changes: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=rf"on dataset other: {words}"):
        check_question(plan, asked(**changes))
