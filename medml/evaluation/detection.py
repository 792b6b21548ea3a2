"""Lesions one by one, and the outer mask: what one case adds to the table, and what the table says as a whole."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from medml.metrics.intervals import Interval, Resamples, Spread
from medml.metrics.lesions import MIN_IOU, Lesions, froc, match_lesions
from medml.records.batch import Prediction

MISSED = "-"
RULE = (
    "Lesions are connected components (26 neighbours); a predicted one finds one of the reference at an IoU of at "
    f"least {MIN_IOU:g}, one to one, the best pairs first. A predicted lesion is as sure as its surest voxel."
)


def lesion_scores(
    prediction: Prediction,
    reference: np.ndarray,
    labels: Mapping[int, str],
    keys: Mapping[int, str],
    outer: Mapping[int, float],
) -> dict[str, str | float]:
    """Return the columns ``lesions_found_``, ``lesions_false_`` and ``outer_missed_<label>`` of one case."""
    row: dict[str, str | float] = {}
    if prediction.mask is None:
        return row
    for value in labels:
        ours, theirs = prediction.mask == value, reference == value
        box = _box(ours | theirs)
        shares = None if prediction.label_probabilities is None else prediction.label_probabilities[value][box]
        lesions = match_lesions(ours[box], theirs[box], shares)
        row[f"lesions_found_{keys[value]}"] = " ".join(_sure(sure) for sure in lesions.found)
        row[f"lesions_false_{keys[value]}"] = " ".join(_sure(sure) for sure in lesions.false)
        if value in outer and shares is not None and theirs.any():
            row[f"outer_missed_{keys[value]}"] = float(np.mean(shares[theirs[box]] < outer[value]))
    return row


def lesions_of(done: pd.DataFrame, key: str) -> list[Lesions]:
    """Return the lesions of every case as its row tells them; empty if the table has none."""
    if f"lesions_found_{key}" not in done:
        return []
    found, false = (done[f"lesions_{side}_{key}"].fillna("").astype(str) for side in ("found", "false"))
    return [Lesions(np.zeros(0, int), _values(here), _values(there)) for here, there in zip(found, false, strict=True)]


def lesion_metrics(done: pd.DataFrame, key: str, draws: Resamples) -> dict[str, Interval]:
    """Return share of lesions found, false ones per scan, and their F1, each with its interval."""
    cases = lesions_of(done, key)
    if not any(case.fn + case.tp for case in cases):
        return {}
    tp, fn, fp = (np.array([getattr(case, side) for case in cases], float) for side in ("tp", "fn", "fp"))
    having = draws.patients_with(tp + fn > 0)
    sums = draws.sums(np.stack([tp, fn, fp], axis=1))
    with np.errstate(invalid="ignore"):
        found = sums[:, 0] / (sums[:, 0] + sums[:, 1])
        f1 = 2 * sums[:, 0] / (2 * sums[:, 0] + sums[:, 1] + sums[:, 2])
    total = tp.sum(), fn.sum(), fp.sum()
    return {
        f"lesion_sensitivity_{key}": Spread(float(total[0] / (total[0] + total[1])), found, having).interval(),
        f"lesion_false_per_scan_{key}": draws.mean(fp).interval(),
        f"lesion_f1_{key}": Spread(float(2 * total[0] / (2 * total[0] + total[1] + total[2])), f1, having).interval(),
    }


def froc_curve(done: pd.DataFrame, key: str) -> tuple[list[float], list[float]]:
    """Return false lesions per scan and share of lesions found, as lists."""
    false, found = froc(lesions_of(done, key))
    return [round(float(x), 5) for x in false], [round(float(x), 5) for x in found]


def _box(mask: np.ndarray) -> tuple[slice, ...]:
    """Return the box of a mask; one voxel if it is empty."""
    box = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        line = np.flatnonzero(mask.any(axis=others))
        box.append(slice(int(line[0]), int(line[-1]) + 1) if line.size else slice(0, 1))
    return tuple(box)


def _sure(value: float) -> str:
    return f"{value:.3f}" if np.isfinite(value) else MISSED


def _values(text: str) -> np.ndarray:
    return np.array([np.nan if part == MISSED else float(part) for part in text.split()])
