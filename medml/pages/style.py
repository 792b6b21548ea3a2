"""How every picture looks: colours that colour-blind readers tell apart, one font size, no global state."""

from __future__ import annotations

import io
import unicodedata
from contextlib import AbstractContextManager
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# Okabe and Ito 2008; yellow last, it is faint on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#7F5F9E", "#F0E442")
INK, SOFT, GRID = "#17212b", "#55626f", "#e3e8ed"
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "text.parse_math": False,  # names come from data; a lone "$" must not raise
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "grid.color": GRID,
    "text.color": INK,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.8,
}


def styled() -> AbstractContextManager[None]:
    """Return a context in which figures are drawn in our style: ``with styled(): …``."""
    return mpl.rc_context(STYLE)


def new_figure(width: float, height: float, *, face: str = "white") -> Figure:
    """Return a figure (inches) that no global list keeps alive."""
    figure = Figure(figsize=(width, height), layout="constrained", facecolor=face)
    FigureCanvasAgg(figure)
    return figure


def to_png(figure: Figure, *, dpi: int = 130) -> bytes:
    """Draw ``figure`` and let its memory go; equal figures give equal bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, facecolor=figure.get_facecolor(), metadata={"Software": None})
    figure.clear()
    return buffer.getvalue()


def colour_of(value: int) -> str:
    """Return the colour of label ``value`` (1, 2, …); the palette repeats."""
    return COLOURS[(value - 1) % len(COLOURS)]


def plain(text: object, limit: int = 60) -> str:
    """Return ``text`` without control characters, shortened to ``limit`` characters."""
    clean = "".join(char for char in str(text) if not unicodedata.category(char).startswith("C"))
    return clean if len(clean) <= limit else clean[: limit - 1] + "…"
