"""The training loop: steps, epochs, validation, checkpoints. It knows no tracker and no scheduler."""

from __future__ import annotations

import logging
import math
import time
from pathlib import Path
from typing import Any

import torch

from medml.errors import MedmlError
from medml.networks.build import build_network
from medml.networks.precision import choose_precision
from medml.records.dataset import Case, Dataset
from medml.records.plan import Epoch, Plan
from medml.training.average import Weights
from medml.training.batches import Batches
from medml.training.cache import Store
from medml.training.changes import make_lesson
from medml.training.checkpoints import load_checkpoint, note_pieces, noted_pieces, save_checkpoint
from medml.training.compilation import Compilation
from medml.training.learner import Learned, Learner, MemoryShortError
from medml.training.pictures import TIMES, draw_examples
from medml.training.processes import Processes
from medml.training.reporting import Reporter
from medml.training.schedule import expected_steps, learning_rate, progress
from medml.training.stopping import StopSignal
from medml.training.supply import Supply
from medml.training.validation import Scores, validate, validation_cases

logger = logging.getLogger(__name__)

FORMAT = 2
SECONDS_BETWEEN_SAVES = 60.0
SECONDS_BETWEEN_PICTURES = 20.0
NUMBERS = (
    "step",
    "epoch",
    "seconds",
    "best_score",
    "best_loss",
    "stale",
    "drawn",
    "drawn_at",
    "loss_sum",
    "loss_count",
)


