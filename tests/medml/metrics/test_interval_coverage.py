"""Do 95 % intervals hold the truth in 95 of 100 studies? A thousand made studies each, with a known truth."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from medml.metrics.intervals import Interval, Resamples, weighted_auroc, wilson

STUDIES = 1000
RESAMPLES = 1000


def _holds(interval: Interval, truth: float) -> bool:
    return interval.low <= truth <= interval.high


def _smooth(rng: np.random.Generator) -> np.ndarray:
    return rng.beta(12, 2, 60)


def _with_failures(rng: np.random.Generator) -> np.ndarray:
    """Dice as it is seen: most cases near 0.89, one in fourteen failed."""
    return np.where(rng.random(60) < 0.07, rng.uniform(0, 0.6, 60), rng.beta(40, 5, 60))


@pytest.mark.slow
@pytest.mark.parametrize(("draw", "truth"), [(_smooth, 12 / 14), (_with_failures, 0.93 * 40 / 45 + 0.07 * 0.3)])
def test_mean_dice_of_60_cases(draw, truth: float) -> None:
    rng = np.random.default_rng(0)
    studies = [Resamples(np.arange(60), resamples=RESAMPLES, seed=s).mean(draw(rng)) for s in range(STUDIES)]
    covered = np.mean([_holds(study.interval(), truth) for study in studies])
    assert 0.93 <= covered <= 0.97


@pytest.mark.slow
def test_auroc_of_200_cases() -> None:
    rng, shift, held = np.random.default_rng(0), norm.ppf(0.85) * np.sqrt(2), 0
    for seed in range(STUDIES):
        truth = rng.random(200) < 0.5
        score = rng.normal(size=200) + shift * truth
        spread = Resamples(np.arange(200), resamples=RESAMPLES, seed=seed).ranking(weighted_auroc, truth, score)
        held += _holds(spread.interval(), 0.85)
    assert 0.93 <= held / STUDIES <= 0.97


def test_sensitivity_of_40_cases() -> None:
    found = np.random.default_rng(0).binomial(40, 0.95, STUDIES)
    assert np.mean([_holds(wilson(int(k), 40), 0.95) for k in found]) >= 0.93


@pytest.mark.slow
def test_mean_over_patients_with_several_cases_each() -> None:
    rng, held = np.random.default_rng(0), 0
    for seed in range(STUDIES):
        cases = rng.integers(1, 5, 40)
        patients = np.repeat(np.arange(40), cases)
        values = rng.normal(0.8, 0.05, 40)[patients] + rng.normal(0, 0.02, patients.size)
        held += _holds(Resamples(patients, resamples=RESAMPLES, seed=seed).mean(values).interval(), 0.8)
    assert 0.92 <= held / STUDIES <= 0.97
