"""How far a training is, and what the learning rate and the average of the weights make of it."""

from __future__ import annotations

import math

from medml.records.plan import Plan

LOWEST_SHARE = 0.01
LONGEST_AVERAGE = 1000.0


def progress(plan: Plan, step: int, seconds: float) -> float:
    """Return the share done, 0 to 1: of the steps or of the minutes, whichever is further."""
    return min(1.0, max(step / (plan.epochs * plan.steps_per_epoch), seconds / (60 * plan.minutes)))


def learning_rate(plan: Plan, step: int, done: float) -> float:
    """Return the rate of one step: a linear start, then half a cosine that ends with the budget."""
    start = min(1.0, (step + 1) / max(1, plan.warmup_steps))
    falling = 0.5 * (1 + math.cos(math.pi * done))
    return plan.learning_rate * start * (LOWEST_SHARE + (1 - LOWEST_SHARE) * falling)


def expected_steps(plan: Plan, step: int, done: float) -> int:
    """Return how many steps the whole training will take at the pace so far."""
    most = plan.epochs * plan.steps_per_epoch
    return most if done <= 0 else min(most, max(step, round(step / done)))


def average_decay(step: int) -> float:
    """Return how much of the averaged weights stays at a step: the average spans the last tenth of the training."""
    return 1 - 1 / min(1 + step / 10, LONGEST_AVERAGE)
