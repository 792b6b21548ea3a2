"""Class labels that tables give: one class a row, several (``a|b``, or a 0/1 column each), or none."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from medml.catalogue.columns import clean_text
from medml.catalogue.tables import Table

LABEL = (
    "label",
    "labels",
    "class",
    "classes",
    "classname",
    "category",
    "diagnosis",
    "findinglabels",
    "target",
    "valuetopredict",
)
PREFIXES = ("label_", "class_", "label:", "class:")
SEPARATOR = "|"
_FLAGS = {"0": False, "1": True, "0.0": False, "1.0": True, "false": False, "true": True, "no": False, "yes": True}


@dataclass(frozen=True, slots=True)
class LabelColumns:
    """The columns of a table that hold classes.

    Attributes
    ----------
    headers : tuple of str
        One whose cells name classes; or one per class, of flags.
    names : tuple of str
        The classes of flag columns; empty for a column of names.
    """

    headers: tuple[str, ...]
    names: tuple[str, ...] = ()

    def of(self, row: Mapping[str, str]) -> tuple[str, ...] | None:
        """Return the classes of a row; None if it says nothing."""
        cells = [row.get(header, "") for header in self.headers]
        if self.names:
            flags = [_FLAGS.get(cell.lower()) for cell in cells]
            if None in flags:
                return None
            return tuple(name for name, flag in zip(self.names, flags, strict=True) if flag)
        found = tuple(dict.fromkeys(clean_text(part) for part in cells[0].split(SEPARATOR) if clean_text(part)))
        return found or None

    def multi_label(self, rows: Sequence[Mapping[str, str]]) -> bool:
        """Say whether a row may have any number of classes."""
        return bool(self.names) or any(SEPARATOR in row.get(self.headers[0], "") for row in rows)


@dataclass(frozen=True, slots=True)
class Classes:
    """Classes by number.

    Attributes
    ----------
    values : dict
        Key (a file, a row) to the classes that hold.
    names : dict
        Number to name, of every class that the source can name.
    """

    values: dict[str, tuple[int, ...]] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)
    multi_label: bool = False


def label_columns(table: Table) -> LabelColumns | None:
    """Return the columns of classes of a table, None if it has none; flag columns are at least two."""
    flags = {
        header: header[len(prefix) :] for header in table.headers for prefix in PREFIXES if _is_flag(header, prefix)
    }
    if len(flags) > 1 and all(_all_flags(table, header) for header in flags):
        return LabelColumns(tuple(flags), tuple(clean_text(name) for name in flags.values()))
    header = table.header(*LABEL)
    return LabelColumns((header,)) if header else None


def class_columns(table: Table, *, max_classes: int) -> LabelColumns | None:
    """Return the columns of classes of a table as `label_columns`, unless they hold free text, dates or ids."""
    columns = label_columns(table)
    if columns is None:
        return None
    names = {name for row in table.rows for name in columns.of(row) or ()}
    telling = any(re.search(r"\d{6}", name) for name in names)
    return columns if 0 < len(names) <= max_classes and not telling else None


def number_classes(
    found: Mapping[str, tuple[str, ...]], *, multi_label: bool = False, names: Sequence[str] = ()
) -> Classes:
    """Number class names in their natural order; ``names`` are those the source can name beyond the ones present."""
    every = sorted({name for held in found.values() for name in held} | set(names), key=class_order)
    numbers = {name: number for number, name in enumerate(every)}
    values = {key: tuple(sorted(numbers[name] for name in held)) for key, held in found.items()}
    return Classes(values, {number: name for name, number in numbers.items()}, multi_label)


def class_order(name: str) -> tuple[int, int, str]:
    """Order class names: whole numbers by value, then texts."""
    return (0, int(name), "") if name.isdecimal() and len(name) < 10 else (1, 0, name)


def classes_digest(classes: Sequence[int], labels: Mapping[int, str]) -> str:
    """Return the sha256 of which classes hold, and of the names that there are."""
    held = [labels.get(value, str(value)) for value in classes]
    text = json.dumps([held, sorted(labels.items())])
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _is_flag(header: str, prefix: str) -> bool:
    return header.lower().startswith(prefix) and bool(clean_text(header[len(prefix) :]))


def _all_flags(table: Table, header: str) -> bool:
    cells = {row[header].lower() for row in table.rows if row[header]}
    return bool(cells) and cells <= set(_FLAGS)
