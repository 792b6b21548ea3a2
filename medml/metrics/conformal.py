"""Promises with a stated coverage: sets of classes, and masks that miss no more than a stated share.

Split conformal prediction (Vovk; here the score is 1 - probability of the class: Sadinle, Lei, Wasserman, JASA 114:223,
2019) and conformal risk control (Angelopoulos et al., ICLR 2024). Both hold on average over patients who are drawn as
the calibration patients were: another scanner or another kind of patient is another matter.

A patient with several cases counts as one: every case weighs 1 / (cases of its patient), so that the promise is about
the next patient (Dunn, Wasserman, Ramdas, JASA 118:2491, 2023).
"""

from __future__ import annotations

import numpy as np

NEVER = float("inf")


def conformal_quantile(scores: np.ndarray, patients: np.ndarray, miss: float) -> float:
    """Return the score up to which a class belongs to the set.

    Parameters
    ----------
    scores : ndarray of shape (N,)
        1 - probability of the true class, of the calibration cases.
    patients : ndarray of shape (N,)
    miss : float
        Largest share of patients whose truth may lie outside, e.g. 0.1.

    Returns
    -------
    float
        The smallest score at which the share of patients inside reaches ``(1 - miss) (K + 1) / K`` of K patients;
        infinity (every class belongs) if there are too few patients for the promise.
    """
    scores = np.asarray(scores, dtype=float)
    _, place, cases = np.unique(patients, return_inverse=True, return_counts=True)
    count = len(cases)
    if not count:
        return NEVER
    order = np.argsort(scores, kind="stable")
    inside = np.cumsum(1 / cases[place[order]])
    reached = np.flatnonzero(inside >= (1 - miss) * (count + 1) - 1e-9)
    return float(scores[order[reached[0]]]) if reached.size else NEVER


def prediction_sets(probabilities: np.ndarray, quantile: float) -> np.ndarray:
    """Return which classes (N, classes), bool, cannot be ruled out; the likeliest class always belongs."""
    probabilities = np.asarray(probabilities, dtype=float)
    inside = (1 - probabilities) <= quantile + 1e-12
    inside[np.arange(len(inside)), probabilities.argmax(axis=1)] = True
    return inside


def covered_share(inside: np.ndarray, truth: np.ndarray, patients: np.ndarray) -> float:
    """Return the share of patients (cases weigh 1 / cases of the patient) whose true class (N,) is in its set."""
    _, place, cases = np.unique(patients, return_inverse=True, return_counts=True)
    held = inside[np.arange(len(truth)), truth]
    return float((held / cases[place]).sum() / len(cases)) if len(cases) else float("nan")


def coverage_interval(calibration: int, test: int, miss: float) -> tuple[float, float]:
    """Return the exact 95 % range of the coverage of one split, before looking: beta-binomial.

    Parameters
    ----------
    calibration, test : int
        Patients, one case each.
    """
    outside = int(np.floor((calibration + 1) * miss + 1e-9))
    if not test or not outside:
        return 1.0, 1.0
    from scipy.stats import betabinom  # takes a second

    low, high = betabinom.ppf((0.025, 0.975), test, calibration + 1 - outside, outside)
    return float(low) / test, float(high) / test


def risk_controlled(losses: np.ndarray, patients: np.ndarray, miss: float) -> int | None:
    """Return the index of the highest setting whose expected loss on a new patient is at most ``miss``.

    Parameters
    ----------
    losses : ndarray of shape (N, settings)
        Loss in [0, 1] of each calibration case at each setting, e.g. the share of the lesion that a mask at this
        probability misses. It never falls from one setting to the next (thresholds in rising order).

    Returns
    -------
    int or None
        None if no setting keeps the promise with so few patients.
    """
    losses = np.asarray(losses, dtype=float)
    _, place, cases = np.unique(patients, return_inverse=True, return_counts=True)
    count = len(cases)
    if not count:
        return None
    mean = (losses / cases[place][:, np.newaxis]).sum(axis=0) / count
    kept = np.flatnonzero((count * mean + 1) / (count + 1) <= miss)
    return int(kept[-1]) if kept.size else None
