"""What stands on a page, as plain values: cards, tables, pictures, tiles, sections. `shell.render` makes them HTML."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

Tone = Literal["", "good", "warn", "bad", "muted"]


@dataclass(frozen=True, slots=True)
class Cell:
    """A table cell with a tone, or a way to another file; a plain value does where neither is wanted.

    Attributes
    ----------
    file : str
        As in `Link`; empty: no link.
    """

    value: str | int | float | None
    tone: Tone = ""
    file: str = ""

    def __post_init__(self) -> None:
        if self.file:
            _check_link(self.file)


Value = str | int | float | None | Cell


@dataclass(frozen=True, slots=True)
class Card:
    """One headline figure: a label, a large value, a line of detail such as its interval."""

    label: str
    value: str
    detail: str = ""
    tone: Tone = ""


@dataclass(frozen=True, slots=True)
class Table:
    """A table; numbers are aligned right and shown with three decimals, None and NaN as a dash.

    Attributes
    ----------
    folded : bool
        Shown closed, behind its caption; for long tables.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Value]]
    caption: str = ""
    folded: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A PNG or JPEG. A "chart" is drawn on white and is toned down on dark pages; an "image" is left as it is."""

    png: bytes
    caption: str = ""
    alt: str = ""
    kind: Literal["chart", "image"] = "chart"
    wide: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Tile:
    """A small picture in a contact sheet: a name, lines about it, and tags in words, each with a tone.

    Attributes
    ----------
    across : int
        How many squares the picture is wide.
    file : str
        Where its title leads, as in `Link`; empty: nowhere.
    """

    png: bytes
    title: str
    lines: Sequence[str] = ()
    tags: Sequence[Cell] = ()
    alt: str = ""
    across: int = 1
    file: str = ""

    def __post_init__(self) -> None:
        if self.file:
            _check_link(self.file)


@dataclass(frozen=True, slots=True)
class Bar:
    """A whole in parts, as a bar with a legend: name, number and tone of each."""

    label: str
    parts: Sequence[tuple[str, int, Tone]]


@dataclass(frozen=True, slots=True)
class StripRow:
    """One group of a strip; places and ends run from 0 to 1 along the axis.

    Attributes
    ----------
    box : tuple of float
        First quartile, median, third quartile.
    """

    name: str
    count: int
    points: Sequence[float]
    box: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Strip:
    """How a quantity is spread, one row a group.

    Attributes
    ----------
    ticks : sequence of (place, text)
        Of the common axis.
    note : str
        What to know of the groups, such as a single value.
    """

    label: str
    rows: Sequence[StripRow]
    ticks: Sequence[tuple[float, str]]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Link:
    """A way to a file beside the page, in the folder above or in one below, and a place in it; nothing else."""

    text: str
    file: str

    def __post_init__(self) -> None:
        _check_link(self.file)


@dataclass(frozen=True, slots=True, eq=False)
class Section:
    """One part of a page, in the order text, links, bars, tables, strips, tiles, pictures, notes."""

    title: str
    text: Sequence[str] = ()
    tables: Sequence[Table] = field(default_factory=tuple)
    pictures: Sequence[Picture] = field(default_factory=tuple)
    notes: Sequence[str] = ()
    bars: Sequence[Bar] = field(default_factory=tuple)
    strips: Sequence[Strip] = field(default_factory=tuple)
    tiles: Sequence[Tile] = field(default_factory=tuple)
    links: Sequence[Link] = field(default_factory=tuple)


def _check_link(file: str) -> None:
    if not re.fullmatch(r"(\.\./)?([\w-]+/)?\w[\w.-]*(#[\w-]+)?", file, re.ASCII):
        raise ValueError(f"link to {file!r}: expected the plain name of a file beside the page, one folder off at most")


def show(value: str | float | None, digits: int = 3) -> str:
    """Return ``value`` as a reader wants it: three decimals, a dash for what is undefined, words as they are."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.{digits}f}" if abs(value) < 1000 else f"{value:,.0f}"
    return str(value)
