"""Flow: a registered model on the test set of a frozen dataset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from prefect import flow

from medml.records.dataset import Dataset
from medml.records.plan import Epoch, Member, Plan
from medml.records.report import Evaluation
from pipelines.artifacts import told
from pipelines.audit import AUDITED
from pipelines.independence import chosen_test, compare, trained_on
from pipelines.progress import Bar, progress_bar
from pipelines.tasks import current_home, device_slot, step
from pipelines.verb import VerbResult

if TYPE_CHECKING:
    from pandas import DataFrame

    from medml.evaluation.spread import Crossed
    from medml.networks.predictor import Predictor


@flow(name="evaluate", flow_run_name="evaluate {model}", persist_result=False, **AUDITED)
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
    return told(evaluate_registered(model, dataset, device, allow_seen, every_case))


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
    trained = trained_on(home, version)
    frozen = chosen_test(home, who, dataset, trained, every_case)
    notes = check_question(read_record(version.package_path / "plan.json", Plan), frozen)
    found = compare(home, who, frozen, trained, allow_seen=allow_seen)
    folder = home.reports / f"{version.name}-v{version.version}-on-{frozen.name}-{frozen.test_digest[:8]}"
    if found.warning:
        folder = folder.with_name(f"{folder.name}-seen")
    evaluation = evaluate_package(
        version.package_path,
        frozen,
        model=who,
        folder=folder,
        device=device,
        own=trained is not None and (frozen.digest, frozen.test_digest) == (trained.digest, trained.test_digest),
        notes=(*found.notes, *notes),
        warning=found.warning,
    )
    tags = {"medml.seen": "true"} if found.warning else {}
    run_id = tracker.log_evaluation(version.name, version.version, evaluation, folder, tags=tags)
    models.link_evaluation(tracker, run_id, version, evaluation)
    summary = evaluation.summary
    return VerbResult(
        verb="evaluate",
        ok=not summary.metrics.get("failed"),
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


def evaluate_package(
    package: Path,
    frozen: Dataset,
    *,
    model: str,
    folder: Path,
    epochs: list[Epoch] | None = None,
    members: Sequence[Member] = (),
    device: str = "auto",
    own: bool = True,
    notes: tuple[str, ...] = (),
    warning: str = "",
) -> Evaluation:
    """Run a package over validation and test cases and write the report: see `write_report`.

    Parameters
    ----------
    members : sequence of Member
        The trainings that an ensemble was made of, in order: its validation cases are then scored out of fold.
    own : bool
        Whether the package was chosen on the dataset's validation cases; of other datasets only test cases are run,
        and of an ensemble whose members are not given.
    notes : tuple of str
        Put before the evaluation's own notes.
    warning : str
        Stands at the top of the report, and first among the notes: why these figures are no independent test.
    """
    from medml.evaluation.report import worst_cases, write_report
    from medml.evaluation.spread import OUT_OF_FOLD
    from medml.explain.page import checked_picture
    from medml.networks.predictor import Predictor

    predictor = Predictor(package, device=device)
    threshold = predictor.package.calibration.threshold
    with device_slot(str(predictor.device)), progress_bar("evaluating") as bar:
        crossed = _cross(predictor, members, frozen, model, bar) if members else None
        chosen_on = own and len(predictor.package.members) == 1
        validation = _part(predictor, frozen, "validation", model, bar)[1] if chosen_on else None
        table, evaluation = _part(predictor, frozen, "test", model, bar)
        explain = partial(checked_picture, predictor=predictor)
        worst = worst_cases(table, predictor, frozen, current_home().scans, threshold=threshold, explain=explain)
    first = (warning, *notes) if warning else notes
    first = (*first, OUT_OF_FOLD) if crossed else first
    evaluation = evaluation.model_copy(update={"notes": (*first, *evaluation.notes)})
    write_report(
        folder,
        evaluation,
        table,
        dataset=frozen,
        plan=predictor.plan,
        epochs=epochs,
        worst=worst,
        validation=validation,
        crossed=crossed,
        warning=warning,
    )
    return evaluation


def _part(
    predictor: Predictor, frozen: Dataset, part: Literal["validation", "test"], model: str, bar: Bar
) -> tuple[DataFrame, Evaluation]:
    """Score the cases of one part, validation by the fold that the model was trained on."""
    from medml.evaluation.evaluate import case_table, summarise

    package = predictor.package
    fold_numbers = package.sources.get("folds", "0").split(",")
    # Another dataset may have fewer folds than the model's own; its test set is the same for all of them.
    cases = frozen.cases_of(part, fold=int(fold_numbers[0]) if part == "validation" else 0)
    count = bar.counter(len(cases), part)
    table = case_table(
        predictor,
        cases,
        current_home().scans,
        frozen.labels,
        part=part,
        calibration=package.calibration,
        on_case=lambda *_: count(),
    )
    return table, summarise(
        table, frozen, model, part, threshold=package.calibration.threshold, calibration=package.calibration
    )


def _cross(predictor: Predictor, members: Sequence[Member], frozen: Dataset, model: str, bar: Bar) -> Crossed:
    """Score validation cases by those networks of an ensemble that did not learn from them."""
    from medml.evaluation.spread import cross_validate
    from medml.networks.predictor import Predictor

    package = predictor.package

    def ask(places: Sequence[int]) -> Predictor:
        first, *others = (package.members[place] for place in places)
        return Predictor(replace(package, network=first, others=tuple(others)), device=str(predictor.device))

    count = bar.counter(None, "cross-validation")
    return cross_validate(
        members,
        ask,
        frozen,
        current_home().scans,
        model=model,
        calibration=package.calibration,
        on_case=lambda *_: count(),
    )
