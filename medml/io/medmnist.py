"""MedMNIST-style ``.npz`` archives: many small images with their labels and official split, read without pickle."""

from __future__ import annotations

import math
import struct
import threading
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from medml.errors import Refusal
from medml.io.files import open_regular
from medml.io.limits import IMAGE_LIMITS, Limits
from medml.io.pictures import IDENTITY
from medml.io.streams import fill, read_to_end
from medml.records.scan import SourceGrid, Volume

SPLITS = ("train", "val", "test")
MAX_LABELS = 1000
# Arrays kept decompressed: images are asked for in order, by several threads, so two splits may meet.
KEPT_ARRAYS = 2


@dataclass(frozen=True, slots=True)
class Member:
    """One array of the archive as its header declares it, checked against the caps."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool


@dataclass(eq=False)
class MedMnist:
    """An opened archive; each array is decompressed once, on first use. Safe to use from several threads.

    Attributes
    ----------
    counts : dict
        Split ("train", "val", "test") to number of images, in that order; only the splits that are there.
    components : int
        1, or 3 in colour.
    multi_label : bool
        Whether label vectors have several entries of 0 or 1, any of which may hold.
    """

    path: Path
    counts: dict[str, int]
    components: int
    multi_label: bool
    _images: dict[str, Member]
    _labels: dict[str, np.ndarray]
    _kept: dict[str, np.ndarray] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __iter__(self) -> Iterator[tuple[str, int, np.ndarray, np.ndarray]]:
        """Yield (split, index, voxels (C, I, J, K), label vector) of every image."""
        for split, count in self.counts.items():
            for index in range(count):
                yield split, index, self.read(split, index)[0].voxels, self.labels(split)[index]

    def labels(self, split: str) -> np.ndarray:
        """Return the label vectors of a split, (N, 1) or (N, number of labels), int64."""
        return self._labels[split]

    def read(self, split: str, index: int) -> tuple[Volume, SourceGrid]:
        """Return one image as (C, I, J, K): I its column, J its row, K its slice; geometry "none".

        Raises
        ------
        Refusal
            If the array is truncated or damaged.
        """
        image = self._array(split)[index]
        voxels = np.moveaxis(image, -1, 0) if self._coloured(split) else image[None]
        voxels = voxels.transpose(0, *range(voxels.ndim - 1, 0, -1))
        voxels = np.ascontiguousarray(voxels.reshape(*voxels.shape, *(1,) * (4 - voxels.ndim)))
        i, j, k = voxels.shape[1:]
        grid = SourceGrid(shape=(i, j, k), affine=IDENTITY, axes=(0, 1, 2), flips=(False, False, False))
        return Volume(voxels, np.eye(4), "none"), grid

    def _coloured(self, split: str) -> bool:
        shape = self._images[split].shape
        return len(shape) in (4, 5) and shape[-1] == self.components and _last_is_colour(shape)

    def _array(self, split: str) -> np.ndarray:
        with self._lock:
            if split not in self._kept:
                while len(self._kept) >= KEPT_ARRAYS:
                    del self._kept[next(iter(self._kept))]
                with _archive(self.path) as archive:
                    self._kept[split] = _read_member(archive, self._images[split])
            return self._kept[split]


def is_medmnist(path: Path) -> bool:
    """Say whether a file is an archive with the image and label arrays of at least one split."""
    try:
        with _archive(path) as archive:
            names = set(archive.namelist())
    except Refusal:
        return False
    return any({f"{split}_images.npy", f"{split}_labels.npy"} <= names for split in SPLITS)


def open_medmnist(path: Path, *, limits: Limits = IMAGE_LIMITS) -> MedMnist:
    """Open an archive: declared sizes and types are checked, labels are read, images are not yet.

    Raises
    ------
    Refusal
        If the file is no such archive, is damaged, holds Python objects, is over a cap, or if its images and labels
        do not fit together.
    """
    with _archive(path) as archive:
        names = set(archive.namelist())
        splits = [split for split in SPLITS if f"{split}_images.npy" in names]
        if not splits:
            raise Refusal("not_medmnist", "no array train_images, val_images or test_images in it")
        images = {split: _member(archive, f"{split}_images.npy", limits) for split in splits}
        labels = {split: _read_labels(archive, split, images[split].shape[0], limits) for split in splits}
    _check_alike(images, labels)
    shape = images[splits[0]].shape
    return MedMnist(
        path=path,
        counts={split: member.shape[0] for split, member in images.items()},
        components=shape[-1] if _last_is_colour(shape) else 1,
        multi_label=labels[splits[0]].shape[1] > 1,
        _images=images,
        _labels=labels,
    )


@contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open a zip; every error of its reader is a refusal."""
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            yield archive
    except (
        zipfile.BadZipFile,
        zlib.error,
        struct.error,
        NotImplementedError,
        RuntimeError,
        EOFError,
        OSError,
    ) as error:
        raise Refusal("damaged", f"no readable .npz archive ({error}); copy it again") from None
    except UnicodeDecodeError:
        raise Refusal("damaged", "no readable .npz archive (a damaged member name); copy it again") from None


