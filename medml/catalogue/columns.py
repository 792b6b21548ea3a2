"""Facts that travel with a scan for subgroups and splits: an allow-list, cleaned. No ids, no dates."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping

from medml.io.dicom_columns import kernel_of
from medml.records.scan import Column

MAX_TEXT = 64
OLDEST = 90

ALIASES: dict[str, tuple[str, ...]] = {
    "sex": ("sex", "gender", "patientsex", "patientgender"),
    "age": ("age", "patientage", "ageyears", "ageinyears", "ageatscan"),
    "scanner": ("scanner", "scannermodel", "manufacturersmodelname", "manufacturermodelname", "device"),
    "site": ("site", "center", "centre", "hospital", "institution"),
    "view": ("view", "viewposition", "projection"),
    "split": ("split", "subset", "fold", "partition", "set"),
    "body_part": ("bodypart", "bodypartexamined", "region"),
    "laterality": ("laterality", "side"),
    "modality": ("modality",),
    "part": ("part", "seriespart"),
    "field_strength": ("fieldstrength", "magneticfieldstrength"),
    "slice_thickness": ("slicethickness",),
    "kvp": ("kvp",),
    "kernel": ("kernel", "convolutionkernel"),
    "contrast": ("contrast", "contrastagent"),
    "purpose": ("purpose", "presentationintenttype"),
    "unit": ("unit", "units"),
    "suvbw_factor": ("suvbwfactor",),
    "sampling_hz": ("samplinghz", "samplingfrequency"),
    "leads": ("leads",),
}
_NUMBERS = ("field_strength", "slice_thickness", "kvp", "suvbw_factor", "sampling_hz")
# Columns that hold codes: whatever does not fit its pattern is not kept.
_PATTERNS = {
    "purpose": re.compile("for processing|for presentation"),
    "unit": re.compile("g/mL|Bq/mL|HU|mV"),
    "leads": re.compile(r"(?:(?:I{1,3}|aV[RLF]|V\d{1,2}R?|X|Y|Z) ?){1,24}"),
}
_CONTRAST = {**dict.fromkeys(("yes", "y", "true", "1"), "yes"), **dict.fromkeys(("no", "n", "false", "0"), "no")}
_MEANING = {alias: name for name, aliases in ALIASES.items() for alias in aliases}
_SEXES = {"m": "M", "male": "M", "man": "M", "f": "F", "female": "F", "woman": "F", "o": "O", "other": "O"}
_SPLITS = {
    **dict.fromkeys(("train", "training", "tr"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "validate"), "val"),
    **dict.fromkeys(("test", "testing", "ts", "holdout", "heldout"), "test"),
}
_UNITS = {
    "": 1.0,
    "y": 1.0,
    "yr": 1.0,
    "yrs": 1.0,
    "year": 1.0,
    "years": 1.0,
    "m": 1 / 12,
    "w": 7 / 365.25,
    "d": 1 / 365.25,
}
_EMPTY = {"", "na", "n/a", "nan", "none", "null", "unknown", "?", "-"}


def meaning_of(header: str) -> str | None:
    """Return the allow-listed column that a table's header stands for, or None."""
    return _MEANING.get(simplify(header))


def simplify(header: str) -> str:
    """Return a header in lower case without blanks, dashes and the like, for comparison."""
    return re.sub(r"[^a-z0-9]+", "", header.lower())


def keep_columns(facts: Mapping[str, object]) -> dict[str, Column]:
    """Return what may be kept of ``facts``: allow-listed names, cleaned values, nothing empty."""
    kept: dict[str, Column] = {}
    for name, value in facts.items():
        column = meaning_of(name)
        cleaned = None if column is None else clean(column, value)
        if column is not None and cleaned is not None:
            kept[column] = cleaned
    return dict(sorted(kept.items()))


def clean(column: str, value: object) -> Column:
    """Return a value of an allow-listed column in its one form; None if it says nothing."""
    text = clean_text(value)
    if text.lower() in _EMPTY:
        return None
    if column == "sex":
        return _SEXES.get(text.lower(), "O" if text.lower() in ("x", "diverse", "d") else None)
    if column == "age":
        return _age(text)
    if column == "split":
        return split_of(text) or text
    if column in _NUMBERS:
        return _number(text)
    if column == "kernel":
        return kernel_of(text)
    if column == "contrast":
        return _CONTRAST.get(text.lower())
    if column in _PATTERNS:
        return text if _PATTERNS[column].fullmatch(text) else None
    return text


def split_of(text: str) -> str | None:
    """Return "train", "val" or "test" where ``text`` is a usual word for one of them."""
    return _SPLITS.get(text.strip().lower())


def clean_text(value: object) -> str:
    """Return at most 64 printable characters, runs of blanks as one."""
    if value is None:
        return ""
    text = "".join(c if c.isprintable() else " " for c in str(value))
    return " ".join(text.split())[:MAX_TEXT].strip()


def columns_left(headers: Iterable[str], used: Iterable[str]) -> tuple[str, ...]:
    """Return the headers that are neither used otherwise nor allow-listed."""
    taken = set(used)
    return tuple(clean_text(name) for name in headers if name not in taken and meaning_of(name) is None)


def _age(text: str) -> Column:
    """Read years: "63", "63.5", "063Y", "6M"; over 89 becomes 90."""
    match = re.fullmatch(r"(\d{1,3}(?:[.,]\d+)?)\s*([a-z]*)", text.lower())
    if match is None or match[2] not in _UNITS:
        return None
    years = float(match[1].replace(",", ".")) * _UNITS[match[2]]
    if years > 130:
        return None
    if years > OLDEST - 1:
        return OLDEST
    return int(years) if years == int(years) else round(years, 2)


def _number(text: str) -> Column:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
