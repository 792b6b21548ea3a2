"""Stored pixels of DICOM slices: read straight into one array where they are plain, decoded in parallel where not."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import BinaryIO

import numpy as np

from medml.errors import Refusal
from medml.io.dicom_codecs import code_stream, decode, decoder_missing, printable
from medml.io.dicom_fragments import Span, frame_spans, read_spans
from medml.io.dicom_header import Header
from medml.io.dicom_kinds import is_reversed
from medml.io.dicom_padding import padding_of
from medml.io.dicom_palette import Palette, read_palette
from medml.io.dicom_parse import BIG_ENDIAN, DEFLATED, PLAIN, open_body
from medml.io.files import open_regular
from medml.io.forked import free_workers, share_out, shared_array
from medml.io.limits import IMAGE_LIMITS, PICTURE_LIMITS
from medml.io.streams import fill

__all__ = ["check_format", "check_size", "decoder_missing", "printable", "read_slabs", "read_stored"]

COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT")
FLOATS = {"FloatPixelData": 32, "DoubleFloatPixelData": 64}
# Processor time for one frame before it counts as stuck; JPEG 2000 takes 0.15 microseconds a pixel.
SECONDS, SECONDS_PER_PIXEL = 3.0, 5e-6
# Below this a process costs more than it saves.
WORTH_SHARING = 1 << 20

Task = tuple[int, Header]


def read_stored(headers: Sequence[Header]) -> np.ndarray:
    """Return the stored values of slices that share matrix and pixel format.

    Parameters
    ----------
    headers : sequence of Header
        In the order of the slices; each the one image of its file, a frame of it, or a tile of a mosaic.

    Returns
    -------
    ndarray of shape (slices, rows, columns) or (slices, rows, columns, 3)
        Unused high bits cleared or sign-extended; MONOCHROME1 turned round, so that high is bright; colours as RGB.

    Raises
    ------
    Refusal
        If the declared size is over a cap, the pixels are truncated, damaged, of an unsupported format, or have no
        decoder here, or if a file changed since its header was read.
    """
    return next(read_slabs(headers, len(headers)))


def read_slabs(headers: Sequence[Header], count: int) -> Iterator[np.ndarray]:
    """Yield what `read_stored` returns, ``count`` slices at a time; each slab takes the memory of the one before."""
    check_format(headers)
    check_size(headers)
    first = headers[0]
    components = 3 if first.samples == 3 or first.photometric == "PALETTE COLOR" else 1
    shape = (min(count, len(headers)), first.rows, first.columns, *((components,) if components > 1 else ()))
    palette = read_palette(first.path) if first.photometric == "PALETTE COLOR" else None
    workers = _workers(first, shape[0])
    memory = shared_array(shape, stored_type(first)) if workers else np.empty(shape, stored_type(first))
    for begin in range(0, len(headers), count):
        slab = headers[begin : begin + count]
        _read_slab(slab, memory[: len(slab)], palette, workers)
        yield memory[: len(slab)]


def _read_slab(headers: Sequence[Header], stored: np.ndarray, palette: Palette | None, workers: int) -> None:
    files = _by_file(headers)
    if not workers:
        for tasks in files:
            _read_file(tasks, stored, palette)
        return
    shares = _shares(files, workers)
    rows, columns = picture_shape(headers[0])
    share_out(
        lambda index: _read_file(shares[index], stored, palette),
        len(shares),
        workers=min(workers, len(shares)),
        seconds=(SECONDS + SECONDS_PER_PIXEL * rows * columns) * max(map(len, shares)),
    )


def check_format(headers: Sequence[Header]) -> None:
    """Refuse pixel formats that are not read, or that differ between the slices."""
    first = headers[0]
    for header in headers:
        found, wanted = _format(header), _format(first)
        if found != wanted:
            raise Refusal("mixed_pixel_format", f"one slice stores pixels as {found}, another as {wanted}")
    allocated = (FLOATS[first.pixel_keyword],) if first.pixel_keyword in FLOATS else (1, 8, 16, 32)
    if first.bits_allocated not in allocated or not 0 < first.bits_stored <= first.bits_allocated:
        raise Refusal(
            "unsupported_pixels",
            f"{first.bits_stored} of {first.bits_allocated} bits a pixel; expected 1, 8, 16 or 32 allocated",
        )
    grey = first.photometric in ("MONOCHROME1", "MONOCHROME2") and first.samples == 1
    palette = first.photometric == "PALETTE COLOR" and first.samples == 1 and first.bits_allocated in (8, 16)
    colour = first.photometric in COLOURS and first.samples == 3 and first.bits_allocated == 8
    if not (grey or palette or colour):
        raise Refusal(
            "unsupported_pixels",
            f"{first.samples} samples of {printable(first.photometric)}; expected grey values, or 8-bit colour",
        )


def check_size(headers: Sequence[Header]) -> None:
    """Refuse slices whose declared matrices are over a cap, or whose files hold fewer bytes than they declare."""
    first = headers[0]
    itemsize = max(1, first.bits_allocated // 8)
    limits = PICTURE_LIMITS if len(headers) == 1 else IMAGE_LIMITS
    stored_bytes = sum({header.path: header.size for header in headers}.values())
    limits.check((first.columns, first.rows, len(headers), first.samples), itemsize, stored_bytes)
    for header in headers:
        rows, columns = picture_shape(header)
        if header.tile is not None:
            PICTURE_LIMITS.check((columns, rows), itemsize, header.size)
        if not header.pixel_offset:
            raise Refusal("no_pixels", "a slice has no PixelData; export the series again with its images")
        if header.transfer_syntax in PLAIN:
            _check_length(header, rows, columns)


def stored_type(header: Header) -> np.dtype[np.generic]:
    """Return the type of the array that `read_stored` gives."""
    if header.photometric == "PALETTE COLOR":
        return np.dtype(np.uint8)
    kind = "f" if header.pixel_keyword in FLOATS else "i" if header.signed and header.bits_allocated > 1 else "u"
    return np.dtype(f"{kind}{max(1, header.bits_allocated // 8)}")


def picture_shape(header: Header) -> tuple[int, int]:
    """Return rows and columns of the picture that a file stores: the slice, or the mosaic that holds it."""
    return (header.rows, header.columns) if header.tile is None else header.tile[2:]


def frame_bits(header: Header) -> int:
    """Return how many bits one plain frame takes: chroma may be sampled at half the rate (PS3.3 C.7.6.3.1.2)."""
    rows, columns = picture_shape(header)
    samples = 2 if header.photometric == "YBR_FULL_422" else header.samples
    return rows * columns * samples * header.bits_allocated


def _check_length(header: Header, rows: int, columns: int) -> None:
    needed = (frame_bits(header) * (header.frame + 1) + 7) // 8
    found = min(header.pixel_present, needed if header.pixel_bytes is None else header.pixel_bytes)
    if found < needed:
        which = "a slice" if header.frames == 1 else f"frame {header.frame + 1}"
        raise Refusal(
            "truncated",
            f"{which} of {columns} x {rows} needs {needed} bytes of pixels, its file holds {found}; copy it again",
        )
    declared = (frame_bits(header) * header.frames + 7) // 8
    surplus = (header.pixel_bytes or 0) - declared
    if surplus > 1 and surplus * rows > declared // header.frames:  # writers pad by less than a row
        raise Refusal(
            "surplus_pixels",
            f"{header.frames} frame(s) of {columns} x {rows} need {declared} bytes, PixelData has {surplus} more; its "
            "matrix, type or number of frames is not what the header says",
        )


def _format(header: Header) -> str:
    sign = header.pixel_keyword if header.pixel_keyword in FLOATS else "signed" if header.signed else "unsigned"
    colour = printable(header.photometric) if header.samples == 1 else f"{header.samples} colours"
    return f"{sign} {header.bits_allocated}-bit {colour}"


def _workers(header: Header, slices: int) -> int:
    """Return how many processes to decode in; 0 to do it here."""
    rows, columns = picture_shape(header)
    if header.transfer_syntax in PLAIN or slices == 1 or slices * rows * columns < WORTH_SHARING:
        return 0
    return free_workers()


def _by_file(headers: Sequence[Header]) -> list[list[Task]]:
    """Return the slices of each file together, in the order of their frames: (place in the volume, header)."""
    tasks = sorted(enumerate(headers), key=lambda task: (os.fspath(task[1].path), task[1].frame))
    return [list(group) for _, group in groupby(tasks, key=lambda task: task[1].path)]


def _shares(files: list[list[Task]], workers: int) -> list[list[Task]]:
    """Give every worker files, or frames of them where they are few; the tiles of one frame stay together."""
    parts = workers if len(files) < workers else 1
    shares = []
    for tasks in files:
        frames = [list(group) for _, group in groupby(tasks, key=lambda task: task[1].frame)]
        shares += [[task for frame in frames[n::parts] for task in frame] for n in range(min(parts, len(frames)))]
    return shares


@contextmanager
def _opened(header: Header) -> Iterator[BinaryIO]:
    """Open a file whose header was read before; one that changed since is refused."""
    with open_regular(header.path) as file:
        status = os.fstat(file.fileno())
        if (status.st_size, status.st_mtime_ns) != (header.size, header.changed):
            raise Refusal("source_changed", "a file changed between reading its header and its pixels; run again")
        yield open_body(file) if header.transfer_syntax == DEFLATED else file


def _read_file(tasks: list[Task], stored: np.ndarray, palette: Palette | None) -> None:
    """Read slices of one file to their places."""
    first = tasks[0][1]
    with _opened(first) as body:
        spans = [] if first.transfer_syntax in PLAIN else frame_spans(body, first.pixel_offset, first.frames)
        for _, group in groupby(tasks, key=lambda task: task[1].frame):
            tiles = list(group)
            header = tiles[0][1]
            if _is_direct(header, palette):
                _fill_slice(body, header, stored[tiles[0][0]])
                continue
            picture, bits = _read_picture(body, header, spans)
            for index, tile in tiles:
                values = _cut(picture, tile)
                if palette is not None:
                    stored[index] = palette.colours(values)
                else:
                    stored[index] = values
                    _make_real(header, stored[index], bits)


def _read_picture(body: BinaryIO, header: Header, spans: list[list[Span]]) -> tuple[np.ndarray, int]:
    """Return one whole picture (rows, columns[, 3]) and how many bits of its values are real."""
    if header.transfer_syntax in PLAIN:
        return _plain_picture(body, header), header.bits_stored
    if header.frame >= len(spans):
        raise Refusal("truncated", f"frame {header.frame + 1} is asked for, the file has {len(spans)}; copy it again")
    return _compressed_picture(header, read_spans(body, spans[header.frame]))


def _is_direct(header: Header, palette: Palette | None) -> bool:
    """Say whether the values of a slice stand in its file just as they will in the volume, but for their byte order."""
    plain = header.transfer_syntax in PLAIN and header.samples == 1 and header.tile is None and palette is None
    return plain and (
        header.bits_allocated > 8 or (header.bits_allocated == 8 and header.transfer_syntax != BIG_ENDIAN)
    )


def _fill_slice(body: BinaryIO, header: Header, target: np.ndarray) -> None:
    """Read plain grey values straight into ``target`` (rows, columns)."""
    body.seek(header.pixel_offset + header.frame * target.nbytes)
    done = fill(body, memoryview(target.reshape(-1).view(np.uint8).data))
    if done < target.nbytes:
        raise Refusal(
            "truncated", f"a slice needs {target.nbytes} bytes of pixels, its file gave {done}; copy it again"
        )
    if header.transfer_syntax == BIG_ENDIAN:
        target.byteswap(inplace=True)
    _make_real(header, target, header.bits_stored)


def _short(wanted: int, found: int) -> Refusal:
    return Refusal("truncated", f"a slice needs {wanted} bytes of pixels, its file gave {found}; copy it again")


def _plain_picture(body: BinaryIO, header: Header) -> np.ndarray:
    """Return one plain picture (rows, columns[, 3])."""
    rows, columns = picture_shape(header)
    data = _plain_bytes(body, header)
    if header.samples == 3:
        return decode(header, data, rows, columns)
    if header.bits_allocated == 1:
        begin = header.frame * frame_bits(header) % 8
        return np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")[begin:][: rows * columns].reshape(
            rows, columns
        )
    order = ">" if header.transfer_syntax == BIG_ENDIAN else "<"
    kind = np.dtype(f"{order}{'i' if header.signed else 'u'}{header.bits_allocated // 8}")
    return np.frombuffer(data, kind).reshape(rows, columns)


def _plain_bytes(body: BinaryIO, header: Header) -> bytes:
    """Return the bytes of one plain frame; a frame of single bits may begin and end within a byte."""
    bits = frame_bits(header)
    begin, end = header.frame * bits // 8, ((header.frame + 1) * bits + 7) // 8
    swapped = False
    if header.transfer_syntax == BIG_ENDIAN and header.bits_allocated <= 8:
        # Bytes stored as words (VR OW) stand in pairs the other way round (PS3.5 section 8.1.1).
        body.seek(header.pixel_offset - 8)
        swapped = body.read(2) == b"OW"
    before, after = (begin % 2, end % 2) if swapped else (0, 0)
    body.seek(header.pixel_offset + begin - before)
    data = body.read(end + after - begin + before)
    if len(data) < end + after - begin + before:
        raise Refusal(
            "truncated", f"a slice needs {end - begin} bytes of pixels, its file gave {len(data)}; copy it again"
        )
    if swapped:
        data = np.frombuffer(data, "<u2").byteswap().tobytes()
    return data[before : before + end - begin]


def _compressed_picture(header: Header, data: bytes) -> tuple[np.ndarray, int]:
    """Return one decoded picture (rows, columns[, 3]) and how many bits of its values are real."""
    rows, columns = picture_shape(header)
    pixels = decode(header, data, rows, columns)
    if pixels.shape != ((rows, columns) if header.samples == 1 else (rows, columns, 3)):
        raise Refusal("damaged_pixels", f"a frame decodes to the shape {pixels.shape}, expected {(rows, columns)}")
    stream = code_stream(data)
    return pixels, max(header.bits_stored, stream.precision if stream is not None else 0)


def _cut(picture: np.ndarray, header: Header) -> np.ndarray:
    if header.tile is None:
        return picture
    top, left = header.tile[:2]
    return picture[top : top + header.rows, left : left + header.columns]


def _make_real(header: Header, target: np.ndarray, bits: int) -> None:
    """Keep only the real ``bits`` of values, and turn them round where low is bright; colours stay."""
    if target.ndim > 2:
        return
    if target.dtype.kind == "f":
        if not np.isfinite(target).all():
            raise Refusal("not_finite", "a slice of floating-point pixels holds NaN or infinities; repair it")
        if is_reversed(header):
            np.negative(target, out=target)
        return
    _clear_unused_bits(header, target, bits)
    if is_reversed(header):
        np.subtract(-1 if header.signed else (1 << bits) - 1, target, out=target)


def _clear_unused_bits(header: Header, target: np.ndarray, bits: int) -> None:
    """Clear the bits above the values: they may hold an overlay, or lack the sign."""
    allocated = target.itemsize * 8
    plain = header.transfer_syntax in PLAIN
    high = max(header.high_bit, bits - 1) if plain else bits - 1
    if bits >= allocated or header.bits_allocated == 1:
        return
    low, top = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if target.dtype.kind == "i" else (0, (1 << bits) - 1)
    if high == bits - 1 and low <= int(target.min()) and int(target.max()) <= top:
        return
    padded = target == padding_of(header)[0] if header.padding is not None else None
    np.left_shift(target, allocated - 1 - high, out=target)
    np.right_shift(target, allocated - bits, out=target)
    if padded is not None and not low <= padding_of(header)[0] <= top:
        target[padded] = low  # a padding outside the real bits would come out as some bright value
