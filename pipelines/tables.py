"""Outcomes as tables for a person; ``--json`` and the files hold the rest."""

from __future__ import annotations

import re
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipelines.verb import VerbResult

LEAST_WIDTH = 110
LEAST_LAST = 16
DIGEST = re.compile(r"[0-9a-f]{64}")
DETAIL = (
    "iou_",
    "assd_",
    "missed_",
    "false_",
    "volume_bias_",
    "seconds_",
    "failed",
    "peak_memory_mb",
    "auroc_",
    "average_precision_",
)


def show(result: VerbResult) -> None:
    """Print counts, headline figures with their intervals, what was written, and notes."""
    console = Console(soft_wrap=True, highlight=False)
    if console.width < LEAST_WIDTH and not console.is_terminal:
        console = Console(soft_wrap=True, highlight=False, width=LEAST_WIDTH)
    mark = "[green]done[/]" if result.ok else "[yellow]done, but not all of it: see below[/]"
    console.print(f"[bold]{result.verb}[/] {mark}" + (f"  {result.model}" if result.model else ""))
    figures = {} if result.table else _headline(result.summary)
    width = max((len(_label(key)) for key in (*result.counts, *figures, *result.outputs)), default=0)
    for values in (result.counts, figures):
        if values:
            console.print(_table(values, width))
    for key, path in result.outputs.items():  # whole on one line, to be copied
        console.print(f"  [cyan]{escape(_label(key).ljust(width))}[/]    {escape(path)}")
    if result.table:
        console.print(_grid(result.table, console.width), soft_wrap=False)
    for note in result.notes:
        console.print(f"• {note}", markup=False)


def _table(values: dict[str, Any], width: int) -> Table:
    table = Table(show_header=False, box=None, padding=(0, 2))
    table.add_column(style="cyan", no_wrap=True, min_width=width)
    table.add_column(overflow="fold")
    for key, value in values.items():
        table.add_row(escape(_label(key)), escape(_text(value)))
    return table


def _label(key: str) -> str:
    """Return a key in words; one that ends in a name, such as "collection ct_2026", keeps the name as it is typed."""
    return key if " " in key else key.replace("_", " ")


def _grid(rows: tuple[tuple[str, ...], ...], width: int) -> Table:
    """Return a table with heads; verdicts in colour; if it can be, only cells of the last column take several lines."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    fits = sum(widths[:-1]) + 2 * len(widths) + LEAST_LAST <= width
    table.add_column("", width=0)
    for number, head in enumerate(rows[0]):
        table.add_column(head, no_wrap=number == 0 or (fits and number < len(widths) - 1), overflow="fold")
    for row in rows[1:]:
        table.add_row("", *map(escape, row), style="red" if row[-1] == "FAIL" else None)
    return table


def _headline(summary: dict[str, Any]) -> dict[str, str]:
    """Keep what is read first, and put ``x``, ``x_low`` and ``x_high`` on one line; nested figures are for JSON."""
    lines = {}
    for key, value in summary.items():
        bound = key.endswith(("_low", "_high")) and key.rsplit("_", 1)[0] in summary
        if bound or key.startswith(DETAIL) or isinstance(value, dict):
            continue
        low, high = summary.get(f"{key}_low"), summary.get(f"{key}_high")
        interval = f"  (95 % {_text(low)} to {_text(high)})" if low is not None and high is not None else ""
        lines[key] = _text(value) + interval
    return lines


def _text(value: Any) -> str:
    if value is None:
        return "undefined"
    if isinstance(value, str) and DIGEST.fullmatch(value):
        return value[:12]
    return f"{value:.3f}" if isinstance(value, float) else str(value)
