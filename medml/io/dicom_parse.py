"""The elements of one DICOM file that are asked for, and where its pixels begin; pydicom splits the bytes.

Speed comes from reading the beginning of a file at once, and from letting pydicom skip every element that nobody asked
for. How a file is encoded is seen in its bytes and compared with what it declares: files lie.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable, Collection
from dataclasses import dataclass
from io import BytesIO
from typing import Any, BinaryIO, TypeVar

from pydicom.filereader import data_element_generator

from medml.errors import Refusal

IMPLICIT, EXPLICIT, DEFLATED, BIG_ENDIAN = (f"1.2.840.10008.1.2{end}" for end in ("", ".1", ".1.99", ".2"))
PLAIN = frozenset((IMPLICIT, EXPLICIT, DEFLATED, BIG_ENDIAN))
MAX_INFLATED = 256 << 20
MAX_HEADER = 32 << 20
MAX_ITEMS = 300_000
UNDEFINED = 0xFFFFFFFF

Result = TypeVar("Result")
WINDOWS = (16 << 10, 128 << 10, 2 << 20, MAX_HEADER)
_PIXEL_TAGS = {0x7FE00008: "FloatPixelData", 0x7FE00009: "DoubleFloatPixelData", 0x7FE00010: "PixelData"}
_FIRST_GROUPS = (b"\x02\x00", b"\x08\x00", b"\x00\x08")
_SYNTAX_TAG = 0x00020010
_LENGTH_TAG = 0x00020000
# A tag may stand inside a value too (an icon has pixels of its own); after so many of them, every element is looked at.
_TRIES = 4


@dataclass(frozen=True, slots=True, eq=False)
class Elements:
    """What was asked for of one data set.

    Attributes
    ----------
    by_tag : dict
        Tag to pydicom's raw element (its value is bytes); a sequence of undefined length is parsed already.
    little : bool
        Whether numbers are little endian.
    pixel_offset : int
        Where the value of PixelData begins, in the file or its inflated data set; 0 if there is none.
    pixel_bytes : int or None
        Its declared length; None if encapsulated.
    pixel_present : int
        How many bytes the file holds from there on.
    pixel_keyword : str
        PixelData, FloatPixelData or DoubleFloatPixelData; empty if there is none.
    """

    by_tag: dict[int, Any]
    transfer_syntax: str
    little: bool
    pixel_offset: int
    pixel_bytes: int | None
    pixel_present: int
    pixel_keyword: str


@dataclass(frozen=True, slots=True)
class _Encoding:
    implicit: bool
    little: bool


def parse_elements(file: BinaryIO, tags: Collection[int]) -> Elements | None:
    """Return the elements of ``tags`` of an open file; None if it does not begin as DICOM does.

    Raises
    ------
    Refusal
        If the file is cut off before its pixels, contradicts itself about its encoding, or would take too much memory.
    Exception
        Whatever pydicom raises on damaged bytes; its words may quote the patient.
    """
    size = os.fstat(file.fileno()).st_size
    file.seek(0)
    head = file.read(WINDOWS[0])
    if not looks_like_dicom(head):
        return None
    syntax, start = _file_meta(head)
    if syntax == DEFLATED:
        body = _inflate(file, start)
        return _parse_body(BytesIO(body), body[: WINDOWS[0]], len(body), 0, syntax, tags)
    return _parse_body(file, head, size, start, syntax, tags)


def looks_like_dicom(head: bytes) -> bool:
    """Say whether a file begins with a preamble, or with a data element of group 2 or 8 (PS3.10 section 7.1)."""
    if head[128:132] == b"DICM":
        return True
    if len(head) < 16 or head[:2] not in _FIRST_GROUPS or head[2:4] > b"\xff\x00":
        return False
    explicit = head[4:6] in (b"UL", b"UI", b"CS", b"OB", b"SH", b"LO", b"DA", b"TM")
    return explicit or (head[:2] != b"\x00\x08" and 0 < struct.unpack("<I", head[4:8])[0] <= 128)


def guarded(work: Callable[[], Result]) -> Result:
    """Do ``work`` on a file's bytes; whatever but a refusal a parser raises becomes one without its words.

    Raises
    ------
    Refusal
        ``damaged``: a parser fed with damaged bytes may raise anything, and its words may quote the patient.
    """
    try:
        return work()
    except Refusal:
        raise
    except Exception as error:
        raise Refusal("damaged", f"the DICOM header cannot be parsed ({type(error).__name__}); copy it again") from None


def open_body(file: BinaryIO) -> BinaryIO:
    """Return the stream that pixel offsets count in: the file, or its inflated data set if it is deflated.

    Raises
    ------
    Refusal
        If the inflated data set is over 256 MB.
    """
    file.seek(0)
    syntax, start = _file_meta(file.read(WINDOWS[0]))
    if syntax == DEFLATED:
        return BytesIO(_inflate(file, start))
    file.seek(0)
    return file


def _file_meta(head: bytes) -> tuple[str, int]:
    """Return the declared transfer syntax, empty if none is, and where the data set begins.

    The group length is taken for a deflated data set only: whatever follows it might look like an element.
    """
    start = 132 if head[128:132] == b"DICM" else 0
    if head[start : start + 2] != b"\x02\x00":
        return "", start
    stream = BytesIO(head)
    stream.seek(start)
    implicit = not _is_vr(head[start + 4 : start + 6])
    found: dict[int, bytes] = {}
    # The stop is asked for every tag and says where the data set begins.
    for element in data_element_generator(
        stream,
        implicit,
        True,
        stop_when=lambda tag, vr, length: tag >> 16 != 2,
        specific_tags=[_LENGTH_TAG, _SYNTAX_TAG],
    ):
        found[int(element.tag)] = element.value if isinstance(element.value, bytes) else b""
    syntax = found.get(_SYNTAX_TAG, b"").decode("ascii", "replace").strip(" \0")
    length = found.get(_LENGTH_TAG, b"")
    if syntax == DEFLATED and len(length) == 4:
        return syntax, start + (8 if implicit else 12) + int.from_bytes(length, "little")
    return syntax, stream.tell()


def _inflate(file: BinaryIO, start: int) -> bytes:
    file.seek(start)
    data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(file.read(MAX_INFLATED + 1), MAX_INFLATED + 1)
    if len(data) > MAX_INFLATED:
        raise Refusal("compression_bomb", f"the deflated data set is over {MAX_INFLATED} bytes; store it uncompressed")
    return data


def _parse_body(stream: BinaryIO, window: bytes, size: int, start: int, syntax: str, tags: Collection[int]) -> Elements:
    """Parse the data set within windows that grow until PixelData, or the end, is in one."""
    encoding = _encoding(window[start : start + 8], syntax)
    for limit in WINDOWS:
        if limit > WINDOWS[0]:
            stream.seek(0)
            window = stream.read(limit)
        if limit == MAX_HEADER:
            _refuse_many_items(window, encoding)
        found = _parse_to_pixels(window, start, encoding, tags)
        if found is None and (len(window) >= size or limit == MAX_HEADER):
            found = _parse_all(window, start, encoding, tags, whole=len(window) >= size)
        if found is not None:
            elements, at = found
            where, keyword = _pixels_at(window, at, size, encoding)
            syntax = _checked_syntax(syntax, encoding, where)
            return Elements(elements, syntax, encoding.little, *where, pixel_keyword=keyword)
    raise Refusal("header_too_large", f"no pixels begin in the first {MAX_HEADER} bytes; export the series again")


def _refuse_many_items(window: bytes, encoding: _Encoding) -> None:
    """Refuse sequences of so many items that parsing them takes gigabytes; smaller windows cannot hold as many."""
    items = window.count(b"\xfe\xff\x00\xe0" if encoding.little else b"\xff\xfe\xe0\x00")
    if items > MAX_ITEMS:
        raise Refusal("too_many_items", f"the header holds {items} items, expected at most {MAX_ITEMS}")


def _encoding(first: bytes, syntax: str) -> _Encoding:
    """Return how the data set is encoded, from its first element; all that is declared little endian must be so."""
    little = first[:2] != b"\x00\x08" and not (first[0:1] == b"\x00" and first[1:2] != b"\x00")
    if syntax and little == (syntax == BIG_ENDIAN) and len(first) == 8:
        raise Refusal(
            "syntax_conflict",
            f"the transfer syntax says {'big' if little else 'little'} endian, the data set is not; export it again",
        )
    return _Encoding(implicit=not _is_vr(first[4:6]), little=little)


def _is_vr(two: bytes) -> bool:
    return len(two) == 2 and two.isalpha() and two.isupper()


def _parse_to_pixels(
    window: bytes, start: int, encoding: _Encoding, tags: Collection[int]
) -> tuple[dict[int, Any], int] | None:
    """Return the elements before PixelData and where it begins; None if it is not found in the window.

    Its tag is searched, and holds if the elements end just there. That spares a look at every element.
    """
    mark = b"\xe0\x7f\x10\x00" if encoding.little else b"\x7f\xe0\x00\x10"
    at = start
    for _ in range(_TRIES):
        at = window.find(mark, at)
        if at < 0:
            return None
        stream = BytesIO(window[:at])
        stream.seek(start)
        try:
            elements = _collect(stream, encoding, tags)
        except Exception:
            # The tag stands within a sequence, or what precedes it is damaged: then `_parse_all` raises this again.
            at += 4
            continue
        if stream.tell() == at and not _short(elements):
            return elements, at
        at = max(at + 4, min(stream.tell(), len(window)))
    return None


def _parse_all(
    window: bytes, start: int, encoding: _Encoding, tags: Collection[int], whole: bool
) -> tuple[dict[int, Any], int] | None:
    """Return the elements before PixelData and where it begins, -1 if there is none, looking at every element."""
    stream = BytesIO(window)
    stream.seek(start)
    stopped = False

    def at_pixels(tag: int, vr: str | None, length: int) -> bool:
        nonlocal stopped
        stopped = tag in _PIXEL_TAGS
        return stopped

    elements = _collect(stream, encoding, tags, at_pixels)
    at = stream.tell()
    if stopped:
        return elements, at
    if not whole:
        return None
    if at > len(window) or _short(elements):
        raise Refusal("truncated", "the file ends within an element of its header; copy it again")
    return elements, -1


def _short(elements: dict[int, Any]) -> bool:
    """Say whether the last value that was read ends before its declared length."""
    if not elements:
        return False
    last = next(reversed(elements.values()))
    return isinstance(last.value, bytes) and 0 < last.length != UNDEFINED and len(last.value) != last.length


def _collect(stream: BinaryIO, encoding: _Encoding, tags: Collection[int], stop: Any = None) -> dict[int, Any]:
    found = data_element_generator(
        stream,
        encoding.implicit,
        encoding.little,
        stop_when=stop,
        specific_tags=tags,  # type: ignore[arg-type]
    )
    every = list(found)
    elements = {int(element.tag): element for element in every}
    if len(elements) != len(every):
        raise Refusal(
            "damaged_header", "an element stands in the header twice; which one holds is unknown, export it again"
        )
    return elements


def _pixels_at(window: bytes, at: int, size: int, encoding: _Encoding) -> tuple[tuple[int, int | None, int], str]:
    """Return offset, declared length and bytes present of the pixels whose element begins at ``at``; their keyword."""
    head = window[at : at + 12] if at >= 0 else b""
    order = "<" if encoding.little else ">"
    group, element = struct.unpack(order + "HH", head[:4]) if len(head) >= 8 else (0, 0)
    keyword = _PIXEL_TAGS.get(group << 16 | element, "")
    explicit = head[4:6] in (b"OW", b"OB", b"UN", b"OF", b"OD")
    if not keyword or (explicit and len(head) < 12):
        return (0, None, 0), ""
    offset = at + (12 if explicit else 8)
    (length,) = struct.unpack(order + "I", head[8:12] if explicit else head[4:8])
    return (offset, None if length == UNDEFINED else length, size - offset), keyword


def _checked_syntax(syntax: str, encoding: _Encoding, where: tuple[int, int | None, int]) -> str:
    """Return the transfer syntax, the plain one that fits if none is declared; refuse one that the pixels belie."""
    seen = BIG_ENDIAN if not encoding.little else IMPLICIT if encoding.implicit else EXPLICIT
    offset, length, _ = where
    encapsulated = bool(offset) and length is None
    if offset and encapsulated == ((syntax or seen) in PLAIN):
        declared, found = ("plain", "encapsulated") if encapsulated else ("compressed", "plain")
        raise Refusal(
            "syntax_conflict",
            f"the transfer syntax says {declared if syntax else 'nothing, so plain'} pixels, the file holds {found} "
            "ones; how to decode them is unknown, export it again",
        )
    return syntax or seen
