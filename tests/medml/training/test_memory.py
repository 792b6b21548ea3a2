"""The estimate of a step's memory against a step that is really made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from medml.networks.build import build_network, run_network
from medml.records.plan import Plan
from medml.training.memory import GB, memory_budget, step_memory

PlanMaker = Callable[..., Plan]
NARROW: dict[str, Any] = {"channels": (8, 16), "strides": (2,), "num_res_units": 0}
KINDS: list[dict[str, Any]] = [
    {"network": "unet", "network_options": NARROW},
    {"network": "dynunet", "network_options": {"filters": (4, 8, 8), "strides": (1, 2, 2)}},
    {"task": "classify", "network": "resnet18", "network_options": {"widen_factor": 0.125}},
]


@pytest.mark.parametrize("kind", KINDS, ids=["unet", "dynunet", "resnet18"])
def test_what_is_saved_on_shapes_alone_is_what_a_real_step_saves(make_plan: PlanMaker, kind: dict[str, Any]) -> None:
    plan = make_plan(precision="fp32", **kind)
    network = build_network(plan).train()
    own = {value.data_ptr() for value in network.state_dict(keep_vars=True).values()}
    saved: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    images = torch.randn(2, 1, 16, 16, 16)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run_network(network, images, plan).sum()
    real = sum(tensor.untyped_storage().nbytes() for tensor in saved.values())
    # Batch of two. Kernels of the CPU may keep a few statistics more than shapes tell.
    assert step_memory(plan, "cpu").activations == pytest.approx(real, rel=0.05)


def test_the_estimate_holds_the_peak_of_a_real_step(make_plan: PlanMaker) -> None:
    plan = make_plan(precision="fp32", patch=(32, 32, 32), network_options=NARROW)
    network = build_network(plan).train()
    optimiser = torch.optim.AdamW(network.parameters())
    images = torch.randn(2, 1, 32, 32, 32)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        scores = run_network(network, images, plan)
        scores.float().softmax(1).square().sum().backward()
        optimiser.step()
    peak, held = 0, 0
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    found = step_memory(plan, "cpu").total
    assert 0.8 * peak < found < 2.5 * peak


def test_parts_of_the_estimate_worked_out_by_hand(make_plan: PlanMaker) -> None:
    plan = make_plan(precision="fp32", network_options=NARROW)
    memory = step_memory(plan, "cpu")
    numbers = sum(value.numel() for value in build_network(plan).parameters())
    assert memory.weights == numbers * 4 * 6
    assert memory.scores == 2 * (2 * 16**3) * 4 * 6  # batch, labels times voxels, bytes, copies
    assert memory.images == 2 * 16**3 * 4 * 4
    assert memory.context == 0.2 * (memory.activations + memory.scores + memory.images)
    half = step_memory(plan.model_copy(update={"precision": "bf16"}), "cuda")
    assert half.activations == memory.activations / 2
    assert half.context == 1 << 30
    pieces = step_memory(plan.model_copy(update={"accumulate": 2}), "cpu")
    assert pieces.activations == memory.activations / 2
    assert "weights and optimiser" in memory.describe()


def test_a_budget_is_what_was_asked_for_or_what_a_gpu_has() -> None:
    assert memory_budget("cuda:0", 8.0) == 8 * GB
    assert memory_budget("cpu", None) is None
