"""Dice over minutes of 2 cores, ours and nnU-Net v2's, on one fold fixed beforehand.

``python -m benchmarks.time_to_dice --part nnunet|ours|score [--minutes 20] [--seed 0]``. Both train on the same cases
with 2 threads; both are scored on the same held-out ones, which neither sees before, by one scorer with each one's own
full inference. A part that is done is not run again; ``score`` goes on where it was broken off, and writes
``benchmarks/results/time_to_dice.json``.

nnU-Net's clock runs only while it waits for a batch and trains on it, and its schedule ends with its budget. Ours runs
for the whole training, validation and checkpoints included.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch

from benchmarks.__main__ import processor
from benchmarks.hippocampus import FOLD, NNUNET_NAME, RESULTS, ROOT, Hippocampus, prepare, scored_files
from benchmarks.peers import nnunet_python
from medml.config import load_config
from medml.datasets.fingerprint import fingerprint
from medml.io.files import read_record, write_record
from medml.io.scans import read_image, read_mask
from medml.metrics.overlap import dice
from medml.networks.build import build_network
from medml.networks.package import Package
from medml.networks.predictor import Predictor
from medml.records.calibration import Calibration
from medml.records.dataset import Case
from medml.records.experiment import Budget, Experiment
from medml.records.plan import Plan, TrainingJob
from medml.training.plan import make_plan

RESULT = RESULTS / "time_to_dice.json"
EXPERIMENT = ROOT / "configs" / "training" / "hippocampus.yaml"
SNAPSHOTS = 20  # of a run, and at most one a minute: each is scored
PEER_SNAPSHOTS = 10  # of nnU-Net's, which takes two minutes to segment the 40 cases once
THREADS = {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE"}


def main() -> int:
    """Run one part."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.time_to_dice", description=__doc__)
    parser.add_argument("--part", choices=("nnunet", "ours", "score"), required=True)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=0, help="of ours")
    given = parser.parse_args()
    data = prepare()
    if given.part == "nnunet":
        train_nnunet(data, given.minutes)
    elif given.part == "ours":
        train_ours(data, given.minutes, given.seed)
    else:
        score(data)
    return 0


def plan_nnunet(data: Hippocampus) -> dict[str, float]:
    """Plan and preprocess in nnU-Net's own environment, unless that is done; return the seconds it took."""
    planned = Path(data.nnunet["nnUNet_preprocessed"]) / NNUNET_NAME
    note = planned / "prepared.json"
    if not note.exists():
        program = nnunet_python().with_name("nnUNetv2_plan_and_preprocess")
        command = [str(program), "-d", "4", "-c", "3d_fullres", "-np", "2"]
        took = _timed(command, os.environ | data.nnunet | {"OMP_NUM_THREADS": "1"})
        (planned / "splits_final.json").write_bytes((data.raw / "splits_final.json").read_bytes())
        note.write_text(json.dumps(took), encoding="utf-8")
    return dict(json.loads(note.read_text(encoding="utf-8")))


def train_nnunet(data: Hippocampus, minutes: float) -> None:
    """Plan and preprocess, then train for the minutes, in nnU-Net's own environment."""
    out, environment = data.work / f"nnunet-{minutes:g}", os.environ | data.nnunet | THREADS
    prepared = plan_nnunet(data)
    if not (out / "training.json").exists():
        load = os.getloadavg()[0]
        child = [str(nnunet_python()), str(Path(__file__).with_name("nnunet_child.py")), "train"]
        took = _timed([*child, "--minutes", f"{minutes:g}", "--out", str(out)], environment)
        note = {"peer": "nnU-Net 2.8.1", "prepare": prepared, **took}
        (out / "about.json").write_text(json.dumps(note | about(minutes, load)), encoding="utf-8")


