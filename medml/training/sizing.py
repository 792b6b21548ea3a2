"""Rules of the plan about networks: the largest one that learns enough in its minutes on this device."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from medml.networks.build import build_network, run_network
from medml.networks.precision import autocast, choose_device, choose_precision
from medml.networks.segmenters import halvings
from medml.records.plan import Plan
from medml.training.draft import Draft

SEGMENTER_STEPS = {"cpu": 6000, "cuda": 30_000}
IMAGES_SEEN = 40_000
FEWEST_PASSES, MOST_PASSES = 12, 400
SMALL_IMAGE = 64
SMALL_SET = 200
ENOUGH = 1 / 3  # of the steps wanted; with fewer a smaller network is ahead
FEW_STEPS = 800
PROBE_IMAGES = 2


@dataclass(frozen=True, slots=True)
class Candidate:
    """A network that could be trained: its name in `medml.networks` and its options."""

    network: str
    options: dict[str, Any] = field(default_factory=dict)
    note: str = ""


def resolve_device(device: str) -> str:
    """Return "cpu" or "cuda…" for a device that may be "auto"."""
    return str(choose_device(device))


def kind_of(device: str) -> str:
    """Return "cpu" or "cuda"."""
    return device.partition(":")[0]


def classifier_steps(cases: int, batch: int) -> int:
    """Return how many steps are enough: 40,000 images seen, and each image neither too seldom nor too often."""
    passes = min(max(IMAGES_SEEN / cases, FEWEST_PASSES), MOST_PASSES)
    return math.ceil(passes * cases / batch)


def segmenter_candidates(draft: Draft, device: str) -> list[Candidate]:
    """Return networks that fit the patch, largest first."""
    dims, spacing = draft["dims"], draft["spacing_mm"]
    strides = halvings(draft["patch"][:dims], spacing[:dims] if spacing else None)[:4] or [(1,) * dims]
    channels = tuple(min(16 * 2**stage, 256) for stage in range(len(strides) + 1))
    small = Candidate("unet", {"strides": tuple(strides), "channels": channels}, "a small residual U-Net")
    return [Candidate("dynunet", {}, "nnU-Net's network"), small]


def classifier_candidates(draft: Draft, cases: int) -> list[Candidate]:
    """Return networks that fit the input size, largest first.

    Below 64 pixels the stem neither strides nor pools, or nothing would be left to look at; in 3D it strides where
    the volume is large. Few cases get no wide network: they would be learned by heart.
    """
    dims, longest = draft["dims"], max(draft["size"])
    widths = (0.5, 0.25) if cases < SMALL_SET else (1.0, 0.5, 0.25)
    if longest <= SMALL_IMAGE:
        stem: dict[str, Any] = {"conv1_t_size": 3, "conv1_t_stride": 1 if dims == 2 else 2, "no_max_pool": True}
        small = [Candidate("resnet18", stem | {"widen_factor": w}, "ResNet-18 with a small stem") for w in widths]
        return small
    stem = {"conv1_t_size": 7 if dims == 2 else 5, "conv1_t_stride": 2, "no_max_pool": False}
    large = [Candidate("resnet18", stem | {"widen_factor": w}, "ResNet-18") for w in widths]
    return [Candidate("densenet121", {}, "DenseNet-121"), *large] if cases >= SMALL_SET else large


def choose_network(draft: Draft, candidates: Sequence[Candidate], *, steps: int, device: str) -> None:
    """Set network, options and learning rate: the first candidate that can take a third of ``steps`` in the minutes.

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
    rate = {"vit": 3e-4, "dynunet": 5e-4}.get(draft["network"], 1e-3)
    draft.set("learning_rate", rate, f"AdamW's usual rate for {draft['network']}")


def seconds_per_step(plan: Plan, device: str) -> float:
    """Time one training step of the plan's network on two images and scale it to the batch."""
    where = torch.device(device)
    network = build_network(plan).to(where).train()
    shape = plan.patch if plan.task == "segment" else plan.size
    images = torch.randn(min(PROBE_IMAGES, plan.batch), len(plan.channels), *(shape or ()), device=where)
    seconds = math.inf
    for _ in range(3):  # the first pays for memory and for choosing kernels; the quickest says what the device can
        start = time.perf_counter()
        with autocast(where, choose_precision(where, plan.precision)):
            scores = run_network(network, images, plan)
        scores.float().square().mean().backward()
        if where.type == "cuda":
            torch.cuda.synchronize(where)
        seconds = min(seconds, time.perf_counter() - start)
    return seconds * plan.batch / len(images)


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
    budget = 60 * draft["minutes"]
    plans = [draft.with_values(network=c.network, network_options=c.options) for c in candidates]
    if kind_of(device) == "cpu":
        # One timing of the smallest; the others by their work: a large network alone can take a minute to time.
        smallest = seconds_per_step(plans[-1], device)
        rate = work_of(plans[-1]) / smallest
        costs = [work_of(plan) / rate for plan in plans]
    else:
        costs = [seconds_per_step(plan, device) for plan in plans]
    for candidate, cost in zip(candidates, costs, strict=True):
        possible = int(budget / cost)
        if possible >= steps * ENOUGH or candidate is candidates[-1]:
            reason = f"{candidate.note}: about {cost:.2g} s per step on {device}, {possible} steps in the budget"
            larger = "; larger ones would take too few" if candidate is not candidates[0] else ""
            return candidate, possible, reason + larger
    raise ValueError("no candidates")
