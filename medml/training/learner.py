"""What learns: a network, the average of its weights and its optimiser, and one step of them."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from medml.errors import MedmlError
from medml.networks.build import build_network, run_network
from medml.networks.precision import Precision, autocast
from medml.networks.pretrained import Taken, begin_with
from medml.records.plan import Plan
from medml.training.average import Average
from medml.training.changes import Lesson
from medml.training.convolutions import guard_thin_volumes, quicken_narrow
from medml.training.guide import GuidedNetwork, guide_loss
from medml.training.losses import build_loss
from medml.training.optimisers import build_optimiser
from medml.training.processes import Processes

logger = logging.getLogger(__name__)

MOST_SKIPPED = 20


class MemoryShortError(MedmlError):
    """One of several processes is out of memory; they go on from the checkpoint with smaller pieces."""


@dataclass(frozen=True, slots=True)
class Learned:
    """The loss of a step, over all processes, and the length of its gradient before clipping."""

    loss: float
    gradient: float


class Learner:
    """A network in training.

    Attributes
    ----------
    network : Module
        What is packaged in the end. ``trained`` may add heads that only training needs, ``runner`` is how it is run:
        alone, together with other processes, or compiled.
    average : Average
    pieces : int
        A batch is worked through in so many pieces; doubled when memory runs out.
    """

    def __init__(self, plan: Plan, *, device: torch.device, precision: Precision, processes: Processes) -> None:
        self.plan, self.device, self.precision, self.processes = plan, device, precision, processes
        torch.manual_seed(plan.seed)
        network = build_network(plan).to(device)
        layout = memory_layout(plan, device, precision)
        if layout is not None:
            network = network.to(memory_format=layout)  # type: ignore[call-overload]
        if device.type == "cpu" and precision != "fp32":
            guard_thin_volumes(network)
        if device.type == "cpu":
            quicken_narrow(network)
        if device.type == "cuda" and processes.world > 1:
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        self.network = network
        self.trained: nn.Module = GuidedNetwork(network, plan, device) if plan.guided else network
        self.runner: nn.Module = self.trained.train()
        if processes.world > 1:
            self.runner = nn.parallel.DistributedDataParallel(self.trained)
        self.average = Average(network, plan.average_span)
        self.loss = build_loss(plan, device, processes)
        self.optimiser = build_optimiser(plan, self.trained.parameters())
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
        self.size = max(plan.batch, processes.world)
        self.most_pieces = self.size // processes.world
        self.pieces, self.skipped = min(plan.accumulate, self.most_pieces), 0

    def begin_with(self, weights: Path) -> Taken:
        """Start from weights of another training, as far as they fit; before the first step."""
        taken = begin_with(self.network, weights, self.plan)
        self.average = Average(self.network, self.plan.average_span)
        return taken

    def learn(self, lesson: Lesson, *, step: int, rate: float) -> Learned:
        """Make one step.

        Raises
        ------
        MedmlError
            If the loss is no finite number, gradients were none too often, or memory is short for a single case.
            Weights are then as they were before the step.
        """
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        # Dropout follows from seed, step and process, so that no state of random numbers needs keeping.
        torch.manual_seed((self.plan.seed * 1_000_003 + step) * self.processes.world + self.processes.rank)
        loss = self._gradients(lesson)
        self.scaler.unscale_(self.optimiser)
        length = nn.utils.get_total_norm(value.grad for value in self.trained.parameters() if value.grad is not None)
        learned = Learned(*torch.stack([loss, length.to(loss)]).tolist())  # the one wait for the device in a step
        if not math.isfinite(learned.loss):
            raise MedmlError(
                f"the loss became {learned.loss} at step {step} (cases {_names(lesson)}); expected a finite number: "
                "look at these cases or lower plan.learning_rate. The last checkpoint is kept"
            )
        if self.plan.gradient_clip < learned.gradient < math.inf:  # most are short: not passed over once more
            nn.utils.clip_grads_with_norm_(self.trained.parameters(), self.plan.gradient_clip, length)
        self._update(learned, lesson, step)
        return learned

    def state(self) -> dict[str, Any]:
        """Return all that a checkpoint must hold: tensors and plain values."""
        return {
            "weights": self.trained.state_dict(),
            "average": self.average.values,
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.scaler.state_dict(),
            "pieces": self.pieces,
            "skipped": self.skipped,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.trained.load_state_dict(state["weights"])
        self.average.load(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.scaler.load_state_dict(state["scaler"])
        self.pieces, self.skipped = max(state["pieces"], self.pieces), state["skipped"]

    def _gradients(self, lesson: Lesson) -> torch.Tensor:
        """Add up gradients over the batch, in as many pieces as memory asks for; return the mean loss."""
        while True:
            self.optimiser.zero_grad(set_to_none=True)
            try:
                return self.backward(lesson)
            except torch.OutOfMemoryError:
                self._go_smaller(lesson)
            torch.cuda.empty_cache()

    def backward(self, lesson: Lesson) -> torch.Tensor:
        """Run the batch forth and back, piece by piece; gradients are added, weights stay."""
        total = torch.zeros((), device=self.device)
        for piece, place in enumerate(torch.arange(len(lesson.images)).tensor_split(self.pieces)):
            part = slice(int(place[0]), int(place[-1]) + 1)
            share = self.processes.images_of(self.size, piece, self.pieces) / self.size
            loss = self._loss_of(lesson, part) * share
            self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        return total

    def _loss_of(self, lesson: Lesson, part: slice) -> torch.Tensor:
        with autocast(self.device, self.precision):
            scores = run_network(self.runner, lesson.images[part], self.plan)
        drawn = None
        if self.plan.guided:
            scores, drawn = scores
        scores = scores.float()
        loss = torch.stack([share * self.loss(scores, target[part]) for share, target in lesson.targets]).sum()
        if drawn is not None and lesson.masks is not None:
            loss = loss + guide_loss(drawn, lesson.masks[part])
        return loss

    def _go_smaller(self, lesson: Lesson) -> None:
        """Double the pieces after a piece did not fit into memory."""
        if self.pieces >= self.most_pieces:
            raise MedmlError(
                f"{self.device}: out of memory with {-(-len(lesson.images) // self.pieces)} cases of "
                f"{tuple(lesson.images.shape[2:])} voxels at a time; set a smaller plan.batch, plan.patch or "
                "plan.size, or a smaller network"
            ) from None
        self.pieces = min(2 * self.pieces, self.most_pieces)
        logger.warning("out of memory on %s; going on with batches in %d pieces", self.device, self.pieces)
        if self.processes.world > 1:
            raise MemoryShortError(
                f"{self.device}: out of memory; the other processes wait in vain for this one. Start again: training "
                f"goes on from its checkpoint with batches in {self.pieces} pieces"
            ) from None

    def _update(self, learned: Learned, lesson: Lesson, step: int) -> None:
        """Move the weights; a step whose gradients overflow is left out, too many in a row end the training."""
        finite = math.isfinite(learned.gradient)
        self.skipped = 0 if finite else self.skipped + 1
        if self.skipped > MOST_SKIPPED:
            raise MedmlError(
                f"gradients were not finite in {self.skipped} steps in a row, last at step {step} (cases "
                f"{_names(lesson)}); lower plan.learning_rate or set plan.precision to fp32"
            )
        if finite:
            self.scaler.step(self.optimiser)
        self.scaler.update()
        self.average.update(step)


def memory_layout(plan: Plan, device: torch.device, precision: Precision) -> torch.memory_format | None:
    """Return the order of a network's weights in memory that convolutions run fastest in; None: as it is.

    Channels last pays in 2D in reduced precision (4 to 34 % on a CPU with bf16) and not in 3D on a CPU (fp32 10 %
    slower, bf16 1 %); on CUDA, tensor cores ask for it.
    """
    if plan.dims == 2:
        return torch.channels_last if precision != "fp32" else None
    return torch.channels_last_3d if device.type == "cuda" and precision != "fp32" else None


def _names(lesson: Lesson) -> str:
    return ", ".join(sorted(set(lesson.cases)))
