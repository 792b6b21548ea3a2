"""Siemens mosaics: the slices of one volume as tiles of one picture, told apart by the maker's private header.

The picture's position is that of a slice as large as the picture and centred where the slices are, so the corner of a
tile lies half the difference further in. Tiles go along the rows; slice n + 1 lies one spacing along the slice normal
of the CSA header, which may run against row x column.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from medml.errors import Refusal
from medml.io.dicom_header import Header, element_bytes
from medml.io.dicom_values import text_of, unsigned_of, whole_of

MR_CREATOR, MR_IMAGES = 0x00190010, 0x0019100A
# The private block of the CSA header is any of these; the name of its creator tells (PS3.5 section 7.8.1).
_CSA_BLOCKS = {0x00290000 | block: 0x00290010 | block << 8 for block in range(0x10, 0x18)}
TAGS = (*_CSA_BLOCKS, *_CSA_BLOCKS.values(), MR_CREATOR, MR_IMAGES)
MAX_TILES = 1024
MAX_CSA_BYTES = 4 << 20


def tiles_of(header: Header, elements: Mapping[int, Any]) -> tuple[Header, ...]:
    """Return one header per slice of a mosaic.

    Parameters
    ----------
    elements : mapping
        The raw elements of `TAGS` that the file has.

    Raises
    ------
    Refusal
        ``mosaic``, if their number, normal or spacing is not told.
    """
    csa = _csa_header(elements)
    count = _count(csa, elements)
    normal = _normal(csa, header)
    if header.position is None or header.orientation is None or header.pixel_spacing is None:
        raise _refusal("ImagePositionPatient, ImageOrientationPatient or PixelSpacing is missing")
    if not header.spacing_between or header.spacing_between <= 0:
        raise _refusal("SpacingBetweenSlices is missing")
    side = math.ceil(math.sqrt(count))
    if header.rows % side or header.columns % side:
        raise _refusal(f"{header.columns} x {header.rows} pixels do not hold {side} x {side} tiles")
    rows, columns = header.rows // side, header.columns // side
    first = _corner(header, rows, columns)
    tiles = []
    for index in range(count):
        position = first + index * header.spacing_between * normal
        tiles.append(
            replace(
                header,
                rows=rows,
                columns=columns,
                tile=(index // side * rows, index % side * columns, header.rows, header.columns),
                position=tuple(float(value) for value in position),
                image_type=tuple(word for word in header.image_type if word != "MOSAIC"),
                in_stack=index + 1,
                expanded=True,
            )
        )
    return tuple(tiles)


def _csa_header(elements: Mapping[int, Any]) -> dict[str, Any]:
    """Return the tags of the CSA image header, empty if the file has none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that its DICOM readers are experimental; this one is old
        from nibabel.nicom import csareader

    for creator, tag in _CSA_BLOCKS.items():
        data = element_bytes(elements.get(tag))
        if (
            data
            and len(data) <= MAX_CSA_BYTES
            and text_of(element_bytes(elements.get(creator))) == "SIEMENS CSA HEADER"
        ):
            tags: dict[str, Any] = csareader.read(data)["tags"]  # type: ignore[no-untyped-call]
            return tags
    return {}


def _count(csa: dict[str, Any], elements: Mapping[int, Any]) -> int:
    named = text_of(element_bytes(elements.get(MR_CREATOR))) == "SIEMENS MR HEADER"
    counts = {
        int(count)
        for count in (
            *csa.get("NumberOfImagesInMosaic", {}).get("items", [])[:1],
            _images(elements.get(MR_IMAGES)) if named else None,
        )
        if count
    }
    if len(counts) != 1 or not 1 <= min(counts) <= MAX_TILES:
        raise _refusal(f"{len(counts) or 'no'} number(s) of slices are told, expected one of 1 to {MAX_TILES}")
    return counts.pop()


def _images(element: Any) -> int | None:
    """Return NumberOfImagesInMosaic: binary (US), also where its representation is lost; some writers make it text."""
    value = element_bytes(element)
    if not value:
        return None
    return whole_of(value) if element.VR == "IS" else unsigned_of(value, element.is_little_endian)


def _normal(csa: dict[str, Any], header: Header) -> np.ndarray:
    """Return the unit vector from slice to slice, LPS; it must be the normal of the picture or its opposite."""
    values = csa.get("SliceNormalVector", {}).get("items", [])[:3]
    if len(values) != 3 or header.orientation is None:
        raise _refusal("the normal of its slices is not told")
    normal = np.array([float(value) for value in values])
    straight = np.cross(header.orientation[:3], header.orientation[3:])
    if not abs(abs(float(normal @ straight)) - 1) < 1e-2:
        raise _refusal("the normal of its slices is not that of the picture")
    return np.asarray(straight * np.sign(normal @ straight))


def _corner(header: Header, rows: int, columns: int) -> np.ndarray:
    """Return the position (LPS mm) of the first voxel of the first tile."""
    row, column = np.array(header.orientation).reshape(2, 3)
    between_rows, between_columns = header.pixel_spacing or (0.0, 0.0)
    across = row * between_columns * (header.columns - columns) / 2
    down = column * between_rows * (header.rows - rows) / 2
    return np.asarray(np.array(header.position) + across + down)


def _refusal(what: str) -> Refusal:
    return Refusal("mosaic", f"slices tiled into one picture, and {what}; convert it at the scanner or by dcm2niix")
