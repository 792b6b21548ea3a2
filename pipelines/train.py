"""Flow: frozen dataset to registered model."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from prefect import flow

from medml.errors import MedmlError
from medml.records.dataset import Dataset
from medml.records.experiment import Experiment
from medml.records.plan import Member, Plan
from medml.records.report import Evaluation, Spread
from pipelines import dataset as dataset_flow
from pipelines import training_runs
from pipelines.artifacts import told
from pipelines.audit import AUDITED
from pipelines.configs import load_experiment
from pipelines.evaluate import evaluate_package
from pipelines.plan import measure_and_plan
from pipelines.tasks import current_home, step
from pipelines.training_runs import TrainingRun
from pipelines.verb import VerbResult

if TYPE_CHECKING:
    from medml.registry.models import ModelVersion
    from medml.registry.tracking import Tracker


@flow(name="train", flow_run_name="train {experiment}", persist_result=False, **AUDITED)
def train(experiment: str, device: str = "auto", refresh: bool = False) -> VerbResult:
    """Plan, train every fold and seed, evaluate once and register one model.

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
    for member in run.members:
        fit(run, member, member.name)
    if run.several:
        join(run)
    evaluation = evaluate_model(run)
    return told(register(run, evaluation, notes))


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
    """Measure the training cases of the first fold and derive the plan; an unfinished run keeps the one it has."""
    from medml.io.files import read_record, write_record

    begun = TrainingRun.of(wanted, frozen).folder / "plan.json"
    if begun.exists():
        return read_record(begun, Plan)
    measured, plan = measure_and_plan(wanted, frozen, device)
    write_record(begun.with_name("fingerprint.json"), measured)
    return plan


@step("open MLflow run")
def open_run(wanted: Experiment, frozen: Dataset, plan: Plan, device: str) -> TrainingRun:
    """Make or find the run folder and its MLflow run; an unfinished one of the same key is taken up again."""
    run = TrainingRun.of(wanted, frozen, starts=plan.starts)
    training_runs.open_training(run, plan, device)
    return run


@step("train", task_run_name="train {name}")
def fit(run: TrainingRun, member: Member, name: str) -> None:
    """Train one fold from one start; what is finished is not repeated."""
    training_runs.train_member(run, member)


@step("join members")
def join(run: TrainingRun) -> None:
    """Make one model of all folds and seeds, calibrated out of fold."""
    training_runs.join_members(run)


@step("evaluate")
def evaluate_model(run: TrainingRun) -> Evaluation:
    """Evaluate on validation, then once on the test set; complete the card; the report goes to MLflow."""
    from medml.evaluation.card import complete_card
    from medml.io.files import read_record, write_text
    from medml.registry.tracking import Tracker

    report = run.folder / "report"
    evaluation = evaluate_package(
        run.folder / "package",
        run.frozen,
        model=run.wanted.name,
        folder=report,
        epochs=training_runs.learning_curve(run),
        members=run.members if run.several else (),
    )
    if not evaluation.summary.n:
        raise MedmlError(
            f"none of the {len(run.frozen.test)} test cases of dataset {run.frozen.name} could be scored, so nothing "
            "is registered; put the scans back (medml verify names what is missing) and run this again: what is "
            "trained is kept"
        )
    card = run.folder / "package" / "docs" / "README.md"
    write_text(card, complete_card(card.read_text(encoding="utf-8"), run.wanted.card, evaluation))
    tracker = Tracker.of(current_home())
    tracker.log_metrics(run.run_id, training_runs.finite(evaluation.summary.metrics, "test_"))
    if run.several:
        training_runs.log_spread(run, tracker, read_record(report / "spread.json", Spread))
    tracker.describe(run.run_id, card.read_text(encoding="utf-8"))
    tracker.log_folder(run.run_id, report, "report")
    training_runs.log_worst(run, tracker, report)
    return evaluation


@step("register model")
def register(run: TrainingRun, evaluation: Evaluation, notes: tuple[str, ...]) -> VerbResult:
    """Log the package, register the version, finish the MLflow run and keep the report."""
    from medml.registry import models
    from medml.registry.tracking import Tracker

    home = current_home()
    tracker = Tracker.of(home)
    run_id, name = run.run_id, run.wanted.name
    version = models.register(tracker, run_id, name, run.folder / "package", evaluation)
    tracker.finish(run_id)
    report = home.reports / f"{name}-v{version.version}"
    if report.exists():
        shutil.rmtree(report)
    report.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(run.folder / "report", report)
    shutil.rmtree(run.folder)
    summary = evaluation.summary
    failed = int(summary.metrics.get("failed") or 0)
    lost = (f"{failed} test cases could not be scored; the report says why",) if failed else ()
    return VerbResult(
        verb="train",
        ok=not failed,
        counts={"test cases": summary.n, **({"trainings": len(run.members)} if run.several else {})},
        outputs={"report": str(report / "report.html"), "package": str(version.package_path)},
        model=f"{version.name}/{version.version}",
        summary={
            "alias": version.alias,
            "dataset": summary.dataset,
            "test_digest": summary.test_digest,
            "mlflow_run": run_id,
            **summary.metrics,
        },
        notes=(*notes, *lost, *_closing_words(tracker, run, run_id, version, report)),
    )


def _closing_words(
    tracker: Tracker, run: TrainingRun, run_id: str, version: ModelVersion, report: Path
) -> tuple[str, ...]:
    """Say in words how good the model is and where to look."""
    from medml.evaluation.report import read_report
    from medml.evaluation.wording import headline

    judged = read_report(report)
    return (
        f"{version.name} version {version.version} is @{version.alias}. {headline(judged.evaluation, judged.table)}",
        f"In MLflow: experiment {run.wanted.name!r}, run {run.title!r} (medml up, then "
        f"http://127.0.0.1:5000/{tracker.page(run_id)}); its report is under Artifacts, report/report.html",
    )
