"""One frame of PixelData to an array, by the fastest decoder that is installed; pydicom knows the others."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import (
    UID,
    JPEG2000TransferSyntaxes,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from medml.errors import Refusal
from medml.io.dicom_header import Header
from medml.io.dicom_parse import PLAIN

# Measured fastest; any other decoder that pydicom finds is taken where these are not installed.
PREFERRED = {
    str(JPEGBaseline8Bit): "pillow",
    str(JPEGExtended12Bit): "pylibjpeg",
    str(JPEGLSLossless): "pyjpegls",
    str(JPEGLSNearLossless): "pyjpegls",
    str(RLELossless): "pylibjpeg",
    **{str(uid): "pylibjpeg" for uid in JPEG2000TransferSyntaxes},
}
_END_MARK = b"\xff\xd9"
_PADDING = 16
_TWELVE_BITS = "; pip install medml[jpeg12] adds one for 12 bits"


@dataclass(frozen=True, slots=True)
class CodeStream:
    """What a JPEG, JPEG-LS or JPEG 2000 frame says of itself."""

    rows: int
    columns: int
    samples: int
    precision: int


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
    extra = _TWELVE_BITS if transfer_syntax == str(JPEGExtended12Bit) else ""
    return f"no decoder for the transfer syntax {name} ({printable(transfer_syntax)}){extra}"


def decode(header: Header, frame: bytes, rows: int, columns: int) -> np.ndarray:
    """Decode one frame; colours become RGB.

    Parameters
    ----------
    frame : bytes
        One frame as stored: its code stream, or plain values.
    rows, columns : int
        Of the whole picture.

    Returns
    -------
    ndarray of shape (rows, columns) or (rows, columns, 3)

    Raises
    ------
    Refusal
        If no decoder is installed, the frame is damaged, cut off, or of another size than its header says.
    """
    syntax = header.transfer_syntax
    missing = decoder_missing(syntax)
    if missing:
        raise Refusal("no_decoder", missing)
    stream = None if syntax in PLAIN or syntax == str(RLELossless) else _checked(header, frame, rows, columns)
    try:
        if stream is not None and stream.samples == 1 and _plugin(syntax) == "pyjpegls":
            return _decode_jpeg_ls(frame, stream)
        pixels, _ = get_decoder(UID(syntax)).as_array(
            frame if syntax in PLAIN else _encapsulated(frame),
            index=0,
            decoding_plugin=_plugin(syntax, stream),
            **_options(header, rows, columns),
        )
    except Exception as error:
        # The codecs raise anything on damaged data; a frame that does not decode costs its series only.
        raise Refusal(
            "damaged_pixels", f"a frame does not decode ({type(error).__name__}); copy the series again"
        ) from None
    except BaseException as error:
        if type(error).__module__ != "pyo3_runtime":  # a panic of a codec written in Rust
            raise
        raise Refusal("damaged_pixels", "a frame does not decode (the codec gave up); copy the series again") from None
    return np.asarray(pixels)


def code_stream(frame: bytes) -> CodeStream | None:
    """Return what the header of a JPEG, JPEG-LS or JPEG 2000 frame declares; None if it cannot be read."""
    codestream = frame.find(b"\xff\x4f\xff\x51", 0, 1024)
    if codestream == 0 or frame[4:8] == b"jP  ":
        siz = frame[codestream + 8 : codestream + 43]
        if codestream < 0 or len(siz) < 35:
            return None
        columns, rows, left, top = struct.unpack(">4I", siz[:16])
        return CodeStream(rows - top, columns - left, int.from_bytes(siz[32:34], "big"), (siz[34] & 0x7F) + 1)
    at = 2
    while frame[:2] == b"\xff\xd8" and at + 10 <= len(frame) and frame[at] == 0xFF:
        marker, length = frame[at + 1], int.from_bytes(frame[at + 2 : at + 4], "big")
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            precision, rows, columns, samples = struct.unpack(">BHHB", frame[at + 4 : at + 10])
            return CodeStream(rows, columns, samples, precision)
        at += 1 if marker == 0xFF else 2 + length
    return None


def printable(text: str) -> str:
    """Return a code or UID of a file with anything but its plain characters left out."""
    return "".join(c for c in text[:64] if c.isascii() and (c.isalnum() or c in "._ "))


def _is_uid(text: str) -> bool:
    return bool(text) and all(c.isdigit() or c == "." for c in text) and len(text) <= 64


def _checked(header: Header, frame: bytes, rows: int, columns: int) -> CodeStream:
    """Refuse a code stream of another size than the header's, or without its end.

    A codec takes memory for what the stream declares. JPEG 2000 codecs fill up what is cut off with guesses, and
    pyjpegls takes up to 18 s to notice; a stream with its end mark it refuses within milliseconds.
    """
    found = code_stream(frame)
    if found is None:
        raise Refusal("damaged_pixels", "a compressed frame has no readable size; copy the series again")
    size, expected = (found.rows, found.columns, found.samples), (rows, columns, header.samples)
    if size != expected:
        raise Refusal(
            "damaged_pixels", f"a compressed frame has (rows, columns, samples) {size}, its header says {expected}"
        )
    if found.precision > header.bits_allocated:
        raise Refusal(
            "damaged_pixels",
            f"a compressed frame has {found.precision} bits a pixel, its header allocates {header.bits_allocated}",
        )
    if _END_MARK not in frame.rstrip(b"\0")[-_PADDING:]:
        raise Refusal("truncated", f"a compressed frame of {len(frame)} bytes lacks its end mark; copy it again")
    if header.transfer_syntax == str(JPEGExtended12Bit) and found.precision > 8 and not _plugin(str(JPEGExtended12Bit)):
        raise Refusal(
            "no_decoder", f"no decoder for JPEG Extended of {found.precision} bits a pixel is installed{_TWELVE_BITS}"
        )
    return found


def _plugin(syntax: str, stream: CodeStream | None = None) -> str:
    """Return the preferred plug-in if it is installed, else nothing: pydicom then tries those that are."""
    plugin = PREFERRED.get(syntax, "")
    if syntax == str(JPEGExtended12Bit) and stream is not None and stream.precision == 8:
        plugin = "pillow"
    return plugin if plugin and plugin in get_decoder(UID(syntax)).available_plugins else ""


def _decode_jpeg_ls(frame: bytes, stream: CodeStream) -> np.ndarray:
    """Decode grey values without what pydicom does around it: a sixth of the time."""
    import jpeg_ls

    values = np.frombuffer(jpeg_ls.decode_from_buffer(frame), "u1" if stream.precision <= 8 else "<u2")
    return values.reshape(stream.rows, stream.columns)


def _encapsulated(frame: bytes) -> bytes:
    """Return a frame as the value of PixelData: an empty offset table and one fragment."""
    pad = b"\0" * (len(frame) % 2)
    head = b"\xfe\xff\x00\xe0\0\0\0\0\xfe\xff\x00\xe0" + struct.pack("<I", len(frame) + len(pad))
    return b"".join((head, frame, pad))


def _options(header: Header, rows: int, columns: int) -> dict[str, Any]:
    return {
        "rows": rows,
        "columns": columns,
        "number_of_frames": 1,
        "samples_per_pixel": header.samples,
        "bits_allocated": header.bits_allocated,
        "bits_stored": header.bits_stored,
        "pixel_representation": int(header.signed),
        "photometric_interpretation": header.photometric,
        "planar_configuration": header.planar,
        "pixel_keyword": "PixelData",
    }
