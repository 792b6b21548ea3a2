"""How the training child is started and followed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from medml.errors import MedmlError
from medml.records.plan import Epoch
from pipelines.child import read_epochs, run_training, thread_environment
from pipelines.progress import progress_bar


def test_a_half_written_epoch_waits_for_the_next_look(tmp_path: Path) -> None:
    epoch = Epoch(epoch=1, step=5, seconds=1.0, learning_rate=0.1, metrics={"train_loss": 0.5}, best=True)
    path = tmp_path / "epochs.jsonl"
    assert read_epochs(path) == []
    path.write_text(epoch.model_dump_json() + "\n" + epoch.model_dump_json()[:20])
    assert read_epochs(path) == [epoch]


def test_threads_are_between_one_and_the_cores_and_a_users_choice_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert 1 <= int(thread_environment()["OMP_NUM_THREADS"]) <= len(os.sched_getaffinity(0))
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert thread_environment()["OMP_NUM_THREADS"] == "7"


def test_a_child_that_fails_is_reported_with_its_last_words(tmp_path: Path) -> None:
    job = {name: str(tmp_path / name) for name in ("dataset", "plan", "scans", "cache", "run")}
    (tmp_path / "job.json").write_text(json.dumps({**job, "fold": 0}))
    with progress_bar("training") as bar, pytest.raises(MedmlError, match=r"training stopped with exit code \d+: .+"):
        run_training(tmp_path, on_epochs=lambda epochs: None, bar=bar)
