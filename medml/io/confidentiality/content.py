"""Content items of reports: what table E.3.4-1 says of each, and the item that stands for a tree that had to go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from medml.io.confidentiality.elements import items_of, text_of
from medml.io.confidentiality.options import resolve
from medml.io.confidentiality.tables import content_rules

_VALUE_TYPE, _CONCEPT, _CODE, _SCHEME = 0x0040A040, 0x0040A043, 0x00080100, 0x00080102
_SCHEMES = {"SRT": "SCT", "99SDM": "SCT", "SNM3": "SCT"}


def content_action(elements: Sequence[Any], options: tuple[str, ...]) -> str:
    """Return what happens to a content item: X it goes, D its text becomes a dummy, else C or K: it is cleaned.

    The attributes of an item that stays go through table E.1-1 like any others, so that names, dates and UIDs in it
    never stay as they are without an option that says so.
    """
    by_tag = {int(element.tag): element for element in elements}
    kind = text_of(by_tag.get(_VALUE_TYPE))
    code, scheme = _concept(by_tag.get(_CONCEPT))
    rule = content_rules().get((code, scheme, kind))
    if rule is None:
        return "X" if kind == "PNAME" else "C"
    return resolve(rule, options, 3)


def dummy_content() -> dict[int, tuple[str, Any]]:
    """Return a content item that says that the content was removed."""
    concept = {_CODE: ("SH", b"121106"), _SCHEME: ("SH", b"DCM"), 0x00080104: ("LO", b"Comment")}
    return {
        0x0040A010: ("CS", b"CONTAINS"),
        _VALUE_TYPE: ("CS", b"TEXT"),
        _CONCEPT: ("SQ", concept),
        0x0040A160: ("UT", b"REMOVED"),
    }


def _concept(element: Any) -> tuple[str, str]:
    items = items_of(element) if element is not None else None
    found = {int(part.tag): text_of(part) for part in items[0]} if items else {}
    scheme = found.get(_SCHEME, "")
    return found.get(_CODE, ""), _SCHEMES.get(scheme, scheme)
