"""Whether torch.compile pays: tried on the training's own step, kept only if it is faster."""

from __future__ import annotations

import copy
import logging
import statistics
import time

import torch
from torch import nn

from medml.training.changes import Lesson
from medml.training.learner import Learner

logger = logging.getLogger(__name__)

# Seconds left; compiling takes one to two minutes on a CPU and some tens of seconds with a GPU.
WORTH_TRYING = {"cpu": 2700.0, "cuda": 600.0}
TRY_AT = 10  # steps made, so that the machine has settled
REPEATS = 3
LEAST_GAIN = 0.03


class Compilation:
    """A training's decision about torch.compile, made once and kept in its checkpoints.

    Attributes
    ----------
    decided : str
        "open", "kept" or "dropped".
    """

    def __init__(self, learner: Learner) -> None:
        self._learner = learner
        self.decided = "open"
        # Compiled code may add in another order, and a timing may decide differently in a second run.
        if learner.plan.compile == "never" or learner.plan.deterministic or learner.processes.world > 1:
            self.decided = "dropped"

    def take_over(self, decided: str) -> None:
        """Go on with what an earlier run of the training decided."""
        if self.decided == "open":
            self.decided = decided
        if self.decided == "kept":
            self._learner.runner = _compiled(self._learner.trained)

    def consider(self, lesson: Lesson, *, step: int, seconds_left: float) -> None:
        """Decide, when the time has come; a compiler that fails or is not there leaves everything as it was."""
        learner = self._learner
        long_enough = seconds_left >= WORTH_TRYING[learner.device.type]
        if self.decided != "open" or step < TRY_AT or not (long_enough or learner.plan.compile == "always"):
            return
        self.decided = "dropped"
        kept = copy.deepcopy(dict(learner.trained.named_buffers()))
        plain = _seconds(learner, lesson)
        learner.runner = _compiled(learner.trained)
        try:
            _seconds(learner, lesson, repeats=1)
            fast = _seconds(learner, lesson)
        except Exception as error:  # a compiler fails in ways of its own: no C++ compiler, an operation it lacks
            learner.runner = learner.trained
            logger.info("torch.compile cannot be used here (%s); going on without", type(error).__name__)
            return
        finally:
            learner.optimiser.zero_grad(set_to_none=True)
            for name, value in learner.trained.named_buffers():
                value.copy_(kept[name])
        gain = 1 - fast / plain
        if gain >= LEAST_GAIN:
            self.decided = "kept"
        else:
            learner.runner = learner.trained
        logger.info("torch.compile: %.3f s a step, %.3f s without; %s", fast, plain, self.decided)


def _compiled(network: nn.Module) -> nn.Module:
    compiled: nn.Module = torch.compile(network, dynamic=False)  # type: ignore[assignment]
    return compiled


def _seconds(learner: Learner, lesson: Lesson, *, repeats: int = REPEATS) -> float:
    """Return the median time of a step's forward and backward pass."""
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        float(learner.backward(lesson))
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)
