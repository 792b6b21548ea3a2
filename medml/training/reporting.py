"""What a training says while it runs: how far it is, a line for some steps, and a line per finished epoch."""

from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path

from medml.io.files import write_text
from medml.records.plan import Epoch, Point
from medml.records.record import Record

SECONDS_BETWEEN = 1.0
MOST_POINTS = 1000


class Reporter:
    """Writes ``epochs.jsonl``, ``steps.jsonl`` and ``progress.json`` of a run folder.

    Parameters
    ----------
    active : bool
        False in all but the first process of a distributed training, which are silent.
    """

    def __init__(self, run: Path, *, active: bool = True) -> None:
        self._run, self._active = run, active
        self._last = float("-inf")
        self._steps: list[dict[str, float]] = []

    def progress(
        self,
        phase: str,
        step: int,
        total: int,
        *,
        loss: float | None = None,
        eta: float | None = None,
        force: bool = False,
    ) -> None:
        """Say how far the work is, at most once a second; ``eta`` in seconds."""
        now = time.monotonic()
        if not self._active or (now - self._last < SECONDS_BETWEEN and not force):
            return
        self._last = now
        state = {"phase": phase, "step": step, "total": total, "loss": loss, "eta": eta}
        fresh = self._run / f".progress.{os.getpid()}.tmp"
        fresh.write_text(json.dumps(state), encoding="utf-8")
        os.replace(fresh, self._run / "progress.json")  # not fsynced: a display, of no use after a crash

    def step(self, step: int, total: int, seconds: float, metrics: dict[str, float]) -> None:
        """Take in one step; a line of means is written every so many steps that there are about a thousand in all."""
        self._steps.append(metrics)
        every = max(1, math.ceil(total / MOST_POINTS))
        if step % every and step < total:
            return
        means = {name: sum(each[name] for each in self._steps) / len(self._steps) for name in metrics}
        finite = {name: value for name, value in means.items() if math.isfinite(value)}
        self._steps.clear()
        if self._active:
            with (self._run / "steps.jsonl").open("a", encoding="utf-8") as lines:
                lines.write(Point(step=step, seconds=round(seconds, 3), metrics=finite).model_dump_json() + "\n")

    def epoch(self, epoch: Epoch) -> None:
        """Append one finished epoch."""
        if not self._active:
            return
        with (self._run / "epochs.jsonl").open("a", encoding="utf-8") as lines:
            lines.write(epoch.model_dump_json() + "\n")
            lines.flush()
            os.fsync(lines.fileno())

    def forget_after(self, *, epoch: int, step: int) -> None:
        """Drop lines of what will be trained again, and what a kill left half written."""
        if self._active:
            _keep_lines(self._run / "epochs.jsonl", Epoch, "epoch", epoch)
            _keep_lines(self._run / "steps.jsonl", Point, "step", step)


def _keep_lines(path: Path, kind: type[Record], key: str, last: int) -> None:
    if not path.exists():
        return
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1].splitlines(keepends=True)
    write_text(path, "".join(line for line in whole if getattr(kind.model_validate_json(line), key) <= last))
