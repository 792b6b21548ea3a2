"""How much memory a training step needs, worked out on shapes alone, and patches and batches that fit.

What a step holds at its peak: weights, gradients, two moments of AdamW, the average of the weights and the network
that is judged; every tensor that the forward pass saves for the backward pass; the scores at full resolution in fp32
and what the loss makes of them; the batch and its augmentation. Sums are compared with a real step's on the CPU in the
tests; on a GPU they are unchecked, so a training that runs out of memory there halves its batch and goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from medml.networks.build import build_network, run_network
from medml.networks.precision import choose_precision
from medml.networks.shapes import shapes_only
from medml.records.plan import Plan
from medml.training.draft import Draft
from medml.training.grids import smaller_patch

COPIES_OF_WEIGHTS = 6
COPIES_OF_SCORES = 6
COPIES_OF_IMAGES = 4
LEAST_BATCH = 2
CUDA_BYTES = 1 << 30  # of CUDA itself and cuDNN's workspaces
GAPS = 0.2  # on a CPU, of what comes and goes: lost between the blocks that `medml.networks.heap` keeps
USABLE = 0.9
GB = 1e9


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes that a training step needs."""

    weights: float
    activations: float
    scores: float
    images: float
    context: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.weights + self.activations + self.scores + self.images + self.context

    def describe(self) -> str:
        """Return it in words."""
        parts = {"weights and optimiser": self.weights, "activations": self.activations, "images": self.images}
        listed = ", ".join(f"{name} {size / GB:.2g}" for name, size in parts.items())
        return f"estimated from shapes, in GB: {listed}, scores and loss {self.scores / GB:.2g}"


def step_memory(plan: Plan, device: str) -> Memory:
    """Estimate the memory of one training step of a plan on "cpu" or "cuda…"; needs neither the device nor memory."""
    kind = device.partition(":")[0]
    half = _halves(plan, kind)
    weights, saved, scores = _saved_bytes(plan)
    shape = plan.patch if plan.task == "segment" else plan.size
    voxels = 1
    for side in shape or ():
        voxels *= side
    pieces = -(-plan.batch // plan.accumulate)
    activations = pieces * saved * (0.5 if half else 1.0)
    scores = pieces * scores * COPIES_OF_SCORES
    images = pieces * voxels * len(plan.channels) * 4.0 * COPIES_OF_IMAGES
    return Memory(
        weights=weights * COPIES_OF_WEIGHTS + (weights / 2 if half else 0),
        activations=activations,
        scores=scores,
        images=images,
        context=CUDA_BYTES if kind == "cuda" else GAPS * (activations + scores + images),
    )


def memory_budget(device: str, gigabytes: float | None) -> float | None:
    """Return the bytes that a step may take: what was asked for, or nine tenths of a GPU; None on a CPU."""
    if gigabytes is not None:
        return gigabytes * GB
    if device.partition(":")[0] == "cuda" and torch.cuda.is_available():
        return float(torch.cuda.get_device_properties(torch.device(device)).total_memory) * USABLE
    return None


def fit_memory(
    draft: Draft,
    largest: Callable[[], tuple[str, dict[str, object]]],
    *,
    device: str,
    gigabytes: float | None,
    multiple: int = 1,
) -> None:
    """Make batch, then patch smaller until a step of the largest network fits; overridden keys stay.

    Parameters
    ----------
    largest : callable
        Name and options of the largest candidate for the draft's present patch.
    """
    budget = memory_budget(device, gigabytes)
    if budget is None:
        return
    reason = f"fits {budget / GB:.3g} GB of memory, by an estimate from shapes"
    while True:
        network, options = largest()
        if step_memory(draft.with_values(network=network, network_options=options), device).total <= budget:
            return
        if not _shrink(draft, reason, multiple):
            return  # the plan says how much is needed, and training halves a batch that does not fit


def _shrink(draft: Draft, reason: str, multiple: int) -> bool:
    """Make the batch smaller, or at two images the patch; say whether anything was left to make smaller."""
    if draft["batch"] > LEAST_BATCH and not draft.overridden("batch"):
        draft.set("batch", max(LEAST_BATCH, draft["batch"] * 3 // 4), reason)
        return True
    if draft["task"] != "segment" or draft.overridden("patch"):
        return False
    smaller = smaller_patch(draft["patch"], draft["spacing_mm"], multiple=multiple)
    if smaller is None:
        return False
    draft.set("patch", smaller, reason)
    return True


def _halves(plan: Plan, kind: str) -> bool:
    """Say whether activations take two bytes: on a GPU unless fp32 is asked for, on a CPU as it would choose."""
    if kind == "cuda":
        return plan.precision != "fp32"
    return choose_precision(torch.device("cpu"), plan.precision) != "fp32"


def _saved_bytes(plan: Plan) -> tuple[float, float, float]:
    """Return the bytes of the weights, and for one image those saved for the backward pass and those of the scores.

    In fp32. Two images are passed, as batch norm wants more than one value.
    """
    shape = plan.patch if plan.task == "segment" else plan.size
    with shapes_only():
        network = build_network(plan).train()
        images = torch.empty(2, len(plan.channels), *(shape or ()))
    own = {value.untyped_storage()._cdata for value in network.state_dict(keep_vars=True).values()}
    seen: dict[int, torch.Tensor] = {}  # holding on to them, so that no place is given to another tensor

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        place = tensor.untyped_storage()._cdata
        if place not in own:
            seen[place] = tensor
        return tensor

    with shapes_only(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        scores: torch.Tensor | Sequence[torch.Tensor] = run_network(network, images, plan)
    heads = [scores] if isinstance(scores, torch.Tensor) else list(scores)
    weights = sum(value.numel() * value.element_size() for value in network.parameters())
    saved = sum(value.untyped_storage().nbytes() for value in seen.values())
    return float(weights), saved / 2, sum(head.numel() * head.element_size() for head in heads) / 2
