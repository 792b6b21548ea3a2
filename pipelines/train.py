"""Flow: frozen dataset to registered model."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from prefect import flow

from medml.records.dataset import Dataset
from medml.records.experiment import Experiment
from medml.records.plan import Plan, TrainingJob
from medml.records.report import Evaluation
from pipelines import dataset as dataset_flow
from pipelines.child import read_epochs, run_training
from pipelines.configs import load_experiment
from pipelines.evaluate import evaluate_package
from pipelines.progress import progress_bar
from pipelines.tasks import current_home, device_slot, step
from pipelines.verb import VerbResult


@flow(name="train", flow_run_name="train {experiment}", persist_result=False)
def train(experiment: str, device: str = "auto", refresh: bool = False) -> VerbResult:
    """Plan, train, evaluate and register a model.

    Parameters
    ----------
    experiment : str
        Name of a YAML in ``configs/training`` (without its suffix) or a request id.
    device : str
        "auto", "cpu", "cuda" or "cuda:0".
    refresh : bool
        Freeze a new version of the dataset if the selection has grown.
    """
    wanted = read_experiment(experiment)
    frozen, notes = freeze(wanted, refresh)
    plan = make_plan(wanted, frozen, device)
    run = open_run(wanted, frozen, plan, device)
    fit(run)
    evaluation = evaluate_model(run, wanted, frozen)
    return register(run, wanted, evaluation, notes)


@step("read experiment")
def read_experiment(experiment: str) -> Experiment:
    """Look the experiment up by name or request id."""
    return load_experiment(current_home(), experiment)


@step("freeze dataset")
def freeze(wanted: Experiment, refresh: bool) -> tuple[Dataset, tuple[str, ...]]:
    """Use the frozen dataset of the experiment, or freeze one."""
    frozen, freshness = dataset_flow.freeze(wanted.dataset.model_dump(mode="json"), wanted.task, refresh=refresh)
    return frozen, freshness.notes


@step("fingerprint and plan")
def make_plan(wanted: Experiment, frozen: Dataset, device: str) -> Plan:
    """Measure the training cases and derive the plan; an unfinished run keeps the one it began with."""
    from medml.datasets.fingerprint import fingerprint
    from medml.io.files import read_record
    from medml.training.plan import make_plan as plan_from

    begun = _run_folder(wanted, frozen) / "plan.json"
    if begun.exists():
        return read_record(begun, Plan)
    measured = fingerprint(frozen, current_home().scans, fold=wanted.fold)
    return plan_from(measured, frozen, wanted, device=device)


@step("open MLflow run")
def open_run(wanted: Experiment, frozen: Dataset, plan: Plan, device: str) -> Path:
    """Make or find the run folder and its MLflow run; an unfinished one of the same key is taken up again."""
    from medml.io.files import write_json, write_record
    from medml.registry.tracking import Tracker

    home = current_home()
    run = _run_folder(wanted, frozen)
    run.mkdir(parents=True, exist_ok=True)
    write_record(run / "plan.json", plan)
    write_json(run / "experiment.json", wanted.model_dump(mode="json"))
    job = TrainingJob(
        dataset=str(home.datasets / frozen.name / f"{frozen.digest}.json"),
        plan=str(run / "plan.json"),
        fold=wanted.fold,
        scans=str(home.scans),
        cache=str(home.cache),
        run=str(run),
        device=device,
    )
    write_record(run / "job.json", job)
    tracker = Tracker.of(home)
    run_id = tracker.start_or_resume(
        experiment=wanted.name,
        run_name=f"{wanted.name} fold {wanted.fold}",
        run_key=run.name,
        params=_parameters(wanted, plan),
        tags={
            "medml.task": wanted.task,
            "medml.dataset": frozen.name,
            "medml.dataset_digest": frozen.digest,
            "medml.test_digest": frozen.test_digest,
        },
        dataset=frozen,
    )
    write_json(run / "mlflow.json", {"run_id": run_id})
    tracker.log_text_files(run_id, [run / "plan.json", run / "experiment.json"], "configuration")
    return run


@step("train")
def fit(run: Path) -> None:
    """Train in a child while its epochs go to MLflow; skipped when the package is there already."""
    from medml.networks.precision import choose_device
    from medml.registry.tracking import Tracker

    if (run / "package" / "digests.json").exists():
        return
    tracker = Tracker.of(current_home())
    run_id = _run_id(run)
    job = json.loads((run / "job.json").read_text(encoding="utf-8"))
    with device_slot(str(choose_device(job["device"]))), progress_bar("training") as bar:
        run_training(run, on_epochs=lambda epochs: tracker.log_epochs(run_id, epochs), bar=bar)


@step("evaluate")
def evaluate_model(run: Path, wanted: Experiment, frozen: Dataset) -> Evaluation:
    """Evaluate on validation, then once on the test set; complete the card; the report goes to MLflow."""
    from medml.evaluation.card import complete_card
    from medml.io.files import read_record, write_text
    from medml.registry.tracking import Tracker

    evaluation = evaluate_package(
        run / "package",
        frozen,
        model=wanted.name,
        folder=run / "report",
        epochs=read_epochs(run / "epochs.jsonl"),
        fold=read_record(run / "job.json", TrainingJob).fold,
    )
    card = run / "package" / "docs" / "README.md"
    write_text(card, complete_card(card.read_text(encoding="utf-8"), wanted.card, evaluation))
    tracker = Tracker.of(current_home())
    tracker.log_metrics(_run_id(run), _finite(evaluation.summary.metrics, "test_"))
    tracker.log_folder(_run_id(run), run / "report", "report")
    return evaluation


@step("register model")
def register(run: Path, wanted: Experiment, evaluation: Evaluation, notes: tuple[str, ...]) -> VerbResult:
    """Log the package, register the version, finish the MLflow run and keep the report."""
    from medml.registry import models
    from medml.registry.tracking import Tracker

    home = current_home()
    tracker = Tracker.of(home)
    run_id = _run_id(run)
    version = models.register(tracker, run_id, wanted.name, run / "package", evaluation)
    tracker.finish(run_id)
    report = home.reports / f"{wanted.name}-v{version.version}"
    if report.exists():
        shutil.rmtree(report)
    report.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(run / "report", report)
    shutil.rmtree(run)
    summary = evaluation.summary
    return VerbResult(
        verb="train",
        ok=True,
        counts={"test cases": summary.n},
        outputs={"report": str(report / "report.html"), "package": str(version.package_path)},
        model=f"{version.name}/{version.version}",
        summary={
            "alias": version.alias,
            "dataset": summary.dataset,
            "test_digest": summary.test_digest,
            "mlflow_run": run_id,
            **summary.metrics,
        },
        notes=notes,
    )


def _run_folder(wanted: Experiment, frozen: Dataset) -> Path:
    """Name what is trained on what, so that the same command finds its unfinished run."""
    what = json.dumps([wanted.model_dump(mode="json"), frozen.digest], sort_keys=True)
    return current_home().runs / f"{wanted.name}-{hashlib.sha256(what.encode()).hexdigest()[:12]}"


def _run_id(run: Path) -> str:
    return str(json.loads((run / "mlflow.json").read_text(encoding="utf-8"))["run_id"])


def _parameters(wanted: Experiment, plan: Plan) -> dict[str, Any]:
    values = plan.model_dump(mode="json", exclude={"reasons", "normalisation", "augmentation"})
    return {**values, "fold": wanted.fold, "split": wanted.dataset.split}


def _finite(metrics: dict[str, float | None], prefix: str) -> dict[str, float]:
    return {f"{prefix}{key}": value for key, value in metrics.items() if value is not None}