def _member(archive: zipfile.ZipFile, name: str, limits: Limits) -> Member:
    """Read the header of one array, and check what it declares."""
    info = archive.getinfo(name) if name in archive.namelist() else None
    if info is None:
        raise Refusal("missing_array", f"the archive has no {name}")
    with archive.open(info) as stream:
        shape, fortran, dtype = _read_header(cast(BinaryIO, stream), name)
        header = stream.tell()
    if dtype.kind not in "biuf" or dtype.itemsize > 8:
        raise Refusal("unsupported_dtype", f"{name} holds {dtype}; expected real numbers, never Python objects")
    if not shape or min(shape) < 1 or max(shape[1:], default=1) > limits.axis:
        raise Refusal("too_large", f"{name} declares the shape {shape}; expected 1 to {limits.axis} an axis")
    declared = math.prod(shape) * dtype.itemsize
    if info.file_size != header + declared:
        raise Refusal(
            "truncated", f"{name} declares {declared} bytes of values, the archive holds {info.file_size - header}"
        )
    limits.check((1,), declared, info.compress_size)
    return Member(name, shape, dtype, fortran)


def _read_header(stream: BinaryIO, name: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    try:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(stream)
    except (ValueError, SyntaxError, TypeError) as error:
        raise Refusal("damaged", f"{name} has no readable array header ({type(error).__name__})") from None
    return tuple(int(n) for n in shape), bool(fortran), dtype


def _read_member(archive: zipfile.ZipFile, member: Member) -> np.ndarray:
    values = np.empty(member.shape, dtype=member.dtype, order="F" if member.fortran else "C")
    with archive.open(member.name) as opened:
        stream = cast(BinaryIO, opened)
        _read_header(stream, member.name)
        done = fill(stream, memoryview(values.reshape(-1, order="A").view(np.uint8).data))
        if done < values.nbytes:
            raise Refusal("truncated", f"{member.name} declares {values.nbytes} bytes of values, gave {done}")
        read_to_end(stream)
    return values if values.dtype.isnative else values.astype(values.dtype.newbyteorder("="))


def _read_labels(archive: zipfile.ZipFile, split: str, count: int, limits: Limits) -> np.ndarray:
    """Return the labels of a split as (N, L) whole numbers."""
    member = _member(archive, f"{split}_labels.npy", limits)
    values = _read_member(archive, member)
    values = values.reshape(len(values), -1) if values.ndim <= 2 else values
    if values.ndim != 2 or len(values) != count or values.shape[1] > MAX_LABELS:
        raise Refusal(
            "label_shape", f"{split}_labels has the shape {member.shape}, expected ({count}, 1) or ({count}, L)"
        )
    whole = np.rint(values.astype(np.float64))
    top = 1 if values.shape[1] > 1 else MAX_LABELS - 1
    if not np.array_equal(whole, values) or whole.min() < 0 or whole.max() > top:
        raise Refusal(
            "bad_labels",
            f"{split}_labels runs from {values.min()} to {values.max()}, expected whole numbers from 0 to {top}",
        )
    return whole.astype(np.int64)


def _check_alike(images: dict[str, Member], labels: dict[str, np.ndarray]) -> None:
    shapes = {member.shape[1:] for member in images.values()}
    widths = {values.shape[1] for values in labels.values()}
    if len(shapes) > 1 or len(widths) > 1:
        raise Refusal(
            "mixed_splits",
            f"the splits have image shapes {sorted(shapes)} and label widths {sorted(widths)}, expected one",
        )
    shape = next(iter(images.values())).shape
    if len(shape) not in (3, 4) and not (len(shape) == 5 and _last_is_colour(shape)):
        raise Refusal("image_shape", f"images have the shape {shape}, expected (N, H, W), (N, H, W, 3) or (N, D, H, W)")


def _last_is_colour(shape: tuple[int, ...]) -> bool:
    """Say whether the last axis holds components: (N, H, W, 1 or 3), (N, D, H, W, 1 or 3)."""
    return len(shape) >= 4 and shape[-1] in (1, 3)
