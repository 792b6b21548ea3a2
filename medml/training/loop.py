"""The training loop: steps, epochs, validation, checkpoints. It knows no tracker and no scheduler."""

from __future__ import annotations

import logging
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from medml.errors import MedmlError
from medml.networks.build import build_network, run_network
from medml.networks.precision import autocast, choose_precision
from medml.records.dataset import Case, Dataset
from medml.records.plan import Epoch, Plan
from medml.training.batches import Batch, Batches
from medml.training.cache import Store
from medml.training.checkpoints import load_checkpoint, save_checkpoint
from medml.training.convolutions import guard_thin_volumes
from medml.training.guide import GuidedNetwork, guide_loss
from medml.training.losses import build_loss
from medml.training.processes import Processes
from medml.training.reporting import Reporter
from medml.training.schedule import average_decay, expected_steps, learning_rate, progress
from medml.training.stopping import StopSignal
from medml.training.validation import Scores, validate, validation_cases
from medml.transforms.augmentation import augment, mix

logger = logging.getLogger(__name__)

FORMAT = 1
SECONDS_BETWEEN_SAVES = 60.0
LARGEST_GRADIENT = 1.0
MOST_SKIPPED = 20
State = dict[str, Any]
Targets = list[tuple[float, torch.Tensor]]


