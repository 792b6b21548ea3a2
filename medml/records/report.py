"""What an evaluation found."""

from __future__ import annotations

from typing import Any, Literal

from medml.records.dataset import Task
from medml.records.record import Record


class Summary(Record):
    """``summary.json``: figures over the test set (``split`` "test"), each with ``_low`` and ``_high`` (95 %).

    Attributes
    ----------
    metrics : dict
        E.g. ``dice_mean``, ``dice_mean_low``, ``dice_mean_high``, ``dice_<label>``, ``auroc``, ``sensitivity``.
        Undefined is None (NaN is not JSON).
    """

    model: str
    dataset: str
    test_digest: str
    split: Literal["test", "validation"]
    n: int
    metrics: dict[str, float | None]


class Subgroup(Record):
    """One level of one audited column.

    Attributes
    ----------
    gap, gap_low, gap_high : float or None
        Value minus the value over all other cases, with its paired interval.
    p, p_holm : float or None
        Two-sided p of the gap, and adjusted for all gaps of the audit (Holm).
    """

    column: str
    level: str
    patients: int
    cases: int
    metric: str
    value: float | None
    low: float | None
    high: float | None
    gap: float | None = None
    gap_low: float | None = None
    gap_high: float | None = None
    p: float | None = None
    p_holm: float | None = None
    note: str = ""


class Evaluation(Record):
    """Everything a report shows beside the per-case table.

    Attributes
    ----------
    threshold : float
        Chosen on validation (binary classifiers).
    notes : tuple of str
        Sentences a reader needs: what is excluded and counted, how intervals were made, tolerances.
    """

    task: Task
    summary: Summary
    labels: dict[int, str]
    threshold: float | None = None
    confusion: tuple[tuple[int, ...], ...] | None = None
    curves: dict[str, Any] = {}
    subgroups: tuple[Subgroup, ...] = ()
    notes: tuple[str, ...] = ()


class Decision(Record):
    """A gate's verdict on a challenger."""

    promoted: bool
    model: str
    challenger: str
    champion: str | None
    test_digest: str
    rules: tuple[dict[str, str | float | bool | None], ...]
    reason: str
    decided: str
