"""Several finished trainings become one package, calibrated by networks that did not learn from the cases."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from medml.io.files import read_record, write_record
from medml.networks.package import load_package
from medml.records.plan import Trained, TrainingJob
from medml.training.cache import open_store
from medml.training.calibration import fit_temperature, fit_threshold
from medml.training.job import train
from medml.training.package import Fitted, calibrate, card
from medml.training.stopping import StopSignal

WriteJob = Callable[..., Path]


class Says(nn.Module):
    """A classifier of two classes that gives the same logit of the second one whatever it sees."""

    def __init__(self, logit: float) -> None:
        super().__init__()
        self.logit = logit

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return torch.tensor([[0.0, self.logit]]).expand(len(batch), 2)


def two_folds(phantoms: Any) -> Any:
    """Return the twelve cases as one test case and two folds of five and six."""
    ids = [case.case_id for case in phantoms.dataset.cases]
    return phantoms.dataset.model_copy(update={"folds": (tuple(ids[:5]), tuple(ids[5:11]))})


def test_each_case_is_scored_by_the_mean_of_the_networks_that_did_not_learn_from_it(pictures: Any) -> None:
    dataset, home = two_folds(pictures), pictures.home
    store = open_store(dataset.cases, pictures.plan, scans=home.scans, cache=home.cache / "d")
    # fold 0 by two starts that say 0.9 and 0.7, which is 0.8; fold 1 by one that says 0.2
    members = [Fitted(Says(float(np.log(p / (1 - p)))), fold) for p, fold in ((0.9, 0), (0.7, 0), (0.2, 1))]
    found = calibrate(members, dataset, pictures.plan, store, device=torch.device("cpu"))
    shares = np.array([0.8] * 5 + [0.2] * 6)
    scores = np.log(np.stack([1 - shares, shares], axis=1))
    target = np.array([number % 2 for number in range(11)])
    temperature = fit_temperature(scores, target, multi_label=False)
    assert found.temperature == pytest.approx(temperature, rel=1e-4)
    assert found.threshold == pytest.approx(fit_threshold(scores, target, temperature=temperature), rel=1e-4)


def test_the_card_says_how_many_networks_and_how_they_were_calibrated(pictures: Any) -> None:
    from medml.records.calibration import Calibration

    calibration = Calibration(temperature=1.5, threshold=0.4)
    text = card(pictures.dataset, pictures.plan, calibration, {"val_auroc": 0.9}, folds=(0, 0, 1, 1))
    assert "4 networks, whose probabilities are averaged: folds 0, 1; 2 for each fold" in text
    assert "fitted on out-of-fold cases" in text
    assert "networks, whose" not in card(pictures.dataset, pictures.plan, calibration, {}, folds=(0,))


def test_finished_trainings_are_joined_and_a_trial_leaves_no_package(pictures: Any, write_job: WriteJob) -> None:
    trained = []
    for seed in (0, 1):
        plan = pictures.plan.model_copy(update={"epochs": 1, "steps_per_epoch": 2, "seed": seed})
        job = write_job(type(pictures)(pictures.home, pictures.dataset, plan), run=f"seed-{seed}")
        train(read_record(job, TrainingJob), StopSignal())
        trained.append(Trained(fold=0, seed=seed, package=str(job.parent / "package")))
    path = write_job(pictures, run="whole")
    asked = read_record(path, TrainingJob).model_copy(update={"members": tuple(trained)})
    train(asked, StopSignal())
    package = load_package(path.parent / "package")
    assert len(package.members) == 2
    assert package.sources["folds"] == "0"
    first = load_package(Path(trained[0].package)).network.state_dict()
    assert all(torch.equal(value, package.network.state_dict()[name]) for name, value in first.items())
    assert json.loads((path.parent / "calibration.json").read_text())["temperature"] > 0

    trial = write_job(pictures, run="trial")
    job = read_record(trial, TrainingJob).model_copy(update={"keep": False})
    write_record(trial, job)
    train(job, StopSignal())
    assert (trial.parent / "epochs.jsonl").exists()
    assert not (trial.parent / "package").exists()
