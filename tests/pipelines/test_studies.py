"""Studies: asked, told, taken up where a killed process stopped."""

from __future__ import annotations

from pathlib import Path

import pytest

from medml.errors import ConfigError
from medml.records.experiment import Knob, Tuning
from pipelines.studies import Study, folder_of, only_one

SPACE = {"learning_rate": Knob(low=1e-4, high=1e-2, log=True), "patch": Knob(choices=((8, 8), (16, 16)))}
FIRST = {"learning_rate": 1e-3, "patch": "[8, 8]"}


def study(folder: Path, pruner: str = "median") -> Study:
    return Study(folder / "tuning.db", "liver", SPACE, FIRST, Tuning(pruner=pruner), 0)  # type: ignore[arg-type]


def test_the_first_trial_is_the_plan_and_the_study_ends_when_enough_are_asked(tmp_path: Path) -> None:
    asked = study(tmp_path)
    first = asked.next(2)
    assert first is not None
    assert first.params == FIRST
    assert asked.next(2) is not None
    assert asked.next(2) is None


def test_failed_trials_count_and_the_best_of_equals_is_the_earlier(tmp_path: Path) -> None:
    asked = study(tmp_path)
    for value in (0.5, 0.7, None, 0.7):
        trial = asked.next(5)
        assert trial is not None
        asked.tell(trial, value, error="" if value is not None else "MedmlError")
    best = asked.best()
    assert best is not None
    assert (best.number, best.value) == (1, 0.7)
    assert len(asked.counted()) == 4


def test_a_trial_that_fell_behind_is_not_the_best(tmp_path: Path) -> None:
    asked = study(tmp_path)
    trial = asked.next(1)
    assert trial is not None
    asked.tell(trial, None)
    assert asked.best() is None


def test_what_a_killed_process_left_under_way_is_tried_again_with_the_same_settings(tmp_path: Path) -> None:
    left = study(tmp_path)
    first, second = left.next(3), left.next(3)
    assert first is not None
    assert second is not None
    left.tell(first, 0.5)
    again = study(tmp_path)
    taken = again.next(2)
    assert taken is not None
    assert taken.params == second.params
    assert (folder_of(taken), taken.number) == ("trial-1", 2)
    assert again.next(2) is None
    assert [trial.value for trial in again.counted()] == [0.5, None]


def test_a_trial_far_behind_the_median_is_given_up(tmp_path: Path) -> None:
    asked = study(tmp_path)
    for _ in range(4):
        good = asked.next(5)
        assert good is not None
        for epoch in range(1, 6):
            good.report(0.8, epoch)
        asked.tell(good, 0.8)
    bad = asked.next(5)
    assert bad is not None
    bad.report(0.1, 2)
    assert not bad.should_prune()  # the first epochs say little
    bad.report(0.1, 5)
    assert bad.should_prune()


def test_nothing_is_given_up_without_a_pruner(tmp_path: Path) -> None:
    trial = study(tmp_path, "none").next(1)
    assert trial is not None
    trial.report(0.0, 100)
    assert not trial.should_prune()


def test_one_process_at_a_time_tunes_a_study(tmp_path: Path) -> None:
    folder = tmp_path / "tune-liver"
    words = "tune-liver: another process is tuning it"
    with only_one(folder), pytest.raises(ConfigError, match=words), only_one(folder):
        pass
    with only_one(folder):
        pass
