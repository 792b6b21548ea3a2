"""Flow: a registered model on the test set of a frozen dataset."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from prefect import flow

from medml.records.dataset import Dataset
from medml.records.home import Home
from medml.records.plan import Epoch, Plan
from medml.records.report import Evaluation
from pipelines.progress import progress_bar
from pipelines.stores import open_catalogue
from pipelines.tasks import current_home, device_slot, step
from pipelines.verb import VerbResult

if TYPE_CHECKING:
    from medml.registry.models import ModelVersion


@flow(name="evaluate", flow_run_name="evaluate {model}", persist_result=False)
def evaluate(
    model: str,
    dataset: str | None = None,
    device: str = "auto",
    allow_seen: bool = False,
    every_case: bool = False,
) -> VerbResult:
    """Evaluate a registered model on the test set of a dataset, with intervals, subgroups and a report.

    Parameters
    ----------
    model : str
        ``name``, ``name@alias`` or ``name/version``; the champion if nothing else is said.
    dataset : str, optional
        Name of a frozen dataset; default: the one the model was trained on.
    device : str
        "auto", "cpu", "cuda" or "cuda:0".
    allow_seen : bool
        Go on where the model has seen patients or pictures of the evaluation; the report is marked.
    every_case : bool
        Evaluate all cases of the dataset, not only its test set.
    """
    return evaluate_registered(model, dataset, device, allow_seen, every_case)


@step("evaluate model")
def evaluate_registered(
    model: str, dataset: str | None, device: str, allow_seen: bool = False, every_case: bool = False
) -> VerbResult:
    """Resolve, prove that the cases are new to the model, run over them, log the report to a run of its own."""
    from medml.evaluation.question import check_question
    from medml.io.files import read_record
    from medml.registry import models
    from medml.registry.tracking import Tracker

    home = current_home()
    tracker = Tracker.of(home)
    version = models.resolve(tracker, model)
    who = f"{version.name}/{version.version}"
    trained = _trained_on(home, version)
    frozen = _chosen(home, who, dataset, trained, every_case)
    notes = check_question(read_record(version.package_path / "plan.json", Plan), frozen)
    warning, seen_notes = _compare(home, who, frozen, trained, allow_seen)
    folder = home.reports / f"{version.name}-v{version.version}-on-{frozen.name}-{frozen.test_digest[:8]}"
    if warning:
        folder = folder.with_name(f"{folder.name}-seen")
    evaluation = evaluate_package(
        version.package_path,
        frozen,
        model=who,
        folder=folder,
        device=device,
        own=trained is not None and (frozen.digest, frozen.test_digest) == (trained.digest, trained.test_digest),
        notes=(*seen_notes, *notes),
        warning=warning,
    )
    tags = {"medml.seen": "true"} if warning else {}
    run_id = tracker.log_evaluation(version.name, version.version, evaluation, folder, tags=tags)
    summary = evaluation.summary
    return VerbResult(
        verb="evaluate",
        ok=True,
        counts={"test cases": summary.n},
        outputs={"report": str(folder / "report.html")},
        model=who,
        summary={
            "dataset": summary.dataset,
            "test_digest": summary.test_digest,
            "mlflow_run": run_id,
            **summary.metrics,
        },
        notes=evaluation.notes,
    )


def _trained_on(home: Home, version: ModelVersion) -> Dataset | None:
    """Return the dataset that a model learned from; None of a foreign model, which names none."""
    from medml.datasets.freeze import load

    if "dataset" not in version.tags:
        return None
    return load(home, version.tags["dataset"], version.tags["dataset_digest"])


def _chosen(home: Home, who: str, name: str | None, trained: Dataset | None, every_case: bool) -> Dataset:
    """Return the dataset whose test set is evaluated: its own, or all its cases."""
    from medml.datasets.freeze import load
    from medml.datasets.overlap import all_cases
    from medml.errors import ConfigError

    frozen = load(home, name) if name else trained
    if frozen is None:
        raise ConfigError(
            f"{who} was trained elsewhere and has no dataset of its own; name one: medml evaluate {who} DATASET"
        )
    return all_cases(frozen) if every_case or not frozen.test else frozen


def _compare(
    home: Home, who: str, frozen: Dataset, trained: Dataset | None, allow_seen: bool
) -> tuple[str, tuple[str, ...]]:
    """Return the warning of a report on cases that the model has seen, and notes; without ``allow_seen``, refuse it."""
    from medml.datasets.overlap import find_overlap, learned_cases
    from medml.errors import LeakageError
    from medml.store.catalogue import Catalogue

    scope = "all cases" if len(frozen.test) == len(frozen.cases) else "the test set"
    if trained is None:
        return "", (
            f"External validation on {scope} of {frozen.name}. What the model learned from is not known here, so "
            "nobody has compared it with these patients and images.",
        )
    evaluated = frozen.cases_of("test")
    ids = {scan_id for case in (*evaluated, *learned_cases(trained)) for scan_id in case.scans}
    own = frozen.test_digest == trained.test_digest
    try:
        overlap = find_overlap(evaluated, trained, Catalogue(open_catalogue(home)).by_id(ids))
    except LeakageError as error:
        if own:
            return "", ()
        if not allow_seen:
            raise
        return f"Not proved to be an independent test: {error}.", ()
    if own:
        # The split was accepted, and its twins named, when the dataset was frozen.
        return "", (
            f"The split lets pictures stand on both sides: {overlap.sentence()}.",
        ) if overlap.seen_cases else ()
    notes: tuple[str, ...] = (f"External validation on {scope} of {frozen.name}: {overlap.sentence()}.",)
    if overlap.unknown:
        notes += (
            f"{overlap.unknown} cases have images without fingerprint; only identical ones would be found there.",
        )
    if not overlap.seen_cases:
        return "", notes
    if not allow_seen:
        raise LeakageError(
            f"{who} on {frozen.name}: {overlap.sentence()}. Figures would flatter the model: evaluate it on other "
            "cases, or pass --allow-seen, which marks the report"
        )
    return f"Not an independent test: {overlap.sentence()}.", notes[1:]


def evaluate_package(
    package: Path,
    frozen: Dataset,
    *,
    model: str,
    folder: Path,
    epochs: list[Epoch] | None = None,
    fold: int = 0,
    device: str = "auto",
    own: bool = True,
    notes: tuple[str, ...] = (),
    warning: str = "",
) -> Evaluation:
    """Run a package over validation and test cases and write ``report.html``, ``cases.csv``, ``summary.json``.

    Parameters
    ----------
    own : bool
        Whether the package was chosen on the dataset's validation cases; of other datasets only test cases are run.
    notes : tuple of str
        Put before the evaluation's own notes.
    warning : str
        Stands at the top of the report, and first among the notes: why these figures are no independent test.
    """
    from medml.evaluation.evaluate import case_table, summarise
    from medml.evaluation.report import worst_cases, write_report
    from medml.explain.page import checked_picture
    from medml.networks.predictor import Predictor

    scans = current_home().scans
    predictor = Predictor(package, device=device)
    with device_slot(str(predictor.device)), progress_bar("evaluating") as bar:
        tables = {}
        for part in ("validation", "test") if own else ("test",):
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
        explain = partial(checked_picture, predictor=predictor)
        worst = worst_cases(tables["test"], predictor, frozen, scans, threshold=threshold, explain=explain)
    validation = summarise(tables["validation"], frozen, model, "validation", threshold=threshold) if own else None
    evaluation = summarise(tables["test"], frozen, model, "test", threshold=threshold)
    first = (warning, *notes) if warning else notes
    evaluation = evaluation.model_copy(update={"notes": (*first, *evaluation.notes)})
    write_report(
        folder,
        evaluation,
        tables["test"],
        dataset=frozen,
        plan=predictor.plan,
        epochs=epochs,
        worst=worst,
        validation=validation,
        warning=warning,
    )
    return evaluation
