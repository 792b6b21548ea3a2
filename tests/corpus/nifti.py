"""Writes the body as NIfTI byte by byte from the standard (nifti1.h, nifti2.h), so that any header can be had."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
from corpus.phantom import CENTRE, Truth, sample, truth_of
from corpus.source import Source

CODES = {
    "u1": 2, "i2": 4, "i4": 8, "f4": 16, "c8": 32, "f8": 64, "rgb": 128, "i1": 256, "u2": 512, "u4": 768, "i8": 1024,
    "u8": 1280,
}  # fmt: skip
SHAPE = (16, 18, 14)
SPACING = (2.5, 2.25, 3.0)
SECRET = b"NIFTISECRET2025 Quetzalberg"


def affine_of(axes: tuple[int, int, int] = (0, 1, 2), flips: tuple[bool, bool, bool] = (False,) * 3) -> np.ndarray:
    """Return an affine to RAS whose array axis n runs along world axis ``axes[n]``, backwards if ``flips[n]``."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for n, (axis, flip) in enumerate(zip(axes, flips, strict=True)):
        affine[axis, n] = SPACING[n] * (-1 if flip else 1)
    middle = affine[:3, :3] @ ((np.array(SHAPE) - 1) / 2)
    affine[:3, 3] = CENTRE - middle + [0.4, -0.3, 0.2]
    return affine


def oblique() -> np.ndarray:
    """Return an affine turned about all axes."""
    affine = affine_of()
    a, b = np.radians(20), np.radians(-12)
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    lean = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    rotation = turn @ lean
    middle = affine[:3, :3] @ ((np.array(SHAPE) - 1) / 2)
    affine[:3, :3] = rotation @ affine[:3, :3]
    affine[:3, 3] += middle - rotation @ middle
    return affine


def truth(affine: np.ndarray | None = None, **more: object) -> Truth:
    """Return what the body sampled on a NIfTI grid holds."""
    return truth_of(affine_of() if affine is None else affine, SHAPE, **more)


def voxels_of(affine: np.ndarray, change: object = None) -> np.ndarray:
    """Return the body's values (I, J, K)."""
    values, _ = sample(affine, SHAPE)
    return np.asarray(change(values)) if callable(change) else values


def header(
    shape: tuple[int, ...],
    kind: str = "i2",
    *,
    sform: np.ndarray | None = None,
    qform: np.ndarray | None = None,
    codes: tuple[int, int] | None = None,
    units: int = 2,
    scale: tuple[float, float] = (1.0, 0.0),
    order: str = "<",
    magic: bytes = b"n+1\0",
    offset: float = 352,
    pixdim: tuple[float, ...] | None = None,
    quaternion: tuple[float, float, float] | None = None,
    dim0: int | None = None,
) -> bytes:
    """Return a NIfTI-1 header of 348 bytes with secrets in its texts.

    Parameters
    ----------
    codes : (sform_code, qform_code)
        By default 1 for each form given, else 0.
    """
    codes = codes or (int(sform is not None), int(qform is not None))
    reference = qform if qform is not None else sform
    b, c, d, qfac = quaternion_of(reference) if reference is not None else (0.0, 0.0, 0.0, 1.0)
    if quaternion is not None:
        b, c, d = quaternion
    sizes = tuple(np.linalg.norm(reference[:3, :3], axis=0)) if reference is not None else SPACING
    pixdim = pixdim or (qfac, *sizes, *[1.0] * 4)
    dims = [dim0 if dim0 is not None else len(shape), *shape, *[1] * (7 - len(shape))]
    offsets = reference[:3, 3] if reference is not None else (0, 0, 0)
    rows = sform[:3] if sform is not None else np.zeros((3, 4))
    code = CODES[kind]
    bits = 24 if kind == "rgb" else int(kind[1:]) * 8
    raw = struct.pack(order + "i10s18sihcB", 348, b"", b"NIFTISECRET2025", 0, 0, b"r", 0)
    raw += struct.pack(order + "8h3f4h8f", *dims, 0, 0, 0, 0, code, bits, 0, *pixdim)
    raw += struct.pack(order + "3fhBB4f2i", offset, *scale, 0, 0, units, 0, 0, 0, 0, 0, 0)
    raw += struct.pack(order + "80s24s", SECRET, b"NIFTISECRET2025")
    raw += struct.pack(
        order + "2h6f12f16s4s", codes[1], codes[0], b, c, d, *offsets, *rows.ravel(), b"Quetzalberg", magic
    )
    assert len(raw) == 348
    return raw


def header2(shape: tuple[int, ...], kind: str = "i2", *, sform: np.ndarray, order: str = "<") -> bytes:
    """Return a NIfTI-2 header of 540 bytes."""
    b, c, d, qfac = quaternion_of(sform)
    sizes = np.linalg.norm(sform[:3, :3], axis=0)
    dims = [len(shape), *shape, *[1] * (7 - len(shape))]
    magic, bits = b"n+2\0\r\n\x1a\n", int(kind[1:]) * 8
    raw = struct.pack(order + "i8s2h8q3d8d", 540, magic, CODES[kind], bits, *dims, 0, 0, 0, qfac, *sizes, 1, 1, 1, 1)
    raw += struct.pack(order + "q2d4d2q80s24s2i", 544, 1.0, 0.0, 0, 0, 0, 0, 0, 0, SECRET, b"NIFTISECRET2025", 0, 1)
    raw += struct.pack(
        order + "6d12d3i16sB15s", b, c, d, *sform[:3, 3], *sform[:3].ravel(), 0, 2, 0, b"Quetzalberg", 0, b""
    )
    assert len(raw) == 540
    return raw


def quaternion_of(affine: np.ndarray) -> tuple[float, float, float, float]:
    """Return b, c, d and qfac of an affine without shear."""
    rotation = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    qfac = 1.0
    if np.linalg.det(rotation) < 0:
        rotation, qfac = rotation * [1, 1, -1], -1.0
    (xx, yx, zx), (xy, yy, zy), (xz, yz, zz) = rotation.T
    k = np.array(
        [
            [xx - yy - zz, 0, 0, 0],
            [yx + xy, yy - xx - zz, 0, 0],
            [zx + xz, zy + yz, zz - xx - yy, 0],
            [zy - yz, xz - zx, yx - xy, xx + yy + zz],
        ]
    )
    values, vectors = np.linalg.eigh(k / 3)
    b, c, d, a = vectors[:, np.argmax(values)]
    return (-b, -c, -d, qfac) if a < 0 else (b, c, d, qfac)


def body(values: np.ndarray, kind: str = "i2", order: str = "<") -> bytes:
    """Return voxels as they lie in the file, first axis fastest."""
    return np.asarray(values).astype(order + kind).tobytes(order="F")


def extension(text: bytes = SECRET) -> bytes:
    """Return the four flag bytes and one extension that holds a secret."""
    text = text.ljust(-(-(len(text) + 8) // 16) * 16 - 8, b"\0")
    return b"\1\0\0\0" + struct.pack("<2i", len(text) + 8, 6) + text


def write(source: Source, name: str, head: bytes, data: bytes, *, between: bytes = bytes(4)) -> Path:
    """Write one file, gzipped if its name says so."""
    raw = head + between + data
    return source.bytes(name, gzip.compress(raw, 1) if name.endswith(".gz") else raw)
