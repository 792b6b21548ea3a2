"""Pixel padding: values that fill a picture outside its field of view (PS3.3 C.7.5.1.1.2)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medml.io.dicom_header import Header
from medml.io.dicom_kinds import is_reversed
from medml.records.scan import Finding

AIR = -1024.0
MOST_HU = 4096.0


def padding_of(header: Header) -> tuple[int, int]:
    """Return the lowest and highest padding value of a header that declares one, with the pixels' own sign."""
    assert header.padding is not None
    one = _signed(header, header.padding)
    other = one if header.padding_limit is None else _signed(header, header.padding_limit)
    return min(one, other), max(one, other)


def fill_padding(stored: np.ndarray, headers: Sequence[Header]) -> tuple[Finding, ...]:
    """Count the padded voxels, and give those of CT that mean no Hounsfield unit the value of air, in place.

    Scanners pad outside the circle of reconstruction with -2000 and the like, which would stretch every statistic.
    What lies within the range of real values stays, as does every other modality: there padding is dark already.

    Parameters
    ----------
    stored : ndarray of shape (slices, rows, columns)
        Stored values, unused bits cleared.
    """
    if all(header.padding is None for header in headers) or stored.ndim != 3 or stored.dtype.kind not in "iu":
        return ()
    padded = filled = 0
    for values, header in zip(stored, headers, strict=True):
        if header.padding is None or is_reversed(header):
            continue
        low, high = padding_of(header)
        where = values == low if low == high else (values >= low) & (values <= high)
        count = int(np.count_nonzero(where))
        padded += count
        air = _air(header, low, high, values.dtype)
        if count and air is not None:
            values[where] = air
            filled += count
    if not padded:
        return ()
    return (_finding(padded, filled, stored.size),)


def _air(header: Header, low: int, high: int, kind: np.dtype[np.generic]) -> int | None:
    """Return the stored value of air where padding would be no Hounsfield unit; None if it may stay."""
    slope, intercept = (1.0 if header.slope is None else header.slope), header.intercept or 0.0
    if header.modality != "CT" or slope <= 0:
        return None
    units = low * slope + intercept, high * slope + intercept
    if units[0] >= AIR and units[1] <= MOST_HU:
        return None
    limits = np.iinfo(kind)  # type: ignore[type-var]
    return int(np.clip(round((AIR - intercept) / slope), limits.min, limits.max))


def _finding(padded: int, filled: int, voxels: int) -> Finding:
    told = f"; {filled} were no Hounsfield units and are set to {AIR:.0f} HU" if filled else "; they keep their values"
    return Finding(
        code="pixel_padding",
        severity="info",
        message=f"{padded} of {voxels} voxels are padding outside the field of view{told}",
        numbers={"voxels": float(padded), "filled": float(filled)},
        advice="expected outside the circle of reconstruction; leave them out of statistics",
    )


def _signed(header: Header, value: int) -> int:
    bits = min(header.bits_allocated, 16)
    return value - (1 << bits) if header.signed and value >= 1 << (bits - 1) else value
