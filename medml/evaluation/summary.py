"""From the table of cases to figures with patient-level intervals."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pandas as pd

from medml.evaluation.classes import ClassScores, class_scores
from medml.evaluation.detection import RULE, froc_curve, lesion_metrics, lesions_of
from medml.evaluation.names import foreground, label_keys
from medml.evaluation.subgroups import Statistic, subgroup_table
from medml.metrics.classification import youden_threshold
from medml.metrics.conformal import coverage_interval
from medml.metrics.intervals import MIN_PATIENTS, RESAMPLES, Interval, Resamples, weighted_auroc
from medml.records.calibration import Calibration
from medml.records.dataset import Dataset
from medml.records.report import Evaluation, Summary

TOLERANCE_MM = 1.0  # up to which a surface voxel counts as agreeing in NSD
SIZE = "reference_volume"
FEWEST_TO_THIRD = 30  # cases below which thirds say nothing
Metrics = dict[str, float | None]
Notes = tuple[str, ...]


def summarise(
    table: pd.DataFrame,
    dataset: Dataset,
    model: str,
    part: Literal["validation", "test"],
    *,
    threshold: float | None = None,
    calibration: Calibration | None = None,
    seed: int = 0,
) -> Evaluation:
    """Average a table of cases, with 95 % intervals over patients, subgroups and notes.

    Parameters
    ----------
    table : DataFrame
        From `medml.evaluation.evaluate.case_table`.
    threshold : float
        Classifiers of two classes: "yes" is at least this probability of the positive class (the second label).
        None: chosen from the table if it is the validation part, else 0.5.
    calibration : Calibration
        The package's: what its conformal sets promise, and on how many patients.
    """
    done = scored(table)
    draws = Resamples(done["patient"].to_numpy(), seed=seed)
    if dataset.task == "segment":
        intervals, counts = _segment_metrics(done, dataset, draws)
        statistics, notes = _segment_statistics(done, draws), _segment_notes(done, dataset)
        scores, threshold = None, None
    else:
        if threshold is None and part == "validation":
            threshold = choose_threshold(table, dataset)
        scores = class_scores(done, dataset.labels, multi_label=dataset.multi_label, threshold=threshold)
        intervals, counts = scores.metrics(draws) if len(done) else {"auroc": Interval(float("nan"))}, {}
        intervals |= set_metrics(done, draws, calibration if part == "test" else None)
        statistics, notes, threshold = _class_statistics(scores, draws), scores.notes(), scores.threshold
    audited = _with_size(done, dataset)
    columns = (*dataset.subgroups, *((SIZE,) if SIZE in audited else ()))
    subgroups, subgroup_notes = subgroup_table(audited, columns, statistics, draws)
    metrics = _flat(intervals) | counts | _running(table, done)
    return Evaluation(
        task=dataset.task,
        summary=Summary(
            model=model,
            dataset=dataset.name,
            test_digest=dataset.test_digest,
            split=part,
            n=len(done),
            metrics=metrics,
        ),
        labels=dataset.labels,
        threshold=threshold,
        confusion=scores.confusion() if scores and len(done) else None,
        curves=scores.curves() if scores and len(done) else _froc_curves(done, dataset),
        subgroups=subgroups,
        notes=(*_general_notes(table, done, draws), *notes, *subgroup_notes),
    )


def scored(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the cases that were predicted and scored."""
    return table[table["status"] == "done"].reset_index(drop=True)


def choose_threshold(table: pd.DataFrame, dataset: Dataset) -> float | None:
    """Return the threshold with the best sensitivity + specificity on a (validation) table; None unless two classes."""
    scores = class_scores(scored(table), dataset.labels, multi_label=dataset.multi_label)
    if scores.kind != "binary" or not len(scores.truth):
        return None
    return youden_threshold(scores.truth[:, 1], scores.probabilities[:, 1])


def _segment_metrics(
    done: pd.DataFrame, dataset: Dataset, draws: Resamples
) -> tuple[dict[str, Interval], dict[str, float | None]]:
    """Return means over cases with intervals, and counts."""
    keys = label_keys(dataset.labels)
    undefined = draws.undefined().interval()
    intervals = {"dice_mean": draws.mean(done["dice"].to_numpy()).interval() if "dice" in done else undefined}
    counts: dict[str, float | None] = {}
    for value in foreground(dataset.labels):
        key = keys[value]
        for metric in ("dice", "iou", "hd95", "nsd", "assd"):
            if f"{metric}_{key}" in done:
                intervals[f"{metric}_{key}"] = draws.mean(done[f"{metric}_{key}"].to_numpy()).interval()
        if f"volume_ml_{key}" in done:
            difference = done[f"volume_ml_{key}"] - done[f"reference_ml_{key}"]
            intervals[f"volume_bias_ml_{key}"] = draws.mean(difference.to_numpy()).interval()
        intervals |= lesion_metrics(done, key, draws)
        if f"outer_missed_{key}" in done:
            intervals[f"outer_missed_{key}"] = draws.mean(done[f"outer_missed_{key}"].to_numpy()).interval()
        for metric in ("missed", "false"):
            if f"{metric}_{key}" in done:
                counts[f"{metric}_{key}"] = float(done[f"{metric}_{key}"].sum())
    return intervals, counts


def _segment_statistics(done: pd.DataFrame, draws: Resamples) -> list[Statistic]:
    if "dice" not in done:
        return []
    values = done["dice"].to_numpy(dtype=float)
    return [("dice_mean", lambda cases: draws.mean(np.where(cases, values, np.nan)))]


