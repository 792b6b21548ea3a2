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

    def figure(self, key: str) -> str:
        """Return a figure with its interval, as "dice_mean 0.861 (0.842 to 0.879)"."""
        value, low, high = (self.metrics.get(name) for name in (key, f"{key}_low", f"{key}_high"))
        text = f"{key} {value:.3f}" if value is not None else f"{key} undefined"
        return text if low is None or high is None else f"{text} ({low:.3f} to {high:.3f})"


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


class SingleRun(Record):
    """One training of several, judged on the validation cases of its fold."""

    fold: int
    seed: int
    cases: int
    metrics: dict[str, float | None]


class Deviation(Record):
    """How far single trainings lie apart.

    Attributes
    ----------
    seeds : float or None
        Standard deviation between starts of one fold, pooled over folds; None with one start each.
    folds : float or None
        Standard deviation between the means of folds; None with one fold.
    """

    mean: float | None
    seeds: float | None
    folds: float | None


class Spread(Record):
    """``spread.json``: the figures of every single training of a model, and how far they lie apart."""

    runs: tuple[SingleRun, ...]
    deviations: dict[str, Deviation]


class Signature(Record):
    """A person's answer to a gate that would promote; ``name`` is what that person signs with."""

    approved: bool
    name: str
    reason: str
    signed: str


class Decision(Record):
    """A gate's verdict on a challenger, and what a person said to it, where one was asked."""

    promoted: bool
    model: str
    challenger: str
    champion: str | None
    test_digest: str
    rules: tuple[dict[str, str | float | bool | None], ...]
    reason: str
    decided: str
    signature: Signature | None = None
