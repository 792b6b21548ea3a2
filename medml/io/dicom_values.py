"""The bytes of DICOM values to text and numbers; what cannot be read is "" or None, never a guess."""

from __future__ import annotations

import math
import re
import struct
import unicodedata

from pydicom.charset import convert_encodings, decode_bytes, python_encoding

from medml.errors import Refusal

MAX_AGE = 90
_BLANK = " \0\t\r\n"
# After these, ISO 2022 goes back to the first character set (PS3.5 section 6.1.2.5.3).
_DELIMITERS = set(b"\\\n\r\f\t")


def text_of(value: bytes, little: bool = True) -> str:
    """Return a text value stripped of blanks; for values whose characters are ASCII by the standard."""
    try:
        return value.decode("utf-8").strip(_BLANK)
    except UnicodeDecodeError:
        return value.decode("latin-1").strip(_BLANK)


def upper_of(value: bytes, little: bool = True) -> str:
    """Return a code string in upper case."""
    return text_of(value).upper()


def words_of(value: bytes, little: bool = True) -> tuple[str, ...]:
    """Return the parts of a multi-valued code string, in upper case, empty ones left out."""
    return tuple(part.strip(_BLANK) for part in text_of(value).upper().split("\\") if part.strip(_BLANK))


def identifier_of(value: bytes, charset: bytes) -> str:
    """Return an id in its one form (NFC), so that one id written in two character sets compares as equal.

    Parameters
    ----------
    charset : bytes
        The value of SpecificCharacterSet, empty if absent.
    """
    if value.isascii() and b"\x1b" not in value:
        return text_of(value)
    names = [part.strip() for part in text_of(charset).split("\\")]
    if not python_encoding.keys() >= set(names):  # pydicom would quote an unknown one in a warning
        return unicodedata.normalize("NFC", text_of(value))
    try:
        decoded = decode_bytes(value, convert_encodings(names), _DELIMITERS)
    except (LookupError, UnicodeError, ValueError):
        decoded = text_of(value)
    return unicodedata.normalize("NFC", decoded).strip(_BLANK)


def numbers_of(value: bytes, little: bool = True) -> tuple[float, ...] | None:
    """Return the numbers of a decimal string; None if one of them is damaged, empty or not finite."""
    try:
        values = tuple([float(part) for part in value.strip(b" \0").split(b"\\")]) if value else ()
    except ValueError:
        return None
    if not values or b"_" in value or not all(map(math.isfinite, values)):
        return None
    return values


def first_of(value: bytes, little: bool = True) -> float | None:
    """Return the first number of a decimal string."""
    numbers = numbers_of(value)
    return numbers[0] if numbers else None


def only_of(value: bytes, little: bool = True) -> float | None:
    """Return the one number of a decimal string, None if it is empty.

    Raises
    ------
    Refusal
        ``damaged_header``, if it is anything else: where absence has a meaning, damage must not be taken for it.
    """
    numbers = numbers_of(value)
    if numbers is not None and len(numbers) == 1:
        return numbers[0]
    if value.strip(b" \0"):
        raise Refusal("damaged_header", "RescaleSlope or RescaleIntercept is no number; export the file again")
    return None


def exactly(count: int, value: bytes, little: bool = True) -> tuple[float, ...] | None:
    """Return the numbers of a decimal string that has ``count`` of them; None otherwise."""
    numbers = numbers_of(value)
    return numbers if numbers is not None and len(numbers) == count else None


def whole_of(value: bytes, little: bool = True) -> int | None:
    """Return the first number of an integer string."""
    first = text_of(value).partition("\\")[0].strip()
    return int(first) if re.fullmatch(r"[+-]?\d{1,10}", first) else None


def unsigned_of(value: bytes, little: bool = True) -> int:
    """Return the first binary 16-bit number; 0 if there is none."""
    return int.from_bytes(value[:2], "little" if little else "big") if len(value) >= 2 else 0


def long_of(value: bytes, little: bool = True) -> int | None:
    """Return a binary 32-bit number."""
    return int.from_bytes(value[:4], "little" if little else "big") if len(value) >= 4 else None


def doubles_of(value: bytes, little: bool = True) -> tuple[float, ...] | None:
    """Return binary 64-bit numbers; a decimal string in their place is read as such."""
    if len(value) % 8 or not value.strip(b"0123456789 .+-eE\\"):
        return numbers_of(value)
    numbers = struct.unpack(f"{'<' if little else '>'}{len(value) // 8}d", value)
    return numbers if all(map(math.isfinite, numbers)) else None


def double_of(value: bytes, little: bool = True) -> float | None:
    """Return the first binary 64-bit number."""
    numbers = doubles_of(value, little)
    return numbers[0] if numbers else None


def age_of(age: str, birth: str, study: str) -> int | None:
    """Return whole years, at most 90: from PatientAge (``045Y``), else from the two dates."""
    parts = re.fullmatch(r"(\d{1,3})([DWMY])", age.upper())
    if parts:
        years = int(parts[1]) // {"D": 365, "W": 52, "M": 12, "Y": 1}[parts[2]]
        return min(years, MAX_AGE)
    if not (re.fullmatch(r"\d{8}", birth) and re.fullmatch(r"\d{8}", study)) or study < birth:
        return None
    return min((int(study) - int(birth)) // 10000, MAX_AGE)
