"""Trainings that end in the very same weights: twice, killed and gone on with, in one process and in two."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import socket
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch

from medml.training.checkpoints import load_checkpoint

WriteJob = Callable[..., Path]
LOADED_ONCE = multiprocessing.get_context("forkserver")
LOADED_ONCE.set_forkserver_preload(["medml.training.job", "torch._dynamo"])  # optimisers import the latter


def train_here(job: str, rank: int, world: int, port: int) -> None:
    from medml.training.job import main

    torch.set_num_threads(1)
    if world > 1:
        place = {"RANK": rank, "WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ.update({key: str(value) for key, value in place.items()})
    raise SystemExit(main([job]))


def start(job: Path, rank: int = 0, world: int = 1, port: int = 0) -> BaseProcess:
    child = LOADED_ONCE.Process(target=train_here, args=(str(job), rank, world, port))
    child.start()
    return child


def finish(*children: BaseProcess) -> None:
    for child in children:
        child.join(250)
    assert [child.exitcode for child in children] == [0] * len(children)


def changed(phantoms: Any, **plan: Any) -> Any:
    return type(phantoms)(phantoms.home, phantoms.dataset, phantoms.plan.model_copy(update=plan))


def trained_state(run: Path) -> dict[str, torch.Tensor]:
    """Return every tensor that a training ended with, by name."""
    state = load_checkpoint(run)
    assert state is not None
    moments = state["optimiser"]["state"]
    tensors = {f"{part} {name}": state[part][name] for part in ("weights", "average", "best") for name in state[part]}
    return tensors | {f"{kind} {index}": moments[index][kind] for index in moments for kind in moments[index]}


def figures(run: Path) -> list[dict[str, Any]]:
    epochs = [json.loads(line) for line in (run / "epochs.jsonl").read_text().splitlines()]
    for epoch in epochs:
        del epoch["seconds"], epoch["metrics"]["data_wait"]
    return epochs


def losses(run: Path) -> list[tuple[int, float]]:
    points = [json.loads(line) for line in (run / "steps.jsonl").read_text().splitlines()]
    return [(point["step"], point["metrics"]["loss"]) for point in points]


def steps_done(run: Path) -> int:
    lines = run / "steps.jsonl"
    return lines.read_text().count("\n") if lines.exists() else 0


@pytest.mark.parametrize("kills", [3, pytest.param(30, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])])
def test_a_training_killed_again_and_again_ends_in_the_weights_of_an_unbroken_one(
    blocks: Any, write_job: WriteJob, kills: int
) -> None:
    wanted = changed(blocks, deterministic=True, epochs=10, minutes=1e-6)  # deterministic: minutes do not count
    whole, broken = write_job(wanted, "whole"), write_job(wanted, "broken")
    finish(start(whole))
    moments, ends_of = random.Random(kills), []
    for step in sorted(moments.choices(range(25), k=kills)):
        child = start(broken)
        while child.is_alive() and steps_done(broken.parent) < step:
            time.sleep(0.002)
        time.sleep(moments.uniform(0, 0.05))
        child.kill()
        child.join()
        ends_of.append(child.exitcode)
    assert -signal.SIGKILL in ends_of
    finish(start(broken))
    ends = trained_state(whole.parent), trained_state(broken.parent)
    assert ends[0].keys() == ends[1].keys()
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    assert figures(whole.parent) == figures(broken.parent)
    assert losses(whole.parent) == losses(broken.parent)
    assert [step for step, _ in losses(whole.parent)] == list(range(1, 31))
    assert figures(whole.parent)[-1]["note"] == "stopped: the budget is used"


@pytest.mark.parametrize("changes", [{"batch": 3}, {"batch": 4, "accumulate": 2}])
def test_two_processes_have_the_losses_of_one_with_the_same_batch(
    blocks: Any, write_job: WriteJob, changes: dict[str, int]
) -> None:
    wanted = changed(blocks, **changes)
    alone, together = write_job(wanted, "alone"), write_job(wanted, "together")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    finish(start(alone))
    finish(*(start(together, rank, 2, port) for rank in range(2)))
    curves = losses(alone.parent), losses(together.parent)
    assert [step for step, _ in curves[0]] == [step for step, _ in curves[1]] == list(range(1, 13))
    assert [loss for _, loss in curves[0]] == pytest.approx([loss for _, loss in curves[1]], abs=1e-4)
    last = figures(alone.parent)[-1]["metrics"], figures(together.parent)[-1]["metrics"]
    assert last[0] == pytest.approx(last[1], abs=1e-3)