class Training:
    """One training: everything that a checkpoint holds, and the steps that change it.

    Parameters
    ----------
    run : Path
        Receives ``epochs.jsonl``, ``progress.json`` and checkpoints; a checkpoint that is there is gone on from.
    """

    def __init__(
        self,
        dataset: Dataset,
        plan: Plan,
        store: Store,
        *,
        fold: int,
        run: Path,
        device: torch.device,
        stop: StopSignal,
        processes: Processes | None = None,
    ) -> None:
        self.plan, self.store, self.run_folder, self.device, self.stop = plan, store, run, device, stop
        self.processes = processes or Processes()
        self.precision = choose_precision(device, plan.precision)
        self.batches = Batches(
            dataset.cases_of("train", fold=fold),
            store,
            plan,
            rank=self.processes.rank,
            world=self.processes.world,
        )
        self.watched: tuple[Case, ...] = validation_cases(dataset.cases_of("validation", fold=fold), plan)
        self.reporter = Reporter(run, active=self.processes.first)
        self._build()
        self.step, self.epoch, self.seconds = 0, 0, 0.0
        self.best_score, self.best_loss, self.stale, self.skipped = -math.inf, math.inf, 0, 0
        self.best: dict[str, torch.Tensor] = {}
        self.loss_sum, self.loss_count = 0.0, 0
        self.pieces = 1
        self._resume()

    def run(self) -> dict[str, torch.Tensor]:
        """Train to the end of the budget, or until validation stops getting better; return the best weights."""
        self.reporter.forget_after(self.epoch)
        self._clock = self._saved = time.monotonic()
        while not self._finished():
            self._train_epoch()
            self._close_epoch()
        return self.best or self.average

    def _build(self) -> None:
        plan = self.plan
        torch.manual_seed(plan.seed)
        network = build_network(plan).to(self.device)
        if self.device.type == "cpu" and self.precision != "fp32":
            guard_thin_volumes(network)
        self.network = network
        self.trained: nn.Module = GuidedNetwork(network, plan, self.device) if plan.guided else network
        self.parallel: nn.Module = self.trained
        if self.processes.world > 1:
            self.parallel = nn.parallel.DistributedDataParallel(self.trained)
        # Weights are averaged as plain tensors; a second network, never trained, carries them where they are tried.
        self.average = {name: value.detach().clone() for name, value in network.state_dict().items()}
        self.judged = build_network(plan).to(self.device)
        self.loss = build_loss(plan, self.device)
        self.optimiser = torch.optim.AdamW(
            self.trained.parameters(), lr=plan.learning_rate, weight_decay=plan.weight_decay, foreach=True
        )
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")

    def _finished(self) -> bool:
        done = progress(self.plan, self.step, self.seconds)
        over = self.epoch >= self.plan.epochs or done >= 1.0 or self.stale >= self.plan.patience
        return bool(self.processes.agree(float(over), self.device))

    def _train_epoch(self) -> None:
        end = (self.epoch + 1) * self.plan.steps_per_epoch
        self.parallel.train()
        while self.step < end:
            self._tick()
            self._stop_if_asked()
            done = self.processes.agree(progress(self.plan, self.step, self.seconds), self.device)
            if done >= 1.0:
                return
            if time.monotonic() - self._saved > SECONDS_BETWEEN_SAVES:
                self._save()
            self._train_step(done)

    def _stop_if_asked(self) -> None:
        """Save and leave if this or another process was told to."""
        number = int(self.processes.any(float(self.stop.received), self.device))
        if number:
            self._save()
            raise SystemExit(128 + number)

    def _train_step(self, done: float) -> None:
        batch = self.batches.draw(self.step)
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.plan, self.step, done)
        loss = self._gradients(batch)
        if not math.isfinite(self.processes.any(loss, self.device)):
            raise MedmlError(
                f"the loss became {loss} at step {self.step} (cases {', '.join(sorted(set(batch.cases)))}); expected a "
                "finite number: look at these cases or lower plan.learning_rate. The last checkpoint is kept"
            )
        self._update(batch)
        self.step += 1
        self.loss_sum, self.loss_count = self.loss_sum + loss, self.loss_count + 1
        total = expected_steps(self.plan, self.step, done)
        left = self.seconds / max(self.step, 1) * (total - self.step)
        self.reporter.progress("train", self.step, total, loss=round(loss, 5), eta=round(left, 1))

    def _gradients(self, batch: Batch) -> float:
        """Add up gradients over the batch, in as many pieces as memory asks for; return the mean loss."""
        while True:
            self.optimiser.zero_grad(set_to_none=True)
            try:
                return self._try_gradients(batch)
            except torch.OutOfMemoryError:
                if self.pieces >= len(batch.images) or self.processes.world > 1:
                    raise MedmlError(
                        f"{self.device}: out of memory with {-(-len(batch.images) // self.pieces)} cases of "
                        f"{tuple(batch.images.shape[2:])} voxels at a time; set a smaller plan.batch, plan.patch or "
                        "plan.size, or a smaller network"
                    ) from None
                self.pieces = min(2 * self.pieces, len(batch.images))
                logger.warning("out of memory on %s; going on with batches in %d pieces", self.device, self.pieces)
            torch.cuda.empty_cache()

    def _try_gradients(self, batch: Batch) -> float:
        images, targets, masks = self._changed(batch)
        total = 0.0
        for place in torch.arange(len(images)).chunk(self.pieces):
            part = slice(int(place[0]), int(place[-1]) + 1)
            with autocast(self.device, self.precision):
                scores = run_network(self.parallel, images[part], self.plan)
            drawn = None
            if self.plan.guided:
                scores, drawn = scores
            scores = scores.float()
            loss = torch.stack([share * self.loss(scores, target[part]) for share, target in targets]).sum()
            if drawn is not None and masks is not None:
                loss = loss + guide_loss(drawn, masks[part])
            loss = loss * (len(place) / len(images))
            self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        return total

    @torch.no_grad()
    def _changed(self, batch: Batch) -> tuple[torch.Tensor, Targets, torch.Tensor | None]:
        """Return the batch on the device, randomly changed: images, targets with their shares, and masks."""
        plan, segment = self.plan, self.plan.task == "segment"
        images = batch.images.to(self.device, non_blocking=True)
        target = batch.target.to(self.device, non_blocking=True)
        masks = target if segment else batch.masks
        masks = None if masks is None else masks.to(self.device, non_blocking=True)
        step = self.step * self.processes.world + self.processes.rank
        images, masks = augment(images, masks, plan.augmentation, spacing_mm=plan.spacing_mm, seed=plan.seed, step=step)
        if segment and masks is not None:
            return images, [(1.0, masks)], None
        if plan.guided or plan.augmentation.mix <= 0:
            return images, [(1.0, target)], masks
        images, order, share = mix(images, plan.augmentation.mix, seed=plan.seed, step=step)
        return images, [(share, target), (1 - share, target[order])], None

    def _update(self, batch: Batch) -> None:
        """Move the weights; a step whose gradients overflow is left out, too many in a row end the training."""
        self.scaler.unscale_(self.optimiser)
        size = nn.utils.clip_grad_norm_(self.trained.parameters(), LARGEST_GRADIENT)
        finite = bool(torch.isfinite(size))
        self.skipped = 0 if finite else self.skipped + 1
        if self.skipped > MOST_SKIPPED:
            raise MedmlError(
                f"gradients were not finite in {self.skipped} steps in a row, last at step {self.step} (cases "
                f"{', '.join(sorted(set(batch.cases)))}); lower plan.learning_rate or set plan.precision to fp32"
            )
        if finite:
            self.scaler.step(self.optimiser)
        self.scaler.update()
        self._average_weights()

    @torch.no_grad()
    def _average_weights(self) -> None:
        share = 1 - average_decay(self.step)
        current = self.network.state_dict()
        moving = [name for name, value in self.average.items() if value.is_floating_point()]
        torch._foreach_lerp_([self.average[n] for n in moving], [current[n] for n in moving], share)
        for name in current.keys() - set(moving):
            self.average[name].copy_(current[name])

    def _close_epoch(self) -> None:
        scores, note = self._validate(), ""
        self.epoch += 1
        keep = scores.score >= max(self.best_score, scores.score) - scores.error
        better = scores.score > self.best_score or scores.loss < self.best_loss
        self.best_score, self.best_loss = max(self.best_score, scores.score), min(self.best_loss, scores.loss)
        self.stale = 0 if better else self.stale + 1
        if keep:
            self.best = {name: value.detach().clone() for name, value in self.average.items()}
        self._tick()
        metrics = {"train_loss": self.loss_sum / max(self.loss_count, 1), **scores.metrics}
        self.loss_sum, self.loss_count = 0.0, 0
        if self.stale >= self.plan.patience:
            note = f"stopped: no better validation in {self.stale} epochs"
        elif progress(self.plan, self.step, self.seconds) >= 1.0:
            note = "stopped: the budget is used"
        self.reporter.epoch(
            Epoch(
                epoch=self.epoch,
                step=self.step,
                seconds=round(self.seconds, 3),
                learning_rate=self.optimiser.param_groups[0]["lr"],
                metrics=metrics,
                best=keep,
                note=note,
            )
        )
        self._save()

    def _validate(self) -> Scores:
        """Try the averaged weights, in the first process; the others take over what it found."""
        scores = Scores({}, 0.0, math.inf, math.inf)
        if self.processes.first:
            self.judged.load_state_dict(self.average)
            scores = validate(
                self.judged,
                self.watched,
                self.store,
                self.plan,
                device=self.device,
                precision=self.precision,
                between=self._stop_if_asked if self.processes.world == 1 else lambda: None,
            )
        values = [self.processes.agree(value, self.device) for value in (scores.score, scores.error, scores.loss)]
        return Scores(scores.metrics, values[0], values[1], values[2])

    def _tick(self) -> None:
        now = time.monotonic()
        self.seconds += now - self._clock
        self._clock = now

    def _save(self) -> None:
        self._saved = time.monotonic()
        if self.processes.first:
            save_checkpoint(self.run_folder, self._state())

    def _state(self) -> State:
        numbers = ("step", "epoch", "seconds", "best_score", "best_loss", "stale", "skipped", "loss_sum", "loss_count")
        return {
            "format": FORMAT,
            "network": self.plan.network,
            "numbers": {name: getattr(self, name) for name in numbers},
            "pieces": self.pieces,
            "weights": self.trained.state_dict(),
            "average": self.average,
            "best": self.best,
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.scaler.state_dict(),
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
        }

    def _resume(self) -> None:
        state = load_checkpoint(self.run_folder)
        if state is None:
            return
        if state.get("format") != FORMAT or state.get("network") != self.plan.network:
            raise MedmlError(
                f"{self.run_folder}: its checkpoint is of format {state.get('format')} and network "
                f"{state.get('network')}, expected {FORMAT} and {self.plan.network}; train into a new run folder"
            )
        for name, value in state["numbers"].items():
            setattr(self, name, value)
        self.pieces = state["pieces"]
        self.trained.load_state_dict(state["weights"])
        for name, value in self.average.items():
            value.copy_(state["average"][name])
        self.best = {name: value.to(self.device) for name, value in state["best"].items()}
        self.optimiser.load_state_dict(state["optimiser"])
        self.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["random"])
        if state["random_cuda"] is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["random_cuda"], self.device)
        logger.info("going on at step %d of epoch %d", self.step, self.epoch + 1)
