"""Seconds of one training step, ours beside nnU-Net v2's trainer and MONAI's tutorial loop, loading included.

``python -m benchmarks.training_step [--pairs 7]`` trains on MSD Task04 with 2 threads a side, one iteration of each in
turn, and writes ``benchmarks/results/training_step.json``:

* nnU-Net's own plan of Task04 (patch 40x56x40, batch 9, 32 to 256 features, deep supervision). Ours is the same network
  and loss; both load and augment in the process that trains, so that nobody works in the other's turn.
* The loop of MONAI's spleen tutorial: UNet of 16 to 256 channels, fp32, Adam, CacheDataset and DataLoader with positive
  and negative crops. Ours is the same network, patches and batch; as in the tutorial, crops are all that is random.
* Exactness: the loss in bf16 against fp32 with the same weights, over 20 batches of a training.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.hippocampus import FOLD, RESULTS, ROOT, Hippocampus, prepare
from benchmarks.peers import nnunet_python
from benchmarks.time_to_dice import EXPERIMENT, about, plan_nnunet
from medml.config import load_config
from medml.datasets.fingerprint import fingerprint
from medml.networks.build import run_network
from medml.networks.heap import keep_freed_memory
from medml.networks.precision import choose_precision, cpu_has_bf16
from medml.records.experiment import Experiment
from medml.records.plan import Plan
from medml.training.batches import Batches
from medml.training.cache import open_store
from medml.training.changes import Lesson, make_lesson
from medml.training.compilation import TRY_AT, Compilation
from medml.training.learner import Learner
from medml.training.plan import make_plan
from medml.training.processes import Processes

RESULT = RESULTS / "training_step.json"
CPU, ALONE = torch.device("cpu"), Processes()
NNUNET: dict[str, Any] = {
    "network": "dynunet",
    "network_options": {
        "filters": [32, 64, 128, 256],
        "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2], [2, 2, 2]],
        "deep_supervision": True,
        "deep_supr_num": 1,
        "trans_bias": True,
    },
    "patch": [40, 56, 40],
    "batch": 9,
    "foreground_share": 0.33,
}
TUTORIAL: dict[str, Any] = {
    "network": "unet",
    "network_options": {
        "channels": [16, 32, 64, 128, 256],
        "strides": [[2, 2, 2]] * 4,
        "num_res_units": 2,
        "norm": "BATCH",
    },
    "patch": [48, 64, 48],
    "batch": 8,
    "foreground_share": 0.5,
    "augmentation": {"share": 0.0, "noise": 0.0, "contrast": 0.0, "brightness": 0.0, "flip_axes": []},
}
EXACT_BATCHES = 20
TWO = {"OMP_NUM_THREADS": "2"}  # and nothing else that this process does not have: its threads wait as the peers' do
UNCOUNTED = 3
PARTS = ("nnunet", "monai", "exact")
Step = Callable[[], tuple[float, float]]


def main(pairs: int = 7, parts: Sequence[str] = PARTS) -> int:
    """Run the comparisons that are asked for, keep the others' figures; 0 if every target is met."""
    logging.basicConfig(level=logging.INFO)  # says whether the compiled network was kept
    torch.set_num_threads(2)
    keep_freed_memory()  # as the training child does
    data, load = prepare(), os.getloadavg()[0]
    record: dict[str, Any] = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {}
    for part in parts:
        record["about"] = {name: value for name, value in about(0, load).items() if name != "minutes"}
        if part == "nnunet":
            found = compare(our_step(data, NNUNET), nnunet_step(data), pairs=pairs)
            target = 0.60 if cpu_has_bf16() else 1.05
            record[part] = found | {"target": target, "peer": "nnU-Net 2.8.1, its trainer"}
        elif part == "monai":
            found = compare(our_step(data, TUTORIAL), tutorial_step(), pairs=pairs)
            record[part] = found | {"target": 0.65, "peer": "MONAI's spleen tutorial, its loop"}
        else:
            record["bf16_loss_difference"] = largest_difference(data)
        RESULT.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(record, indent=1))
    missed = [part for part in ("nnunet", "monai") if part in record and record[part]["ratio"] > record[part]["target"]]
    return int(bool(missed) or record.get("bf16_loss_difference", 0.0) > 0.01)