class Training:
    """One training: everything that a checkpoint holds, and the steps that change it.

    Parameters
    ----------
    run : Path
        Receives ``epochs.jsonl``, ``steps.jsonl``, ``progress.json``, ``pictures/`` and checkpoints; a checkpoint that
        is there is gone on from.
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
        self.supply = Supply(self.batches.draw, pin=device.type == "cuda")
        self.watched: tuple[Case, ...] = validation_cases(dataset.cases_of("validation", fold=fold), plan)
        self.reporter = Reporter(run, active=self.processes.first)
        self.learner = Learner(plan, device=device, precision=self.precision, processes=self.processes)
        self.compilation = Compilation(self.learner)
        # A second network, never trained, carries the averaged weights where they are tried.
        self.judged = build_network(plan).to(device)
        self.step, self.epoch, self.seconds = 0, 0, 0.0
        self.best_score, self.best_loss, self.stale, self.drawn = -math.inf, math.inf, 0, 0
        self.drawn_at = -math.inf
        self.best: Weights = {}
        self.loss_sum, self.loss_count = 0.0, 0
        self._resume()

    def run(self) -> Weights:
        """Train to the end of the budget, or until validation stops getting better; return the best weights."""
        self.reporter.forget_after(epoch=self.epoch, step=self.step)
        self._clock = self._saved = time.monotonic()
        with self.supply:
            while not self._finished():
                self._train_epoch()
                self._close_epoch()
        return self.best or self.learner.average.values

    def _finished(self) -> bool:
        over = self.epoch >= self.plan.epochs or self._done() >= 1.0 or self.stale >= self.plan.patience
        return bool(self.processes.agree([float(over)], self.device)[0])

    def _done(self) -> float:
        return progress(self.plan, self.step, self.seconds)

    def _train_epoch(self) -> None:
        end = (self.epoch + 1) * self.plan.steps_per_epoch
        while self.step < end:
            self._tick()
            done = self._agree_to_go_on()
            if done >= 1.0:
                return
            if time.monotonic() - self._saved > SECONDS_BETWEEN_SAVES:
                self._save()
            self._train_step(done)

    def _agree_to_go_on(self) -> float:
        """Return the first process's share done; save and leave if any process was told to stop."""
        own = self._done() if self.processes.first else 0.0
        number, done = self.processes.largest([float(self.stop.received), own], self.device)
        if number:
            self._save()
            raise SystemExit(128 + int(number))
        return done

    def _train_step(self, done: float) -> None:
        start = time.perf_counter()
        batch = self.supply.take(self.step)
        waited = time.perf_counter() - start
        lesson = make_lesson(batch, self.plan, step=self.step, device=self.device)
        self.compilation.consider(lesson, step=self.step, seconds_left=self._seconds_left(done))
        rate = learning_rate(self.plan, self.step, done)
        try:
            learned = self.learner.learn(lesson, step=self.step, rate=rate)
        except MemoryShortError:
            note_pieces(self.run_folder, self.learner.pieces)
            raise
        self.step += 1
        self.loss_sum, self.loss_count = self.loss_sum + learned.loss, self.loss_count + 1
        self._report_step(learned, rate, done, waited=waited / (time.perf_counter() - start))

    def _report_step(self, learned: Learned, rate: float, done: float, *, waited: float) -> None:
        total = expected_steps(self.plan, self.step, done)
        left = self.seconds / max(self.step, 1) * (total - self.step)
        self.reporter.progress("train", self.step, total, loss=round(learned.loss, 5), eta=round(left, 1))
        figures = {"loss": learned.loss, "learning_rate": rate, "gradient": learned.gradient, "data_wait": waited}
        self.reporter.step(self.step, total, self.seconds, figures)

    def _seconds_left(self, done: float) -> float:
        return self.seconds / done * (1 - done) if done > 0 else 0.0

    def _close_epoch(self) -> None:
        waited = self.supply.share_waited()
        scores, note = self._validate(), ""
        self.epoch += 1
        keep = scores.score >= max(self.best_score, scores.score) - scores.error
        better = scores.score > self.best_score or scores.loss < self.best_loss
        self.best_score, self.best_loss = max(self.best_score, scores.score), min(self.best_loss, scores.loss)
        # What cannot be told from the best, for want of cases, is no sign that nothing more will be learned.
        self.stale = 0 if better or (keep and scores.error > 0) else self.stale + 1
        if keep:
            self.best = self.learner.average.snapshot()
        self._draw_examples()
        self._tick()
        metrics = {"train_loss": self.loss_sum / max(self.loss_count, 1), "data_wait": waited, **scores.metrics}
        self.loss_sum, self.loss_count = 0.0, 0
        if self.stale >= self.plan.patience:
            note = f"stopped: no better validation in {self.stale} epochs"
        elif self._done() >= 1.0:
            note = "stopped: the budget is used"
        self.reporter.epoch(
            Epoch(
                epoch=self.epoch,
                step=self.step,
                seconds=round(self.seconds, 3),
                learning_rate=self.learner.optimiser.param_groups[0]["lr"],
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
            self.judged.load_state_dict(self.learner.average.values)
            scores = validate(
                self.judged,
                self.watched,
                self.store,
                self.plan,
                device=self.device,
                precision=self.precision,
                between=self._stop_if_asked if self.processes.world == 1 else lambda: None,
            )
        values = self.processes.agree([scores.score, scores.error, scores.loss], self.device)
        return Scores(scores.metrics, values[0], values[1], values[2])

    def _stop_if_asked(self) -> None:
        self._agree_to_go_on()

    def _draw_examples(self) -> None:
        """Draw what the network says: after the first epoch, and whenever another tenth of the training is over."""
        due = 1 + int(TIMES * self._done())
        if self.drawn >= due or self.seconds - self.drawn_at < SECONDS_BETWEEN_PICTURES:
            return
        self.drawn, self.drawn_at = due, self.seconds
        if self.processes.first:
            draw_examples(
                self.judged,
                self.watched,
                self.store,
                self.plan,
                run=self.run_folder,
                epoch=self.epoch,
                device=self.device,
            )

    def _tick(self) -> None:
        now = time.monotonic()
        self.seconds += now - self._clock
        self._clock = now

    def _save(self) -> None:
        self._saved = time.monotonic()
        if self.processes.first:
            save_checkpoint(self.run_folder, self._state())

    def _state(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "network": self.plan.network,
            "numbers": {name: getattr(self, name) for name in NUMBERS},
            "threads": torch.get_num_threads(),
            "compiled": self.compilation.decided,
            "best": self.best,
            **self.learner.state(),
        }

    def _resume(self) -> None:
        self.learner.pieces = max(self.learner.pieces, min(noted_pieces(self.run_folder), self.learner.most_pieces))
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
        self.learner.load(state)
        self.compilation.take_over(state["compiled"])
        self.best = {name: value.to(self.device) for name, value in state["best"].items()}
        if self.plan.deterministic:
            torch.set_num_threads(state["threads"])  # sums are made in as many parts as before
        logger.info("going on at step %d of epoch %d", self.step, self.epoch + 1)
