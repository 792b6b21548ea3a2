"""Batches drawn ahead are those of their steps, in a thread that ends."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from medml.errors import MedmlError
from medml.training.batches import Batch
from medml.training.supply import Supply


class Drawing:
    """Draws batches that hold their own step, and remembers which."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.steps: list[int] = []
        self._seconds = seconds

    def __call__(self, step: int) -> Batch:
        time.sleep(self._seconds)
        self.steps.append(step)
        if step == 9:
            raise MedmlError("the batch of step 9 cannot be drawn")
        return Batch(torch.full((1, 1, 1, 1, 1), float(step)), torch.zeros(1), (str(step),))


def test_each_step_gets_its_own_batch_also_after_a_jump() -> None:
    with Supply(Drawing()) as supply:
        assert [supply.take(step).cases[0] for step in (3, 4, 5, 1, 2)] == ["3", "4", "5", "1", "2"]


def test_no_more_are_drawn_ahead_than_memory_is_meant_for() -> None:
    drawing = Drawing()
    with Supply(drawing, ahead=2) as supply:
        supply.take(0)
        time.sleep(0.2)
        assert drawing.steps == [0, 1, 2, 3]  # two wait, one more is in hand


def test_what_drawing_raises_reaches_the_one_who_takes() -> None:
    with Supply(Drawing()) as supply:
        supply.take(8)
        with pytest.raises(MedmlError, match="step 9 cannot be drawn"):
            supply.take(9)


def test_the_thread_ends_with_the_supply() -> None:
    supply = Supply(Drawing())
    supply.take(0)
    supply.close()
    supply.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "batches"]
    assert supply.take(5).cases == ("5",)
    supply.close()


def test_the_share_of_waiting_is_measured() -> None:
    with Supply(Drawing(seconds=0.05)) as slow:
        assert slow.share_waited() == 0.0
        for step in range(4):
            slow.take(step)
        assert slow.share_waited() > 0.8
    with Supply(Drawing()) as fast:
        fast.take(0)
        time.sleep(0.3)
        fast.take(1)
        assert fast.share_waited() < 0.3
