"""NRRD and MetaImage in: a text header, and voxels behind it or in a file beside it.

Read here rather than by pynrrd (last release of January 2025, allocates what a header declares, opens whatever path it
names) or SimpleITK (45 MB for two formats): every size is checked against the file before memory is taken, and a data
file must lie beside its header. See docs/decisions/0007-nrrd-and-metaimage.md.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from medml.errors import GeometryError, Refusal
from medml.geometry import canonical_affine, canonical_grid, to_canonical
from medml.io.files import CHUNK_BYTES, open_regular
from medml.io.limits import IMAGE_LIMITS, Limits
from medml.io.nifti import real_values
from medml.io.nifti_header import MAX_COMPONENTS
from medml.io.streams import fill, gunzipped, read_to_end
from medml.records.candidate import Reading
from medml.records.scan import Finding, Volume

SUFFIXES = (".nrrd", ".nhdr", ".mha", ".mhd")
MAX_HEADER_BYTES = 1 << 20

_SIGNS = {"right": 1.0, "left": -1.0, "anterior": 1.0, "posterior": -1.0, "superior": 1.0, "inferior": -1.0}
_INITIALS = {word[0].upper(): word for word in _SIGNS}
_NRRD_TYPES = {
    **dict.fromkeys(("signed char", "int8", "int8_t"), "i1"),
    **dict.fromkeys(("uchar", "unsigned char", "uint8", "uint8_t"), "u1"),
    **dict.fromkeys(("short", "short int", "signed short", "signed short int", "int16", "int16_t"), "i2"),
    **dict.fromkeys(("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"), "u2"),
    **dict.fromkeys(("int", "signed int", "int32", "int32_t"), "i4"),
    **dict.fromkeys(("uint", "unsigned int", "uint32", "uint32_t"), "u4"),
    **dict.fromkeys(("longlong", "long long", "long long int", "signed long long", "int64", "int64_t"), "i8"),
    **dict.fromkeys(("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"), "u8"),
    "float": "f4",
    "double": "f8",
}
_META_TYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4", "MET_UINT": "u4",
    "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4", "MET_DOUBLE": "f8",
}  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class TextHeader:
    """What the header of an NRRD or MetaImage file says, checked; no voxel was read.

    Attributes
    ----------
    sizes : tuple of int
        All axes, the fastest first.
    component_axis : int or None
        Which of them is not of space.
    affine : ndarray of shape (4, 4)
        Index along the axes of space to RAS mm.
    packing : "raw", "gzip" or "zlib"
    data : str
        Name of the data file beside the header; empty if the voxels follow the header.
    offset : int
        Bytes before the voxels; -1 if they are the last bytes of the file.
    """

    sizes: tuple[int, ...]
    component_axis: int | None
    affine: np.ndarray
    dtype: np.dtype[Any]
    packing: str
    data: str
    offset: int
    findings: tuple[Finding, ...] = ()


def read_text_header_volume(path: Path, *, limits: Limits = IMAGE_LIMITS) -> Reading:
    """Read an NRRD or MetaImage volume as a canonical one in mm.

    Raises
    ------
    Refusal
        If the file is neither, is damaged or over a cap, is packed in a way that is not read, or names a data file
        that does not lie beside it.
    GeometryError
        If its axes are not finite or do not span space.
    """
    header = read_text_header(path)
    with open_regular(path.with_name(header.data) if header.data else path) as file:
        size = file.seek(0, 2)
        limits.check(header.sizes, header.dtype.itemsize, size)
        stored = _read(header, file, size)
    voxels = stored.reshape(header.sizes[::-1]).T
    axis = header.component_axis
    voxels = voxels[..., None] if axis is None else np.moveaxis(voxels, axis, -1)
    while voxels.ndim < 4:
        voxels = np.expand_dims(voxels, -2)
    voxels, findings = real_values(voxels, 1.0, 0.0)
    i, j, k = voxels.shape[:3]
    grid = canonical_grid((i, j, k), header.affine)
    voxels = to_canonical(np.moveaxis(voxels, 3, 0), grid)
    return Reading(Volume(voxels, canonical_affine(grid)), grid, header.findings + findings)


def read_text_header(path: Path) -> TextHeader:
    """Read and check the header alone."""
    with open_regular(path) as file:
        head = file.read(MAX_HEADER_BYTES)
    try:
        if head.startswith(b"NRRD000"):
            return _nrrd(head)
        if re.match(rb"\s*(ObjectType|NDims|Comment)\s*=", head):
            return _metaimage(head)
    except (ValueError, KeyError, OverflowError) as error:
        raise Refusal("damaged_header", f"the header is damaged ({type(error).__name__}); export it again") from None
    raise Refusal("damaged_header", "neither NRRD nor MetaImage, whatever its name says")


def _nrrd(head: bytes) -> TextHeader:
    text, ending, _ = head.partition(b"\n\n")
    if b"\r\n\r\n" in head and (not ending or head.index(b"\r\n\r\n") < len(text)):
        text, ending, _ = head.partition(b"\r\n\r\n")
    pairs = [line.partition(": ") for line in text.decode("latin-1").splitlines()[1:] if not line.startswith("#")]
    fields = {key.strip().lower(): value.strip() for key, colon, value in pairs if colon}
    data = fields.get("data file", fields.get("datafile", ""))
    if not ending and not data:
        raise Refusal("damaged_header", "the header has no end; the file is cut short")
    sizes = tuple(int(n) for n in fields["sizes"].split())
    if len(sizes) != int(fields["dimension"]):
        raise Refusal("damaged_header", f"{len(sizes)} sizes for {fields['dimension']} axes")
    skips = int(fields.get("line skip", "0")), int(fields.get("byte skip", "0"))
    if skips[0] != 0 or skips[1] < -1:
        raise Refusal("unsupported_encoding", "lines are to be skipped before the voxels; export it as raw or gzip")
    packing = {"raw": "raw", "gz": "gzip", "gzip": "gzip"}.get(fields["encoding"].lower())
    if packing is None:
        raise Refusal("unsupported_encoding", "voxels neither raw nor gzip (text, hex or bzip2); export it as gzip")
    affine, axis, findings = _nrrd_axes(fields, sizes)
    dtype = _dtype(_NRRD_TYPES.get(fields["type"].lower()), big=fields.get("endian", "little").lower() == "big")
    offset = skips[1] if data else len(text) + len(ending) + max(0, skips[1])
    return TextHeader(sizes, axis, affine, dtype, packing, _beside(data), offset, findings)


def _nrrd_axes(fields: dict[str, str], sizes: tuple[int, ...]) -> tuple[np.ndarray, int | None, tuple[Finding, ...]]:
    """Return the affine, the axis that is not of space, and findings."""
    if "space directions" not in fields:
        kinds = fields.get("kinds", "").lower().split() or ["domain"] * len(sizes)
        outside = [n for n, kind in enumerate(kinds) if kind not in ("domain", "space", "???", "none")]
        spacings = [abs(float(value)) for value in fields.get("spacings", "").split()] or [math.nan] * len(sizes)
        inside = [value for n, value in enumerate(spacings) if n not in outside]
        steps = np.diag([value if math.isfinite(value) else 1.0 for value in inside])
        axis = _one_axis(outside, sizes)
        return _affine(_three(steps), np.zeros(3)), axis, (_unoriented(known=bool(np.isfinite(inside).all())),)
    vectors = re.findall(r"none|\([^)]*\)", fields["space directions"])
    outside = [n for n, vector in enumerate(vectors) if vector == "none"]
    steps = np.array([_numbers(vector) for vector in vectors if vector != "none"]).T
    origin = np.array(_numbers(fields["space origin"])) if "space origin" in fields else np.zeros(3)
    if len(vectors) != len(sizes) or steps.shape[0] != 3 or origin.shape != (3,):
        raise Refusal("damaged_header", "the directions do not fit the axes; expected three numbers for each")
    signs = _signs(fields.get("space", ""))
    return _affine(_three(signs[:, None] * steps), signs * origin), _one_axis(outside, sizes), ()


def _signs(space: str) -> np.ndarray:
    words = space.lower().split("-") if "-" in space else [_INITIALS.get(c, "") for c in space.upper()]
    if (
        len(words) != 3
        or any(word not in _SIGNS for word in words)
        or [
            w in pair
            for w, pair in zip(
                words, (("right", "left"), ("anterior", "posterior"), ("superior", "inferior")), strict=True
            )
        ]
        != [True] * 3
    ):
        raise Refusal("no_orientation", "the space is none of the patient's; expected e.g. left-posterior-superior")
    return np.array([_SIGNS[word] for word in words])


def _metaimage(head: bytes) -> TextHeader:
    fields: dict[str, str] = {}
    end = 0
    for line in head.splitlines(keepends=True):
        end += len(line)
        key, equals, value = line.decode("latin-1").partition("=")
        if not equals:
            raise Refusal("damaged_header", "a line of the header is no assignment; the file is damaged")
        fields[key.strip()] = value.strip()
        if key.strip() == "ElementDataFile":
            break
    if fields.get("BinaryData", "True").lower() == "false":
        raise Refusal("unsupported_encoding", "voxels written as text; export it as binary")
    sizes = tuple(int(n) for n in fields["DimSize"].split())
    channels = int(fields.get("ElementNumberOfChannels", "1"))
    outside = [3] if len(sizes) == 4 else []
    steps = (
        np.eye(len(sizes))
        if "TransformMatrix" not in fields
        else np.array([float(value) for value in fields["TransformMatrix"].split()]).reshape(len(sizes), len(sizes))
    )
    spacing = [float(value) for value in fields.get("ElementSpacing", "").split()] or [1.0] * len(sizes)
    origin = next((fields[key] for key in ("Offset", "Position", "Origin") if key in fields), "0 " * len(sizes))
    space = min(len(sizes), 3)
    directions = (steps * np.array(spacing)[:, None]).T[:space, :space]
    place = np.zeros(3)
    place[:space] = [float(value) for value in origin.split()][:space]
    lps = np.array([-1.0, -1.0, 1.0])
    if len(sizes) != int(fields["NDims"]) or len(spacing) != len(sizes):
        raise Refusal("damaged_header", f"{len(sizes)} sizes for {fields['NDims']} axes")
    if channels > 1:
        sizes, outside = (channels, *sizes), [0] if not outside else [0, 4]
    big = fields.get("BinaryDataByteOrderMSB", fields.get("ElementByteOrderMSB", "False")).lower() == "true"
    data = fields["ElementDataFile"]
    return TextHeader(
        sizes=sizes,
        component_axis=_one_axis(outside, sizes),
        affine=_affine(lps[:, None] * _three(directions), lps * place),
        dtype=_dtype(_META_TYPES.get(fields["ElementType"].removesuffix("_ARRAY")), big=big),
        packing="zlib" if fields.get("CompressedData", "False").lower() == "true" else "raw",
        data="" if data.upper() == "LOCAL" else _beside(data),
        offset=end if data.upper() == "LOCAL" else int(fields.get("HeaderSize", "0")),
        findings=() if "TransformMatrix" in fields else (_unoriented(known="ElementSpacing" in fields),),
    )


def _beside(name: str) -> str:
    """Refuse a data file that does not lie beside its header: a hostile header may name any file of the machine."""
    if "/" in name or "\\" in name or name in (".", "..") or "\0" in name or len(name.encode()) > 255:
        raise Refusal("outside_source", "the header names a data file in another folder; put it beside the header")
    if name.upper().startswith("LIST") or "%" in name:
        raise Refusal("unsupported_encoding", "the voxels lie in several files; export them as one")
    return name


def _dtype(code: str | None, *, big: bool) -> np.dtype[Any]:
    if code is None:
        raise Refusal("unsupported_dtype", "voxels of a type that is not read; expected real numbers")
    return np.dtype(code).newbyteorder(">" if big else "<")


def _one_axis(outside: list[int], sizes: tuple[int, ...]) -> int | None:
    """Return the one axis that is not of space, if there is one."""
    if len(outside) > 1 or len(sizes) - len(outside) not in (2, 3):
        raise Refusal(
            "too_many_dimensions",
            f"{len(sizes)} axes, {len(outside)} of them not of space; expected two or three in space and one more",
        )
    if outside and sizes[outside[0]] > MAX_COMPONENTS:
        raise Refusal(
            "too_many_components",
            f"{sizes[outside[0]]} volumes in one file, expected at most {MAX_COMPONENTS} channels; split it first",
        )
    return outside[0] if outside else None


def _three(steps: np.ndarray) -> np.ndarray:
    """Return three steps in space of two or three; a third one along the normal, 1 mm."""
    if steps.shape == (2, 2):
        steps = np.vstack([steps, [0.0, 0.0]])
    if steps.shape == (3, 2):
        normal = np.cross(steps[:, 0], steps[:, 1])
        steps = np.column_stack([steps, normal / (np.linalg.norm(normal) or 1.0)])
    if steps.shape != (3, 3):
        raise Refusal("damaged_header", f"{steps.shape[1]} directions of {steps.shape[0]} numbers, expected three")
    return steps


def _affine(steps: np.ndarray, origin: np.ndarray) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = steps, origin
    if not np.isfinite(affine).all():
        raise GeometryError("bad_affine", "the directions or the origin are not finite numbers; export it again")
    return affine


def _numbers(text: str) -> list[float]:
    return [float(value) for value in text.strip("() ").split(",")]


def _unoriented(*, known: bool) -> Finding:
    sizes = "sizes as given" if known else "sizes of 1 mm, for none are given"
    return Finding(
        code="no_orientation",
        severity="warning",
        message=f"the header does not place the axes in the patient: they are taken as they come, {sizes}",
        advice="check left and right against the source, or export it with its directions",
    )


def _read(header: TextHeader, file: BinaryIO, size: int) -> np.ndarray:
    """Return the stored values, one after the other."""
    count = math.prod(header.sizes)
    wanted = count * header.dtype.itemsize
    offset = size - wanted if header.offset == -1 and header.packing == "raw" else max(0, header.offset)
    if header.packing == "raw" and size - offset < wanted:
        raise _cut(wanted, max(0, size - offset))
    if offset < 0 or offset > size:
        raise _cut(wanted, size)
    stored = np.empty(count, dtype=header.dtype)
    target = memoryview(stored.view(np.uint8).data)
    file.seek(offset)
    with _stream(header.packing, file) as stream:
        done = fill(stream, target)
        if done < wanted:
            raise _cut(wanted, done)
        read_to_end(stream)
    return stored


@contextmanager
def _stream(packing: str, file: BinaryIO) -> Iterator[BinaryIO]:
    if packing == "gzip":
        with gunzipped(file) as stream:
            yield stream
    elif packing == "zlib":
        try:
            yield _Inflated(file)  # type: ignore[misc]
        except zlib.error as error:
            raise Refusal("damaged", f"the compressed data are damaged ({error}); copy the file again") from None
    else:
        yield file


class _Inflated:
    """The bytes of a zlib stream, a little at a time; its checksum is verified at the end."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._inflate = zlib.decompressobj()

    def readinto(self, target: memoryview) -> int:
        piece = self.read(len(target))
        target[: len(piece)] = piece
        return len(piece)

    def read(self, size: int) -> bytes:
        while not self._inflate.eof:
            packed = self._inflate.unconsumed_tail or self._file.read(CHUNK_BYTES)
            if not packed:
                raise Refusal("truncated", "the compressed data end before their end mark; copy the file again")
            if piece := self._inflate.decompress(packed, size):
                return piece
        return b""


def _cut(wanted: int, found: int) -> Refusal:
    return Refusal("truncated", f"the header declares {wanted} bytes of voxels, the file holds {found}; copy it again")
