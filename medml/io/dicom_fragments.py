"""Where the frames of encapsulated PixelData lie in a file (PS3.5 A.4)."""

from __future__ import annotations

import struct
from typing import BinaryIO

from medml.errors import Refusal

MAX_FRAGMENTS = 1 << 20
_ITEM, _END = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"
# How a frame begins: JPEG and JPEG-LS, a JPEG 2000 codestream, a JP2 box.
_STARTS = (b"\xff\xd8\xff", b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  ")

Span = tuple[int, int]


def frame_spans(body: BinaryIO, offset: int, frames: int) -> list[list[Span]]:
    """Return for each frame the fragments it is made of, as (offset, length) in ``body``.

    Where there are as many fragments as frames, each is a frame, whatever an offset table says. Else the basic offset
    table tells them apart, or, where it is empty, how their fragments begin.

    Parameters
    ----------
    body : file
        What ``offset`` counts in.
    offset : int
        Where the value of PixelData begins.
    frames : int
        NumberOfFrames.

    Raises
    ------
    Refusal
        If the file ends within a fragment, or the fragments cannot be told apart into that many frames.
    """
    end = body.seek(0, 2)
    body.seek(offset)
    spans = _spans(body, end)
    table, fragments = spans[:1], spans[1:]
    if not table or len(fragments) < frames:
        raise Refusal(
            "truncated", f"{frames} frames are declared, the file holds {len(fragments)} fragments; copy it again"
        )
    if frames == 1:
        return [fragments]
    if len(fragments) == frames:
        return [[fragment] for fragment in fragments]
    return _grouped(fragments, _first_fragments(body, table[0], fragments), frames)


def read_spans(body: BinaryIO, spans: list[Span]) -> bytes:
    """Return one frame: the bytes of its fragments, joined."""
    parts = []
    for offset, length in spans:
        body.seek(offset)
        parts.append(body.read(length))
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _spans(body: BinaryIO, end: int) -> list[Span]:
    """Return the items up to the sequence delimiter: the offset table first, then the fragments."""
    found: list[Span] = []
    while len(head := body.read(8)) == 8 and head[:4] == _ITEM:
        at, length = body.tell(), int.from_bytes(head[4:], "little")
        if at + length > end:
            raise Refusal(
                "truncated", f"a compressed frame needs {length} bytes, its file holds {end - at}; copy it again"
            )
        if len(found) > MAX_FRAGMENTS:
            raise Refusal("damaged_pixels", f"more than {MAX_FRAGMENTS} fragments in one file; export it again")
        found.append((at, length))
        body.seek(length, 1)
    if head[:4] not in (_END, b""):
        raise Refusal("damaged_pixels", f"an unknown item follows {len(found)} fragments; copy the series again")
    return found


def _first_fragments(body: BinaryIO, table: Span, fragments: list[Span]) -> list[int]:
    """Return which fragments begin a frame."""
    offset, length = table
    if length >= 4:
        body.seek(offset)
        starts = struct.unpack(f"<{length // 4}I", body.read(length // 4 * 4))
        origin = fragments[0][0] - 8
        places = {at - 8 - origin: index for index, (at, _) in enumerate(fragments)}
        return [places.get(start, -1) for start in starts]
    first = []
    for index, (at, size) in enumerate(fragments):
        body.seek(at)
        if body.read(min(8, size)).startswith(_STARTS):
            first.append(index)
    return first


def _grouped(fragments: list[Span], first: list[int], frames: int) -> list[list[Span]]:
    if len(first) != frames or first[0] != 0 or sorted(set(first)) != first:
        raise Refusal(
            "damaged_pixels",
            f"{len(fragments)} fragments cannot be told apart into {frames} frames: the offset table does not fit; "
            "export the series again",
        )
    return [fragments[begin:end] for begin, end in zip(first, [*first[1:], len(fragments)], strict=True)]
