"""Stored values to real ones (slope, intercept), for NIfTI and DICOM alike."""

from __future__ import annotations

import numpy as np


def rescale(stored: np.ndarray, slope: float, intercept: float) -> np.ndarray:
    """Return ``stored * slope + intercept``: integers where they are exact, else float32.

    Integer input with an integer slope and intercept gives the smallest of int16 and int32 that holds every value;
    slope 1 and intercept 0 give the input itself.
    """
    if slope == 1 and intercept == 0:
        return stored
    if stored.dtype.kind in "iu" and float(slope).is_integer() and float(intercept).is_integer() and stored.size:
        ends = [int(stored.min()) * int(slope) + int(intercept), int(stored.max()) * int(slope) + int(intercept)]
        for kind in (np.int16, np.int32):
            if np.iinfo(kind).min <= min(ends) and max(ends) <= np.iinfo(kind).max:
                return _integers(stored, int(slope), int(intercept), kind)
    wide = stored.astype(np.float32 if stored.dtype.itemsize <= 2 else np.float64)
    np.multiply(wide, slope, out=wide)
    np.add(wide, intercept, out=wide)
    return wide.astype(np.float32, copy=False)


def _integers(stored: np.ndarray, slope: int, intercept: int, kind: type[np.signedinteger]) -> np.ndarray:
    """Multiply and add modulo 2^n: the ends fit, so every result does, whatever happens on the way."""
    values = stored.astype(kind)
    mask = np.iinfo(np.uint64).max
    bits = np.iinfo(kind).bits
    if slope != 1:
        values *= np.uint64(slope & mask).astype(f"u{bits // 8}").view(kind)
    if intercept:
        values += np.uint64(intercept & mask).astype(f"u{bits // 8}").view(kind)
    return values
