"""Two models on the same cases, and many comparisons at once."""

from __future__ import annotations

import numpy as np

SWAPS = 10_000


def permutation_p(differences: np.ndarray, patients: np.ndarray, *, swaps: int = SWAPS, seed: int = 0) -> float:
    """Return the two-sided p of a paired permutation test that the mean difference is 0.

    If both models are alike, each patient's differences might as well have the other sign: the mean over cases is
    compared with that of ``swaps`` random signs per patient (all of them, if they are fewer). NaN without a difference
    that is defined.

    Parameters
    ----------
    differences : ndarray of shape (N,)
        One model's figure minus the other's, case by case; NaN is left out.
    patients : ndarray of shape (N,)
    """
    differences = np.asarray(differences, dtype=float)
    defined = np.isfinite(differences)
    if not defined.any():
        return float("nan")
    names, place = np.unique(np.asarray(patients)[defined], return_inverse=True)
    sums = np.bincount(place, weights=differences[defined])
    seen = abs(sums.sum())
    if 2 ** len(names) <= swaps:
        signs = 1 - 2 * ((np.arange(2 ** len(names))[:, np.newaxis] >> np.arange(len(names))) & 1)
        return float(np.mean(np.abs(signs @ sums) >= seen - 1e-12))
    signs = np.random.default_rng(seed).integers(0, 2, (swaps, len(names))) * 2 - 1
    return float((np.count_nonzero(np.abs(signs @ sums) >= seen - 1e-12) + 1) / (swaps + 1))


def holm(p: np.ndarray) -> np.ndarray:
    """Return p values (N,) adjusted for N comparisons (Holm, Scand J Stat 6:65, 1979); NaN stays NaN, uncounted."""
    p = np.asarray(p, dtype=float)
    adjusted = np.full(p.shape, np.nan)
    known = np.flatnonzero(np.isfinite(p))
    order = known[np.argsort(p[known], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(factors * p[order]), 1.0)
    return adjusted
