"""Optimisers by name, with the constants that their authors recommend."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from medml.records.plan import Plan

MOMENTUM = 0.99  # with Nesterov's rule, as nnU-Net


def build_optimiser(plan: Plan, parameters: Iterable[nn.Parameter]) -> Optimizer:
    """Return the plan's optimiser; its learning rate is set before every step."""
    rate, decay = plan.learning_rate, plan.weight_decay
    builders: dict[str, Callable[[Iterable[torch.Tensor]], Optimizer]] = {
        "adamw": lambda weights: AdamW(weights, lr=rate, weight_decay=decay, fused=True),
        "sgd": lambda weights: SGD(weights, lr=rate, weight_decay=decay, momentum=MOMENTUM, nesterov=True, fused=True),
    }
    return builders[plan.optimiser](parameters)
