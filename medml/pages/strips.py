"""Numbers of groups, laid out as strips: quartiles, median and points along one axis. No plotting library needed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from medml.pages.content import Strip, StripRow

MOST_POINTS = 120


def strip(values: Mapping[str, Sequence[float]], *, label: str, note: str = "") -> Strip | None:
    """Lay out finite values by group on a common axis; None if there are none.

    Of many values, 120 are drawn as points at equal ranks, the two ends among them.
    """
    groups = {name: np.sort([value for value in found if math.isfinite(value)]) for name, found in values.items()}
    groups = {name: found for name, found in groups.items() if found.size}
    if not groups:
        return None
    ticks = _ticks(min(float(found[0]) for found in groups.values()), max(float(v[-1]) for v in groups.values()))
    low, width = ticks[0], ticks[-1] - ticks[0]
    rows = []
    for name, found in groups.items():
        ranks = np.unique(np.linspace(0, found.size - 1, min(found.size, MOST_POINTS)).round().astype(int))
        places = (found - low) / width
        first, middle, third = (float(np.quantile(places, share)) for share in (0.25, 0.5, 0.75))
        rows.append(StripRow(name, int(found.size), [float(p) for p in places[ranks]], (first, middle, third)))
    return Strip(label, rows, [((tick - low) / width, f"{tick:.4g}") for tick in ticks], note)


def _ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Return round numbers at equal distances from below ``low`` to above ``high``."""
    span = high - low or abs(low) or 1.0
    size = 10.0 ** math.floor(math.log10(span / most))
    step = next(size * factor for factor in (1, 2, 2.5, 5, 10, 20) if span / (size * factor) <= most - 1)
    first = math.floor(low / step) * step
    count = max(1, math.ceil((high - first) / step - 1e-9))
    return [first + n * step for n in range(count + 1)]
