"""Rules of the plan about networks: the largest one that learns enough in its minutes on this device."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from medml.networks.build import NETWORKS, build_network, run_network
from medml.networks.heap import freed_memory_kept
from medml.networks.precision import autocast, choose_device, choose_precision
from medml.records.plan import Plan
from medml.training.draft import Draft

ENOUGH = 1 / 3  # of the steps wanted; with fewer a smaller network is ahead
FEW_STEPS = 800
QUICK = 0.5  # seconds per step
PROBE_VOXELS = 100_000  # of a probe: two small pictures would cost as much as twenty
RATES = {
    "folded_unet": 5e-3,
    "unet": 2e-3,
    "vit": 3e-4,
    "dynunet": 5e-4,
    "residual_unet": 5e-4,
    "unetr": 1e-4,
    "swinunetr": 1e-4,
}


@dataclass(frozen=True, slots=True)
class Candidate:
    """A network that could be trained: its name in `medml.networks` and its options."""

    network: str
    options: dict[str, Any] = field(default_factory=dict)
    note: str = ""


def resolve_device(device: str, *, planned: bool = False) -> str:
    """Return "cpu" or "cuda…" for a device that may be "auto"; a ``planned`` GPU need not be there."""
    if planned and device.startswith("cuda") and not torch.cuda.is_available():
        return device
    return str(choose_device(device))


def kind_of(device: str) -> str:
    """Return "cpu" or "cuda"."""
    return device.partition(":")[0]


def choose_network(draft: Draft, candidates: Sequence[Candidate], *, steps: int, device: str) -> int:
    """Set network, options and learning rate: the first candidate that can take a third of ``steps`` in the minutes.

    Returned is how many steps it can take in them; ``steps`` where the experiment chose the network.

    Where even the smallest can take few, the batch is halved, down to two patches: more steps learn more.
    """
    chosen, possible, reason = Candidate(""), steps, ""
    if not draft.overridden("network"):
        chosen, possible, reason = _affordable(draft, candidates, steps=steps, device=device)
    draft.set("network", chosen.network, reason)
    if possible < FEW_STEPS and draft["task"] == "segment":
        halvings_wanted = math.ceil(math.log2(FEW_STEPS / max(possible, 1)))
        batch = max(min(2, draft["batch"]), draft["batch"] // 2**halvings_wanted)
        draft.set("batch", batch, f"smaller, since only {possible} full batches fit in the budget")
    draft.set("network_options", chosen.options, f"{chosen.note} for this size, width by budget")
    draft.set("learning_rate", RATES.get(draft["network"], 1e-3), f"AdamW's usual rate for {draft['network']}")
    return possible


def largest_of(draft: Draft, candidates: Sequence[Candidate]) -> tuple[str, dict[str, Any]]:
    """Return the network that memory has to hold: what the experiment wants, or the largest candidate."""
    network = draft.wanted("network")
    if network is None:
        return candidates[0].network, candidates[0].options | dict(draft.wanted("network_options", {}))
    return network, dict(draft.wanted("network_options", {}))


def side_multiple(draft: Draft) -> int:
    """Return what the sides of the input must be multiples of, where the experiment names a network that asks."""
    recipe = NETWORKS[draft["task"]].get(draft.wanted("network", ""))
    return recipe.multiple if recipe else 1


def seconds_per_step(plan: Plan, device: str) -> float:
    """Time one training step of the plan's network on a few images and scale it to the batch.

    On a CPU the process's own time counts, shared by its threads: other work on the machine passes, a plan stays.
    """
    where = torch.device(device)
    clock = time.process_time if where.type == "cpu" else time.perf_counter
    network = build_network(plan).to(where).train()
    shape = plan.patch if plan.task == "segment" else plan.size
    count = min(max(2, PROBE_VOXELS // math.prod(shape or ())), plan.batch)
    images = torch.randn(count, len(plan.channels), *(shape or ()), device=where)
    seconds = math.inf
    with freed_memory_kept() if where.type == "cpu" else nullcontext():  # as a training has it
        for _ in range(3):  # the first pays for memory and for choosing kernels; the quickest says what the device can
            start = clock()
            with autocast(where, choose_precision(where, plan.precision)):
                scores = run_network(network, images, plan)
            scores.float().square().mean().backward()
            if where.type == "cuda":
                torch.cuda.synchronize(where)
            seconds = min(seconds, clock() - start)
    threads = torch.get_num_threads() if where.type == "cpu" else 1
    return seconds / threads * plan.batch / count


def work_of(plan: Plan) -> float:
    """Count the floating-point operations of the plan's network on one image, on shapes alone."""
    shape = plan.patch if plan.task == "segment" else plan.size
    with torch.device("meta"):
        image = torch.empty(1, len(plan.channels), *(shape or ()))
        network = build_network(plan).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run_network(network, image, plan)
    return float(counter.get_total_flops())


def _affordable(
    draft: Draft, candidates: Sequence[Candidate], *, steps: int, device: str
) -> tuple[Candidate, int, str]:
    if kind_of(device) == "cuda" and not torch.cuda.is_available():
        return candidates[0], steps, f"{candidates[0].note}; not timed, as there is no GPU here"
    budget = 60 * draft["minutes"]
    plans = [draft.with_values(network=c.network, network_options=c.options) for c in candidates]
    for candidate, cost in zip(candidates, _costs(plans, device), strict=True):
        possible = int(budget / cost)
        if possible >= steps * ENOUGH or candidate is candidates[-1]:
            reason = f"{candidate.note}: about {cost:.2g} s per step on {device}, {possible} steps in the budget"
            larger = "; larger ones would take too few" if candidate is not candidates[0] else ""
            return candidate, possible, reason + larger
    raise ValueError("no candidates")


def _costs(plans: Sequence[Plan], device: str) -> Iterator[float]:
    """Yield the seconds of a step of each plan, largest first; what nobody asks for is not timed."""
    if kind_of(device) != "cpu":
        yield from (seconds_per_step(plan, device) for plan in plans)
        return
    # One timing of the smallest; the others by their work: a large network alone can take a minute to time.
    smallest = seconds_per_step(plans[-1], device)
    rate = work_of(plans[-1]) / smallest
    for plan in plans[:-1]:
        cost = work_of(plan) / rate
        # Narrow networks reach fewer operations a second, so what is quick to time is timed.
        yield min(cost, seconds_per_step(plan, device)) if cost < QUICK else cost
    yield smallest
