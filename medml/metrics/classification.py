"""How good class probabilities are: ranking, decisions at a threshold, calibration.

What a set of cases cannot answer (AUROC with one class only, sensitivity without a positive) is NaN, never a guess.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

NAN = float("nan")
ECE_BINS = 10


@dataclass(frozen=True, slots=True, eq=False)
class Decisions:
    """Counts of yes/no decisions, and what follows from them; a ratio without a denominator is NaN.

    Attributes
    ----------
    tp, fp, tn, fn : ndarray
        True and false positives and negatives, of any one shape: one number, one per class, one per resample.
    """

    tp: np.ndarray
    fp: np.ndarray
    tn: np.ndarray
    fn: np.ndarray

    @property
    def sensitivity(self) -> np.ndarray:
        """Share of the positives that are found."""
        return _ratio(self.tp, self.tp + self.fn)

    @property
    def specificity(self) -> np.ndarray:
        """Share of the negatives that are left alone."""
        return _ratio(self.tn, self.tn + self.fp)

    @property
    def precision(self) -> np.ndarray:
        """Share of the positive calls that are right."""
        return _ratio(self.tp, self.tp + self.fp)

    @property
    def accuracy(self) -> np.ndarray:
        """Share of all decisions that are right."""
        return _ratio(self.tp + self.tn, self.tp + self.fp + self.tn + self.fn)

    @property
    def balanced_accuracy(self) -> np.ndarray:
        """Mean of sensitivity and specificity."""
        balanced: np.ndarray = (self.sensitivity + self.specificity) / 2
        return balanced

    @property
    def f1(self) -> np.ndarray:
        """Harmonic mean of precision and sensitivity."""
        return _ratio(2 * self.tp, 2 * self.tp + self.fp + self.fn)

    @property
    def mcc(self) -> np.ndarray:
        """Matthews correlation; NaN when a row or column of the table is empty."""
        rows = (self.tp + self.fn) * (self.tn + self.fp)
        columns = (self.tp + self.fp) * (self.tn + self.fn)
        return _ratio(self.tp * self.tn - self.fp * self.fn, np.sqrt(rows) * np.sqrt(columns))


@dataclass(frozen=True, slots=True, eq=False)
class Reliability:
    """Mean predicted probability and observed share per bin that holds cases; arrays of shape (bins used,)."""

    predicted: np.ndarray
    observed: np.ndarray
    count: np.ndarray


def auroc(truth: np.ndarray, score: np.ndarray) -> float:
    """Return the area under the ROC curve of ``score`` (N,) for yes/no ``truth`` (N,); NaN with one class only."""
    truth = np.asarray(truth, dtype=bool)
    return float(roc_auc_score(truth, score)) if _both_present(truth) else NAN


def average_precision(truth: np.ndarray, score: np.ndarray) -> float:
    """Return the average precision (area under precision against recall, step-wise); NaN with one class only."""
    truth = np.asarray(truth, dtype=bool)
    return float(average_precision_score(truth, score)) if _both_present(truth) else NAN


def macro(values: np.ndarray) -> np.ndarray:
    """Return the mean over the last axis (classes) of what is defined there; NaN where nothing is."""
    values = np.asarray(values, dtype=float)
    defined = np.isfinite(values)
    return _ratio(np.where(defined, values, 0.0).sum(axis=-1), defined.sum(axis=-1))


def decisions(truth: np.ndarray, decided: np.ndarray) -> Decisions:
    """Count yes/no ``decided`` (N, …) against ``truth`` (N, …) over the first axis."""
    truth, decided = np.asarray(truth, dtype=bool), np.asarray(decided, dtype=bool)
    parts = (truth & decided, ~truth & decided, ~truth & ~decided, truth & ~decided)
    return Decisions(*(part.sum(axis=0).astype(float) for part in parts))


def youden_threshold(truth: np.ndarray, score: np.ndarray) -> float:
    """Return the threshold with the largest sensitivity + specificity; "yes" is score >= threshold.

    Of equal ones the one that finds more. It lies halfway between the lowest score that is "yes" and the next lower
    one, so that it does not hang on one case. 0.5 if only one class is present.
    """
    truth = np.asarray(truth, dtype=bool)
    if not _both_present(truth):
        return 0.5
    false_rate, true_rate, thresholds = roc_curve(truth, score, drop_intermediate=False)
    # In whole cases, so that equal sums are equal.
    yes, no = int(truth.sum()), int((~truth).sum())
    gain = np.rint(true_rate * yes) * no - np.rint(false_rate * no) * yes
    chosen = float(thresholds[len(gain) - 1 - int(np.argmax(gain[::-1]))])
    lower = np.asarray(score, dtype=float)
    lower = lower[lower < chosen]
    return (chosen + float(lower.max())) / 2 if lower.size and np.isfinite(chosen) else min(chosen, 1.0)


def brier(truth: np.ndarray, probabilities: np.ndarray) -> float:
    """Return the mean squared error of probabilities; (N,) for yes/no.

    For (N, classes) it is summed over classes, so that it runs from 0 to 2 (Brier 1950).
    """
    difference = (np.asarray(probabilities, dtype=float) - np.asarray(truth, dtype=float)) ** 2
    if not difference.size:
        return NAN
    return float(difference.mean() if difference.ndim == 1 else difference.sum(axis=1).mean())


def reliability(truth: np.ndarray, probability: np.ndarray, *, bins: int = ECE_BINS) -> Reliability:
    """Sort cases into ``bins`` bins of equal width and compare predicted with observed shares."""
    probability, truth = np.asarray(probability, dtype=float), np.asarray(truth, dtype=float)
    place = np.minimum((probability * bins).astype(int), bins - 1)
    count = np.bincount(place, minlength=bins)
    used = count > 0
    predicted = np.bincount(place, weights=probability, minlength=bins)[used] / count[used]
    observed = np.bincount(place, weights=truth, minlength=bins)[used] / count[used]
    return Reliability(predicted, observed, count[used])


def calibration_error(truth: np.ndarray, probability: np.ndarray, *, bins: int = ECE_BINS) -> float:
    """Return the expected calibration error: the mean gap of `reliability`, weighted by cases per bin."""
    curve = reliability(truth, probability, bins=bins)
    if not curve.count.size:
        return NAN
    return float((np.abs(curve.predicted - curve.observed) * curve.count).sum() / curve.count.sum())


def confusion(truth: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Return counts of shape (classes, classes): rows are the truth, columns what was predicted."""
    cells = np.asarray(truth, dtype=int) * classes + np.asarray(predicted, dtype=int)
    return np.bincount(cells, minlength=classes * classes).reshape(classes, classes)


def multiclass_mcc(table: np.ndarray) -> np.ndarray:
    """Return Matthews correlation of confusion tables (…, classes, classes); NaN where one has no spread."""
    table = np.asarray(table, dtype=float)
    truth, predicted = table.sum(axis=-1), table.sum(axis=-2)
    total, right = table.sum(axis=(-1, -2)), np.trace(table, axis1=-2, axis2=-1)
    spread = (total**2 - (predicted**2).sum(axis=-1)) * (total**2 - (truth**2).sum(axis=-1))
    return _ratio(right * total - (truth * predicted).sum(axis=-1), np.sqrt(np.maximum(spread, 0.0)))


def _both_present(truth: np.ndarray) -> bool:
    return bool(truth.any() and not truth.all())


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(np.asarray(whole) > 0, np.divide(part, whole), NAN)
