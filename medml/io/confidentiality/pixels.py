"""The value of PixelData, copied without decoding: how far it goes, and what in it is no pixel."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from medml.errors import Refusal
from medml.io.confidentiality.elements import UNDEFINED, Encoding, bytes_of, text_of

PIXEL_TAGS = {"PixelData": 0x7FE00010, "FloatPixelData": 0x7FE00008, "DoubleFloatPixelData": 0x7FE00009}
CHUNK = 4 << 20
MAX_FRAGMENTS = 1_000_000
CODESTREAM_HEADER = 1 << 16

_ITEM, _SEQUENCE_END = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"
_ROWS, _COLUMNS, _SAMPLES, _FRAMES, _PHOTOMETRIC = 0x00280010, 0x00280011, 0x00280002, 0x00280008, 0x00280004
_ALLOCATED, _STORED, _HIGH_BIT = 0x00280100, 0x00280101, 0x00280102
# JPEG segments that decoders need: JFIF, SPIFF (JPEG-LS), Adobe's colour transform.
_NEEDED_SEGMENTS = (0xE0, 0xE8, 0xEE)


@dataclass(frozen=True, slots=True, eq=False)
class Pixels:
    """Where the value of PixelData stands in its source, and what changes in its copy.

    Attributes
    ----------
    tag : int
        Of PixelData, FloatPixelData or DoubleFloatPixelData.
    offset, size : int
        Of the value in the source, the last delimiter of encapsulated ones included.
    vr : str
    encapsulated : bool
    keep_bits : int or None
        Bits of each 16-bit word that are pixels, where overlays share the word.
    blanks : tuple of (int, int)
        Offset within the value and length of what is overwritten with zeros: comments inside of codestreams.
    """

    tag: int
    offset: int
    size: int
    vr: str
    encapsulated: bool
    little: bool
    keep_bits: int | None = None
    blanks: tuple[tuple[int, int], ...] = ()

    def head(self, encoding: Encoding) -> bytes:
        """Return the bytes of the element before its value."""
        order = "<" if encoding.little else ">"
        length = UNDEFINED if self.encapsulated else self.size + self.size % 2
        if encoding.implicit:
            return struct.pack(order + "HHL", 0x7FE0, self.tag & 0xFFFF, length)
        return struct.pack(order + "HH2sHL", 0x7FE0, self.tag & 0xFFFF, self.vr.encode(), 0, length)

    def copy(self, source: BinaryIO, target: int) -> None:
        """Append the value to an open file."""
        begin = os.lseek(target, 0, os.SEEK_CUR)
        if self.keep_bits is not None:
            self._copy_masked(source, target)
        else:
            _copy(source, self.offset, self.size, target)
        if not self.encapsulated and self.size % 2:
            os.write(target, b"\0")
        for at, length in self.blanks:
            os.pwrite(target, bytes(length), begin + at)

    def _copy_masked(self, source: BinaryIO, target: int) -> None:
        source.seek(self.offset)
        left = self.size
        while left:
            data = source.read(min(CHUNK, left))
            if not data:
                raise Refusal("truncated", f"the pixels end {left} bytes early; copy the file again")
            words = np.frombuffer(data, "<u2" if self.little else ">u2") & np.uint16(self.keep_bits or 0)
            os.write(target, words.astype("<u2" if self.little else ">u2").tobytes())
            left -= len(data)


def find_pixels(
    body: BinaryIO, elements: Mapping[int, Any], tag: int, offset: int, length: int | None, little: bool
) -> Pixels:
    """Return how far the pixels go that begin at ``offset``.

    Bytes that a native value has beyond its pixels, and all behind the last fragment of an encapsulated one, are left
    out: they are no pixels, whatever they are.

    Raises
    ------
    Refusal
        If pixels are missing, or an overlay shares the words of compressed pixels.
    """
    end = body.seek(0, os.SEEK_END)
    shares = _overlay_in_pixels(elements)
    if length is None:
        if shares:
            raise Refusal(
                "embedded_overlay", "an overlay shares the words of compressed pixels; export it decompressed"
            )
        size, blanks = _encapsulated(body, offset, end)
        return Pixels(tag, offset, size, "OB", True, little, blanks=blanks)
    expected = _native_bytes(elements, little)
    size = min(length, expected) if expected else length
    if end - offset < size or (expected and length < expected):
        found = min(length, end - offset)
        raise Refusal("truncated", f"found {found} bytes of pixels, expected {expected or length}; copy the file again")
    allocated = _number(elements, _ALLOCATED, little)
    body.seek(offset - 8)
    vr = body.read(2)
    name = vr.decode() if vr in (b"OB", b"OW") else "OB" if allocated <= 8 else "OW"
    name = {0x7FE00008: "OF", 0x7FE00009: "OD"}.get(tag, name)
    return Pixels(tag, offset, size, name, False, little, keep_bits=_pixel_bits(elements, little) if shares else None)


def _overlay_in_pixels(elements: Mapping[int, Any]) -> bool:
    """Say whether an overlay plane lies in bits of the pixels (retired; PS3.5 8.1.2)."""
    groups = {tag >> 16 for tag in elements if tag >> 24 == 0x60 and not tag >> 16 & 1}
    return any(group << 16 | 0x0100 in elements and group << 16 | 0x3000 not in elements for group in groups)


def _pixel_bits(elements: Mapping[int, Any], little: bool) -> int:
    allocated, stored, high = (_number(elements, tag, little) for tag in (_ALLOCATED, _STORED, _HIGH_BIT))
    if allocated != 16 or not 0 < stored <= 16 or not stored - 1 <= high < 16:
        raise Refusal(
            "embedded_overlay",
            f"an overlay shares the words of the pixels, of which {stored} of {allocated} bits up to bit {high} are "
            "pixels; expected 16 allocated",
        )
    return ((1 << stored) - 1) << (high + 1 - stored)


def _native_bytes(elements: Mapping[int, Any], little: bool) -> int:
    """Return how many bytes the pixels take; 0 if that cannot be said."""
    if text_of(elements.get(_PHOTOMETRIC)).endswith(("_422", "_420")):
        return 0
    rows, columns, bits = (_number(elements, tag, little) for tag in (_ROWS, _COLUMNS, _ALLOCATED))
    samples = _number(elements, _SAMPLES, little) or 1
    frames = text_of(elements.get(_FRAMES))
    count = rows * columns * samples * (int(frames) if frames.isdigit() else 1)
    return (count * bits + 7) // 8


def _number(elements: Mapping[int, Any], tag: int, little: bool) -> int:
    value = bytes_of(elements.get(tag))
    return int.from_bytes(value[:2], "little" if little else "big") if len(value) >= 2 else 0


def _encapsulated(body: BinaryIO, offset: int, end: int) -> tuple[int, tuple[tuple[int, int], ...]]:
    """Return the size of an encapsulated value, and where its codestreams hold comments."""
    at = offset
    blanks: list[tuple[int, int]] = []
    for number in range(MAX_FRAGMENTS):
        body.seek(at)
        head = body.read(8)
        if head[:4] == _SEQUENCE_END:
            return at + 8 - offset, tuple(blanks)
        if len(head) < 8 or head[:4] != _ITEM:
            break
        length = int.from_bytes(head[4:8], "little")
        if at + 8 + length > end:
            break
        if number:
            start = body.read(min(length, CODESTREAM_HEADER))
            blanks += [(at + 8 - offset + place, size) for place, size in _comments(start)]
        at += 8 + length
    raise Refusal("truncated", "the compressed pixels are not closed by their delimiter; copy the file again")


def _comments(codestream: bytes) -> Iterator[tuple[int, int]]:
    """Yield place and length of the comments in the header of a JPEG, JPEG-LS or JPEG 2000 codestream."""
    if codestream[:2] == b"\xff\xd8":
        stop, comments = 0xDA, {0xFE, *(0xE0 + n for n in range(16))} - set(_NEEDED_SEGMENTS)
    elif codestream[:2] == b"\xff\x4f":
        stop, comments = 0x90, {0x64}
    else:
        return
    at = 2
    while at + 4 <= len(codestream) and codestream[at] == 0xFF and codestream[at + 1] != stop:
        if codestream[at + 1] == 0xFF:
            at += 1
            continue
        length = int.from_bytes(codestream[at + 2 : at + 4], "big")
        if codestream[at + 1] in comments:
            # The first two bytes of a JPEG 2000 comment say that it is text (T.800 A.9.2).
            skip = 2 if stop == 0x90 else 0
            yield at + 4 + skip, max(0, min(length - 2 - skip, len(codestream) - at - 4 - skip))
        at += 2 + length


def _copy(source: BinaryIO, offset: int, size: int, target: int) -> None:
    """Copy bytes inside of the kernel where it can."""
    left = size
    if hasattr(source, "raw"):
        descriptor = source.fileno()
        try:
            while left:
                sent = os.sendfile(target, descriptor, offset, left)
                if not sent:
                    break
                offset, left = offset + sent, left - sent
        except OSError:
            pass  # some file systems refuse it; the rest is read and written below
    source.seek(offset)
    while left:
        data = source.read(min(CHUNK, left))
        if not data:
            raise Refusal("truncated", f"the pixels end {left} bytes early; copy the file again")
        os.write(target, data)
        left -= len(data)
