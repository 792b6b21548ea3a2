"""The subgroup audit: how a model does for each sex, age band, scanner and site, however small the group."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from medml.metrics.comparison import holm
from medml.metrics.intervals import Resamples, Spread
from medml.records.report import Subgroup

MAX_LEVELS = 12
UNKNOWN = "not recorded"
# The figure's name, and the figure over the cases (N,), bool, that are asked about.
Statistic = tuple[str, Callable[[np.ndarray], Spread]]


def subgroup_table(
    done: pd.DataFrame, columns: Sequence[str], statistics: Sequence[Statistic], draws: Resamples
) -> tuple[tuple[Subgroup, ...], tuple[str, ...]]:
    """Return one row per column, level and figure, and notes on columns that could not be audited.

    Parameters
    ----------
    done : DataFrame
        Scored cases.
    columns : sequence of str
        The columns to audit.
    statistics : sequence of (name, function)
        Each function takes a selection of cases and returns the figure with its resamples.
    """
    rows: list[Subgroup] = []
    absent = [column for column in columns if column not in done or done[column].isna().all()]
    for column in columns:
        if column in absent:
            continue
        levels = _levels(done[column])
        for level in sorted(set(levels), key=_order):
            chosen = (levels == level).to_numpy()
            for metric, measure in statistics:
                rows.append(_row(column, str(level), metric, measure, chosen, draws))
    adjusted = holm(np.array([np.nan if row.p is None else row.p for row in rows]))
    rows = [row.model_copy(update={"p_holm": _finite(p)}) for row, p in zip(rows, adjusted, strict=True)]
    notes = (f"Not recorded for any case, so not audited: {', '.join(absent)}.",) if absent and len(done) else ()
    return tuple(rows), notes


def _row(
    column: str,
    level: str,
    metric: str,
    measure: Callable[[np.ndarray], Spread],
    chosen: np.ndarray,
    draws: Resamples,
) -> Subgroup:
    here, there = measure(chosen), measure(~chosen)
    apart = here.minus(there)
    interval, gap = here.interval(), apart.interval()
    patients = draws.patients_with(chosen)
    few = f"too few (n = {here.events})"
    return Subgroup(
        column=column,
        level=level,
        patients=patients,
        cases=int(chosen.sum()),
        metric=metric,
        value=_finite(interval.value),
        low=_finite(interval.low),
        high=_finite(interval.high),
        gap=_finite(gap.value),
        gap_low=_finite(gap.low),
        gap_high=_finite(gap.high),
        p=None if gap.too_few else _finite(apart.p()),
        note=few if interval.too_few else "",
    )


def _levels(values: pd.Series) -> pd.Series:
    """Return levels as text; what is missing is a level too, and beyond twelve the smallest are put together."""
    levels = values.map(_level)
    counts = levels.value_counts()
    if len(counts) > MAX_LEVELS:
        small = counts.index[MAX_LEVELS - 1 :]
        levels = levels.where(~levels.isin(small), f"others ({len(small)} levels)")
    return levels


def _order(level: str) -> tuple[bool, bool, str]:
    """Return a key that puts "<40" before "40-59" and what is not recorded at the end."""
    return level == UNKNOWN, not level.startswith("<"), level


def _level(value: object) -> str:
    if value is None or (isinstance(value, float) and np.isnan(value)) or value is pd.NA or value == "":
        return UNKNOWN
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
