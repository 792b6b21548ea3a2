"""Cross-validation: every case scored by networks that did not learn from it, and how far single trainings differ."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from medml.evaluation.evaluate import Predicts, case_table, summarise
from medml.evaluation.names import foreground, label_keys
from medml.evaluation.wording import NAMES
from medml.pages.content import Section, Table, Value
from medml.records.calibration import Calibration
from medml.records.dataset import Dataset
from medml.records.plan import Member
from medml.records.report import Deviation, Evaluation, SingleRun, Spread

FOLD = "validation_fold"
CLASSIFIER_FIGURES = ("auroc", "average_precision", "balanced_accuracy", "brier")
HOW = (
    "Each training is judged on the validation cases of its own fold, so rows of one fold differ by the start alone, "
    "rows of different folds also by the patients. None of these figures saw a test case; the interval of a single "
    "figure above says nothing about another training, this table does."
)

OUT_OF_FOLD = (
    "The model averages several networks. Its temperature, threshold and promises were fitted on validation cases, "
    "each scored by the networks that had not learned from it; all of them together are a little less certain than "
    "those. The test set was read once, by the finished model."
)


@dataclass(frozen=True, slots=True, eq=False)
class Crossed:
    """A cross-validation.

    Attributes
    ----------
    table : DataFrame
        One row per case, from the networks of its fold, averaged; the column ``validation_fold`` says which.
    evaluation : Evaluation
        Of the whole table, with patient-level intervals.
    spread : Spread
        Of the single trainings.
    """

    table: pd.DataFrame
    evaluation: Evaluation
    spread: Spread


def cross_validate(
    members: Sequence[Member],
    ask: Callable[[Sequence[int]], Predicts],
    dataset: Dataset,
    scans: Path,
    *,
    model: str,
    calibration: Calibration,
    on_case: Callable[[str, str], None] | None = None,
) -> Crossed:
    """Score the validation cases of every fold by the members that did not learn from them.

    Parameters
    ----------
    members : sequence of Member
        The trainings of an ensemble.
    ask : callable
        Given positions in ``members``, returns a predictor that averages these.
    calibration : Calibration
        The ensemble's.
    """
    tables, runs = [], []
    for fold in sorted({member.fold for member in members}):
        own = [place for place, member in enumerate(members) if member.fold == fold]
        cases = dataset.cases_of("validation", fold=fold)
        looks = [[place] for place in own] + ([own] if len(own) > 1 else [])
        found = [
            case_table(
                ask(look), cases, scans, dataset.labels, part="validation", calibration=calibration, on_case=on_case
            )
            for look in looks
        ]
        runs += [_run(members[place], table, dataset, calibration) for place, table in zip(own, found, strict=False)]
        tables.append(found[-1].assign(**{FOLD: fold}))
    table = pd.concat(tables, ignore_index=True)
    evaluation = summarise(table, dataset, model, "validation", threshold=calibration.threshold)
    return Crossed(table, evaluation, spread_of(runs))


def spread_of(runs: Sequence[SingleRun]) -> Spread:
    """Return how far the figures of single trainings lie apart: between starts of a fold, and between folds."""
    return Spread(runs=tuple(runs), deviations={name: _deviation(runs, name) for name in runs[0].metrics})


def spread_section(spread: Spread) -> Section:
    """Return the report's part about the spread."""
    folds, seeds = {run.fold for run in spread.runs}, {run.seed for run in spread.runs}
    names = {name: _title(name) for name in spread.deviations}
    rows: list[list[Value]] = [
        [Member(fold=run.fold, seed=run.seed).name, run.cases, *(run.metrics.get(name) for name in names)]
        for run in spread.runs
    ]
    rows.append(["mean", None, *(item.mean for item in spread.deviations.values())])
    if len(seeds) > 1:
        rows.append(["deviation between starts", None, *(item.seeds for item in spread.deviations.values())])
    if len(folds) > 1:
        rows.append(["deviation between folds", None, *(item.folds for item in spread.deviations.values())])
    heads = ["Training", "Cases", *names.values()]
    return Section("Run-to-run spread", [HOW], [Table(heads, rows, "Single trainings, without averaging")])


def _run(member: Member, table: pd.DataFrame, dataset: Dataset, calibration: Calibration) -> SingleRun:
    plain = dataset.model_copy(update={"subgroups": ()})
    summary = summarise(table, plain, "", "validation", threshold=calibration.threshold).summary
    wanted = _figures(dataset)
    metrics = {name: summary.metrics.get(name) for name in wanted if name in summary.metrics}
    return SingleRun(fold=member.fold, seed=member.seed, cases=summary.n, metrics=metrics)


def _figures(dataset: Dataset) -> tuple[str, ...]:
    if dataset.task == "classify":
        return CLASSIFIER_FIGURES
    keys = label_keys(dataset.labels)
    labels = [f"dice_{keys[value]}" for value in foreground(dataset.labels)]
    return ("dice_mean", *(labels if len(labels) > 1 else ()))


def _deviation(runs: Sequence[SingleRun], name: str) -> Deviation:
    by_fold: dict[int, list[float]] = {}
    for run in runs:
        value = run.metrics.get(name)
        if value is not None:
            by_fold.setdefault(run.fold, []).append(value)
    every = [value for values in by_fold.values() for value in values]
    return Deviation(
        mean=float(np.mean(every)) if every else None,
        seeds=_pooled(by_fold),
        folds=_standard([float(np.mean(values)) for values in by_fold.values()]),
    )


def _pooled(by_fold: Mapping[int, Sequence[float]]) -> float | None:
    """Return the standard deviation between starts: variances within folds, averaged."""
    variances = [float(np.var(values, ddof=1)) for values in by_fold.values() if len(values) > 1]
    return math.sqrt(float(np.mean(variances))) if variances else None


def _standard(values: Sequence[float]) -> float | None:
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def _title(name: str) -> str:
    return NAMES.get(name, name.replace("_", " ").capitalize())
