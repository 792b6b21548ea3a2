"""Words written into a picture's own pixels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Rgb = tuple[int, int, int]
MARGIN = 8


def burn_text(pixels: np.ndarray, lines: Sequence[tuple[str, Rgb]], *, foot: str) -> np.ndarray:
    """Return a picture (rows, columns, 3), uint8, with lines at its top left and one at its foot.

    Letters have a black edge, so that they are read on any background, and are as large as the width allows.

    Parameters
    ----------
    lines : sequence of (text, colour)
    foot : str
        White.
    """
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    draw = ImageDraw.Draw(picture)
    size = max(11, round(min(pixels.shape[:2]) / 32))
    y = MARGIN
    for text, colour in lines:
        _put(draw, (MARGIN, y), text, colour, size, picture.width)
        y += round(1.35 * size)
    _put(draw, (MARGIN, picture.height - MARGIN - round(1.2 * size)), foot, (255, 255, 255), size, picture.width)
    return np.asarray(picture)


def _put(draw: ImageDraw.ImageDraw, place: tuple[int, int], text: str, colour: Rgb, size: int, width: int) -> None:
    font = ImageFont.load_default(size)
    while draw.textlength(text, font=font) > width - 2 * MARGIN and size > 8:
        size -= 1
        font = ImageFont.load_default(size)
    while draw.textlength(text, font=font) > width - 2 * MARGIN and len(text) > 1:
        text = f"{text[:-2]}…"
    draw.text(place, text, fill=colour, font=font, stroke_width=max(1, size // 8), stroke_fill=(0, 0, 0))