def train_ours(data: Hippocampus, minutes: float, seed: int) -> None:
    """Plan from the experiment's YAML and its budget alone; train in the child that `medml train` starts."""
    run = data.work / f"ours-{minutes:g}-{seed}"
    if (run / "about.json").exists():
        return
    (run / "snapshots").mkdir(parents=True, exist_ok=True)
    if not (run / "plan.json").exists():
        torch.set_num_threads(2)
        experiment = load_config(EXPERIMENT, Experiment)
        experiment = experiment.model_copy(update={"budget": Budget(minutes=minutes), "plan": {"seed": seed}})
        start, cpu = time.perf_counter(), time.process_time()
        plan = make_plan(fingerprint(data.dataset, data.home.scans, fold=FOLD), data.dataset, experiment, device="cpu")
        took = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu}
        (run / "planned.json").write_text(json.dumps(took), encoding="utf-8")
        write_record(run / "plan.json", plan)
    job = TrainingJob(
        dataset=str(data.home.datasets / data.dataset.name / f"{data.dataset.digest}.json"),
        plan=str(run / "plan.json"),
        fold=FOLD,
        scans=str(data.home.scans),
        cache=str(data.home.cache),
        run=str(run),
        device="cpu",
    )
    write_record(run / "job.json", job)
    load = os.getloadavg()[0]
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    with (run / "child.log").open("ab") as log:
        command = [sys.executable, "-m", "medml.training", str(run / "job.json")]
        child = subprocess.Popen(command, cwd=ROOT, env=os.environ | THREADS, stdout=log, stderr=log)
        while child.poll() is None:
            time.sleep(2.0)
            _snapshot(run, apart=60 * max(1.0, minutes / SNAPSHOTS))
    if child.returncode:
        raise SystemExit(f"training ended with {child.returncode}; see {run / 'child.log'}")
    _snapshot(run, apart=0.0, name="final")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    took = {
        "seconds": time.perf_counter() - start,
        "cpu_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
    }
    planned = json.loads((run / "planned.json").read_text(encoding="utf-8"))
    (run / "about.json").write_text(json.dumps({"prepare": planned, **took, **about(minutes, load)}), encoding="utf-8")


def _snapshot(run: Path, *, apart: float, name: str = "") -> None:
    """Keep the weights that training would hand over now, some seconds of its clock apart; ``name`` the last ones."""
    taken = sorted((run / "snapshots").glob("[0-9]*.pt"))
    if not (run / "last.pt").exists():
        return
    if not name and taken and (run / "last.pt").stat().st_mtime < taken[-1].stat().st_mtime:
        return
    try:
        state = torch.load(run / "last.pt", map_location="cpu", weights_only=True)
    except (OSError, RuntimeError):
        return  # it is being replaced: the next look finds it whole
    seconds = float(state["numbers"]["seconds"])
    if not name and seconds < (float(taken[-1].stem) if taken else 0.0) + apart:
        return
    weights = state["best"] or state["average"]
    kept = {"weights": weights, "seconds": seconds, "steps": int(state["numbers"]["step"])}
    torch.save(kept, run / "snapshots" / f"{name or f'{seconds:07.1f}'}.pt")


def score(data: Hippocampus) -> None:
    """Score every snapshot that has no figure yet, last ones first, and write the JSON after each."""
    known: dict[str, Any] = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {}
    known |= {"dataset": data.dataset.digest, "scored_cases": len(data.dataset.test), "metric": score_of.__doc__}
    runs = known.setdefault("runs", {})
    ready = [path.parent for path in data.work.glob("*-*/about.json")]
    for folder in sorted(ready, reverse=True):  # ours first: they take the least time
        run = runs.setdefault(folder.name, {})
        run["about"] = json.loads((folder / "about.json").read_text(encoding="utf-8"))
        scored = run.setdefault("snapshots", {})
        for name, moment in reversed(_moments(folder)):
            if name not in scored:
                found = nnunet_masks if folder.name.startswith("nnunet") else our_masks
                scored[name] = moment | score_of(found(data, folder, name), data)
                run["snapshots"] = dict(sorted(scored.items()))
                RESULT.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
                print(folder.name, name, scored[name], flush=True)


