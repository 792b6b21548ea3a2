"""PNG and JPEG pictures in, previews out; the only home of Pillow. Pixels without a spacing: geometry "none"."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from medml.errors import Refusal
from medml.io.files import open_regular
from medml.io.limits import PICTURE_LIMITS, Limits
from medml.records.scan import SourceGrid, Volume

# At DEBUG Pillow writes the values of EXIF tags, names among them, to the log.
logging.getLogger("PIL").setLevel(logging.INFO)

FORMATS = ("PNG", "JPEG")
GREY_MODES = ("L", "LA", "La")
DEEP_MODES = ("I", "I;16", "I;16L", "I;16B", "I;16N")
IDENTITY = ((1.0, 0.0, 0.0, 0.0), (0.0, 1.0, 0.0, 0.0), (0.0, 0.0, 1.0, 0.0), (0.0, 0.0, 0.0, 1.0))


def read_picture(path: Path, *, limits: Limits = PICTURE_LIMITS) -> tuple[Volume, SourceGrid]:
    """Read a picture as (C, I, J, 1) with I its column and J its row, uint8 or uint16.

    Grey pictures, and colour ones whose red, green and blue agree everywhere, have one component; others three. An
    alpha channel is dropped, palettes and one-bit pictures are converted, EXIF orientation is applied.

    Raises
    ------
    Refusal
        If the file is no PNG or JPEG, is damaged or truncated, animated, or over a cap.
    """
    with _opened(path, limits) as image:
        if image.mode in DEEP_MODES:
            pixels = _deep(image)
        elif image.mode in GREY_MODES or image.mode == "1":
            pixels = np.asarray(image.convert("L"))
        else:
            pixels = _one_grey(np.asarray(image.convert("RGB")))
    return _volume(pixels)


def read_label_picture(path: Path, *, limits: Limits = PICTURE_LIMITS) -> tuple[Volume, SourceGrid]:
    """Read a picture of labels as (1, I, J, 1): grey values, palette indices (not their colours), or bits as 0 and 1.

    Raises
    ------
    Refusal
        As `read_picture`, and if the picture is in colour.
    """
    with _opened(path, limits) as image:
        if image.mode == "1":
            pixels = np.asarray(image).astype(np.uint8)
        elif image.mode == "P":
            pixels = np.asarray(image)
        elif image.mode in DEEP_MODES:
            pixels = _deep(image)
        elif image.mode in GREY_MODES:
            pixels = np.asarray(image.convert("L"))
        else:
            pixels = _one_grey(np.asarray(image.convert("RGB")))
            if pixels.ndim == 3:
                raise Refusal("colour_mask", "a mask in colour; expected grey values or palette indices as labels")
    return _volume(pixels)


def read_pixels(picture: bytes) -> np.ndarray:
    """Return one of our own pictures, PNG or JPEG, as (rows, columns, 3), uint8."""
    with Image.open(io.BytesIO(picture), formats=FORMATS) as image:
        return np.asarray(image.convert("RGB"))


def jpeg_bytes(pixels: np.ndarray, *, quality: int = 85) -> bytes:
    """Return pixels (rows, columns) or (rows, columns, 3), uint8, as a JPEG: for previews, never for data."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=quality)
    return buffer.getvalue()


@contextmanager
def _opened(path: Path, limits: Limits) -> Iterator[Image.Image]:
    """Open a picture, its size checked before and its pixels decoded after; every decoder error is a refusal."""
    try:
        with open_regular(path) as file, warnings.catch_warnings():
            # Our caps are checked below, before a pixel is decoded.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(file, formats=FORMATS) as image:
                size = path.stat().st_size
                limits.check(image.size, len(image.getbands()) * (4 if image.mode == "I" else 2), size)
                if image.format == "PNG" and getattr(image, "n_frames", 1) > 1:
                    raise Refusal("several_frames", "an animated picture; expected one frame")
                image.load()
                yield ImageOps.exif_transpose(image)
    except UnidentifiedImageError:
        raise Refusal("not_a_picture", "neither PNG nor JPEG, whatever its name says") from None
    except Image.DecompressionBombError as error:
        raise Refusal("too_large", f"{error}") from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise Refusal("damaged", f"the picture is damaged or cut short ({error}); copy it again") from None


def _deep(image: Image.Image) -> np.ndarray:
    pixels = np.asarray(image)
    low, high = int(pixels.min()), int(pixels.max())
    if low < 0 or high > 65535:
        raise Refusal("unsupported_dtype", f"grey values run from {low} to {high}, expected 0 to 65535")
    return pixels.astype(np.uint16)


def _one_grey(pixels: np.ndarray) -> np.ndarray:
    """Return (rows, columns) if red, green and blue agree everywhere, else the pixels as they are."""
    red = pixels[..., 0]
    same = np.array_equal(red, pixels[..., 1]) and np.array_equal(red, pixels[..., 2])
    return red if same else pixels


def _volume(pixels: np.ndarray) -> tuple[Volume, SourceGrid]:
    """Turn (rows, columns) or (rows, columns, 3) into (C, I, J, 1)."""
    rows, columns = pixels.shape[:2]
    voxels = pixels.reshape(rows, columns, -1).transpose(2, 1, 0)[..., None]
    grid = SourceGrid(shape=(columns, rows, 1), affine=IDENTITY, axes=(0, 1, 2), flips=(False, False, False))
    return Volume(np.ascontiguousarray(voxels), np.eye(4), "none"), grid
