"""How far a training is, and what the learning rate and the average of the weights make of it."""

from __future__ import annotations

import math
from collections.abc import Callable

from medml.records.plan import Plan

LOWEST_SHARE = 0.01
POWER = 0.9
LONGEST_AVERAGE = 1000.0
SHAPES: dict[str, Callable[[float], float]] = {
    "cosine": lambda done: 0.5 * (1 + math.cos(math.pi * done)),
    "poly": lambda done: (1 - done) ** POWER,
}


def progress(plan: Plan, step: int, seconds: float) -> float:
    """Return the share done, 0 to 1: of the steps or of the minutes, whichever is further.

    Of the steps alone if the plan is deterministic: no clock runs twice the same.
    """
    steps = step / (plan.epochs * plan.steps_per_epoch)
    return min(1.0, steps if plan.deterministic else max(steps, seconds / (60 * plan.minutes)))


def learning_rate(plan: Plan, step: int, done: float) -> float:
    """Return the rate of one step: a linear start, then down to a hundredth, along half a cosine or a power."""
    start = min(1.0, (step + 1) / max(1, plan.warmup_steps))
    falling = SHAPES[plan.schedule](done)
    return plan.learning_rate * start * (LOWEST_SHARE + (1 - LOWEST_SHARE) * falling)


def expected_steps(plan: Plan, step: int, done: float) -> int:
    """Return how many steps the whole training will take at the pace so far."""
    most = plan.epochs * plan.steps_per_epoch
    return most if done <= 0 else min(most, max(step, round(step / done)))


def average_decay(step: int, span: float = 0.1) -> float:
    """Return how much of the averaged weights stays at a step, so that they span a share of the training so far."""
    return 1 - 1 / min(1 + step * span, LONGEST_AVERAGE)
