"""A sample of a scan's voxels, statistics to compare scans by, and whether CT values are Hounsfield units."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medml.catalogue.quality_rules import finding
from medml.records.scan import Finding

MOST = 1 << 18
AIR_HU = -1000.0
BELOW_AIR_HU = -1100.0
BODY_HU = -200.0
BODY_SHARE = 0.2


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """Voxels at equal distances, at most some 260,000.

    Attributes
    ----------
    values : ndarray of shape (N,)
        Sorted, in the image's dtype.
    low, high : float
        Smallest and largest value of all voxels, not of the sample alone.
    zero : float
        The value of no signal: -1000 in CT, else 0 or the smallest value if that is below.
    body : float
        Above it is body: -200 HU in CT, else a fifth of the way from the 1st to the 99th percentile.
    noise : float
        Standard deviation of the noise in the body; 0 where it cannot be told from a flat image.
    step : tuple of int
        Distance of sampled voxels along I, J and K.
    grid : ndarray of shape (I', J', K')
        The sampled voxels in place.
    """

    values: np.ndarray
    low: float
    high: float
    zero: float
    body: float
    noise: float
    step: tuple[int, int, int]
    grid: np.ndarray

    @property
    def is_drawn(self) -> bool:
        """Whether there are fewer than 16 different values: a shape or a label map, no measurement."""
        return int(np.count_nonzero(self.values[1:] != self.values[:-1])) < 15

    def percentile(self, percent: float) -> float:
        """Return a percentile, as a value that occurs."""
        return float(self.values[round((len(self.values) - 1) * percent / 100)])


def take_sample(image: np.ndarray, low: float, high: float, modality: str) -> Sample:
    """Take a sample of ``image`` (I, J, K), which is finite and not constant."""
    step = _steps(image.shape)
    grid = image[:: step[0], :: step[1], :: step[2]]
    values = np.sort(grid, axis=None)
    first, last = (float(values[round((len(values) - 1) * share)]) for share in (0.01, 0.99))
    body = BODY_HU if modality == "CT" else first + BODY_SHARE * (last - first)
    zero = AIR_HU if modality == "CT" else min(0.0, low)
    return Sample(values, low, high, zero, body, _noise(image, step, body), step, grid)


def statistics(sample: Sample) -> dict[str, float]:
    """Return what scans are compared by: percentiles, ``noise``, ``snr``, ``contrast``, share of body.

    ``snr`` is the body's median, counted from no signal, over the noise. ``contrast`` is the standard deviation over
    the mean, counted likewise. Either is left out where it is undefined, and where the image `is_drawn`.
    """
    values = sample.values.astype(np.float64)
    mean = float(values.mean())
    deviation = float(np.sqrt(np.square(values - mean).mean()))
    inside = values[np.searchsorted(sample.values, sample.body, side="right") :]
    numbers = {
        "p01": sample.percentile(1),
        "p50": sample.percentile(50),
        "p99": sample.percentile(99),
        "mean": mean,
        "sd": deviation,
        "noise": sample.noise,
        "body_share": len(inside) / len(values),
    }
    signal = float(inside[len(inside) // 2]) - sample.zero if len(inside) else 0.0
    if sample.is_drawn:
        return {name: float(f"{value:.6g}") for name, value in numbers.items()}
    if sample.noise > 0 and signal > 0:
        numbers["snr"] = signal / sample.noise
    if mean > sample.zero and deviation > 0:
        numbers["contrast"] = deviation / (mean - sample.zero)
    return {name: float(f"{value:.6g}") for name, value in numbers.items()}


def ct_findings(sample: Sample) -> list[Finding]:
    """Say whether the values of a CT are Hounsfield units."""
    values = sample.values
    at_bottom = int(np.searchsorted(values, sample.low, side="right"))
    offset = sample.low > -10 and (at_bottom > 0.01 * len(values) or sample.percentile(99) > 700)
    if offset or values.astype(np.float32).std() < 2:
        message = f"values run from {sample.low:g} to {sample.high:g}, half of them up to {sample.percentile(50):g}"
        return [finding("ct_not_hounsfield", message, low=sample.low, high=sample.high)]
    found = []
    below = int(np.searchsorted(values, BELOW_AIR_HU))
    padded = int(np.searchsorted(values, values[0], side="right")) if below else 0
    if below - padded > 0.05 * len(values):
        share = (below - padded) / len(values)
        message = f"{100 * share:.1f} % of the voxels have different values below {BELOW_AIR_HU:g} HU"
        found.append(finding("ct_below_air", message, share=share, low=sample.low))
    elif padded > 0.001 * len(values):
        share = padded / len(values)
        message = f"{100 * share:.1f} % of the voxels are {values[0]:g}"
        found.append(finding("ct_padding", message, share=share, value=float(values[0])))
    air = _air_peak(values[padded:])
    if air is not None and abs(air - AIR_HU) > 60:
        found.append(finding("ct_air_off", f"air is at {air:g} HU, expected -1000", air_hu=air))
    if sample.high > 3071:
        found.append(finding("ct_beyond_12_bit", f"the largest value is {sample.high:g} HU", high=sample.high))
    return found


def _air_peak(values: np.ndarray) -> float | None:
    """Return where the values from -1500 to -880 HU have their peak; None if few lie there or lung alone does."""
    edges = np.arange(-1500, -859, 10)
    counts = np.diff(np.searchsorted(values, edges))
    peak = int(np.argmax(counts))
    if counts.sum() < 0.02 * max(1, len(values)) or peak >= len(counts) - 2:
        return None
    return float(edges[peak] + 5)


def _steps(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Return steps that leave at most `MOST` voxels; short axes are not thinned out before long ones."""
    steps = [1, 1, 1]
    while True:
        left = [-(-n // step) for n, step in zip(shape, steps, strict=True)]
        if left[0] * left[1] * left[2] <= MOST:
            return steps[0], steps[1], steps[2]
        steps[left.index(max(left))] += 1


def _noise(image: np.ndarray, step: tuple[int, int, int], body: float) -> float:
    """Estimate the noise in the body from second differences along I, robustly (their median absolute value).

    Edges are few, so the median does not see them; independent noise of deviation s gives differences of sqrt(6) s.
    """
    if image.shape[0] < 3:
        return 0.0
    middle = image[1:-1, :: step[1], :: step[2]][:: step[0]]
    before = image[:-2, :: step[1], :: step[2]][:: step[0]]
    after = image[2:, :: step[1], :: step[2]][:: step[0]]
    inside = middle > body
    if np.count_nonzero(inside) < 16:
        return 0.0
    middle, before, after = (part[inside].astype(np.float32) for part in (middle, before, after))
    differences = np.abs(before - 2 * middle + after)
    middle_two = [(len(differences) - 1) // 2, len(differences) // 2]
    # What np.median does, which takes ten times as long for a small picture.
    return float(np.partition(differences, middle_two)[middle_two].mean()) * 1.4826 / 6**0.5
