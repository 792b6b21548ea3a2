"""What a training says while it runs: a line per finished epoch, and how far it is every second."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from medml.io.files import write_text
from medml.records.plan import Epoch

SECONDS_BETWEEN = 1.0


class Reporter:
    """Writes ``epochs.jsonl`` and ``progress.json`` of a run folder; silent in all processes but the first.

    Parameters
    ----------
    active : bool
        False in all but the first process of a distributed training.
    """

    def __init__(self, run: Path, *, active: bool = True) -> None:
        self._run, self._active = run, active
        self._last = float("-inf")

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

    def epoch(self, epoch: Epoch) -> None:
        """Append one finished epoch."""
        if not self._active:
            return
        with (self._run / "epochs.jsonl").open("a", encoding="utf-8") as lines:
            lines.write(epoch.model_dump_json() + "\n")
            lines.flush()
            os.fsync(lines.fileno())

    def forget_after(self, epoch: int) -> None:
        """Drop lines of epochs that will be trained again, and what a kill left half written."""
        path = self._run / "epochs.jsonl"
        if not self._active or not path.exists():
            return
        text = path.read_text(encoding="utf-8")
        whole = text[: text.rfind("\n") + 1].splitlines(keepends=True)
        write_text(path, "".join(line for line in whole if json.loads(line)["epoch"] <= epoch))
