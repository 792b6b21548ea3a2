"""Every orientation that patients and scanners give."""

from __future__ import annotations

import numpy as np
from corpus.dicom import Stack
from corpus.phantom import make_grid
from corpus.source import Expected, Source, accepted, case_of

ORIENTATIONS = {
    "axial": ((1, 0, 0), (0, 1, 0), 4.0),
    "axial, feet first order": ((1, 0, 0), (0, 1, 0), -4.0),
    "axial, prone": ((-1, 0, 0), (0, -1, 0), 4.0),
    "axial, decubitus": ((0, 1, 0), (-1, 0, 0), 4.0),
    "axial, row reversed": ((-1, 0, 0), (0, 1, 0), 4.0),
    "sagittal": ((0, 1, 0), (0, 0, -1), 4.0),
    "sagittal, right to left": ((0, 1, 0), (0, 0, -1), -4.0),
    "coronal": ((1, 0, 0), (0, 0, -1), 4.0),
    "coronal, reversed": ((1, 0, 0), (0, 0, -1), -4.0),
    "coronal, upside down": ((-1, 0, 0), (0, 0, 1), 4.0),
    "oblique": ((1, 0, 0), (0, 0.9063078, -0.4226183), 4.0),
    "double oblique": ((0.9330127, 0.25, -0.2588190), (-0.1647903, 0.9415440, 0.2938926), 4.0),
    "oblique at 45 degrees": ((0.70710678, 0.70710678, 0), (0, 0, -1), 4.0),
}


def _oriented(row: tuple[float, ...], column: tuple[float, ...], step: float) -> object:
    def build(source: Source) -> Expected:
        u = np.array(row) / np.linalg.norm(row)
        v = np.array(column) - np.dot(column, u) * u
        stack = Stack(source, make_grid(tuple(u), tuple(v), step=step))
        stack.write()
        return accepted(stack.truth)

    return build


for _name, _directions in ORIENTATIONS.items():
    case_of("geometry", _name, f"orientation: {_name}", _oriented(*_directions))  # type: ignore[arg-type]
