"""95 % intervals that treat the patient, not the image, as the unit.

Patients are drawn with replacement and bring all their cases along (cluster bootstrap). The interval lies between two
percentiles of the statistic over the resamples. They are wider apart than 2.5 and 97.5 as Student's t is wider than
the normal (Hesterberg, Am Stat 69:371, 2015), and for means moved by BCa (Efron, JASA 82:171, 1987), because Dice has
a long tail to the left: the plain percentiles of 60 such cases cover the truth in 92 of 100 studies, these in 95
(``tests/medml/metrics/test_interval_coverage.py``). Fewer than ten patients, or fewer than ten with the event a rate is
about, give no interval: NaN, "too few".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri, stdtrit

MIN_PATIENTS = 10
RESAMPLES = 2000
NAN = float("nan")
Weighted = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
Ranked = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True, slots=True)
class Interval:
    """A value with its interval; ``low`` and ``high`` are NaN when there are too few patients for one."""

    value: float
    low: float = NAN
    high: float = NAN

    @property
    def too_few(self) -> bool:
        """Whether there were too few patients for an interval."""
        return not (np.isfinite(self.low) and np.isfinite(self.high))


@dataclass(frozen=True, slots=True, eq=False)
class Spread:
    """A statistic and what it became in every resample, so that differences of two statistics stay paired.

    Attributes
    ----------
    draws : ndarray of shape (resamples,)
    events : int
        Distinct patients who carry the event the statistic is about; all patients for a mean.
    exact : Interval
        An interval known without resampling (Wilson's); it is used instead of the percentiles.
    influence : ndarray of shape (patients,)
        How far each patient moves the statistic (jackknife); None where it is not known.
    """

    value: float
    draws: np.ndarray
    events: int
    exact: Interval | None = None
    influence: np.ndarray | None = None

    def minus(self, other: Spread) -> Spread:
        """Return the difference; it has as many events as the smaller side."""
        unknown = self.influence is None or other.influence is None
        return Spread(
            self.value - other.value,
            self.draws - other.draws,
            min(self.events, other.events),
            influence=None if unknown else np.subtract(self.influence, other.influence),  # type: ignore[arg-type]
        )

    def p(self) -> float:
        """Return the two-sided p that the statistic is 0, from its standard error over the resamples."""
        error = float(np.nanstd(self.draws)) if np.isfinite(self.draws).any() else NAN
        if not np.isfinite(self.value) or not error > 0:
            return NAN
        return float(2 * ndtr(-abs(self.value) / error))

    def turned(self) -> Spread:
        """Return the statistic with its sign turned, for figures of which less is better."""
        influence = None if self.influence is None else -self.influence
        return Spread(-self.value, -self.draws, self.events, influence=influence)

    def interval(self) -> Interval:
        """Return the interval; none below ten patients, or if a tenth of the resamples is undefined."""
        defined = self.draws[np.isfinite(self.draws)]
        if self.exact is not None and self.events >= MIN_PATIENTS:
            return self.exact
        if self.events < MIN_PATIENTS or defined.size < 0.9 * self.draws.size:
            return Interval(self.value)
        low, high = np.percentile(defined, 100 * self._levels(defined))
        return Interval(self.value, float(low), float(high))

    def _levels(self, draws: np.ndarray) -> np.ndarray:
        """Return the two shares of the resamples between which the interval lies."""
        reach = np.sqrt(self.events / (self.events - 1)) * stdtrit(self.events - 1, 0.975)
        ends = np.array([-reach, reach])
        if self.influence is None or not np.any(self.influence):
            return np.asarray(ndtr(ends))
        below = (np.mean(draws < self.value) + np.mean(draws <= self.value)) / 2
        bias = ndtri(np.clip(below, 0.001, 0.999))
        skew = (self.influence**3).sum() / (6 * (self.influence**2).sum() ** 1.5)
        moved = bias + ends
        return np.asarray(ndtr(bias + moved / np.maximum(1 - skew * moved, 0.1)))


class Resamples:
    """Draws of patients, made once and used for every statistic of one table, so that statistics stay paired.

    Attributes
    ----------
    weights : ndarray of shape (resamples, N), float32
        How often each case is in each resample.
    patients : int
        Number of distinct patients.
    """

    def __init__(self, groups: np.ndarray, *, resamples: int = RESAMPLES, seed: int = 0) -> None:
        names, self.place = np.unique(np.asarray(groups), return_inverse=True)
        self.patients = len(names)
        share = np.full(max(1, self.patients), 1 / max(1, self.patients))
        drawn = np.random.default_rng(seed).multinomial(self.patients, share, size=resamples)
        self.weights = drawn[:, self.place].astype(np.float32)

    def patients_with(self, cases: np.ndarray) -> int:
        """Return how many distinct patients have at least one of ``cases`` (N,), bool."""
        return len(np.unique(self.place[np.asarray(cases, dtype=bool)]))

    def mean(self, values: np.ndarray) -> Spread:
        """Return the mean of ``values`` (N,) over cases; NaN is left out."""
        values = np.asarray(values, dtype=float)
        defined = np.isfinite(values)
        if not defined.any():
            return self.undefined()
        total = self.sums(np.stack([np.where(defined, values, 0.0), defined], axis=1))
        with np.errstate(invalid="ignore"):
            draws = total[:, 0] / total[:, 1]
        return Spread(
            float(values[defined].mean()),
            draws,
            self.patients_with(defined),
            influence=self._influence(np.where(defined, values, 0.0), defined),
        )

    def _influence(self, values: np.ndarray, defined: np.ndarray) -> np.ndarray | None:
        """Return how far leaving each patient out moves the mean; None if one patient has all the values."""
        sums = np.bincount(self.place, weights=values, minlength=self.patients)
        counts = np.bincount(self.place, weights=defined, minlength=self.patients)
        rest = counts.sum() - counts
        if not rest.all():
            return None
        without = (sums.sum() - sums) / rest
        moved: np.ndarray = without.mean() - without
        return moved

    def undefined(self) -> Spread:
        """Return the statistic that is NaN everywhere."""
        return Spread(NAN, np.full(len(self.weights), NAN), 0)

    def ratio(self, part: np.ndarray, whole: np.ndarray) -> Spread:
        """Return sum(part) / sum(whole) over cases, e.g. sensitivity: hits over positives.

        ``part`` and ``whole`` are (N,), bool; the event is ``whole``. With one such case per patient the interval is
        Wilson's, which does not collapse at 0 and 1.
        """
        whole = np.asarray(whole, dtype=bool)
        part = np.asarray(part, dtype=bool) & whole
        hits, total, events = int(part.sum()), int(whole.sum()), self.patients_with(whole)
        if total == 0:
            return self.undefined()
        drawn = self.sums(np.stack([part, whole], axis=1))
        with np.errstate(invalid="ignore", divide="ignore"):
            draws = drawn[:, 0] / drawn[:, 1]
        return Spread(hits / total, draws, events, wilson(hits, total) if events == total else None)

    def sums(self, columns: np.ndarray) -> np.ndarray:
        """Return the sum of each column of ``columns`` (N, k) in every resample: (resamples, k)."""
        columns = np.asarray(columns, dtype=float)
        block = _rows_at_once(len(columns))
        return np.concatenate(
            [self.weights[first : first + block] @ columns for first in range(0, len(self.weights), block)]
        )

    def ranking(
        self, function: Weighted, truth: np.ndarray, score: np.ndarray, cases: np.ndarray | None = None
    ) -> Spread:
        """Return `weighted_auroc` or `weighted_average_precision` over ``cases`` (N,), bool; all if None.

        ``truth`` (N,) is yes or no, ``score`` (N,) any number; NaN with one class only.
        """
        truth, score = np.asarray(truth, dtype=bool), np.asarray(score, dtype=float)
        cases = np.ones(truth.size, dtype=bool) if cases is None else cases
        events = min(self.patients_with(truth & cases), self.patients_with(~truth & cases))
        if not events:
            return self.undefined()
        truth, score = truth[cases], score[cases]
        value = float(function(truth, score, np.ones((1, truth.size), np.float32))[0])
        return Spread(value, function(truth, score, self.weights[:, cases]), events)

    def statistic(self, function: Callable[[np.ndarray], float], *, events: int | None = None) -> Spread:
        """Return any statistic, one resample after the other.

        Parameters
        ----------
        function : callable
            Takes the indices of the cases in a resample (repeated where drawn twice), returns a number.
        events : int
            Patients with the rarer event; all patients if not given.
        """
        everyone = np.arange(self.place.size)
        if not everyone.size:
            return self.undefined()
        draws = np.array([function(np.repeat(everyone, row)) for row in self.weights.astype(np.intp)], dtype=float)
        return Spread(float(function(everyone)), draws, self.patients if events is None else events)


def bootstrap(
    values: np.ndarray,
    groups: np.ndarray,
    statistic: Callable[[np.ndarray], float] | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Return a statistic of ``values`` (N, …) with its patient-level interval.

    Parameters
    ----------
    values : ndarray of shape (N, …)
        One row per case.
    groups : ndarray of shape (N,)
        The patient of each case.
    statistic : callable
        Takes rows of ``values``, returns a number; the mean without NaN (done at once for all resamples) if None.
    """
    draws = Resamples(groups, resamples=resamples, seed=seed)
    if statistic is None:
        return draws.mean(values).interval()
    return draws.statistic(lambda chosen: statistic(values[chosen])).interval()


def wilson(part: int, whole: int) -> Interval:
    """Return a proportion with Wilson's 95 % score interval; NaN if ``whole`` is 0."""
    if whole == 0:
        return Interval(NAN)
    z = 1.959963984540054
    share = part / whole
    middle = (share + z**2 / (2 * whole)) / (1 + z**2 / whole)
    reach = z / (1 + z**2 / whole) * (share * (1 - share) / whole + z**2 / (4 * whole**2)) ** 0.5
    return Interval(share, max(0.0, middle - reach), min(1.0, middle + reach))


def weighted_auroc(truth: np.ndarray, score: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the AUROC (resamples,) of every row of ``weights`` (resamples, N); ties count half.

    Sum over positives of the weight of negatives below, plus half of those level, over the product of both totals.
    """

    def area(ups: np.ndarray, downs: np.ndarray) -> np.ndarray:
        below = downs[:, ::-1].cumsum(axis=1)[:, ::-1] - downs
        found: np.ndarray = (ups * (below + downs / 2)).sum(axis=1) / (ups.sum(axis=1) * downs.sum(axis=1))
        return found

    return _by_rank(truth, score, weights, area)


def weighted_average_precision(truth: np.ndarray, score: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the average precision (resamples,) of every row of ``weights`` (resamples, N)."""

    def precision(ups: np.ndarray, downs: np.ndarray) -> np.ndarray:
        hits, called = ups.cumsum(axis=1), (ups + downs).cumsum(axis=1)
        found: np.ndarray = (ups * hits / np.maximum(called, 1e-12)).sum(axis=1) / ups.sum(axis=1)
        return found

    return _by_rank(truth, score, weights, precision)


def _by_rank(truth: np.ndarray, score: np.ndarray, weights: np.ndarray, figure: Ranked) -> np.ndarray:
    """Give ``figure`` the weights of positives and negatives per distinct score, highest first, in blocks of rows."""
    order = np.argsort(-score, kind="stable")
    ranked, positive = score[order], truth[order]
    starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])
    block = _rows_at_once(score.size)
    found = []
    for first in range(0, len(weights), block):
        rows = weights[first : first + block, order].astype(float)
        ups = np.add.reduceat(rows * positive, starts, axis=1)
        downs = np.add.reduceat(rows * ~positive, starts, axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            found.append(figure(ups, downs))
    return np.concatenate(found)


def _rows_at_once(cases: int) -> int:
    """Return how many resamples to handle together, so that float64 copies stay near 16 MB."""
    return max(1, 2_000_000 // max(1, cases))
