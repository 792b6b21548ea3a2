"""What a report says: headline, cards and tables, in the words of the people who read it."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from medml.evaluation.definitions import mask_definitions
from medml.evaluation.names import foreground, label_keys
from medml.evaluation.summary import TOLERANCE_MM, scored
from medml.pages.content import Card, Cell, Table, Tone, Value, show
from medml.records.dataset import Dataset
from medml.records.report import Evaluation, Subgroup

Metrics = Mapping[str, float | None]
CLASS_FIGURES = {
    "auroc": ("AUROC", "how well probabilities rank cases, ties count half; 0.5 is chance; undefined with one class"),
    "average_precision": (
        "Average precision",
        "step-wise area under precision against recall; chance is the prevalence; undefined without positives",
    ),
    "sensitivity": ("Sensitivity", "share of positives that are found"),
    "specificity": ("Specificity", "share of negatives that are left alone"),
    "precision": (
        "Precision (PPV)",
        "share of positive calls that are right at this prevalence; undefined without",
    ),
    "accuracy": ("Accuracy", "share of decisions that are right"),
    "balanced_accuracy": ("Balanced accuracy", "mean of sensitivity and specificity, or of recall over classes"),
    "f1": ("F1", "harmonic mean of precision and sensitivity"),
    "mcc": ("Matthews correlation", "-1 to 1; 0 is chance"),
    "brier": ("Brier score", "squared error of probabilities; lower is better"),
    "ece": ("Calibration error (ECE)", "gap of predicted and observed shares; lower is better"),
    "coverage": ("Conformal coverage", "share of cases whose set of classes holds the truth"),
    "coverage_promised": (
        "Coverage promised",
        "and where the coverage of one test of this size lies 95 times of 100 if the promise is kept: exact "
        "(beta-binomial over the patients of calibration and test), so a coverage below it breaks the promise",
    ),
    "set_size": ("Conformal set size", "classes that cannot be ruled out, on average"),
    "certain": ("One class only", "share of cases whose set names a single class"),
}
LABEL_FIGURES = {
    "dice": "Dice",
    "hd95": "HD95 (mm)",
    "nsd": f"NSD at {TOLERANCE_MM:g} mm",
    "assd": "ASSD (mm)",
    "volume_bias_ml": "Volume bias (mL)",
}
SIGNIFICANT = 0.05
NAMES = {"dice_mean": "Mean Dice", **{key: name for key, (name, _) in CLASS_FIGURES.items()}}


def headline(evaluation: Evaluation, table: pd.DataFrame, *, seen: bool = False) -> str:
    """Return the result in a sentence or two; ``seen``: the model may have learned from these patients."""
    summary, metrics = evaluation.summary, evaluation.summary.metrics
    if not summary.n:
        return f"None of {len(table)} cases could be scored; the reasons are under Limits and notes."
    done = scored(table)
    whom = "validation" if summary.split == "validation" else "evaluated" if seen else "held-out"
    start = f"On {_count(summary.n, 'scan')} of {_count(done['patient'].nunique(), f'{whom} patient')}, "
    if evaluation.task == "segment":
        text = start + f"the mean Dice is {_with_interval(metrics, 'dice_mean')}."
        for value, name in foreground(evaluation.labels).items():
            key = label_keys(evaluation.labels)[value]
            if missed := metrics.get(f"missed_{key}"):
                text += f" {name} was missed altogether in {_count(int(missed), 'scan')}."
    else:
        text = start + f"the AUROC is {_with_interval(metrics, 'auroc')}"
        if evaluation.threshold is not None and len(evaluation.labels) == 2:
            text += (
                f"; at the threshold {evaluation.threshold:.3f} sensitivity is {_with_interval(metrics, 'sensitivity')}"
                f" and specificity {_with_interval(metrics, 'specificity')}"
            )
        else:
            text += f" and the accuracy {_with_interval(metrics, 'accuracy')}"
        text += "."
    failed = int(metrics.get("failed") or 0)
    return text + (f" {_count(failed, 'scan')} could not be scored." if failed else "")


def facts(evaluation: Evaluation, table: pd.DataFrame, dataset: Dataset) -> list[tuple[str, Value]]:
    """Return what was tested, as pairs of name and value."""
    how = {"patient": "drawn by patient", "official": "as published", "column": "by a column, patients checked"}
    return [
        ("Patients scored", f"{scored(table)['patient'].nunique()} of {table['patient'].nunique()}"),
        ("Scans scored", f"{evaluation.summary.n} of {len(table)}"),
        ("Modality", dataset.modality),
        ("Channels", ", ".join(dataset.channels)),
        ("Split", how[dataset.split]),
        ("Dataset digest", dataset.digest[:16]),
        ("Test set digest", evaluation.summary.test_digest[:16]),
    ]


def cards(evaluation: Evaluation) -> list[Card]:
    """Return the few figures that matter most."""
    metrics = evaluation.summary.metrics
    if evaluation.task == "classify":
        wanted = ["auroc", "average_precision"]
        wanted += ["sensitivity", "specificity"] if len(evaluation.labels) == 2 else ["accuracy", "f1"]
        return [_card(NAMES[key], metrics, key) for key in wanted]
    keys = label_keys(evaluation.labels)
    found = [_card("Mean Dice", metrics, "dice_mean")]
    labels = list(foreground(evaluation.labels).items())[:4]
    if len(labels) > 1:
        found += [_card(f"Dice {name}", metrics, f"dice_{keys[value]}") for value, name in labels]
    elif labels and f"hd95_{keys[labels[0][0]]}" in metrics:
        key = keys[labels[0][0]]
        found += [_card("HD95 (mm)", metrics, f"hd95_{key}", 2), _card("NSD", metrics, f"nsd_{key}")]
    return found


def metric_tables(evaluation: Evaluation, validation: Evaluation | None) -> list[Table]:
    """Return every figure with its interval; validation stands beside it, never mixed in."""
    beside = validation.summary.metrics if validation else None
    if evaluation.task == "segment":
        return _label_tables(evaluation, beside)
    metrics = evaluation.summary.metrics
    columns = ["Figure", "Value", "95 % interval", *(["Validation"] if beside else []), "What it says"]
    rows: list[list[Value]] = []
    for key, (name, meaning) in CLASS_FIGURES.items():
        if key not in metrics:
            continue
        middle: list[Value] = [beside.get(key)] if beside else []
        rows.append([name, metrics.get(key), _interval(metrics, key), *middle, Cell(meaning, "muted")])
    tables = [Table(columns, rows)]
    per_class = [(name, f"auroc_{label_keys(evaluation.labels)[value]}") for value, name in evaluation.labels.items()]
    if per_class and per_class[0][1] in metrics:
        lines: list[list[Value]] = [[name, metrics[key], _interval(metrics, key)] for name, key in per_class]
        tables.append(Table(["Class", "AUROC", "95 % interval"], lines, "Each class against the rest"))
    return tables


def subgroup_tables(subgroups: tuple[Subgroup, ...]) -> list[Table]:
    """Return one table per audited column; every level is shown, however small."""
    columns = [
        "Level",
        "Patients",
        "Scans",
        "Figure",
        "Value",
        "95 % interval",
        "Gap to the rest",
        "95 % interval",
        "p (Holm)",
        "Note",
    ]
    tables = []
    for column in dict.fromkeys(group.column for group in subgroups):
        rows: list[list[Value]] = []
        for group in (g for g in subgroups if g.column == column):
            apart = group.p_holm is not None and group.p_holm < SIGNIFICANT
            few: Tone = "muted" if group.note else ""
            rows.append(
                [
                    Cell(group.level, few),
                    Cell(group.patients, few),
                    Cell(group.cases, few),
                    Cell(NAMES.get(group.metric, group.metric), few),
                    Cell(group.value, few),
                    _span(group.low, group.high, none="–"),
                    Cell("–" if group.gap is None else f"{group.gap:+.3f}", "warn" if apart else ""),
                    _span(group.gap_low, group.gap_high, signed=True, none="–"),
                    Cell(_p(group.p_holm), "warn" if apart else ""),
                    Cell(group.note, "muted"),
                ]
            )
        tables.append(Table(columns, rows, column.replace("_", " ").capitalize()))
    return tables


def _p(value: float | None) -> str:
    return "–" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"


def _label_tables(evaluation: Evaluation, beside: Metrics | None) -> list[Table]:
    metrics, keys = evaluation.summary.metrics, label_keys(evaluation.labels)
    labels = foreground(evaluation.labels)
    figures = [name for name in LABEL_FIGURES if any(f"{name}_{keys[value]}" in metrics for value in labels)]
    rows: list[list[Value]] = []
    for value, name in labels.items():
        key = keys[value]
        cells: list[Value] = [_compact(metrics, f"{figure}_{key}") for figure in figures]
        counts: list[Value] = []
        for side in ("missed", "false"):
            count = metrics.get(f"{side}_{key}")
            counts.append(Cell(None if count is None else int(count), "warn" if count else ""))
        rows.append([name, *cells, *counts])
    columns = ["Structure", *(LABEL_FIGURES[figure] for figure in figures), "Missed", "False"]
    tables = [Table(columns, rows, "Mean over scans, below it the 95 % interval; missed and false count scans")]
    tables += _lesion_tables(metrics, {name: keys[value] for value, name in labels.items()})
    tables.append(mask_definitions(list(metrics)))
    if beside:
        wanted = ["dice_mean", *(f"dice_{keys[value]}" for value in labels)]
        names = ["Mean Dice", *(f"Dice {name}" for name in labels.values())]
        lines: list[list[Value]] = [
            [name, metrics.get(key), _interval(metrics, key), beside.get(key)]
            for name, key in zip(names, wanted, strict=True)
        ]
        tables.append(Table(["Figure", "Test", "95 % interval", "Validation (used for choosing)"], lines))
    return tables


def _lesion_tables(metrics: Metrics, keys: Mapping[str, str]) -> list[Table]:
    """Return what is found lesion by lesion, and whether the outer masks keep their promise."""
    tables = []
    found: list[list[Value]] = [
        [name, *(_compact(metrics, f"lesion_{figure}_{key}") for figure in ("sensitivity", "false_per_scan", "f1"))]
        for name, key in keys.items()
        if f"lesion_sensitivity_{key}" in metrics
    ]
    if found:
        columns = ["Structure", "Lesions found", "False lesions per scan", "Lesion F1"]
        tables.append(Table(columns, found, "Lesion by lesion (connected components)"))
    outer: list[list[Value]] = [
        [name, metrics[f"outer_missed_{key}"], _interval(metrics, f"outer_missed_{key}")]
        for name, key in keys.items()
        if metrics.get(f"outer_missed_{key}") is not None
    ]
    if outer:
        caption = "Outer mask (conformal risk control, promised on validation: at most 0.100 missed on average)"
        tables.append(Table(["Structure", "Share missed", "95 % interval"], outer, caption))
    return tables


def _card(label: str, metrics: Metrics, key: str, digits: int = 3) -> Card:
    return Card(label, show(metrics.get(key), digits), f"95 %: {_interval(metrics, key, digits)}")


def _interval(metrics: Metrics, key: str, digits: int = 3) -> str:
    return _span(metrics.get(f"{key}_low"), metrics.get(f"{key}_high"), digits=digits)


def _span(
    low: float | None, high: float | None, *, signed: bool = False, digits: int = 3, none: str = "too few"
) -> str:
    if low is None or high is None:
        return none
    sign = "+" if signed else ""
    return f"{low:{sign}.{digits}f} to {high:{sign}.{digits}f}"


def _compact(metrics: Metrics, key: str) -> str:
    value = metrics.get(key)
    if value is None:
        return "–"
    digits = 2 if key.startswith(("hd95", "assd", "volume")) else 3
    return f"{value:.{digits}f}\n{_interval(metrics, key, digits)}"


def _with_interval(metrics: Metrics, key: str) -> str:
    value = show(metrics.get(key))
    if metrics.get(f"{key}_low") is None:
        return f"{value} (too few patients for an interval)"
    return f"{value} (95 % interval {_interval(metrics, key)})"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
