"""Rules of the plan about networks: the largest one that learns enough in its minutes on this device."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from medml.networks.build import NETWORKS, build_network, run_network
from medml.networks.heap import freed_memory_kept
from medml.networks.precision import autocast, choose_device, choose_precision
from medml.networks.shapes import shapes_only
from medml.records.plan import Plan
from medml.training.draft import Draft

ENOUGH = 1 / 3  # of the steps wanted; with fewer a smaller network is ahead
FEW_STEPS = 800
QUICK = 0.5  # seconds per step: what takes longer is not timed
HOPELESS = 3  # times as long as it may take, judged by the next smaller one
PROBE_VOXELS = 100_000  # of a probe: two small pictures would cost as much as twenty
TELLING = 0.1  # seconds: what takes longer is told from noise by its second try
FIRST_TRY = 1.5  # times as long as the tries after it, at most: 1.36 of large networks on 2 cores
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


def seconds_per_step(plan: Plan, device: str, most: float = math.inf) -> float:
    """Time one training step of the plan's network on a few images and scale it to the batch.

    On a CPU the process's own time counts, shared by its threads: other work on the machine passes, a plan stays.
    What is clearly above ``most`` there at its first try is not tried again; on a GPU the first try says nothing.
    """
    where = torch.device(device)
    clock = time.process_time if where.type == "cpu" else time.perf_counter
    network = build_network(plan).to(where).train()
    shape = plan.patch if plan.task == "segment" else plan.size
    count = min(max(2, PROBE_VOXELS // math.prod(shape or ())), plan.batch)
    images = torch.randn(count, len(plan.channels), *(shape or ()), device=where)
    threads = torch.get_num_threads() if where.type == "cpu" else 1
    scale = plan.batch / count / threads  # from a try to a step
    seconds = math.inf
    with freed_memory_kept() if where.type == "cpu" else nullcontext():  # as a training has it
        for tries in (1, 2, 3):  # the first pays for memory and choosing kernels; the quickest says what the device can
            start = clock()
            with autocast(where, choose_precision(where, plan.precision)):
                scores = run_network(network, images, plan)
            scores.float().square().mean().backward()
            if where.type == "cuda":
                torch.cuda.synchronize(where)
            seconds = min(seconds, clock() - start)
            if seconds > TELLING and (tries > 1 or seconds * scale > FIRST_TRY * most):
                break
    return seconds * scale


def work_of(plan: Plan) -> float:
    """Count the floating-point operations of the plan's network on one image, on shapes alone."""
    shape = plan.patch if plan.task == "segment" else plan.size
    with shapes_only():
        image = torch.empty(1, len(plan.channels), *(shape or ()))
        network = build_network(plan, proved=True).eval()  # run at once, which proves as much
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
    search = _from_the_smallest if kind_of(device) == "cpu" else _from_the_largest
    found, cost = search(plans, device, budget / (steps * ENOUGH))
    chosen, possible = candidates[found], int(budget / cost)
    reason = f"{chosen.note}: about {cost:.2g} s per step on {device}, {possible} steps in the budget"
    return chosen, possible, reason + ("; larger ones would take too few" if found else "")


def _from_the_largest(plans: Sequence[Plan], device: str, most: float) -> tuple[int, float]:
    """Return which plan is the first with steps of at most ``most`` seconds, or the last one; and its seconds."""
    cost = math.inf
    for found, plan in enumerate(plans):
        cost = seconds_per_step(plan, device)
        if cost <= most:
            return found, cost
    return len(plans) - 1, cost


def _from_the_smallest(plans: Sequence[Plan], device: str, most: float) -> tuple[int, float]:
    """Return the same by trying upwards: on a CPU a large network alone can take a minute to time."""
    found, cost = len(plans) - 1, seconds_per_step(plans[-1], device)
    work = work_of(plans[-1])
    for larger in reversed(range(found)):
        more = work_of(plans[larger])
        expected = cost * more / work  # or less: wider networks reach more operations a second
        if expected > HOPELESS * most:
            break
        seconds = min(expected, seconds_per_step(plans[larger], device, most)) if expected < QUICK else expected
        if seconds > most:
            break
        found, cost, work = larger, seconds, more
    return found, cost
