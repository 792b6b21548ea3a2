"""Stored pixels of DICOM slices: read straight into one array where they are plain, decoded by pydicom where not."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from medml.errors import Refusal
from medml.io.dicom_header import Header, open_body
from medml.io.files import open_regular
from medml.io.limits import IMAGE_LIMITS, PICTURE_LIMITS
from medml.io.streams import fill

PLAIN = frozenset(
    map(str, (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian))
)
# Measured fastest; any other decoder that pydicom finds is taken where these are not installed. For JPEG-LS gdcm:
# pyjpegls takes half its time on sound frames, but up to 18 s on a damaged one of 512 x 512 (gdcm: 20 ms).
PREFERRED = {
    str(JPEGBaseline8Bit): "pillow",
    str(JPEGLSLossless): "gdcm",
    str(JPEGLSNearLossless): "gdcm",
    str(RLELossless): "pylibjpeg",
}


def read_stored(headers: Sequence[Header]) -> np.ndarray:
    """Return the stored values of slices that share matrix and pixel format.

    Parameters
    ----------
    headers : sequence of Header
        In the order of the slices.

    Returns
    -------
    ndarray of shape (slices, rows, columns) or (slices, rows, columns, 3)
        Unused high bits cleared or sign-extended; MONOCHROME1 turned round, so that high is bright.

    Raises
    ------
    Refusal
        If the declared size is over a cap, the pixels are truncated, damaged, of an unsupported format, or have no
        decoder here, or if a file changed since its header was read.
    """
    first = headers[0]
    check_format(headers)
    check_size(headers)
    shape = (len(headers), first.rows, first.columns, *((first.samples,) if first.samples > 1 else ()))
    kind = "i" if first.signed else "u"
    stored = np.empty(shape, dtype=np.dtype(f"{kind}{first.bits_allocated // 8}"))
    for index, header in enumerate(headers):
        _read_slice(header, stored[index])
    return stored


def check_format(headers: Sequence[Header]) -> None:
    """Refuse pixel formats that are not read, or that differ between the slices."""
    first = headers[0]
    for header in headers:
        found, wanted = _format(header), _format(first)
        if found != wanted:
            raise Refusal("mixed_pixel_format", f"one slice stores pixels as {found}, another as {wanted}")
    if first.bits_allocated not in (8, 16, 32) or not 0 < first.bits_stored <= first.bits_allocated:
        raise Refusal(
            "unsupported_pixels",
            f"{first.bits_stored} of {first.bits_allocated} bits a pixel; expected 8, 16 or 32 allocated",
        )
    colour = first.photometric in ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT")
    grey = first.photometric in ("MONOCHROME1", "MONOCHROME2")
    if not (grey and first.samples == 1) and not (colour and first.samples == 3 and first.bits_allocated == 8):
        raise Refusal(
            "unsupported_pixels",
            f"{first.samples} samples of {printable(first.photometric)}; expected grey values, or 8-bit colour",
        )


def check_size(headers: Sequence[Header]) -> None:
    """Refuse slices whose declared matrices are over a cap, or that hold fewer bytes than they declare."""
    first = headers[0]
    itemsize = max(1, first.bits_allocated // 8)
    limits = PICTURE_LIMITS if len(headers) == 1 else IMAGE_LIMITS
    shape = (first.columns, first.rows, len(headers), first.samples)
    limits.check(shape, itemsize, sum(header.size for header in headers))
    needed = first.columns * first.rows * first.samples * itemsize
    for header in headers:
        if not header.pixel_offset:
            raise Refusal("no_pixels", "a slice has no PixelData; export the series again with its images")
        if header.transfer_syntax not in PLAIN or "422" in header.photometric:
            continue
        found = min(header.pixel_present, needed if header.pixel_bytes is None else header.pixel_bytes)
        if found < needed:
            raise Refusal(
                "truncated",
                f"a slice of {header.columns} x {header.rows} needs {needed} bytes of pixels, its file holds {found}; "
                "copy it again",
            )


def decoder_missing(transfer_syntax: str) -> str:
    """Return why no decoder here reads a transfer syntax; empty if one does."""
    if transfer_syntax in PLAIN:
        return ""
    name = "unknown"
    if _is_uid(transfer_syntax):
        name = UID(transfer_syntax).name
        try:
            if get_decoder(UID(transfer_syntax)).is_available:
                return ""
        except NotImplementedError:
            pass  # pydicom has no decoder for it either: said below
    extra = "; pip install medml[jpeg12] adds it" if transfer_syntax == "1.2.840.10008.1.2.4.51" else ""
    return f"no decoder for the transfer syntax {name} ({printable(transfer_syntax)}){extra}"


def printable(text: str) -> str:
    """Return a code or UID of a file with anything but its plain characters left out."""
    return "".join(c for c in text[:64] if c.isascii() and (c.isalnum() or c in "._ "))


def _is_uid(text: str) -> bool:
    return bool(text) and all(c.isdigit() or c == "." for c in text) and len(text) <= 64


def _format(header: Header) -> str:
    sign = "signed" if header.signed else "unsigned"
    colour = printable(header.photometric) if header.samples == 1 else f"{header.samples} colours"
    return f"{sign} {header.bits_allocated}-bit {colour}"


@contextmanager
def _opened(header: Header) -> Iterator[BinaryIO]:
    """Open a file whose header was read before; one that changed since is refused."""
    with open_regular(header.path) as file:
        status = os.fstat(file.fileno())
        if (status.st_size, status.st_mtime_ns) != (header.size, header.changed):
            raise Refusal("source_changed", "a file changed between reading its header and its pixels; run again")
        yield open_body(file)


def _read_slice(header: Header, target: np.ndarray) -> None:
    """Read one slice into ``target`` (rows, columns[, 3]): real bits only, high is bright."""
    swapped = header.transfer_syntax == str(ExplicitVRBigEndian)
    with _opened(header) as file:
        file.seek(header.pixel_offset)
        if header.transfer_syntax in PLAIN and header.samples == 1 and not (swapped and target.itemsize == 1):
            done = fill(file, memoryview(target.reshape(-1).view(np.uint8).data))
            if done < target.nbytes:
                raise Refusal("truncated", f"a slice needs {target.nbytes} bytes of pixels, its file gave {done}")
            if swapped:
                target.byteswap(inplace=True)
        else:
            target[...] = _decode(
                header, file.read(min(header.pixel_bytes or header.pixel_present, header.pixel_present)), target
            )
    _clear_unused_bits(header, target)
    if header.photometric == "MONOCHROME1":
        np.subtract(-1 if header.signed else (1 << header.bits_stored) - 1, target, out=target)


def _decode(header: Header, data: bytes, target: np.ndarray) -> np.ndarray:
    """Decode one frame with the preferred decoder that is installed."""
    missing = decoder_missing(header.transfer_syntax)
    if missing:
        raise Refusal("no_decoder", missing)
    _check_frame(header, data)
    decoder = get_decoder(UID(header.transfer_syntax))
    plugin = PREFERRED.get(header.transfer_syntax, "")
    try:
        pixels, _ = decoder.as_array(
            data,
            index=0,
            decoding_plugin=plugin if plugin in decoder.available_plugins else "",
            **_options(header),
        )
    except Exception as error:
        # The codecs raise anything on damaged data; a frame that does not decode costs its series only.
        raise Refusal(
            "damaged_pixels", f"a frame does not decode ({type(error).__name__}); copy the series again"
        ) from None
    if pixels.shape != target.shape:
        raise Refusal("damaged_pixels", f"a frame decodes to the shape {pixels.shape}, expected {target.shape}")
    return pixels


def _check_frame(header: Header, data: bytes) -> None:
    """Refuse a code stream of another size than the header's: a codec takes memory for what the stream declares."""
    if header.transfer_syntax in PLAIN or header.transfer_syntax == str(RLELossless):
        return
    found, expected = frame_size(data), (header.rows, header.columns, header.samples)
    if found is None:
        raise Refusal("damaged_pixels", "a compressed frame has no readable size; copy the series again")
    if found != expected:
        raise Refusal(
            "damaged_pixels", f"a compressed frame has (rows, columns, samples) {found}, its header says {expected}"
        )


