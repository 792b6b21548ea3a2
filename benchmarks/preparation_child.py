"""What `medml train` does before its first step, in a process of its own; `benchmarks.preparation` times it."""

from __future__ import annotations

import itertools
import sys
import time
from pathlib import Path

from medml.interpreter import run_quickly
from medml.networks.monai_import import import_monai


def prepare(manifest: Path, scans: Path, cache: Path) -> None:
    """Fingerprint, plan and arrays of one frozen dataset; says on standard error where the CPU seconds went."""
    marks = [("", 0.0), ("start", time.process_time())]
    import_monai()
    from medml.datasets.fingerprint import fingerprint
    from medml.io.files import read_record
    from medml.records.dataset import Dataset
    from medml.records.experiment import Experiment
    from medml.training.cache import open_store

    marks.append(("imports", time.process_time()))
    dataset = read_record(manifest, Dataset)
    experiment = Experiment.model_validate(
        {"name": "hippocampus", "task": "segment", "dataset": {"name": dataset.name}, "budget": {"minutes": 20}}
    )
    measured = fingerprint(dataset, scans)
    marks.append(("fingerprint", time.process_time()))
    from medml.training.plan import make_plan

    marks.append(("imports of the plan", time.process_time()))
    plan = make_plan(measured, dataset, experiment, device="cpu")
    marks.append(("plan", time.process_time()))
    open_store(sorted(dataset.cases, key=lambda case: case.case_id), plan, scans=scans, cache=cache / dataset.digest)
    marks.append(("arrays", time.process_time()))
    steps = [f"{name} {now - before:.2f}" for (_, before), (name, now) in itertools.pairwise(marks)]
    print(f"ours, CPU s: {', '.join(steps)}", file=sys.stderr)


if __name__ == "__main__":
    run_quickly(lambda: prepare(*map(Path, sys.argv[1:])))
