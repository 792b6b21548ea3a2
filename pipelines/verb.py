"""What every flow returns and every verb prints."""

from __future__ import annotations

from typing import Any

from medml.records.record import Record


class VerbResult(Record):
    """The outcome of one verb; ``--json`` prints it as one last line.

    Attributes
    ----------
    ok : bool
        False when any scan was refused or failed, or a gate said no (exit code 1).
    outputs : dict
        What was written: name to path.
    summary : dict
        Figures worth a table.
    table : tuple of tuple of str
        A table to print, its first row the heads.
    notes : tuple of str
        Sentences for a person: warnings, what to do next.
    """

    verb: str
    ok: bool
    counts: dict[str, int] = {}
    outputs: dict[str, str] = {}
    model: str | None = None
    summary: dict[str, Any] = {}
    table: tuple[tuple[str, ...], ...] = ()
    notes: tuple[str, ...] = ()
