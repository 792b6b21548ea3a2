"""Charts of a report, each a function from numbers to PNG bytes; one style, no global state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from medml.pages.style import COLOURS, GRID, INK, SOFT, new_figure, plain, styled, to_png

Curve = tuple[Sequence[float], Sequence[float]]
WIDTH = 4.6  # inches of every chart that is not wide, so that text is equally large in all
_SQUARE = (WIDTH, 4.3)


def roc(curves: Mapping[str, Curve], *, marked: Curve | None = None, notes: Mapping[str, str] | None = None) -> bytes:
    """Draw ROC curves: name to (false positive rate, true positive rate).

    Parameters
    ----------
    marked : pair of sequences
        Points to mark: the operating threshold.
    notes : mapping
        What the legend says beside a name, e.g. its AUROC.
    """
    with styled():
        figure, axes = _chart(*_SQUARE)
        axes.plot([0, 1], [0, 1], color=SOFT, linewidth=0.9, linestyle=":", label="chance")
        _curves(axes, curves, notes or {})
        if marked:
            axes.plot(*marked, "o", color=INK, markersize=6, label="threshold used", zorder=5)
        _unit_square(axes, "1 − specificity (false positive rate)", "Sensitivity (true positive rate)")
        axes.legend(loc="lower right")
        return to_png(figure)


def precision_recall(
    curves: Mapping[str, Curve], *, prevalence: float | None = None, notes: Mapping[str, str] | None = None
) -> bytes:
    """Draw precision against recall: name to (recall, precision); ``prevalence`` is what guessing would reach."""
    with styled():
        figure, axes = _chart(*_SQUARE)
        if prevalence is not None:
            label = f"guessing: prevalence {prevalence:.2f}"
            axes.axhline(prevalence, color=SOFT, linewidth=0.9, linestyle=":", label=label)
        _curves(axes, curves, notes or {})
        _unit_square(axes, "Recall (sensitivity)", "Precision (positive predictive value)")
        axes.legend(loc="lower left")
        return to_png(figure)


def froc(curves: Mapping[str, Curve], *, notes: Mapping[str, str] | None = None) -> bytes:
    """Draw free-response curves: name to (false lesions per scan, share of lesions found)."""
    with styled():
        figure, axes = _chart(*_SQUARE)
        for place, (name, (false, found)) in enumerate(curves.items()):
            label = plain(name, 24) + (f"  {notes[name]}" if notes and name in notes else "")
            axes.step([0.0, *false], [0.0, *found], where="post", color=COLOURS[place % len(COLOURS)], label=label)
        axes.set_ylim(-0.02, 1.02)
        axes.set_xlim(left=0)
        axes.set_xlabel("False lesions per scan")
        axes.set_ylabel("Share of lesions found")
        axes.legend(loc="lower right")
        return to_png(figure)


def calibration(
    predicted: Sequence[float], observed: Sequence[float], counts: Sequence[int], *, note: str = ""
) -> bytes:
    """Draw a reliability diagram: observed share against mean predicted probability, cases per bin below."""
    with styled():
        figure = new_figure(_SQUARE[0], _SQUARE[1] + 0.7)
        axes, below = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": (4.4, 1)})
        axes.plot([0, 1], [0, 1], color=SOFT, linewidth=0.9, linestyle=":", label="perfect calibration")
        axes.plot(predicted, observed, "o-", color=COLOURS[0], markersize=5, label="observed")
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(-0.02, 1.02)
        axes.set_ylabel("Observed share")
        axes.legend(loc="upper left", title=plain(note) or None, alignment="left")
        below.bar(predicted, counts, width=0.05, color=COLOURS[0], alpha=0.65)
        below.set_ylabel("Cases")
        below.yaxis.set_major_locator(MaxNLocator(3, integer=True))
        below.set_xlabel("Predicted probability")
        return to_png(figure)


def confusion_matrix(table: Sequence[Sequence[int]], names: Sequence[str]) -> bytes:
    """Draw counts, rows the truth and columns the prediction, shaded by the share of their row."""
    counts = np.asarray(table, dtype=float)
    totals = counts.sum(axis=1, keepdims=True)
    share = np.divide(counts, totals, out=np.zeros_like(counts), where=totals > 0)
    size = float(np.clip(1.9 + 0.5 * len(names), WIDTH, 9.0))
    with styled():
        figure, axes = _chart(size, size - 0.6)
        axes.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="auto")  # kept square, the label falls off the edge
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        ticks = [plain(name, 18) for name in names]
        axes.set_xticks(
            range(len(names)), ticks, rotation=0 if len(names) < 4 else 45, ha="center" if len(names) < 4 else "right"
        )
        axes.set_yticks(range(len(names)), ticks)
        axes.tick_params(length=0, labelcolor=INK)
        axes.set_xlabel("Predicted")
        axes.set_ylabel("Truth")
        for (row, column), count in np.ndenumerate(counts):
            text = f"{int(count)}\n{share[row, column]:.0%}" if len(names) < 7 else f"{int(count)}"
            axes.text(
                column,
                row,
                text,
                ha="center",
                va="center",
                fontsize=9 if len(names) < 7 else 7,
                color="white" if share[row, column] > 0.55 else INK,
            )
        return to_png(figure)


def strips(values: Mapping[str, Sequence[float]], *, label: str, limits: tuple[float, float] | None = None) -> bytes:
    """Draw every case of each group as a point over its box (quartiles, median); NaN is left out."""
    groups = {name: np.asarray(v, dtype=float)[np.isfinite(np.asarray(v, dtype=float))] for name, v in values.items()}
    spread = np.random.default_rng(0)
    with styled():
        figure, axes = _chart(max(WIDTH, 1.0 + 0.9 * len(groups)), 3.7)
        for place, found in enumerate(groups.values()):
            colour = COLOURS[place % len(COLOURS)]
            if found.size:
                axes.boxplot(
                    [found],
                    positions=[place],
                    widths=0.5,
                    showfliers=False,
                    medianprops={"color": INK, "linewidth": 1.6},
                    boxprops={"color": SOFT},
                    whiskerprops={"color": SOFT},
                    capprops={"color": SOFT},
                )
            jitter = place + spread.uniform(-0.16, 0.16, found.size)
            axes.plot(jitter, found, "o", color=colour, alpha=0.6, markersize=3.6, markeredgewidth=0)
        axes.set_xticks(range(len(groups)), [f"{plain(n, 18)}\n(n = {v.size})" for n, v in groups.items()])
        axes.tick_params(axis="x", length=0, labelcolor=INK)
        axes.set_xlim(-0.6, max(0, len(groups) - 1) + 0.6)
        axes.grid(visible=False, axis="x")
        axes.set_ylabel(label)
        if limits:
            axes.set_ylim(*limits)
        return to_png(figure)


def bland_altman(prediction: Sequence[float], reference: Sequence[float], *, unit: str = "mL", name: str = "") -> bytes:
    """Draw difference against mean of two measurements, with bias and 95 % limits of agreement (1.96 SD)."""
    first, second = np.asarray(prediction, dtype=float), np.asarray(reference, dtype=float)
    kept = np.isfinite(first) & np.isfinite(second)
    middle, difference = (first[kept] + second[kept]) / 2, first[kept] - second[kept]
    with styled():
        figure, axes = _chart(WIDTH, 3.7)
        axes.plot(middle, difference, "o", color=COLOURS[0], alpha=0.6, markersize=4, markeredgewidth=0)
        axes.axhline(0, color=SOFT, linewidth=0.9)
        if difference.size > 1:
            bias, reach = float(difference.mean()), 1.96 * float(difference.std(ddof=1))
            limits = f"95 % limits of agreement {bias - reach:+.2f} to {bias + reach:+.2f} {unit}"
            axes.axhline(bias, color=COLOURS[1], linewidth=1.4, label=f"bias {bias:+.2f} {unit}")
            axes.axhline(bias - reach, color=COLOURS[1], linewidth=1.1, linestyle="--", label=limits)
            axes.axhline(bias + reach, color=COLOURS[1], linewidth=1.1, linestyle="--")
            figure.legend(loc="outside lower left", fontsize=8)
        axes.margins(y=0.18)
        axes.set_title(plain(name))
        axes.set_xlabel(f"Mean of prediction and reference ({unit})")
        axes.set_ylabel(f"Prediction − reference ({unit})")
        return to_png(figure)


def learning_curves(steps: Sequence[int], metrics: Mapping[str, Sequence[float]], *, best: int | None = None) -> bytes:
    """Draw metrics over epochs: losses in one panel, everything else in the other.

    Parameters
    ----------
    steps : sequence of int
        Epoch numbers.
    metrics : mapping of str to sequence of float
        As long as ``steps``; NaN where an epoch did not measure it.
    best : int
        The epoch whose weights were kept.
    """
    losses = {name: values for name, values in metrics.items() if "loss" in name}
    others = {name: values for name, values in metrics.items() if "loss" not in name}
    panels = [(title, group) for title, group in (("Loss", losses), ("Validation", others)) if group]
    with styled():
        figure = new_figure(4.6 * max(1, len(panels)), 3.4)
        for axes, (title, group) in zip(np.ravel(figure.subplots(1, max(1, len(panels)))), panels, strict=False):
            for colour, (name, values) in zip(COLOURS * 4, group.items(), strict=False):
                found = np.asarray(values, dtype=float)
                kept = np.isfinite(found)
                mark = "o-" if kept.sum() < 15 else "-"
                axes.plot(np.asarray(steps)[kept], found[kept], mark, color=colour, markersize=3, label=plain(name, 28))
            if best is not None:
                axes.axvline(best, color=SOFT, linewidth=0.9, linestyle="--", label=f"kept: epoch {best}")
            axes.set_title(title)
            axes.set_xlabel("Epoch")
            axes.set_xlim(min(steps) - 0.5, max(steps) + 0.5)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
            axes.legend(loc="best")
        return to_png(figure)


def forest(rows: Sequence[tuple[str, float, float, float, int]], *, overall: float, label: str) -> bytes:
    """Draw value and interval of each subgroup against the overall value.

    Parameters
    ----------
    rows : sequence of (name, value, low, high, patients)
        A NaN interval is drawn as an open point: too few patients.
    """
    with styled():
        figure, axes = _chart(6.4, 1.1 + 0.3 * max(1, len(rows)))
        for place, (_, value, low, high, _) in enumerate(rows):
            certain = np.isfinite(low) and np.isfinite(high)
            if certain:
                axes.plot([low, high], [place, place], color=COLOURS[0], linewidth=1.8)
            face = COLOURS[0] if certain else "white"
            axes.plot([value], [place], "o", color=COLOURS[0], markerfacecolor=face, markersize=5.5)
        axes.axvline(overall, color=COLOURS[1], linewidth=1.2, linestyle="--", label=f"all: {overall:.3f}")
        axes.set_yticks(range(len(rows)), [f"{plain(name, 34)}  (n = {patients})" for name, *_, patients in rows])
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(f"{label}; open point: too few patients for an interval")
        figure.legend(loc="outside upper right")
        return to_png(figure)


def _chart(width: float, height: float) -> tuple[Figure, Axes]:
    figure = new_figure(width, height)
    return figure, figure.subplots()


def _curves(axes: Axes, curves: Mapping[str, Curve], notes: Mapping[str, str]) -> None:
    for place, (name, (across, up)) in enumerate(curves.items()):
        label = f"{plain(name, 22)} {notes.get(name, '')}".strip()
        style = "-" if place < len(COLOURS) else "--"
        axes.plot(across, up, style, color=COLOURS[place % len(COLOURS)], label=label)


def _unit_square(axes: Axes, across: str, up: str) -> None:
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.set_aspect("equal")
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.grid(color=GRID)
