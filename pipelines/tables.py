"""Outcomes as tables for a person."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from pipelines.verb import VerbResult


def show(result: VerbResult) -> None:
    """Print counts, figures with their intervals, what was written, and notes."""
    console = Console(soft_wrap=True, highlight=False)
    mark = "[green]done[/]" if result.ok else "[yellow]done with refusals or failures[/]"
    console.print(f"[bold]{result.verb}[/] {mark}" + (f"  {result.model}" if result.model else ""), markup=True)
    for title, values in (("", result.counts), ("", _fold_intervals(result.summary)), ("", result.outputs)):
        if values:
            console.print(_table(title, values))
    for note in result.notes:
        console.print(f"• {note}", markup=False)


def _table(title: str, values: dict[str, Any]) -> Table:
    table = Table(title=title or None, show_header=False, box=None, padding=(0, 2))
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(overflow="fold")
    for key, value in values.items():
        table.add_row(key, _text(value))
    return table


def _fold_intervals(summary: dict[str, Any]) -> dict[str, str]:
    """Put ``x``, ``x_low`` and ``x_high`` on one line."""
    folded = {}
    for key, value in summary.items():
        if key.endswith(("_low", "_high")) and key.rsplit("_", 1)[0] in summary:
            continue
        text = _text(value)
        low, high = summary.get(f"{key}_low"), summary.get(f"{key}_high")
        if low is not None and high is not None:
            text += f"  (95 % {_text(low)} to {_text(high)})"
        folded[key] = text
    return folded


def _text(value: Any) -> str:
    if value is None:
        return "undefined"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
