"""What `medml train` does before its first step, in a process of its own; `benchmarks.preparation` times it."""

from __future__ import annotations

import itertools
import os
import sys
from pathlib import Path

from medml.interpreter import run_quickly
from medml.networks.monai_import import import_monai


def prepare(manifest: Path, scans: Path, cache: Path) -> None:
    """Fingerprint, plan and arrays of one frozen dataset; says on standard error where the CPU seconds went."""
    marks = [("", 0.0), ("start", _spent())]
    import_monai()
    from medml.datasets.fingerprint import fingerprint
    from medml.io.files import read_record
    from medml.records.dataset import Dataset
    from medml.records.experiment import Experiment
    from medml.training.cache import open_store

    marks.append(("imports", _spent()))
    dataset = read_record(manifest, Dataset)
    experiment = Experiment.model_validate(
        {"name": "hippocampus", "task": "segment", "dataset": {"name": dataset.name}, "budget": {"minutes": 20}}
    )
    measured = fingerprint(dataset, scans)
    marks.append(("fingerprint", _spent()))
    from medml.training.plan import make_plan

    marks.append(("imports of the plan", _spent()))
    plan = make_plan(measured, dataset, experiment, device="cpu")
    marks.append(("plan", _spent()))
    open_store(sorted(dataset.cases, key=lambda case: case.case_id), plan, scans=scans, cache=cache / dataset.digest)
    marks.append(("arrays", _spent()))
    steps = [f"{name} {now - before:.2f}" for (_, before), (name, now) in itertools.pairwise(marks)]
    print(f"ours, CPU s: {', '.join(steps)}", file=sys.stderr)


def _spent() -> float:
    """Return the CPU seconds of this process and of its children that have ended."""
    return sum(os.times()[:4])


if __name__ == "__main__":
    run_quickly(lambda: prepare(*map(Path, sys.argv[1:])))
