"""What a few scanner makers keep in private elements of classic images and nowhere else; read only under their name.

Elements and meanings as the makers' conformance statements give them.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from typing import Any

from medml.io.dicom_values import doubles_of, numbers_of, text_of

# Creator element, its text, and the elements of its block that are read.
_SIEMENS, _GE, _PHILIPS, _UNITED = 0x00190010, 0x00430010, 0x20010010, 0x00650010
_PHILIPS_PET, _GE_PET = 0x70530010, 0x00090010
_CREATORS = {
    _SIEMENS: "SIEMENS MR HEADER",
    _GE: "GEMS_PARM_01",
    _PHILIPS: "Philips Imaging DD 001",
    _UNITED: "Image Private Header",
    _PHILIPS_PET: "Philips PET Private Group",
    _GE_PET: "GEMS_PETD_01",
}
_B_VALUES = {0x0019100C: _SIEMENS, 0x00431039: _GE, 0x20011003: _PHILIPS, 0x00651009: _UNITED}
_SIEMENS_DIRECTION = 0x0019100E
_PHILIPS_SUV, _PHILIPS_BQML, _GE_SCAN = 0x70531000, 0x70531009, 0x0009100D
# GE adds a flag of 10^9 to b-values that it rounded.
_GE_FLAG = 1_000_000_000

PRIVATE_TAGS = frozenset(
    {*_CREATORS, *_B_VALUES, _SIEMENS_DIRECTION, _PHILIPS_SUV, _PHILIPS_BQML, _GE_SCAN},
)


def b_value_of(elements: Mapping[int, Any]) -> float | None:
    """Return the b-value (s/mm2) of a classic image by its maker; None if there is none."""
    for tag, creator in _B_VALUES.items():
        numbers = _numbers(elements, tag, creator)
        if numbers:
            value = numbers[0] % _GE_FLAG if creator == _GE else numbers[0]
            return value if 0 <= value < 1e6 else None
    return None


def diffusion_of(elements: Mapping[int, Any]) -> tuple[float, ...] | None:
    """Return the direction of the diffusion gradient of a classic Siemens image; None if there is none."""
    return _numbers(elements, _SIEMENS_DIRECTION, _SIEMENS)


def philips_factors(elements: Mapping[int, Any]) -> tuple[float | None, float | None]:
    """Return Philips' factors from PET counts to SUVbw, and to Bq/mL; None for each that is absent or 0."""
    found = [_numbers(elements, tag, _PHILIPS_PET) for tag in (_PHILIPS_SUV, _PHILIPS_BQML)]
    suv, bqml = (numbers[0] if numbers and numbers[0] > 0 else None for numbers in found)
    return suv, bqml


def ge_scan_start(elements: Mapping[int, Any]) -> str:
    """Return GE's date and time of the scan that PET values are decay-corrected to; empty if absent."""
    return text_of(_value(elements, _GE_SCAN)) if _made_by(elements, _GE_PET) else ""


def _made_by(elements: Mapping[int, Any], creator: int) -> bool:
    return text_of(_value(elements, creator)) == _CREATORS[creator]


def _value(elements: Mapping[int, Any], tag: int) -> bytes:
    value = getattr(elements.get(tag), "value", None)
    return value if isinstance(value, bytes) else b""


def _numbers(elements: Mapping[int, Any], tag: int, creator: int) -> tuple[float, ...] | None:
    """Return the numbers of a private element: text, or binary ones; its VR may be lost (UN) or wrong."""
    value = _value(elements, tag)
    if not value or not _made_by(elements, creator):
        return None
    text = value.rstrip(b" \0")
    if text and not text.strip(b"0123456789 .+-eE\\"):
        return numbers_of(text)
    little = elements[tag].is_little_endian
    if len(value) == 4:
        numbers: tuple[float, ...] = struct.unpack("<f" if little else ">f", value)
        return numbers if math.isfinite(numbers[0]) else None
    return doubles_of(value, little)