def compare(ours: Step, theirs: Step, *, pairs: int) -> dict[str, Any]:
    """Run both in turn; after a few pairs that do not count, the median of the ratios of wall seconds."""
    found = [(ours(), theirs()) for _ in range(pairs + UNCOUNTED)][UNCOUNTED:]
    seconds = {"ours": [o[0] for o, _ in found], "peer": [p[0] for _, p in found]}
    cpu = {"ours": [o[1] for o, _ in found], "peer": [p[1] for _, p in found]}
    return {
        "ratio": round(statistics.median(o / p for o, p in zip(seconds["ours"], seconds["peer"], strict=True)), 3),
        "ratio_cpu": round(statistics.median(o / p for o, p in zip(cpu["ours"], cpu["peer"], strict=True)), 3),
        "seconds": {side: [round(value, 3) for value in values] for side, values in seconds.items()},
        "cpu_seconds": {side: [round(value, 3) for value in values] for side, values in cpu.items()},
    }


def our_step(data: Hippocampus, overrides: dict[str, Any]) -> Step:
    """Return one iteration of ours: draw a batch, augment it, learn; compiled where that is faster, as in long runs."""
    plan = _plan(data, overrides)
    lessons = _lessons(data, plan)
    learner = Learner(plan, device=CPU, precision=choose_precision(CPU), processes=ALONE)
    Compilation(learner).consider(next(lessons), step=TRY_AT, seconds_left=math.inf)
    count = iter(range(1_000_000))
    return lambda: _timed(lambda: learner.learn(next(lessons), step=next(count), rate=plan.learning_rate))


def nnunet_step(data: Hippocampus) -> Step:
    """Return one iteration of nnU-Net's trainer, in its own process, by its own plan."""
    plan_nnunet(data)
    # Workers would go on loading while the other side is timed: it loads in its own process, as ours does.
    environment = os.environ | data.nnunet | TWO | {"nnUNet_n_proc_DA": "0"}
    child = [str(nnunet_python()), str(Path(__file__).with_name("nnunet_child.py")), "steps", "--batch", "9"]
    return _asked(child, environment)


def tutorial_step() -> Step:
    """Return one iteration of the tutorial's loop, in its own process."""
    return _asked([sys.executable, "-m", "benchmarks.tutorial_child"], os.environ | TWO)


def largest_difference(data: Hippocampus) -> float:
    """Return the largest relative difference of the loss, bf16 against fp32, along a training of nnU-Net's plan."""
    plan = _plan(data, NNUNET)
    learner = Learner(plan, device=CPU, precision="bf16", processes=ALONE)
    worst = 0.0
    for step, lesson in zip(range(EXACT_BATCHES), _lessons(data, plan), strict=False):
        with torch.no_grad():
            scores = run_network(learner.network, lesson.images, plan)
            exact = float(learner.loss(scores, lesson.targets[0][1]))
        learned = learner.learn(lesson, step=step, rate=plan.learning_rate)  # its loss is of the weights before it
        worst = max(worst, abs(learned.loss - exact) / exact)
    return round(worst, 5)


def _plan(data: Hippocampus, overrides: dict[str, Any]) -> Plan:
    experiment = load_config(EXPERIMENT, Experiment).model_copy(update={"plan": overrides})
    return make_plan(fingerprint(data.dataset, data.home.scans, fold=FOLD), data.dataset, experiment, device="cpu")


def _lessons(data: Hippocampus, plan: Plan) -> Iterator[Lesson]:
    cases = data.dataset.cases_of("train", fold=FOLD)
    store = open_store(cases, plan, scans=data.home.scans, cache=data.home.cache / "steps")
    batches = Batches(cases, store, plan)
    for step in range(1_000_000):
        yield make_lesson(batches.draw(step), plan, step=step, device=CPU)


def _asked(command: list[str], environment: Mapping[str, str]) -> Step:
    """Start a process that does one iteration for every line it gets; return what asks it for one."""
    child = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    if child.stdin is None or child.stdout is None:
        raise SystemExit(f"{command[:3]}: the process has no pipes")
    asked, answers = child.stdin, child.stdout
    _answer(answers)  # it is ready

    def step() -> tuple[float, float]:
        asked.write("\n")
        asked.flush()
        found = _answer(answers)
        return found["seconds"], found["cpu_seconds"]

    return step


def _answer(answers: Any) -> dict[str, float]:
    """Return the next line that is an answer; nnU-Net prints others between."""
    for line in answers:
        if line.startswith("{"):
            return dict(json.loads(line))
    raise SystemExit("the peer's process ended before it answered; what it said stands above")


def _timed(step: Callable[[], object]) -> tuple[float, float]:
    start, cpu = time.perf_counter(), time.process_time()
    step()
    return time.perf_counter() - start, time.process_time() - cpu


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training_step", description=__doc__)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--part", choices=PARTS, action="append", help="one of them alone; the others' figures stay")
    given = parser.parse_args()
    sys.exit(main(given.pairs, given.part or PARTS))
