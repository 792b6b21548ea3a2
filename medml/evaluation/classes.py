"""Figures of a classifier from its table of cases: binary, one of several classes, or several at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from sklearn.metrics import precision_recall_curve, roc_curve

from medml.evaluation.names import label_keys
from medml.metrics.classification import ECE_BINS, Decisions, confusion, decisions, macro, multiclass_mcc, reliability
from medml.metrics.intervals import (
    Interval,
    Resamples,
    Spread,
    Weighted,
    weighted_auroc,
    weighted_average_precision,
)
from medml.records.dataset import Dataset

CURVE_POINTS = 200
Kind = Literal["binary", "multiclass", "multilabel"]


@dataclass(frozen=True, slots=True, eq=False)
class ClassScores:
    """Truth and probabilities of the cases that were scored.

    Attributes
    ----------
    truth : ndarray of shape (N, classes), bool
    probabilities : ndarray of shape (N, classes)
    names, keys : tuple of str
        Class names, and as they stand in metrics.
    threshold : float
        "Yes" is at least this probability; None where the likeliest class is taken.
    """

    truth: np.ndarray
    probabilities: np.ndarray
    names: tuple[str, ...]
    keys: tuple[str, ...]
    kind: Kind
    threshold: float | None

    @property
    def ranked(self) -> tuple[int, ...]:
        """The classes that are scored against the rest: the positive one of two, else all."""
        return (1,) if self.kind == "binary" else tuple(range(len(self.names)))

    @property
    def decided(self) -> np.ndarray:
        """What is said of each ranked class; bool of shape (N, ranked classes)."""
        if self.kind == "multiclass":
            decided: np.ndarray = np.eye(len(self.names), dtype=bool)[self.probabilities.argmax(axis=1)]
            return decided
        decided = self.probabilities[:, list(self.ranked)] >= (0.5 if self.threshold is None else self.threshold)
        return decided

    def metrics(self, draws: Resamples) -> dict[str, Interval]:
        """Return every figure with its interval."""
        found = {
            "auroc": self.ranking(weighted_auroc, draws).interval(),
            "average_precision": self.ranking(weighted_average_precision, draws).interval(),
            **self._decision_metrics(draws),
            **self._calibration_metrics(draws),
        }
        if self.kind != "binary":
            for n, key in enumerate(self.keys):
                truth, score = self.truth[:, n], self.probabilities[:, n]
                found[f"auroc_{key}"] = draws.ranking(weighted_auroc, truth, score).interval()
        return found

    def ranking(self, function: Weighted, draws: Resamples, cases: np.ndarray | None = None) -> Spread:
        """Return AUROC or average precision over ``cases``: of the positive class, else the mean over classes."""
        spreads = [draws.ranking(function, self.truth[:, n], self.probabilities[:, n], cases) for n in self.ranked]
        spreads = [spread for spread in spreads if np.isfinite(spread.value)]
        if not spreads:
            return draws.undefined()
        if self.kind == "binary":
            return spreads[0]
        # A rare class may be absent from a resample; the mean is then over those present, as in the value itself.
        everyone = np.ones(len(self.truth), dtype=bool) if cases is None else cases
        return Spread(
            float(np.mean([spread.value for spread in spreads])),
            macro(np.stack([spread.draws for spread in spreads], axis=-1)),
            draws.patients_with(everyone),
        )

    def confusion(self) -> tuple[tuple[int, ...], ...] | None:
        """Return counts, rows truth, columns prediction; None where several classes may hold at once."""
        if self.kind == "multilabel":
            return None
        table = confusion(self.truth.argmax(axis=1), self.predicted(), len(self.names))
        return tuple(tuple(int(count) for count in row) for row in table)

    def predicted(self) -> np.ndarray:
        """Return the index of the class each case is given: by the threshold if there are two, else the likeliest."""
        if self.kind == "binary":
            return self.decided[:, 0].astype(int)
        likeliest: np.ndarray = self.probabilities.argmax(axis=1)
        return likeliest

    def curves(self) -> dict[str, Any]:
        """Return ROC, precision-recall and reliability curves as lists, at most 200 points each."""
        curves: dict[str, Any] = {"roc": {}, "pr": {}}
        for n in self.ranked:
            truth, score = self.truth[:, n], self.probabilities[:, n]
            if truth.any() and not truth.all():
                false_rate, true_rate, _ = roc_curve(truth, score)
                precision, recall, _ = precision_recall_curve(truth, score)
                curves["roc"][self.names[n]] = _thin(false_rate, true_rate)
                curves["pr"][self.names[n]] = _thin(recall, precision)
        truth, score = self._calibrated()
        bins = reliability(truth.ravel(), score.ravel())
        curves["reliability"] = [bins.predicted.tolist(), bins.observed.tolist(), bins.count.tolist()]
        return curves

    def notes(self) -> tuple[str, ...]:
        """Return what a reader must know about these figures."""
        average = "Average precision is the step-wise area under precision against recall."
        calibration = (
            f"ECE: {ECE_BINS} bins of equal width, of "
            + {
                "binary": "the positive class's probability.",
                "multiclass": "the likeliest class's probability.",
                "multilabel": "every class's probability, averaged over classes.",
            }[self.kind]
        )
        if self.kind == "binary":
            meaning = (
                f"Positive class: {self.names[1]}. Sensitivity, specificity and the other decisions hold at the "
                f"threshold {self.threshold:.3f}."
            )
            return meaning, f"{average} {calibration} Brier: mean squared error of the positive class's probability."
        if self.kind == "multiclass":
            meaning = (
                "AUROC, average precision, sensitivity, specificity and F1 are one class versus the rest, averaged "
                "over the classes that occur; the decision is the likeliest class; MCC is the multi-class one."
            )
            return meaning, f"{average} {calibration} Brier: squared error summed over classes, 0 to 2."
        meaning = (
            "Several classes may hold at once: every figure is averaged over classes, decisions at "
            f"{0.5 if self.threshold is None else self.threshold:.3f}; accuracy is the share of right decisions."
        )
        return meaning, f"{average} {calibration} Brier: mean squared error."

    def _decision_metrics(self, draws: Resamples) -> dict[str, Interval]:
        truth, decided = self.truth[:, list(self.ranked)], self.decided
        counted = _resampled(truth, decided, draws)
        found = {
            name: self._averaged(point, spread, draws)
            for name, point, spread in _figures(decisions(truth, decided), counted)
        }
        if self.kind == "binary":
            yes, right = truth[:, 0], truth[:, 0] == decided[:, 0]
            found["sensitivity"] = draws.ratio(right, yes).interval()
            found["specificity"] = draws.ratio(right, ~yes).interval()
            found["accuracy"] = draws.ratio(right, np.ones(len(right))).interval()
        if self.kind == "multiclass":
            classes, place = len(self.names), self.truth.argmax(axis=1)
            found["accuracy"] = draws.ratio(place == self.predicted(), np.ones(len(place))).interval()
            found["balanced_accuracy"] = found["sensitivity"]
            cells = np.eye(classes * classes, dtype=np.float32)[place * classes + self.predicted()]
            tables = draws.sums(cells).reshape(-1, classes, classes)
            value = float(multiclass_mcc(confusion(place, self.predicted(), classes)))
            found["mcc"] = Spread(value, multiclass_mcc(tables), draws.patients).interval()
        return found

    def _averaged(self, point: np.ndarray, draws_of: np.ndarray, draws: Resamples) -> Interval:
        events = draws.patients
        if self.kind == "binary":
            events = min(draws.patients_with(self.truth[:, 1]), draws.patients_with(~self.truth[:, 1]))
        return Spread(float(macro(point)), macro(draws_of), events).interval()

    def _calibration_metrics(self, draws: Resamples) -> dict[str, Interval]:
        truth, score = self._calibrated()
        errors = (self.probabilities - self.truth) ** 2
        per_case = {"binary": errors[:, -1], "multiclass": errors.sum(axis=1), "multilabel": errors.mean(axis=1)}
        gaps = [_bin_gaps(truth[:, n], score[:, n]) for n in range(truth.shape[1])]
        size = max(1, len(truth))
        value = float(np.mean([np.abs(gap.sum(axis=0)).sum() / size for gap in gaps])) if len(truth) else float("nan")
        spread = np.mean([np.abs(draws.sums(gap)).sum(axis=1) for gap in gaps], axis=0)
        total = np.maximum(draws.weights.sum(axis=1), 1)
        return {
            "brier": draws.mean(per_case[self.kind]).interval(),
            "ece": Spread(value, spread / total, draws.patients).interval(),
        }

    def _calibrated(self) -> tuple[np.ndarray, np.ndarray]:
        """Return truth and probability (N, columns) whose agreement is calibration."""
        if self.kind == "multiclass":
            best = self.probabilities.argmax(axis=1)[:, np.newaxis]
            return np.take_along_axis(self.truth, best, axis=1), np.take_along_axis(self.probabilities, best, axis=1)
        return self.truth[:, list(self.ranked)], self.probabilities[:, list(self.ranked)]


def class_scores(
    done: pd.DataFrame, labels: Mapping[int, str], *, multi_label: bool, threshold: float | None = None
) -> ClassScores:
    """Read truth and probabilities from the scored rows of a table of cases; two classes get 0.5 if no threshold."""
    values = sorted(labels)
    keys, names = label_keys(labels), [labels[value] for value in values]
    kind: Kind = "multilabel" if multi_label else "binary" if len(values) == 2 else "multiclass"
    columns = [f"prob_{keys[value]}" for value in values]
    probabilities = done.reindex(columns=columns).to_numpy(dtype=float)
    if kind == "multilabel":
        truth = done.reindex(columns=[f"truth_{keys[value]}" for value in values]).to_numpy(dtype=float) > 0
    else:
        said = done["truth"].to_numpy() if "truth" in done else np.empty(0, dtype=object)
        truth = np.stack([said == name for name in names], axis=1)
    if kind == "binary" and threshold is None:
        threshold = 0.5
    return ClassScores(
        truth=truth,
        probabilities=probabilities,
        names=tuple(names),
        keys=tuple(keys[value] for value in values),
        kind=kind,
        threshold=None if kind == "multiclass" else threshold,
    )


def decided(table: pd.DataFrame, dataset: Dataset, threshold: float | None) -> pd.DataFrame:
    """Return a table of cases with ``predicted`` and ``correct`` as they hold at ``threshold`` (two classes)."""
    if dataset.task == "segment" or dataset.multi_label or len(dataset.labels) != 2 or "predicted" not in table:
        return table
    done = table["status"] == "done"
    scores = class_scores(table[done], dataset.labels, multi_label=False, threshold=threshold)
    named = [scores.names[index] for index in scores.predicted()]
    table = table.copy()
    table.loc[done, "predicted"] = named
    table.loc[done, "correct"] = (table.loc[done, "truth"] == named).astype(int)
    return table


def _figures(point: Decisions, drawn: Decisions) -> list[tuple[str, np.ndarray, np.ndarray]]:
    figures: dict[str, Callable[[Decisions], np.ndarray]] = {
        "accuracy": lambda d: d.accuracy,
        "balanced_accuracy": lambda d: d.balanced_accuracy,
        "sensitivity": lambda d: d.sensitivity,
        "specificity": lambda d: d.specificity,
        "precision": lambda d: d.precision,
        "f1": lambda d: d.f1,
        "mcc": lambda d: d.mcc,
    }
    return [(name, figure(point), figure(drawn)) for name, figure in figures.items()]


def _resampled(truth: np.ndarray, decided: np.ndarray, draws: Resamples) -> Decisions:
    """Return the counts of every resample, arrays of shape (resamples, classes)."""
    parts = (truth & decided, ~truth & decided, ~truth & ~decided, truth & ~decided)
    return Decisions(*(draws.sums(part) for part in parts))


def _bin_gaps(truth: np.ndarray, score: np.ndarray) -> np.ndarray:
    """Return, per case and bin, probability minus truth (N, bins): summed and made absolute they give the ECE."""
    place = np.minimum((score * ECE_BINS).astype(int), ECE_BINS - 1)
    gaps: np.ndarray = np.eye(ECE_BINS, dtype=np.float32)[place] * (score - truth)[:, np.newaxis]
    return gaps


def _thin(across: np.ndarray, up: np.ndarray) -> list[list[float]]:
    """Return a curve as two lists, at most 200 points of it, its ends among them."""
    kept = np.unique(np.linspace(0, len(across) - 1, min(len(across), CURVE_POINTS)).round().astype(int))
    return [[round(float(v), 5) for v in across[kept]], [round(float(v), 5) for v in up[kept]]]
