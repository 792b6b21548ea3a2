"""Palette colours: indices to RGB by the tables of a file (PS3.3 C.7.6.3.1.5)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_color_lut

from medml.errors import Refusal

_TAGS = [
    f"{segmented}{colour}PaletteColorLookupTable{part}"
    for colour in ("Red", "Green", "Blue")
    for segmented, part in (("", "Descriptor"), ("", "Data"), ("Segmented", "Data"))
]


@dataclass(frozen=True, slots=True, eq=False)
class Palette:
    """The tables of one file; the slices of a series share those of its first."""

    tables: Dataset

    def colours(self, indices: np.ndarray) -> np.ndarray:
        """Return 8-bit RGB (rows, columns, 3) of indices (rows, columns)."""
        try:
            rgb = np.asarray(apply_color_lut(indices, self.tables))
        except Exception as error:
            # pydicom raises anything on tables that contradict themselves.
            raise _damaged(type(error).__name__) from None
        if rgb.ndim != 3 or rgb.shape[2] < 3:
            raise _damaged(f"{rgb.ndim} axes")
        rgb = rgb[..., :3]
        depth = int(self.tables.RedPaletteColorLookupTableDescriptor[2])
        return (rgb >> (depth - 8) if depth > 8 else rgb).astype(np.uint8)


def read_palette(path: Path) -> Palette:
    """Read the colour tables of a DICOM file.

    Raises
    ------
    Refusal
        If it has none, or they cannot be parsed.
    """
    try:
        tables = dcmread(path, force=True, stop_before_pixels=True, specific_tags=[*_TAGS, "PixelRepresentation"])
        found = "RedPaletteColorLookupTableDescriptor" in tables
    except Exception as error:
        # The words of a parser on damaged bytes may quote the patient.
        raise _damaged(type(error).__name__) from None
    if not found:
        raise Refusal("damaged_pixels", "the pixels index a palette, but the file has none; export it again")
    return Palette(tables)


def _damaged(kind: str) -> Refusal:
    return Refusal("damaged_pixels", f"the colour palette is damaged ({kind}); export the image again")
