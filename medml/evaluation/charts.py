"""The charts of a report, from the table of cases and the evaluation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from medml.evaluation.names import foreground, label_keys
from medml.evaluation.wording import NAMES
from medml.pages import figures
from medml.pages.content import Picture
from medml.records.plan import Epoch
from medml.records.report import Evaluation

Charts = dict[str, Picture]
MAX_CURVES = 8


def class_charts(evaluation: Evaluation) -> Charts:
    """Return ROC, precision-recall, reliability and confusion charts; a curve that is undefined is left out."""
    charts: Charts = {}
    metrics, keys = evaluation.summary.metrics, label_keys(evaluation.labels)
    names = {name: keys[value] for value, name in evaluation.labels.items()}
    binary = len(evaluation.labels) == 2 and evaluation.confusion is not None
    curves = {name: (curve[0], curve[1]) for name, curve in evaluation.curves.get("roc", {}).items()}
    if curves:
        shown = dict(list(curves.items())[:MAX_CURVES])
        notes = {name: _area(metrics, "auroc" if binary else f"auroc_{names[name]}", "AUROC") for name in shown}
        caption = "ROC: sensitivity against false alarms at every threshold."
        charts["roc"] = Picture(figures.roc(shown, marked=_operating_point(evaluation), notes=notes), caption)
        pr = {name: (curve[0], curve[1]) for name, curve in list(evaluation.curves["pr"].items())[:MAX_CURVES]}
        prevalence = _prevalence(evaluation) if binary else None
        notes = {name: _area(metrics, "average_precision", "AP") for name in pr} if binary else {}
        png = figures.precision_recall(pr, prevalence=prevalence, notes=notes)
        charts["precision_recall"] = Picture(png, "Precision against recall at every threshold.")
    if evaluation.curves.get("reliability"):
        predicted, observed, counts = evaluation.curves["reliability"]
        png = figures.calibration(predicted, observed, counts, note=f"ECE {_value(metrics.get('ece'))}")
        charts["calibration"] = Picture(png, "Calibration: of the cases given 70 %, do 70 % have it?")
    if evaluation.confusion and len(evaluation.labels) <= 20:
        ordered = [evaluation.labels[value] for value in sorted(evaluation.labels)]
        caption = "Confusion matrix: counts, and their share of the row."
        charts["confusion"] = Picture(figures.confusion_matrix(evaluation.confusion, ordered), caption)
    return charts


def segment_charts(evaluation: Evaluation, done: pd.DataFrame) -> Charts:
    """Return the distribution of Dice and, per structure with volumes, a Bland-Altman chart."""
    charts: Charts = {}
    keys = label_keys(evaluation.labels)
    labels = {
        keys[value]: name for value, name in foreground(evaluation.labels).items() if f"dice_{keys[value]}" in done
    }
    if labels:
        values = {name: done[f"dice_{key}"].tolist() for key, name in labels.items()}
        png = figures.strips(dict(list(values.items())[:10]), label="Dice", limits=(-0.02, 1.02))
        caption = "Dice of every scan; box: quartiles and median. n counts the scans where it is defined."
        charts["dice"] = Picture(png, caption)
    if curves := evaluation.curves.get("froc"):
        shown = {name: (curve[0], curve[1]) for name, curve in list(curves.items())[:MAX_CURVES]}
        caption = "FROC: lesions found against false ones per scan, as the asked sureness falls."
        charts["froc"] = Picture(figures.froc(shown), caption)
    for key, name in list(labels.items())[:4]:
        if f"volume_ml_{key}" in done:
            png = figures.bland_altman(
                done[f"volume_ml_{key}"].tolist(), done[f"reference_ml_{key}"].tolist(), name=name
            )
            caption = f"Volume of {name}, Bland-Altman: do prediction and reference differ, and more for large ones?"
            charts[f"volume_{key}"] = Picture(png, caption)
    return charts


def subgroup_chart(evaluation: Evaluation) -> Charts:
    """Return a forest chart of the audited figure, if there is more than one group to compare."""
    metric = "dice_mean" if evaluation.task == "segment" else "auroc"
    overall = evaluation.summary.metrics.get(metric)
    groups = [group for group in evaluation.subgroups if group.metric == metric and group.value is not None]
    if overall is None or len(groups) < 2:
        return {}
    rows = [
        (f"{g.column.replace('_', ' ')}: {g.level}", g.value or 0.0, _nan(g.low), _nan(g.high), g.patients)
        for g in groups
    ]
    png = figures.forest(rows[:40], overall=overall, label=NAMES[metric])
    return {"subgroups": Picture(png, f"{NAMES[metric]} of each subgroup with its 95 % interval.", wide=True)}


def training_chart(epochs: Sequence[Epoch]) -> Charts:
    """Return learning curves, if there are epochs."""
    if not epochs:
        return {}
    names = sorted({name for epoch in epochs for name in epoch.metrics} - {"data_wait"})
    metrics = {name: [epoch.metrics.get(name, float("nan")) for epoch in epochs] for name in names}
    best = [epoch.epoch for epoch in epochs if epoch.best]
    png = figures.learning_curves([epoch.epoch for epoch in epochs], metrics, best=best[-1] if best else None)
    return {
        "training": Picture(png, "Training, epoch by epoch; the dashed line is the epoch that was kept.", wide=True)
    }


def _operating_point(evaluation: Evaluation) -> tuple[list[float], list[float]] | None:
    sensitivity = evaluation.summary.metrics.get("sensitivity")
    specificity = evaluation.summary.metrics.get("specificity")
    if len(evaluation.labels) != 2 or sensitivity is None or specificity is None or evaluation.confusion is None:
        return None
    return [1 - specificity], [sensitivity]


def _prevalence(evaluation: Evaluation) -> float:
    counts = np.asarray(evaluation.confusion, dtype=float)
    return float(counts[1].sum() / counts.sum())


def _area(metrics: dict[str, float | None], key: str, name: str) -> str:
    found = _value(metrics.get(key))
    return f"({name} {found})" if found else ""


def _value(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _nan(value: float | None) -> float:
    return float("nan") if value is None else value
