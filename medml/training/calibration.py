"""From validation scores to honest probabilities and a decision threshold."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_expit, log_softmax, softmax

from medml.metrics.classification import youden_threshold

TEMPERATURES = (0.2, 10.0)
PRIOR_SPREAD = 0.5  # of the temperature's logarithm: ten cases that happen to be all right prove no certainty


def fit_temperature(scores: np.ndarray, target: np.ndarray, *, multi_label: bool) -> float:
    """Return the temperature that makes validation targets most likely (Guo et al., ICML 2017).

    Drawn towards 1 by a weak prior, which only few cases feel.

    Parameters
    ----------
    scores : ndarray of shape (N, L)
        Network outputs.
    target : ndarray
        Classes (N,), or zeros and ones (N, L) if ``multi_label``.
    """
    if len(scores) == 0:
        return 1.0
    scores = np.asarray(scores, dtype=np.float64)
    prior = 1 / (2 * PRIOR_SPREAD**2 * len(scores))
    result = minimize_scalar(
        lambda log: log_loss(scores / np.exp(log), target, multi_label=multi_label) + prior * log**2,
        bounds=tuple(np.log(TEMPERATURES)),
        method="bounded",
    )
    return float(np.exp(result.x))


def log_loss(scores: np.ndarray, target: np.ndarray, *, multi_label: bool) -> float:
    """Return the mean negative log-likelihood."""
    if multi_label:
        return float(-(target * log_expit(scores) + (1 - target) * log_expit(-scores)).mean())
    return float(-log_softmax(scores, axis=1)[np.arange(len(scores)), target].mean())


def probabilities(scores: np.ndarray, *, temperature: float, multi_label: bool) -> np.ndarray:
    """Return probabilities (N, L)."""
    scaled = np.asarray(scores, dtype=np.float64) / temperature
    result: np.ndarray = expit(scaled) if multi_label else softmax(scaled, axis=1)
    return result


def fit_threshold(scores: np.ndarray, target: np.ndarray, *, temperature: float) -> float | None:
    """Return the probability of the last class from which it is called present; None unless there are two classes.

    The one with the largest sensitivity + specificity on validation (Youden's J).
    """
    if scores.shape[1] != 2 or target.ndim != 1 or len(scores) == 0:
        return None
    last = probabilities(scores, temperature=temperature, multi_label=False)[:, 1]
    return youden_threshold(target == 1, last)
