"""Losses, schedule, calibration, validation, reports: small rules worked out by hand."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.losses.dice import DiceCELoss
from torch import nn

from medml.errors import ConfigError
from medml.records.experiment import Experiment
from medml.records.plan import Epoch
from medml.training.average import Average
from medml.training.calibration import fit_temperature, fit_threshold, probabilities
from medml.training.convolutions import guard_thin_volumes, quicken_narrow
from medml.training.determinism import deterministic
from medml.training.draft import Draft
from medml.training.learner import memory_layout
from medml.training.losses import build_loss
from medml.training.optimisers import build_optimiser
from medml.training.processes import Processes
from medml.training.reporting import Reporter
from medml.training.schedule import average_decay, expected_steps, learning_rate, progress
from medml.training.schedule_plan import set_epochs
from medml.training.validation import area_error, validation_cases

CPU = torch.device("cpu")
MakePlan = Callable[..., Any]


def test_a_perfect_segmentation_costs_nothing_and_a_wrong_one_much(make_plan: MakePlan) -> None:
    target = torch.randint(0, 2, (2, 1, 4, 4, 4))
    scores = 40.0 * torch.cat([target == 0, target == 1], dim=1).float()
    loss = build_loss(make_plan(), CPU)
    assert float(loss(scores, target)) == pytest.approx(0.0, abs=1e-4)
    assert float(loss(-scores, target)) > 10


@pytest.mark.parametrize(("labels", "weights"), [(2, None), (3, None), (2, (1.0, 2.0)), (3, (0.5, 1.0, 3.0))])
def test_the_loss_of_dice_and_entropy_is_monais(
    make_plan: MakePlan, labels: int, weights: tuple[float, ...] | None
) -> None:
    names = {number: str(number) for number in range(labels)}
    scores = torch.randn(2, labels, 5, 4, 3, requires_grad=True)
    target = torch.randint(0, labels, (2, 1, 5, 4, 3), dtype=torch.uint8)
    ours = build_loss(make_plan(labels=names, class_weights=weights), CPU)(scores, target)
    weight = None if weights is None else torch.tensor(weights)
    other = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True, batch=True, weight=weight)
    theirs = other(scores, target)
    assert float(ours.detach()) == pytest.approx(float(theirs.detach()), abs=1e-6)
    slopes = [torch.autograd.grad(loss, scores)[0] for loss in (ours, theirs)]
    assert torch.allclose(slopes[0], slopes[1], atol=1e-6)


def test_several_classes_are_weighed_one_by_one(make_plan: MakePlan) -> None:
    plan = make_plan(task="classify", loss="bce", multi_label=True)
    scores, target = torch.tensor([[0.0, 2.0]]), torch.tensor([[1.0, 0.0]])
    expected = (math.log(2) + math.log1p(math.exp(2))) / 2
    assert float(build_loss(plan, CPU)(scores, target)) == pytest.approx(expected)


def test_pieces_of_a_batch_are_counted_over_all_processes() -> None:
    # 5 images: process 0 has 3 and cuts them into 2 and 1, process 1 has 2 and cuts them into 1 and 1.
    assert [Processes(0, 2).images_of(5, piece, 2) for piece in (0, 1)] == [3, 2]
    assert [Processes().images_of(5, piece, 3) for piece in (0, 1, 2)] == [2, 2, 1]


def test_one_process_agrees_with_itself() -> None:
    alone = Processes()
    assert alone.first
    assert alone.agree([2.0, 3.0], CPU) == alone.largest([2.0, 3.0], CPU) == [2.0, 3.0]


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


def test_the_rate_may_fall_by_a_power(make_plan: MakePlan) -> None:
    plan = make_plan(learning_rate=0.1, warmup_steps=1, schedule="poly")
    assert learning_rate(plan, 50, 0.0) == pytest.approx(0.1)
    assert learning_rate(plan, 50, 0.5) == pytest.approx(0.1 * (0.01 + 0.99 * 0.5**0.9))


def test_a_deterministic_training_looks_at_no_clock(make_plan: MakePlan) -> None:
    plan = make_plan(epochs=10, steps_per_epoch=10, minutes=1.0, deterministic=True)
    assert progress(plan, 50, 6000.0) == 0.5


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
    assert average_decay(990, 0.0) == 0.0


def test_averaged_weights_follow_the_network_and_counters_are_copied() -> None:
    network = nn.Sequential(nn.BatchNorm1d(1))
    average = Average(network, span=0.1)
    with torch.no_grad():
        network[0].weight.fill_(3.0)  # type: ignore[union-attr, operator]
        network[0].num_batches_tracked.fill_(7)  # type: ignore[union-attr, operator]
    average.update(10)  # keeps half
    assert float(average.values["0.weight"]) == 2.0
    assert int(average.values["0.num_batches_tracked"]) == 7
    kept = average.snapshot()
    average.update(0)  # keeps nothing
    assert float(average.values["0.weight"]) == 3.0
    average.load(kept)
    assert float(average.values["0.weight"]) == 2.0


def test_weights_are_laid_out_for_the_convolutions_that_gain(make_plan: MakePlan) -> None:
    flat, cuda = make_plan(task="classify", dims=2, size=(16, 16, 1)), torch.device("cuda")
    assert memory_layout(flat, CPU, "bf16") is torch.channels_last
    assert memory_layout(flat, CPU, "fp32") is None
    assert memory_layout(make_plan(), CPU, "bf16") is None
    assert memory_layout(make_plan(), cuda, "bf16") is torch.channels_last_3d


@pytest.mark.parametrize(("name", "kind"), [("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)])
def test_the_plan_names_the_optimiser(make_plan: MakePlan, name: str, kind: type) -> None:
    optimiser = build_optimiser(make_plan(optimiser=name, weight_decay=0.5), [nn.Parameter(torch.ones(1))])
    assert type(optimiser) is kind
    assert optimiser.param_groups[0]["weight_decay"] == 0.5
    assert optimiser.param_groups[0].get("momentum", 0.99) == 0.99


def test_only_repeatable_operations_where_asked_and_only_then() -> None:
    with deterministic(True):
        assert torch.are_deterministic_algorithms_enabled()
    assert not torch.are_deterministic_algorithms_enabled()


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


def test_narrow_convolutions_learn_the_same_with_channels_last_inside() -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv3d(3, 3, 3, padding=1), nn.Conv3d(3, 8, 1))
    quick = copy.deepcopy(plain)
    quicken_narrow(quick)
    inside: list[bool] = []
    for layer in quick:
        layer.register_forward_hook(lambda _, inputs, __: inside.append(_is_channels_last(inputs[0])))
    images = torch.randn(2, 3, 5, 6, 7)
    outputs = [network(images) for network in (plain, quick)]
    for output in outputs:
        output.square().sum().backward()
    assert inside == [True, True]
    assert outputs[1].is_contiguous()
    torch.testing.assert_close(outputs[1], outputs[0])
    for (name, one), (_, other) in zip(plain.named_parameters(), quick.named_parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad, msg=lambda text, name=name: f"{name}: {text}")
    assert list(quick.state_dict()) == list(plain.state_dict())


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv3d(1, 4, 3, padding=1),
        nn.Conv3d(4, 16, 3, padding=1),
        nn.Conv3d(4, 4, 3, stride=2),
        nn.Conv3d(4, 4, 3, groups=2),
    ],
)
def test_other_convolutions_keep_their_order(layer: nn.Conv3d) -> None:
    inside: list[bool] = []
    quicken_narrow(layer)
    layer.register_forward_hook(lambda _, inputs, __: inside.append(inputs[0].is_contiguous()))
    layer(torch.randn(2, layer.in_channels, 5, 6, 7))
    assert inside == [True]


def _is_channels_last(images: torch.Tensor) -> bool:
    return images.is_contiguous(memory_format=torch.channels_last_3d)


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


def test_a_long_training_writes_a_thousand_points_of_means(tmp_path: Path) -> None:
    reporter = Reporter(tmp_path)
    for step in range(1, 7):
        reporter.step(step, 3000, float(step), {"loss": float(step), "gradient": math.inf if step == 2 else 1.0})
    points = [json.loads(line) for line in (tmp_path / "steps.jsonl").read_text().splitlines()]
    assert points == [
        {"step": 3, "seconds": 3.0, "metrics": {"loss": 2.0}},
        {"step": 6, "seconds": 6.0, "metrics": {"loss": 5.0, "gradient": 1.0}},
    ]
    reporter.forget_after(epoch=1, step=4)
    assert len((tmp_path / "steps.jsonl").read_text().splitlines()) == 1


def test_epochs_that_are_trained_again_are_forgotten(tmp_path: Path) -> None:
    reporter = Reporter(tmp_path)
    for number in (1, 2, 3):
        reporter.epoch(Epoch(epoch=number, step=number, seconds=1, learning_rate=1, metrics={}, best=True))
    with (tmp_path / "epochs.jsonl").open("a") as lines:
        lines.write('{"epoch": 4, "st')
    reporter.forget_after(epoch=2, step=2)
    assert [json.loads(line)["epoch"] for line in (tmp_path / "epochs.jsonl").read_text().splitlines()] == [1, 2]


def test_a_budget_of_steps_becomes_epochs_of_equal_length() -> None:
    draft = Draft({})
    draft.fix("steps_per_epoch", 1)
    wanted = Experiment(name="x", task="segment", dataset={"name": "x"}, budget={"steps": 130})  # type: ignore[arg-type]
    set_epochs(draft, wanted, steps=6000, per_epoch=50)
    assert (draft["epochs"], draft["steps_per_epoch"]) == (3, 44)
