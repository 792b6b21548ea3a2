"""What training minimises; always computed in float32, whatever the network ran in.

Every loss is made of sums over the batch, so that several processes which each have a part of it add their sums and
have the loss of the whole batch: Dice of a batch is no mean of the Dices of its parts.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional

from medml.errors import ConfigError
from medml.records.plan import Plan
from medml.training.processes import Processes

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Weights = torch.Tensor | None
SMOOTH = 1e-5


def build_loss(plan: Plan, device: torch.device, processes: Processes | None = None) -> Loss:
    """Return the plan's loss of scores and target; with several processes, of the batch that all have together.

    Scores are (B, L, I, J, K) with targets (B, 1, I, J, K) for ``dice_ce``, (B, L) with classes (B,) for
    ``cross_entropy``, (B, L) with zeros and ones (B, L) for ``bce``.
    """
    builders: dict[str, Callable[[Weights, Processes], Loss]] = {
        "dice_ce": _dice_ce,
        "cross_entropy": _cross_entropy,
        "bce": _bce,
    }
    fitting = ["dice_ce"] if plan.task == "segment" else ["bce"] if plan.multi_label else ["cross_entropy"]
    if plan.loss not in fitting:
        raise ConfigError(f"plan.loss: found {plan.loss!r}, expected {fitting[0]!r} for this task")
    if plan.class_weights is not None and len(plan.class_weights) != len(plan.labels):
        raise ConfigError(f"plan.class_weights: found {len(plan.class_weights)}, expected one per label")
    weights = None if plan.class_weights is None else torch.tensor(plan.class_weights, device=device)
    return builders[plan.loss](weights, processes or Processes())


def _cross_entropy(weights: Weights, processes: Processes) -> Loss:
    def loss(scores: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        total = functional.cross_entropy(scores, target, weight=weights, reduction="sum")
        weight = total.new_tensor(len(target)) if weights is None else weights[target].sum()
        sums: torch.Tensor = processes.add(torch.stack([total, weight]))
        return sums[0] / sums[1]

    return loss


def _bce(weights: Weights, processes: Processes) -> Loss:
    def loss(scores: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        total = functional.binary_cross_entropy_with_logits(scores, target, pos_weight=weights, reduction="sum")
        sums: torch.Tensor = processes.add(torch.stack([total, total.new_tensor(scores.numel())]))
        return sums[0] / sums[1]

    return loss


def _dice_ce(weights: Weights, processes: Processes) -> Loss:
    def loss(scores: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        if scores.ndim == target.ndim:
            return _dice_and_entropy(processes.add(_sums(scores, target, weights)), weights)
        # Heads of deep supervision (B, heads, L, I, J, K), each half as heavy as the one above.
        heads = processes.add(torch.stack([_sums(head, target, weights) for head in scores.unbind(1)]))
        shares = [0.5**head for head in range(len(heads))]
        losses = [share * _dice_and_entropy(sums, weights) for share, sums in zip(shares, heads, strict=True)]
        return torch.stack(losses).sum() / sum(shares)

    return loss


def _sums(scores: torch.Tensor, target: torch.Tensor, weights: Weights) -> torch.Tensor:
    """Return per label but background overlap, found and true voxels, then cross-entropy and its weight (3 L - 1,)."""
    images, count = scores.shape[:2]
    labels = target.long()
    logs = scores.log_softmax(dim=1)
    own = logs.gather(1, labels)  # of each voxel's true label
    # Bins per image: a sum of float32 stays exact up to 2^24 voxels, and a GPU need not be waited for.
    bins = (labels.flatten(1) + count * torch.arange(images, device=scores.device)[:, None]).flatten()
    overlap, true = (
        scores.new_zeros(images * count).index_add(0, bins, values.flatten()).view(images, count).sum(0)
        for values in (own.exp(), torch.ones_like(own))
    )
    found = logs.exp().sum(tuple(dim for dim in range(scores.ndim) if dim != 1))
    entropy = -(own.sum() if weights is None else (weights[labels] * own).sum())
    weight = (true if weights is None else true * weights).sum()
    return torch.cat([overlap[1:], found[1:], true[1:], torch.stack([entropy, weight])])


def _dice_and_entropy(sums: torch.Tensor, weights: Weights) -> torch.Tensor:
    # Over the whole batch at once: a patch without a label would otherwise count as a perfect or a lost one.
    overlap, found, true = sums[:-2].view(3, -1)
    missed = 1 - (2 * overlap + SMOOTH) / (found + true + SMOOTH)
    if weights is not None and len(missed) > 1:
        missed = missed * weights[1:]
    found_loss: torch.Tensor = missed.mean() + sums[-2] / sums[-1]
    return found_loss
