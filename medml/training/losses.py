"""What training minimises; always computed in float32, whatever the network ran in."""

from __future__ import annotations

from collections.abc import Callable

import torch
from monai.losses.dice import DiceCELoss
from torch import nn

from medml.errors import ConfigError
from medml.records.plan import Plan

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def build_loss(plan: Plan, device: torch.device) -> Loss:
    """Return the plan's loss of scores and target.

    Scores are (B, L, I, J, K) with targets (B, 1, I, J, K) for ``dice_ce``, (B, L) with classes (B,) for
    ``cross_entropy``, (B, L) with zeros and ones (B, L) for ``bce``.
    """
    builders: dict[str, Callable[[torch.Tensor | None], Loss]] = {
        "dice_ce": _dice_ce,
        "cross_entropy": lambda weights: nn.CrossEntropyLoss(weight=weights),
        "bce": lambda weights: nn.BCEWithLogitsLoss(pos_weight=weights),
    }
    fitting = ["dice_ce"] if plan.task == "segment" else ["bce"] if plan.multi_label else ["cross_entropy"]
    if plan.loss not in fitting:
        raise ConfigError(f"plan.loss: found {plan.loss!r}, expected {fitting[0]!r} for this task")
    if plan.class_weights is not None and len(plan.class_weights) != len(plan.labels):
        raise ConfigError(f"plan.class_weights: found {len(plan.class_weights)}, expected one per label")
    weights = None if plan.class_weights is None else torch.tensor(plan.class_weights, device=device)
    return builders[plan.loss](weights)


def _dice_ce(weights: torch.Tensor | None) -> Loss:
    # Over the whole batch at once: a patch without a label would otherwise count as a perfect or a lost one.
    loss = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True, batch=True, weight=weights)
    return lambda scores, target: _of_heads(loss, scores, target)


def _of_heads(loss: nn.Module, scores: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Apply the loss to every head of deep supervision (B, heads, L, I, J, K), each half as heavy as the one above."""
    if scores.ndim == target.ndim:
        plain: torch.Tensor = loss(scores, target)
        return plain
    heads = [loss(scores[:, head], target) / 2**head for head in range(scores.shape[1])]
    return torch.stack(heads).sum() / sum(2.0**-head for head in range(len(heads)))
