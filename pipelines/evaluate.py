"""Flow: a registered model on the test set of a frozen dataset."""

from __future__ import annotations

from pathlib import Path

from prefect import flow

from medml.records.dataset import Dataset
from medml.records.plan import Epoch
from medml.records.report import Evaluation
from pipelines.progress import progress_bar
from pipelines.tasks import current_home, device_slot, step
from pipelines.verb import VerbResult


@flow(name="evaluate", flow_run_name="evaluate {model}", persist_result=False)
def evaluate(model: str, dataset: str | None = None, device: str = "auto") -> VerbResult:
    """Evaluate a registered model on the test set of a dataset, with intervals, subgroups and a report.

    Parameters
    ----------
    model : str
        ``name``, ``name@alias`` or ``name/version``; the champion if nothing else is said.
    dataset : str, optional
        Name of a frozen dataset; default: the one the model was trained on.
    device : str
        "auto", "cpu", "cuda" or "cuda:0".
    """
    return evaluate_registered(model, dataset, device)


@step("evaluate model")
def evaluate_registered(model: str, dataset: str | None, device: str) -> VerbResult:
    """Resolve, run over the test cases, write the report, log it to a run of its own in MLflow."""
    from medml.datasets.freeze import load
    from medml.registry import models
    from medml.registry.tracking import Tracker

    home = current_home()
    tracker = Tracker.of(home)
    version = models.resolve(tracker, model)
    name, digest = (dataset, None) if dataset else (version.tags["dataset"], version.tags["dataset_digest"])
    frozen = load(home, name, digest)
    folder = home.reports / f"{version.name}-v{version.version}-on-{frozen.name}-{frozen.test_digest[:8]}"
    evaluation = evaluate_package(
        version.package_path, frozen, model=f"{version.name}/{version.version}", folder=folder, device=device
    )
    run_id = tracker.log_evaluation(version.name, version.version, evaluation, folder)
    summary = evaluation.summary
    return VerbResult(
        verb="evaluate",
        ok=True,
        counts={"test cases": summary.n},
        outputs={"report": str(folder / "report.html")},
        model=f"{version.name}/{version.version}",
        summary={
            "dataset": summary.dataset,
            "test_digest": summary.test_digest,
            "mlflow_run": run_id,
            **summary.metrics,
        },
        notes=evaluation.notes,
    )


def evaluate_package(
    package: Path,
    frozen: Dataset,
    *,
    model: str,
    folder: Path,
    epochs: list[Epoch] | None = None,
    fold: int = 0,
    device: str = "auto",
) -> Evaluation:
    """Run a package over validation and test cases and write ``report.html``, ``cases.csv``, ``summary.json``."""
    from medml.evaluation.evaluate import case_table, summarise
    from medml.evaluation.report import worst_overlays, write_report
    from medml.networks.predictor import Predictor

    scans = current_home().scans
    predictor = Predictor(package, device=device)
    with device_slot(str(predictor.device)), progress_bar("evaluating") as bar:
        tables = {}
        for part in ("validation", "test"):
            cases = frozen.cases_of(part, fold=fold)
            count = bar.counter(len(cases), part)
            tables[part] = case_table(
                predictor,
                cases,
                scans,
                frozen.labels,
                part=part,
                calibration=predictor.package.calibration,
                on_case=lambda *_, count=count: count(),
            )
        threshold = predictor.package.calibration.threshold
        overlays = worst_overlays(tables["test"], predictor, frozen, scans, threshold=threshold)
    validation = summarise(tables["validation"], frozen, model, "validation", threshold=threshold)
    evaluation = summarise(tables["test"], frozen, model, "test", threshold=threshold)
    write_report(
        folder,
        evaluation,
        tables["test"],
        dataset=frozen,
        plan=predictor.plan,
        epochs=epochs,
        worst=overlays,
        validation=validation,
    )
    return evaluation
