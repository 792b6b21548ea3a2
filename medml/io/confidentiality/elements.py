"""Raw elements: the items of a sequence, and values encoded anew (PS3.5 section 7)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from struct import Struct, pack
from typing import Any

from pydicom.filereader import data_element_generator

from medml.errors import Refusal
from medml.io.confidentiality.values import padded

LONG_VRS = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"})
UNDEFINED = 0xFFFFFFFF

_ITEM, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE0DD


@dataclass(frozen=True, slots=True)
class Encoding:
    """How elements are written."""

    implicit: bool
    little: bool


def encoded(tag: int, vr: str, value: bytes, encoding: Encoding) -> bytes:
    """Return an element as it stands in a file; a value of odd length is padded."""
    if len(value) % 2:
        value = padded(value, vr)
    order = "<" if encoding.little else ">"
    group, element, length = tag >> 16, tag & 0xFFFF, len(value)
    if encoding.implicit:
        return pack(order + "HHL", group, element, length) + value
    if vr in LONG_VRS:
        return pack(order + "HH2sHL", group, element, vr.encode(), 0, length) + value
    if length > 0xFFFF:
        raise Refusal("damaged", f"a value of {length} bytes where its VR allows 65535; export the file again")
    return pack(order + "HH2sH", group, element, vr.encode(), length) + value


def encode_item(content: bytes, encoding: Encoding) -> bytes:
    """Return an item of a sequence, of defined length."""
    return pack(("<" if encoding.little else ">") + "HHL", 0xFFFE, 0xE000, len(content)) + content


def encode_tree(values: Mapping[int, tuple[str, Any]], encoding: Encoding) -> bytes:
    """Return elements given as tag to VR and value, where a mapping stands for a sequence of one item."""
    parts = []
    for tag, (vr, value) in values.items():
        content = encode_item(encode_tree(value, encoding), encoding) if isinstance(value, dict) else value
        parts.append(encoded(tag, vr, content, encoding))
    return b"".join(parts)


def items_of(element: Any) -> list[list[Any]] | None:
    """Return the raw elements of each item of a sequence; None if the element is none.

    Raises
    ------
    Refusal
        If the value begins as a sequence and does not go on as one.
    """
    value = element.value
    if not isinstance(value, bytes):
        return [list(item.values()) for item in value] if value is not None else []
    if element.VR not in ("SQ", "UN", None):
        return None
    unknown = element.VR == "UN"  # PS3.5 6.2.2: what UN holds is implicit VR little endian
    return list(_split(value, unknown or element.is_implicit_VR, unknown or element.is_little_endian))


def bytes_of(element: Any) -> bytes:
    """Return the bytes of a value; empty where there are none."""
    value = getattr(element, "value", None)
    return value if isinstance(value, bytes) else b""


def text_of(element: Any) -> str:
    """Return a value as text without the blanks around it, as ingest reads it."""
    value = bytes_of(element)
    try:
        return value.decode("utf-8").strip(" \0\t\r\n")
    except UnicodeDecodeError:
        return value.decode("latin-1").strip(" \0\t\r\n")


def _split(value: bytes, implicit: bool, little: bool) -> Iterator[list[Any]]:
    stream = BytesIO(value)
    head = Struct(("<" if little else ">") + "HHL")
    while len(start := stream.read(8)) == 8:
        group, number, length = head.unpack(start)
        tag = group << 16 | number
        if tag == _SEQUENCE_END:
            return
        if tag != _ITEM:
            raise Refusal("damaged", "a sequence does not consist of items; copy the file again")
        if length == UNDEFINED:
            yield list(data_element_generator(stream, implicit, little))
            continue
        content = stream.read(length)
        if len(content) != length:
            raise Refusal("truncated", "an item of a sequence ends before its length; copy the file again")
        yield list(data_element_generator(BytesIO(content), implicit, little))
