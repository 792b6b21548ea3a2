"""What PS3.15 and PS3.3 say, read from this package's data files; docs/deidentification.md names their sources."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any

EDITION = "2026c"
PRIVATE = "PRIVATE"

# PS3.3 classes that the tables of the current edition no longer list, with what took their place.
_RETIRED = {
    "1.2.840.10008.5.1.4.1.1.3": "1.2.840.10008.5.1.4.1.1.3.1",
    "1.2.840.10008.5.1.4.1.1.5": "1.2.840.10008.5.1.4.1.1.20",
    "1.2.840.10008.5.1.4.1.1.6": "1.2.840.10008.5.1.4.1.1.6.1",
    "1.2.840.10008.5.1.4.1.1.12.3": "1.2.840.10008.5.1.4.1.1.12.1",
}

# Private attributes with numbers that image processing needs, by creator and tag (the block xx left out): tag to VR.
SAFE_PRIVATE: dict[str, dict[int, str]] = {
    "SIEMENS MR HEADER": {0x0019000A: "US", 0x0019000C: "IS", 0x0019000E: "FD", 0x00190027: "FD", 0x00190029: "FD"},
    "Philips Imaging DD 001": {0x20010003: "FL"},
    "Philips MR Imaging DD 001": {
        0x2005000D: "FL",
        0x2005000E: "FL",
        0x200500B0: "FL",
        0x200500B1: "FL",
        0x200500B2: "FL",
    },
    "Philips PET Private Group": {0x70530000: "DS", 0x70530009: "DS"},
    "GEMS_PARM_01": {0x00430039: "IS"},
    "GEMS_ACQU_01": {0x00190023: "DS", 0x00190027: "DS", 0x001900BB: "DS", 0x001900BC: "DS", 0x001900BD: "DS"},
}


@dataclass(frozen=True, slots=True)
class Rule:
    """One row of table E.1-1 or E.3.4-1.

    Attributes
    ----------
    basic : str
        Action of the Basic Profile: D, Z, X, U, or a choice such as ``X/Z/D``.
    options : dict
        Action (K or C) of each option that has one.
    """

    keyword: str
    vr: str
    basic: str
    options: dict[str, str]


@lru_cache(maxsize=1)
def attribute_rules() -> dict[int, Rule]:
    """Return table E.1-1 by tag, without the rows that name a range (curves, overlays, private attributes)."""
    return {int(row["tag"], 16): _rule(row, row["keyword"]) for row in _rows("e1_1.csv") if _is_tag(row["tag"])}


@lru_cache(maxsize=1)
def content_rules() -> dict[tuple[str, str, str], Rule]:
    """Return table E.3.4-1 by code, scheme and value type of a content item."""
    return {(row["code"], row["scheme"], row["value_type"]): _rule(row, "") for row in _rows("e3_4_1.csv")}


@lru_cache(maxsize=1)
def option_names() -> tuple[str, ...]:
    """Return the options in the order of the table's columns."""
    return tuple(_options(next(_rows("e1_1.csv"))))


@lru_cache(maxsize=64)
def attribute_types(sop_class: str) -> dict[int, dict[int, int]] | None:
    """Return which attributes an IOD has: parent sequence's tag (0 at the top) to tag to type 1, 2 or 3.

    Where an attribute stands in several of the IOD's modules, or in several places below the same parent, its
    strictest type counts; conditional types (1C, 2C) count as if their condition held.

    Returns
    -------
    dict or None
        None if the SOP class is not known.
    """
    data = _iods()
    iod = data["classes"].get(_RETIRED.get(sop_class, sop_class))
    if iod is None:
        return None
    types: dict[int, dict[int, int]] = {}
    for module in data["iods"][iod]:
        for key, kind in data["modules"][module].items():
            below = types.setdefault(int(key[:8], 16), {})
            tag = int(key[8:], 16)
            below[tag] = min(kind, below.get(tag, 3))
    return types


@lru_cache(maxsize=1)
def vocabulary() -> frozenset[str]:
    """Return the lower-case words that no name is made of: what a cleaned text may keep."""
    return frozenset(_read("words.txt").decode("ascii").split())


@lru_cache(maxsize=1)
def _iods() -> dict[str, Any]:
    return json.loads(gzip.decompress(_read("iods.json.gz")))  # type: ignore[no-any-return]


def _rule(row: dict[str, str], keyword: str) -> Rule:
    return Rule(keyword, row.get("vr", ""), row["basic"], {name: row[name] for name in _options(row) if row[name]})


def _options(row: dict[str, str]) -> list[str]:
    return [name for name in row if name.startswith(("retain_", "clean_"))]


def _is_tag(text: str) -> bool:
    return text != PRIVATE and "x" not in text


def _rows(name: str) -> Iterator[dict[str, str]]:
    return csv.DictReader(_read(name).decode("utf-8").splitlines())


def _read(name: str) -> bytes:
    return files(__package__).joinpath(name).read_bytes()
