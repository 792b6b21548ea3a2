"""How far a scan is from those that a model learned from: Mahalanobis distance under a low-rank Gaussian.

Lee et al., NeurIPS 2018 (1807.03888), with the covariance of probabilistic principal components (Tipping and Bishop,
J. R. Stat. Soc. B 61:611, 1999), which few scans suffice for.
"""

from __future__ import annotations

import numpy as np

from medml.records.norms import Aspect

FEWEST = 6  # scans, below which nothing is said
MOST_AXES = 16
SCANS_PER_AXIS = 3
LEAST_SHARE = 0.1  # of the median standard deviation of all numbers: a channel that says nothing is not listened to
LEAST_REST = 0.25  # of the scaled variance: directions that never varied are not taken for impossible
LEAST_REACH = 0.5  # where all scans known are the same, any other would be infinitely far


def fit_aspect(samples: np.ndarray, judged: np.ndarray, *, least_scale: float) -> Aspect | None:
    """Fit a Gaussian to what training scans measure, and find how far validation scans lie from it.

    Parameters
    ----------
    samples : ndarray of shape (N, D)
        Of training scans.
    judged : ndarray of shape (M, D)
        Of scans that were not learned from; M may be 0, then the training scans alone say what is far.
    least_scale : float
        Standard deviation below which no number's goes: what never varied might.

    Returns
    -------
    Aspect or None
        None with fewer than `FEWEST` training scans.
    """
    samples = np.asarray(samples, dtype=float)
    if len(samples) < FEWEST:
        return None
    centre = samples.mean(axis=0)
    spread = samples.std(axis=0, ddof=1)
    scale = np.maximum(spread, max(least_scale, LEAST_SHARE * float(np.median(spread))))
    scaled = (samples - centre) / scale
    count, size = scaled.shape
    kept = min(MOST_AXES, count // SCANS_PER_AXIS, size - 1)
    _, values, axes = np.linalg.svd(scaled, full_matrices=False)
    variances = values**2 / (count - 1)
    rest = max(LEAST_REST, float(variances[kept:].sum()) / max(1, size - kept))
    aspect = Aspect(
        centre=_short(centre),
        scale=_short(scale),
        axes=tuple(_short(axis) for axis in axes[:kept]),
        variances=_short(np.maximum(variances[:kept], rest)),
        rest=rest,
        reach=1.0,
    )
    known = np.concatenate([samples, np.asarray(judged, dtype=float).reshape(-1, size)])
    return aspect.model_copy(update={"reach": max(LEAST_REACH, *(distance(aspect, sample) for sample in known))})


def distance(aspect: Aspect, sample: np.ndarray) -> float:
    """Return the Mahalanobis distance of what a scan measures (D,), divided by the square root of D."""
    scaled = (np.asarray(sample, dtype=float) - np.array(aspect.centre)) / np.array(aspect.scale)
    along = np.array(aspect.axes).reshape(-1, len(scaled)) @ scaled
    rest = max(0.0, float(scaled @ scaled - along @ along))
    return float(np.sqrt((float((along**2 / np.array(aspect.variances)).sum()) + rest / aspect.rest) / len(scaled)))


def _short(values: np.ndarray) -> tuple[float, ...]:
    """Return numbers with the six digits that matter, so that the file stays small."""
    return tuple(float(f"{value:.6g}") for value in values)