def score_of(masks: dict[str, np.ndarray], data: Hippocampus) -> dict[str, Any]:
    """Mean over cases of the mean over foreground labels; a label that neither has does not count."""
    labels = sorted(label for label in data.dataset.labels if label)
    table = []
    for case in _scored(data):
        reference = read_mask(data.home.scans, case.scans[0], str(case.mask)).voxels[0]
        table.append([dice(masks[case.case_id] == label, reference == label) for label in labels])
    per_case = np.nanmean(np.array(table), axis=1)
    by_label = {data.dataset.labels[n]: round(float(v), 4) for n, v in zip(labels, np.nanmean(table, 0), strict=True)}
    error = float(per_case.std(ddof=1) / np.sqrt(len(per_case)))
    return {"dice": round(float(per_case.mean()), 4), "standard_error": round(error, 4), "labels": by_label}


def nnunet_masks(data: Hippocampus, folder: Path, name: str) -> dict[str, np.ndarray]:
    """Return nnU-Net's masks by its own predictor."""
    masks = folder / f"masks-{name}"
    if not (folder / f"masks-{name}.json").exists():
        masks.mkdir(exist_ok=True)
        child = [str(nnunet_python()), str(Path(__file__).with_name("nnunet_child.py")), "predict"]
        wanted = ["--out", str(folder), "--images", str(data.raw / "imagesTs"), "--snapshot", name]
        subprocess.run([*child, *wanted], env=os.environ | data.nnunet | THREADS, stdout=subprocess.DEVNULL, check=True)
    return {
        case_id: np.asarray(nibabel.load(masks / f"{file}.nii.gz").dataobj)  # type: ignore[attr-defined]
        for case_id, file in scored_files(data).items()
    }


def our_masks(data: Hippocampus, folder: Path, name: str) -> dict[str, np.ndarray]:
    """Return our masks by the `Predictor` that `medml predict` uses."""
    plan = read_record(folder / "plan.json", Plan)
    network = build_network(plan)
    network.load_state_dict(torch.load(folder / "snapshots" / f"{name}.pt", weights_only=True)["weights"])
    package = Package(
        folder=folder,
        name="hippocampus",
        version="",
        plan=plan,
        labels=plan.labels,
        calibration=Calibration(),
        sources={},
        environment={},
        digest="",
        network=network.eval(),
    )
    predictor = Predictor(package, "cpu")
    found = {}
    for case in _scored(data):
        mask = predictor.predict(read_image(data.home.scans, case.scans[0])).mask
        if mask is None:
            raise SystemExit(f"case {case.case_id}: the predictor gave no mask")
        found[case.case_id] = mask
    return found


def about(minutes: float, load: float) -> dict[str, Any]:
    """Return what a figure must be read with."""
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    return {
        "minutes": minutes,
        "threads": 2,
        "commit": commit.stdout.strip() or "unknown",
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": processor(),
        "load_before": round(load, 1),
    }


def _scored(data: Hippocampus) -> tuple[Case, ...]:
    return data.dataset.cases_of("test", fold=FOLD)


def _moments(folder: Path) -> list[tuple[str, dict[str, Any]]]:
    """Return the snapshots of a run that are scored, first to last, with their seconds and steps."""
    if (folder / "training.json").exists():
        kept = sorted(json.loads((folder / "training.json").read_text(encoding="utf-8"))["snapshots"].items())
        every = -(-len(kept) // PEER_SNAPSHOTS)
        return [*kept[every - 1 : -1 : every], kept[-1]]
    moments = []
    for path in sorted((folder / "snapshots").glob("*.pt")):
        state = torch.load(path, weights_only=True)
        moments.append((path.stem, {"seconds": round(state["seconds"], 1), "steps": state["steps"]}))
    return moments


def _timed(command: list[str], environment: dict[str, str]) -> dict[str, float]:
    """Run a child; return its wall and CPU seconds, those of its own children included."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    after, seconds = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - start
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": round(seconds, 1), "cpu_seconds": round(cpu, 1)}


if __name__ == "__main__":
    sys.exit(main())