def _class_statistics(scores: ClassScores, draws: Resamples) -> list[Statistic]:
    statistics: list[Statistic] = [("auroc", lambda cases: scores.ranking(weighted_auroc, draws, cases))]
    if scores.kind == "binary" and len(scores.truth):
        truth, decided = scores.truth[:, 1], scores.decided[:, 0]
        statistics.append(("sensitivity", lambda cases: draws.ratio(decided, truth & cases)))
        statistics.append(("specificity", lambda cases: draws.ratio(~decided, ~truth & cases)))
    return statistics


def set_metrics(done: pd.DataFrame, draws: Resamples, calibration: Calibration | None = None) -> dict[str, Interval]:
    """Return how often the conformal set holds the truth, how large it is, and how often it names one class only.

    With the calibration also ``coverage_promised``, and the exact range in which the coverage of one test of this size
    lies 95 times of 100 (beta-binomial).
    """
    if "conformal_set" not in done or not len(done):
        return {}
    named = [str(value).split("; ") for value in done["conformal_set"]]
    held = np.array([truth in names for truth, names in zip(done["truth"], named, strict=True)])
    sizes = np.array([len(names) for names in named], dtype=float)
    everyone = np.ones(len(done), dtype=bool)
    promised = {}
    if calibration is not None and calibration.patients:
        chance = coverage_interval(calibration.patients, draws.patients, calibration.miss)
        promised = {"coverage_promised": Interval(1 - calibration.miss, *chance)}
    return promised | {
        "coverage": draws.ratio(held, everyone).interval(),
        "set_size": draws.mean(sizes).interval(),
        "certain": draws.ratio(sizes == 1, everyone).interval(),
    }


def _segment_notes(done: pd.DataFrame, dataset: Dataset) -> Notes:
    keys = label_keys(dataset.labels)
    rule = (
        "dice_mean is the mean over cases of the mean over labels. Dice of a label is undefined where neither the "
        "reference nor the prediction has it (left out and counted), and 0 where only one of them has it."
    )
    notes = [rule]
    for value, name in foreground(dataset.labels).items():
        if f"dice_{keys[value]}" in done and (empty := int(done[f"dice_{keys[value]}"].isna().sum())):
            notes.append(f"{name}: in {empty} of {len(done)} cases neither has it; left out of its Dice.")
    if any(str(column).startswith("lesions_found_") for column in done):
        notes.append(RULE)
    if any(str(column).startswith("hd95_") for column in done):
        notes.append(
            "HD95, ASSD and NSD compare border voxels (face neighbours, voxel centres, in mm; not weighted by area). "
            f"HD95 is the larger of the two directed 95th percentiles; NSD uses a tolerance of {TOLERANCE_MM:g} mm. "
            "They are undefined where either side is empty: read them beside the missed and false counts."
        )
    elif len(done):
        notes.append("The voxel spacing is unknown, so no distance in mm and no volume in mL is given.")
    return tuple(notes)


def _with_size(done: pd.DataFrame, dataset: Dataset) -> pd.DataFrame:
    """Return the table with a column that says in which third of the reference's volumes a case lies."""
    keys = label_keys(dataset.labels)
    columns = [f"reference_ml_{keys[value]}" for value in foreground(dataset.labels)]
    if dataset.task != "segment" or len(done) < FEWEST_TO_THIRD or not set(columns) <= set(done.columns):
        return done
    volume = done[columns].sum(axis=1)
    low, high = np.quantile(volume, (1 / 3, 2 / 3))
    if not low < high:
        return done
    names = [f"<= {low:.3g} mL", f"{low:.3g} to {high:.3g} mL", f"> {high:.3g} mL"]
    return done.assign(**{SIZE: np.array(names)[np.digitize(volume, (low, high), right=True)]})


def _froc_curves(done: pd.DataFrame, dataset: Dataset) -> dict[str, Any]:
    """Return FROC curves by label name, of labels whose reference ever has more than one lesion in a scan."""
    if dataset.task != "segment":
        return {}
    keys = label_keys(dataset.labels)
    several = {
        value: name
        for value, name in foreground(dataset.labels).items()
        if any(len(case.found) != 1 for case in lesions_of(done, keys[value]))
    }
    curves = {name: froc_curve(done, keys[value]) for value, name in several.items()}
    return {"froc": {name: [*curve] for name, curve in curves.items() if curve[0]}} if curves else {}


def _general_notes(table: pd.DataFrame, done: pd.DataFrame, draws: Resamples) -> Notes:
    rule = (
        f"Intervals are 95 %, over {draws.patients} patients: {RESAMPLES} resamples of patients with all their cases "
        "(BCa for means, percentiles else, widened as Student's t), Wilson's for rates with one case per patient. No "
        f"interval is given for fewer than {MIN_PATIENTS} patients, or {MIN_PATIENTS} with the event a rate is about."
    )
    notes = [rule]
    failed = table[table["status"] != "done"]
    if len(failed):
        reasons = "; ".join(f"{count} x {reason}" for reason, count in failed["reason"].value_counts().items())
        notes.append(
            f"{len(failed)} of {len(table)} cases could not be scored and are in no figure below "
            f"(a gate counts them as worst): {reasons}."
        )
    return tuple(notes)


def _running(table: pd.DataFrame, done: pd.DataFrame) -> Metrics:
    seconds = _finite(done["seconds"].median()) if len(done) else None
    memory = {"peak_memory_mb": float(done["peak_memory_mb"].max())} if "peak_memory_mb" in done and len(done) else {}
    return {"failed": float(len(table) - len(done)), "seconds_per_case": seconds, **memory}


def _flat(intervals: dict[str, Interval]) -> Metrics:
    flat: Metrics = {}
    for name, interval in intervals.items():
        flat[name] = _finite(interval.value)
        flat[f"{name}_low"], flat[f"{name}_high"] = _finite(interval.low), _finite(interval.high)
    return flat


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
