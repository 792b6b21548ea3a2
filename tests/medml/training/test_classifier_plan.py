"""How a classifier spends its budget: one network as wide as the cases bear, then more of them from other starts."""

from __future__ import annotations

from typing import Any

import pytest

from medml.records.dataset import Dataset
from medml.records.experiment import Experiment
from medml.records.plan import Fingerprint, Plan
from medml.training import sizing
from medml.training.plan import make_plan

SECONDS_PER_STEP = 0.1


@pytest.fixture(autouse=True)
def _known_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every network takes a tenth of a second a step."""
    monkeypatch.setattr(sizing, "seconds_per_step", lambda plan, *_: SECONDS_PER_STEP)
    monkeypatch.setattr(sizing, "work_of", lambda plan: 1.0)


def plan(*, minutes: float, cases: int = 400, modality: str = "US", **values: Any) -> Plan:
    """Plan for grey pictures of 28x28: 400 cases in batches of 32 take 1,250 steps."""
    one = {"mean": 100.0, "std": 20.0, "p00_5": 40.0, "p99_5": 180.0, "min": 0.0, "max": 255.0}
    found = Fingerprint(
        task="classify",
        cases=cases,
        modality=modality,
        geometry="none",
        channels=("grey",),
        shapes=((28, 28, 1),) * 3,
        intensity=(one,),
        class_counts={0: cases // 2, 1: cases - cases // 2},
    )
    dataset = Dataset(
        name="x",
        digest="d",
        created="",
        task="classify",
        select={},
        split="patient",
        seed=0,
        labels={0: "absent", 1: "present"},
        channels=("grey",),
        modality=modality,
        geometry="none",
        cases=(),
        test=(),
        folds=((), ()),
        test_digest="t",
    )
    budget = {"minutes": minutes, "epochs": values.pop("epochs", None)}
    experiment = Experiment(name="x", task="classify", dataset={"name": "x"}, budget=budget, **values)
    return make_plan(found, dataset, experiment, device="cpu")


def steps_of(made: Plan) -> int:
    return made.epochs * made.steps_per_epoch


def test_what_the_budget_leaves_over_goes_to_more_starts_which_share_it() -> None:
    made = plan(minutes=7)  # 4,200 steps; one training takes 1,250 and is given half as much again
    assert steps_of(made) == 1261  # in whole passes of 13
    assert made.starts == 2
    assert made.minutes == 3.5
    assert made.reasons["starts"] == "the budget holds 2 whole trainings, averaged"
    assert made.reasons["minutes"] == "the budget, shared by 2 trainings"


def test_there_are_five_starts_at_most_and_one_at_least() -> None:
    assert [plan(minutes=m).starts for m in (500, 0.1)] == [5, 1]
    assert plan(minutes=0.1).minutes == 0.1


@pytest.mark.parametrize("said", [{"epochs": 3}, {"folds": "all"}, {"folds": (0, 1)}, {"seeds": 3}])
def test_who_says_epochs_folds_or_seeds_decides_alone(said: dict[str, Any]) -> None:
    made = plan(minutes=500, **said)
    assert (made.starts, made.minutes) == (1, 500)


def test_starts_set_by_the_experiment_share_the_budget() -> None:
    made = plan(minutes=9, plan={"starts": 3})
    assert (made.starts, made.minutes) == (3, 3.0)


def test_few_cases_get_no_wide_network() -> None:
    made = {cases: plan(minutes=5000, cases=cases) for cases in (400, 1000, 4000)}
    widths = [each.network_options["widen_factor"] for each in made.values()]
    assert widths == [0.25, 0.5, 1.0]
    assert "a quarter as wide for want of cases (400): about 0.1 s per step" in made[400].reasons["network"]
    assert "at most half as wide for want of cases (1000)" in made[1000].reasons["network"]


def test_images_are_not_mixed_unless_that_is_asked_for() -> None:
    assert plan(minutes=7).augmentation.mix == 0.0
    assert plan(minutes=7, plan={"augmentation": {"mix": 0.3}}).augmentation.mix == 0.3


def test_a_case_is_also_seen_mirrored_where_training_mirrors() -> None:
    made = plan(minutes=1)
    assert made.augmentation.flip_axes == (0,)
    assert made.tta_flips == (0,)
    assert plan(minutes=1, modality="DX").tta_flips == ()
