"""NIfTI-1 out: a header built new, and the voxels as they are, compressed by several threads or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any

import numpy as np

from medml.errors import Refusal
from medml.io.gzip_writer import GzipWriter, Piece
from medml.io.nifti_header import FIRST_VOXEL, new_header
from medml.records.scan import Volume

PIECE_BYTES = 1 << 20


def save_nifti(path: Path, volume: Volume, *, compress: bool = True) -> None:
    """Write a volume to ``path``; atomicity and durability are the caller's, and equal input gives equal bytes.

    Components are the fourth axis. The affine is kept as sform and, unless it is sheared, as qform, both with code 1
    (scanner); units are mm. Where the spacing is unknown the units are "unknown" and the codes 2 (aligned).

    Raises
    ------
    Refusal
        If NIfTI-1 has no type for the voxels.
    """
    voxels = storable(volume.voxels)
    with NiftiWriter(path, new_header(voxels, volume), compress=compress) as file:
        for component in voxels:
            file.write(component.T)


def nifti_bytes(volume: Volume) -> bytes:
    """Return a volume as the bytes of a ``.nii.gz``."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "volume.nii.gz"
        save_nifti(path, volume)
        return path.read_bytes()


class NiftiWriter:
    """A ``.nii`` or ``.nii.gz`` whose voxels come a few slices at a time.

    Parameters
    ----------
    path : Path
    header : nibabel header
        Its type is that of the slices to come.
    compress : bool
        Whether to gzip.
    """

    def __init__(self, path: Path, header: Any, *, compress: bool) -> None:
        self._file = path.open("wb")
        self._gzip = GzipWriter(self._file) if compress else None
        head = np.frombuffer(header.binaryblock.ljust(FIRST_VOXEL, b"\0"), np.uint8)
        self._put(iter([lambda: head]))

    def __enter__(self) -> NiftiWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._file:
            if self._gzip is not None and kind is None:
                self._gzip.close()

    def write(self, slices: np.ndarray) -> None:
        """Append slices (K, J, I): a view in any order, of which copies of a megabyte are made at a time."""
        self._put(_pieces(slices))

    def _put(self, pieces: Iterator[Piece]) -> None:
        if self._gzip is not None:
            self._gzip.write(pieces)
            return
        for piece in pieces:
            self._file.write(piece().data)


def storable(voxels: np.ndarray) -> np.ndarray:
    """Return voxels of a type that NIfTI-1 has and every reader knows.

    Raises
    ------
    Refusal
        If they are no real numbers.
    """
    if voxels.dtype == np.bool_:
        return voxels.astype(np.uint8)
    if voxels.dtype == np.float16:
        return voxels.astype(np.float32)
    if voxels.dtype.kind not in "iuf" or voxels.dtype.itemsize > 8:
        raise Refusal("unsupported_dtype", f"voxels of type {voxels.dtype} cannot be stored; expected real numbers")
    return voxels


def _pieces(slices: np.ndarray) -> Iterator[Piece]:
    little = slices.dtype.newbyteorder("<")
    step = max(1, PIECE_BYTES // max(1, slices[:1].nbytes))
    for first in range(0, len(slices), step):
        yield partial(np.ascontiguousarray, slices[first : first + step], dtype=little)