def _options(header: Header) -> dict[str, Any]:
    return {
        "rows": header.rows,
        "columns": header.columns,
        "number_of_frames": 1,
        "samples_per_pixel": header.samples,
        "bits_allocated": header.bits_allocated,
        "bits_stored": header.bits_stored,
        "pixel_representation": int(header.signed),
        "photometric_interpretation": header.photometric,
        "planar_configuration": header.planar,
        "pixel_keyword": "PixelData",
    }


def frame_size(data: bytes) -> tuple[int, int, int] | None:
    """Return rows, columns and samples that the first JPEG, JPEG-LS or JPEG 2000 frame of PixelData declares."""
    frame = _first_fragment(data)
    codestream = frame.find(b"\xff\x4f\xff\x51", 0, 1024)
    if codestream == 0 or frame[4:8] == b"jP  ":
        siz = frame[codestream + 8 : codestream + 42]
        if codestream < 0 or len(siz) < 34:
            return None
        columns, rows, left, top = struct.unpack(">4I", siz[:16])
        return rows - top, columns - left, int.from_bytes(siz[32:34], "big")
    at = 2
    while frame[:2] == b"\xff\xd8" and at + 10 <= len(frame) and frame[at] == 0xFF:
        marker, length = frame[at + 1], int.from_bytes(frame[at + 2 : at + 4], "big")
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            rows, columns, samples = struct.unpack(">HHB", frame[at + 5 : at + 10])
            return rows, columns, samples
        at += 2 + length
    return None


def _first_fragment(data: bytes) -> bytes:
    """Return the beginning of the first fragment after the basic offset table (PS3.5 A.4)."""
    if len(data) < 16:
        return b""
    start = 8 + int.from_bytes(data[4:8], "little")
    return data[start + 8 : start + 8 + (1 << 16)]


def _clear_unused_bits(header: Header, target: np.ndarray) -> None:
    """Keep only the stored bits: high ones may hold an overlay, or lack the sign."""
    stored, allocated = header.bits_stored, header.bits_allocated
    high = max(header.high_bit, stored - 1)
    if stored == allocated or header.samples > 1:
        return
    low, top = (-(1 << (stored - 1)), (1 << (stored - 1)) - 1) if header.signed else (0, (1 << stored) - 1)
    if high == stored - 1 and low <= int(target.min()) and int(target.max()) <= top:
        return
    np.left_shift(target, allocated - 1 - high, out=target)
    np.right_shift(target, allocated - stored, out=target)
