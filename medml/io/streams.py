"""Bytes of a file that may be gzip, by its content and not its name; ISA-L decompresses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

from isal import igzip, igzip_lib

from medml.errors import Refusal
from medml.io.files import CHUNK_BYTES

GZIP_MAGIC = b"\x1f\x8b"

# isal ships no types for these two.
GzipFile: Any = igzip.IGzipFile
IsalError: Any = igzip_lib.IsalError


@contextmanager
def decoded(file: BinaryIO) -> Iterator[BinaryIO]:
    """Give the bytes of a file, decompressed if it is gzip (by its content, not its name)."""
    compressed = is_gzip(file)
    file.seek(0)
    if not compressed:
        yield file
        return
    with gunzipped(file) as stream:
        yield stream


@contextmanager
def gunzipped(file: BinaryIO) -> Iterator[BinaryIO]:
    """Give the decompressed bytes of the gzip data that begin where the file stands."""
    try:
        with GzipFile(fileobj=file) as stream:
            yield stream
    except EOFError:
        raise Refusal("truncated", "the compressed data end before their end mark; copy the file again") from None
    except (OSError, IsalError) as error:
        raise Refusal("damaged", f"the compressed data are damaged ({error}); copy the file again") from None


def is_gzip(file: BinaryIO) -> bool:
    """Say whether a file begins as gzip does; it is left standing anywhere."""
    file.seek(0)
    return file.read(2) == GZIP_MAGIC


def read_head(file: BinaryIO, size: int) -> bytes:
    """Return the first ``size`` bytes, decompressed; fewer if there are no more."""
    with decoded(file) as stream:
        buffer = bytearray(size)
        return bytes(buffer[: fill(stream, memoryview(buffer))])


def skip(stream: BinaryIO, size: int) -> None:
    """Read over what stands before the voxels."""
    if size > CHUNK_BYTES * 16:
        raise Refusal("damaged_header", f"the voxels are said to begin at byte {size}; expected them near the header")
    fill(stream, memoryview(bytearray(size)))


def fill(stream: BinaryIO, target: memoryview) -> int:
    """Read until ``target`` is full or the stream ends; return how many bytes came."""
    done = 0
    while done < len(target):
        count = stream.readinto(target[done : done + CHUNK_BYTES])  # type: ignore[attr-defined]
        if not count:
            break
        done += count
    return done


def read_to_end(stream: BinaryIO) -> None:
    """Read on to the end, so that the checksum of compressed data is verified; little may follow the voxels."""
    extra = 0
    while piece := stream.read(1 << 16):
        extra += len(piece)
        if extra > CHUNK_BYTES:
            raise Refusal(
                "trailing_data", f"more than {CHUNK_BYTES} bytes follow the voxels; the header does not fit them"
            )
