"""How the training child is started and followed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from medml.errors import MedmlError
from medml.io.files import write_record
from medml.records.plan import Epoch, Normalisation, Plan, Point, TrainingJob
from pipelines import child
from pipelines.child import read_epochs, read_points, run_training, thread_environment
from pipelines.progress import progress_bar


def test_a_half_written_epoch_waits_for_the_next_look(tmp_path: Path) -> None:
    epoch = Epoch(epoch=1, step=5, seconds=1.0, learning_rate=0.1, metrics={"train_loss": 0.5}, best=True)
    path = tmp_path / "epochs.jsonl"
    assert read_epochs(path) == []
    path.write_text(epoch.model_dump_json() + "\n" + epoch.model_dump_json()[:20])
    assert read_epochs(path) == [epoch]


def test_threads_are_between_one_and_the_cores_and_a_users_choice_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert 1 <= int(thread_environment()["OMP_NUM_THREADS"]) <= len(os.sched_getaffinity(0))
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert thread_environment()["OMP_NUM_THREADS"] == "7"


def test_a_child_that_fails_is_reported_with_its_last_words(tmp_path: Path) -> None:
    job = {name: str(tmp_path / name) for name in ("dataset", "plan", "scans", "cache", "run")}
    (tmp_path / "job.json").write_text(json.dumps({**job, "fold": 0}))
    with progress_bar("training") as bar, pytest.raises(MedmlError, match=r"training stopped with exit code \d+: .+"):
        run_training(tmp_path, on_epochs=lambda epochs: None, bar=bar)


def test_points_of_steps_are_read_whole(tmp_path: Path) -> None:
    point = Point(step=3, seconds=1.0, metrics={"loss": 0.5})
    (tmp_path / "steps.jsonl").write_text(point.model_dump_json() + "\n" + point.model_dump_json()[:9])
    assert read_points(tmp_path / "steps.jsonl") == [point]


def make_job(folder: Path, **values: object) -> TrainingJob:
    places = {name: str(folder / f"{name}.json") for name in ("dataset", "plan", "scans", "cache", "run")}
    return TrainingJob(**{**places, "fold": 0, **values})  # type: ignore[arg-type]


def test_several_processes_are_started_by_torchrun(tmp_path: Path) -> None:
    assert child._command(tmp_path, make_job(tmp_path))[1:] == ["-m", "medml.training", str(tmp_path / "job.json")]
    several = child._command(tmp_path, make_job(tmp_path, processes=4))
    assert several[1:3] == ["-m", "torch.distributed.run"]
    assert "--nproc-per-node=4" in several


def test_a_deterministic_training_has_all_threads_however_busy_the_machine_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(child, "thread_environment", lambda: {"OMP_NUM_THREADS": "busy"})
    plan = Plan(
        task="segment",
        dims=3,
        modality="MR",
        channels=("image",),
        labels={0: "background", 1: "organ"},
        patch=(8, 8, 8),
        normalisation=(Normalisation(kind="zscore"),),
        network="unet",
        batch=2,
        steps_per_epoch=1,
        epochs=1,
        minutes=1.0,
        patience=1,
        learning_rate=1e-3,
        loss="dice_ce",
    )
    write_record(tmp_path / "plan.json", plan.model_copy(update={"deterministic": True}))
    assert child._environment(make_job(tmp_path))["OMP_NUM_THREADS"] == str(len(os.sched_getaffinity(0)))
    write_record(tmp_path / "plan.json", plan)
    assert child._environment(make_job(tmp_path))["OMP_NUM_THREADS"] == "busy"
