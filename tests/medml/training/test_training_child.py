"""The child: trains, reports, resumes exactly, stops on signals and on numbers that are none."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medml.errors import ConfigError, LeakageError, MedmlError
from medml.io.files import read_record
from medml.networks.package import load_package
from medml.records.plan import Epoch, TrainingJob
from medml.training import changes, learner, loop
from medml.training.checkpoints import load_checkpoint
from medml.training.job import main, train
from medml.training.stopping import StopSignal
from medml.transforms import augmentation

WriteJob = Callable[..., Path]


def run_job(job: Path) -> Path:
    train(read_record(job, TrainingJob), StopSignal())
    return job.parent


def epochs_of(run: Path) -> list[Epoch]:
    return [Epoch.model_validate_json(line) for line in (run / "epochs.jsonl").read_text().splitlines()]


def same_weights(first: Path, second: Path) -> bool:
    states = [load_checkpoint(run) for run in (first, second)]
    assert states[0] is not None
    assert states[1] is not None
    pairs = [(states[0][part], states[1][part]) for part in ("weights", "average", "best")]
    return all(torch.equal(a[name], b[name]) for a, b in pairs for name in a)


def test_a_segmenter_is_trained_reported_and_packaged(blocks: Any, write_job: WriteJob) -> None:
    plan = blocks.plan.model_copy(update={"epochs": 8, "steps_per_epoch": 10, "learning_rate": 5e-3})
    run = run_job(write_job(type(blocks)(blocks.home, blocks.dataset, plan)))
    epochs = epochs_of(run)
    assert [(epoch.epoch, epoch.step) for epoch in epochs] == [(n, 10 * n) for n in range(1, 9)]
    assert epochs[-1].metrics["val_dice"] > max(0.75, epochs[0].metrics["val_dice"])
    assert epochs[-1].metrics["train_loss"] < epochs[0].metrics["train_loss"]
    package = load_package(run / "package")
    assert package.plan == plan
    assert package.calibration.outer == {}  # fewer than nine validation patients can promise nothing at 10 %
    assert json.loads((run / "progress.json").read_text())["phase"] == "finish"


def test_a_classifier_is_calibrated_on_validation_cases(pictures: Any, write_job: WriteJob) -> None:
    plan = pictures.plan.model_copy(update={"epochs": 3, "steps_per_epoch": 8, "batch": 4})
    run = run_job(write_job(type(pictures)(pictures.home, pictures.dataset, plan)))
    package = load_package(run / "package")
    assert epochs_of(run)[-1].metrics["val_auroc"] == 1.0
    assert package.calibration.threshold is not None
    assert 0 < package.calibration.threshold < 1
    assert package.calibration.quantile is None or 0 <= package.calibration.quantile <= 1
    assert "threshold" in (run / "package" / "docs" / "README.md").read_text()


@pytest.mark.parametrize("kind", ["blocks", "pictures"])
def test_a_broken_off_training_goes_on_to_the_very_same_weights(
    kind: str, request: pytest.FixtureRequest, write_job: WriteJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    phantoms = request.getfixturevalue(kind)
    whole = run_job(write_job(phantoms, "whole"))
    job = write_job(phantoms, "broken")
    real, calls = loop.Training._train_step, []

    def stop_in_the_middle(self: loop.Training, done: float) -> None:
        real(self, done)
        calls.append(1)
        if len(calls) == 5:  # the second epoch's second step
            self.stop.received = signal.SIGTERM

    monkeypatch.setattr(loop.Training, "_train_step", stop_in_the_middle)
    with pytest.raises(SystemExit) as left:
        run_job(job)
    assert left.value.code == 143
    assert load_checkpoint(job.parent)["numbers"]["step"] == 5  # type: ignore[index]
    monkeypatch.setattr(loop.Training, "_train_step", real)
    broken = run_job(job)
    assert same_weights(whole, broken)
    clocks: Any = {"seconds": True, "metrics": {"data_wait"}}
    plain = [[epoch.model_dump(exclude=clocks) for epoch in epochs_of(run)] for run in (whole, broken)]
    assert plain[0] == plain[1]


def test_epochs_after_the_last_checkpoint_are_trained_and_reported_again(blocks: Any, write_job: WriteJob) -> None:
    run = run_job(write_job(blocks))
    lines = (run / "epochs.jsonl").read_text()
    (run / "last.pt").write_bytes(b"damaged")
    run_job(run / "job.json")
    again = (run / "epochs.jsonl").read_text()
    assert [json.loads(line)["epoch"] for line in again.splitlines()] == [1, 2, 3, 4]
    losses = [[json.loads(line)["metrics"]["train_loss"] for line in text.splitlines()] for text in (again, lines)]
    assert losses[0] == losses[1]


def test_a_loss_that_is_no_number_names_the_cases_and_keeps_the_checkpoint(
    blocks: Any, write_job: WriteJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = write_job(blocks)
    real = augmentation.augment

    def poison(images: torch.Tensor, masks: torch.Tensor, *rest: Any, **named: Any) -> Any:
        return real(images * (float("nan") if named["step"] == 4 else 1.0), masks, *rest, **named)

    monkeypatch.setattr(changes, "augment", poison)
    with pytest.raises(MedmlError, match=r"the loss became nan at step 4 \(cases 0{22}"):
        run_job(job)
    state = load_checkpoint(job.parent)
    assert state is not None
    assert state["numbers"]["epoch"] == 1
    assert all(bool(torch.isfinite(value).all()) for value in state["weights"].values())


def test_gradients_that_overflow_are_left_out_and_end_the_training_if_they_stay(
    blocks: Any, write_job: WriteJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = blocks.plan.model_copy(update={"steps_per_epoch": 30, "epochs": 1})
    monkeypatch.setattr(learner.nn.utils, "get_total_norm", lambda _: torch.tensor(float("inf")))
    with pytest.raises(MedmlError, match="gradients were not finite in 21 steps in a row"):
        run_job(write_job(type(blocks)(blocks.home, blocks.dataset, plan)))


def test_out_of_memory_halves_the_batch_and_goes_on(
    pictures: Any, write_job: WriteJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, sizes = learner.run_network, []

    def small_memory(network: Any, images: torch.Tensor, plan: Any) -> Any:
        sizes.append(len(images))
        if len(images) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(network, images, plan)

    monkeypatch.setattr(learner, "run_network", small_memory)
    plan = pictures.plan.model_copy(update={"epochs": 1})
    run = run_job(write_job(type(pictures)(pictures.home, pictures.dataset, plan)))
    assert sizes[:3] == [2, 1, 1]
    assert len(epochs_of(run)) == 1


def test_too_little_memory_for_one_case_says_what_to_change(
    pictures: Any, write_job: WriteJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(learner, "run_network", no_memory)
    with pytest.raises(MedmlError, match=r"out of memory with 1 cases of .* set a smaller plan\.batch"):
        run_job(write_job(pictures))


def test_training_stops_when_validation_gets_no_better(blocks: Any, write_job: WriteJob) -> None:
    plan = blocks.plan.model_copy(update={"epochs": 50, "patience": 2, "learning_rate": 0.0})
    run = run_job(write_job(type(blocks)(blocks.home, blocks.dataset, plan)))
    epochs = epochs_of(run)
    assert len(epochs) == 3
    assert epochs[-1].note == "stopped: no better validation in 2 epochs"


def test_training_ends_with_its_minutes(blocks: Any, write_job: WriteJob) -> None:
    plan = blocks.plan.model_copy(update={"epochs": 10_000, "minutes": 0.1})
    run = run_job(write_job(type(blocks)(blocks.home, blocks.dataset, plan)))
    last = epochs_of(run)[-1]
    assert last.note == "stopped: the budget is used"
    assert last.epoch < 10_000
    assert last.learning_rate < plan.learning_rate / 2


def test_a_leaking_dataset_is_refused(blocks: Any, write_job: WriteJob) -> None:
    cases = tuple(case.model_copy(update={"patient": "p-0"}) for case in blocks.dataset.cases)
    leaking = blocks.dataset.model_copy(update={"cases": cases})
    with pytest.raises(LeakageError, match="1 patients stand in both train and test"):
        run_job(write_job(type(blocks)(blocks.home, leaking, blocks.plan)))


def test_an_unknown_fold_is_a_wrong_job(blocks: Any, write_job: WriteJob) -> None:
    job = read_record(write_job(blocks), TrainingJob).model_copy(update={"fold": 7})
    with pytest.raises(ConfigError, match="fold 7: dataset phantoms has 1 folds"):
        train(job, StopSignal())


def test_a_run_folder_of_another_network_is_refused(blocks: Any, pictures: Any, write_job: WriteJob) -> None:
    job = write_job(blocks)
    run_job(job)
    plan = blocks.plan.model_copy(update={"network": "segresnet", "network_options": {"init_filters": 8}})
    write_job(type(blocks)(blocks.home, blocks.dataset, plan))
    with pytest.raises(MedmlError, match="network unet, expected 2 and segresnet; train into a new run folder"):
        run_job(job)


def test_exit_codes_and_last_words(blocks: Any, write_job: WriteJob, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    job = write_job(blocks)
    (job.parent / "dataset.json").unlink()
    assert main([str(job)]) == 1
    assert "dataset.json: there is no such file" in capsys.readouterr().err


def test_sigterm_saves_and_leaves_with_143(blocks: Any, write_job: WriteJob) -> None:
    plan = blocks.plan.model_copy(update={"epochs": 100_000})
    job = write_job(type(blocks)(blocks.home, blocks.dataset, plan))
    child = subprocess.Popen([sys.executable, "-m", "medml.training", str(job)], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 240
        while not (job.parent / "epochs.jsonl").exists() and time.monotonic() < deadline:
            time.sleep(0.2)
        child.send_signal(signal.SIGTERM)
        assert child.wait(120) == 143
    finally:
        child.kill()
    state = load_checkpoint(job.parent)
    assert state is not None
    assert state["numbers"]["step"] >= 3


@pytest.mark.slow
def test_torchrun_starts_two_processes_that_train_together(blocks: Any, write_job: WriteJob) -> None:
    job = write_job(blocks)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "-m", "medml.training", str(job)], env=environment, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert [epoch.epoch for epoch in epochs_of(job.parent)] == [1, 2, 3, 4]
    assert np.isfinite(epochs_of(job.parent)[-1].metrics["val_dice"])
    assert load_package(job.parent / "package").plan == blocks.plan
