"""What the training child does with its job."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import torch

from medml.errors import ConfigError, MedmlError
from medml.io.files import read_record, write_record
from medml.networks.heap import keep_freed_memory
from medml.networks.precision import choose_device
from medml.records.dataset import Dataset, assert_no_leakage
from medml.records.plan import Plan, TrainingJob
from medml.training.cache import Store, open_store
from medml.training.determinism import deterministic
from medml.training.loop import Training
from medml.training.package import write_ensemble, write_trained
from medml.training.processes import Processes, join_processes, leave_processes
from medml.training.reporting import Reporter
from medml.training.stopping import StopSignal

logger = logging.getLogger("medml.training")


def main(arguments: list[str]) -> int:
    """Train what a job file says; return the exit code: 0 done, 1 failed, 2 wrong job."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m medml.training JOB.json\n")
        return 2
    stop = StopSignal()
    stop.listen()
    try:
        train(read_record(Path(arguments[0]), TrainingJob), stop)
    except ConfigError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except MedmlError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


def train(job: TrainingJob, stop: StopSignal) -> None:
    """Preprocess, train and write ``package/`` into the run folder; going on where an earlier run was stopped."""
    dataset, plan = read_record(Path(job.dataset), Dataset), read_record(Path(job.plan), Plan)
    assert_no_leakage(dataset)
    if not 0 <= job.fold < len(dataset.folds):
        raise ConfigError(f"fold {job.fold}: dataset {dataset.name} has {len(dataset.folds)} folds, counted from 0")
    processes, place = join_processes(job.device)
    device = choose_device(place)
    if device.type == "cuda" and not plan.deterministic:
        torch.set_float32_matmul_precision("high")
    if device.type == "cpu":
        keep_freed_memory()
    run = Path(job.run)
    run.mkdir(parents=True, exist_ok=True)
    try:
        with deterministic(plan.deterministic):
            _train(job, dataset, plan, run=run, device=device, processes=processes, stop=stop)
    finally:
        leave_processes(processes)


def _train(
    job: TrainingJob,
    dataset: Dataset,
    plan: Plan,
    *,
    run: Path,
    device: torch.device,
    processes: Processes,
    stop: StopSignal,
) -> None:
    store = _prepare(dataset, plan, job, processes, stop)
    if job.members:
        if processes.first:
            write_ensemble(job.members, dataset, plan, store, run=run, device=device)
        return
    training = Training(dataset, plan, store, fold=job.fold, run=run, device=device, stop=stop, processes=processes)
    if plan.pretrained and not job.pretrained:
        raise ConfigError(f"plan.pretrained names {plan.pretrained}, the job no place of it; start with medml train")
    if job.pretrained and training.step == 0:
        taken = training.learner.begin_with(Path(job.pretrained))
        if processes.first:
            write_record(run / "pretrained.json", taken)
    best = training.run()
    if processes.first:
        Reporter(run).progress("finish", training.step, training.step, force=True)
    if processes.first and job.keep:
        write_trained(best, dataset, plan, store, fold=job.fold, run=run, device=device)
    processes.wait()


def _prepare(dataset: Dataset, plan: Plan, job: TrainingJob, processes: Processes, stop: StopSignal) -> Store:
    """Open the preprocessed cases; the first process makes them while the others wait."""
    cases = [*dataset.cases_of("train", fold=job.fold), *dataset.cases_of("validation", fold=job.fold)]
    cases.sort(key=lambda case: case.case_id)  # every fold then shares the chunks of the cache
    reporter = Reporter(Path(job.run), active=processes.first)

    def on_progress(done: int, total: int) -> None:
        stop.leave_if_received()
        reporter.progress("preprocess", done, total)

    def open_now() -> Store:
        return open_store(
            cases, plan, scans=Path(job.scans), cache=Path(job.cache) / dataset.digest, on_progress=on_progress
        )

    store = open_now() if processes.first else None
    processes.wait()
    return store or open_now()
