"""Losses, schedule, calibration, validation, reports: small rules worked out by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from medml.errors import ConfigError
from medml.records.plan import Epoch
from medml.training.calibration import fit_temperature, fit_threshold, probabilities
from medml.training.convolutions import guard_thin_volumes
from medml.training.losses import build_loss
from medml.training.reporting import Reporter
from medml.training.schedule import average_decay, expected_steps, learning_rate, progress
from medml.training.validation import area_error, validation_cases

CPU = torch.device("cpu")
MakePlan = Callable[..., Any]


def test_a_perfect_segmentation_costs_nothing_and_a_wrong_one_much(make_plan: MakePlan) -> None:
    target = torch.randint(0, 2, (2, 1, 4, 4, 4))
    scores = 40.0 * torch.cat([target == 0, target == 1], dim=1).float()
    loss = build_loss(make_plan(), CPU)
    assert float(loss(scores, target)) == pytest.approx(0.0, abs=1e-4)
    assert float(loss(-scores, target)) > 10


def test_deep_heads_weigh_half_of_the_one_above(make_plan: MakePlan) -> None:
    target = torch.randint(0, 2, (1, 1, 4, 4, 4))
    heads = torch.randn(1, 2, 2, 4, 4, 4)
    loss = build_loss(make_plan(), CPU)
    expected = (loss(heads[:, 0], target) + 0.5 * loss(heads[:, 1], target)) / 1.5
    assert float(loss(heads, target)) == pytest.approx(float(expected))


def test_class_weights_weigh_classes(make_plan: MakePlan) -> None:
    plan = make_plan(task="classify", loss="cross_entropy", class_weights=(1.0, 3.0))
    scores, target = torch.tensor([[2.0, 0.0], [0.0, 0.0]]), torch.tensor([0, 1])
    expected = (math.log1p(math.exp(-2)) + 3 * math.log(2)) / 4
    assert float(build_loss(plan, CPU)(scores, target)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"loss": "bce"}, "plan.loss: found 'bce', expected 'dice_ce' for this task"),
        ({"class_weights": (1.0,)}, "plan.class_weights: found 1, expected one per label"),
    ],
)
def test_a_loss_that_does_not_fit_is_refused(make_plan: MakePlan, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build_loss(make_plan(**changes), CPU)


def test_the_rate_rises_then_falls_to_a_hundredth_with_the_budget(make_plan: MakePlan) -> None:
    plan = make_plan(learning_rate=0.1, warmup_steps=10, epochs=10, steps_per_epoch=10, minutes=1.0)
    assert learning_rate(plan, 0, 0.0) == pytest.approx(0.01)
    assert learning_rate(plan, 50, 0.5) == pytest.approx(0.1 * (0.01 + 0.99 / 2))
    assert learning_rate(plan, 99, 1.0) == pytest.approx(0.001)


def test_progress_is_of_steps_or_minutes_whichever_is_further(make_plan: MakePlan) -> None:
    plan = make_plan(epochs=10, steps_per_epoch=10, minutes=1.0)
    assert progress(plan, 50, 6.0) == 0.5
    assert progress(plan, 10, 45.0) == 0.75
    assert progress(plan, 10, 90.0) == 1.0
    assert expected_steps(plan, 10, 0.5) == 20
    assert expected_steps(plan, 0, 0.0) == 100


def test_the_average_spans_a_tenth_of_the_training() -> None:
    assert average_decay(0) == 0.0
    assert average_decay(990) == pytest.approx(1 - 1 / 100)
    assert average_decay(10**7) == pytest.approx(0.999)


def test_temperature_cools_overconfident_scores() -> None:
    truth = np.array([0, 0, 0, 1] * 25)
    scores = np.tile([2.0, 0.0], (100, 1))
    temperature = fit_temperature(scores, truth, multi_label=False)
    assert probabilities(scores, temperature=temperature, multi_label=False)[0, 0] == pytest.approx(0.75, abs=0.02)
    several = np.eye(2)[truth]
    assert 0.2 <= fit_temperature(several * 2 - 1, several, multi_label=True) < 0.5
    assert fit_temperature(scores[:0], truth[:0], multi_label=False) == 1.0


def test_a_few_cases_that_are_all_right_do_not_make_certain() -> None:
    truth = np.array([0, 1] * 5)
    scores = np.stack([-2.0 * truth + 1, 2.0 * truth - 1], axis=1)
    assert 0.5 < fit_temperature(scores, truth, multi_label=False) < 1.0


def test_threshold_lies_between_the_classes_and_belongs_to_two_classes_only() -> None:
    logit = np.array([-2.0, -1.0, 1.0, 3.0])
    scores = np.stack([np.zeros(4), logit], axis=1)
    low, high = 1 / (1 + math.exp(1.0)), 1 / (1 + math.exp(-1.0))
    threshold = fit_threshold(scores, np.array([0, 0, 1, 1]), temperature=1.0)
    assert threshold == pytest.approx((low + high) / 2)
    assert fit_threshold(np.zeros((4, 3)), np.array([0, 1, 2, 0]), temperature=1.0) is None


def test_area_error_of_hanley_and_mcneil() -> None:
    # AUC 0.9, 10 and 10: Q1 = 0.9/1.1, Q2 = 1.62/1.9; (0.09 + 9 (Q1 - 0.81) + 9 (Q2 - 0.81)) / 100
    variance = (0.09 + 9 * (0.9 / 1.1 - 0.81) + 9 * (1.62 / 1.9 - 0.81)) / 100
    assert area_error(0.9, 10, 10) == pytest.approx(math.sqrt(variance))
    assert area_error(1.0, 5, 5) == 0.0


def test_validation_looks_at_a_tenth_of_an_epochs_work(make_plan: MakePlan, make_case: Callable[..., Any]) -> None:
    cases = [make_case(number, shape=(16, 16, 16)) for number in range(100)]
    plan = make_plan(batch=8, steps_per_epoch=10)
    assert len(validation_cases(cases, plan)) == 24
    large = [make_case(number, shape=(28, 28, 28)) for number in range(100)]
    assert len(validation_cases(large, plan)) == 8
    assert len(validation_cases(cases[:5], plan)) == 5


def test_thin_volumes_are_convolved_in_fp32_and_others_in_bf16() -> None:
    network = nn.Sequential(nn.Conv3d(1, 2, 3, padding=1))
    guard_thin_volumes(network)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert network(torch.randn(1, 1, 2, 8, 8)).dtype == torch.float32
        assert network(torch.randn(1, 1, 3, 8, 8)).dtype == torch.bfloat16
    assert list(network.state_dict()) == ["0.weight", "0.bias"]


def test_progress_is_written_once_a_second_and_by_one_process_only(tmp_path: Path) -> None:
    reporter = Reporter(tmp_path)
    reporter.progress("train", 1, 10, loss=0.5, eta=3.0)
    reporter.progress("train", 2, 10)
    state = json.loads((tmp_path / "progress.json").read_text())
    assert state == {"phase": "train", "step": 1, "total": 10, "loss": 0.5, "eta": 3.0}
    other = tmp_path / "other"
    other.mkdir()
    silent = Reporter(other, active=False)
    silent.progress("train", 1, 10)
    silent.epoch(Epoch(epoch=1, step=1, seconds=1, learning_rate=1, metrics={}, best=True))
    assert list(other.iterdir()) == []


def test_epochs_that_are_trained_again_are_forgotten(tmp_path: Path) -> None:
    reporter = Reporter(tmp_path)
    for number in (1, 2, 3):
        reporter.epoch(Epoch(epoch=number, step=number, seconds=1, learning_rate=1, metrics={}, best=True))
    with (tmp_path / "epochs.jsonl").open("a") as lines:
        lines.write('{"epoch": 4, "st')
    reporter.forget_after(2)
    assert [json.loads(line)["epoch"] for line in (tmp_path / "epochs.jsonl").read_text().splitlines()] == [1, 2]
