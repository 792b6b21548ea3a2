"""Slices that do not stand on a regular grid, resampled to one: a tilted gantry, or varying distances.

The grid has the slices' own normal and pixel spacing. Under a tilt every slice keeps its plane and is shifted in it;
where distances vary every slice of the grid is mixed from its two neighbours. Both are linear.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from medml.geometry import flip_lps_ras
from medml.records.scan import SliceMap

# Shifts that differ by less over all slices are rounding of ImagePositionPatient.
STILL_VOXELS = 0.1
_WHOLE = 1e-3

Kind = Literal["gantry_tilt", "variable_spacing"]


@dataclass(frozen=True, slots=True, eq=False)
class Straight:
    """The regular grid for slices that stand on none.

    Attributes
    ----------
    shape : tuple of int
        (column, row, slice).
    affine : ndarray of shape (4, 4)
        (column, row, slice) index to LPS mm, its axes at right angles.
    slices : SliceMap
        Where the source's slices lie in it.
    """

    shape: tuple[int, int, int]
    affine: np.ndarray
    slices: SliceMap


def straighten(kind: Kind, positions: np.ndarray, affine: np.ndarray, shape: tuple[int, int, int]) -> Straight:
    """Return the regular grid that holds every voxel of the slices.

    Parameters
    ----------
    kind : "gantry_tilt" or "variable_spacing"
    positions : ndarray of shape (slices, 3)
        ImagePositionPatient in order along +normal, LPS mm.
    affine : ndarray of shape (4, 4)
        Of the slices as they are (see `medml.io.dicom.affine_of`), LPS; true for a tilt only.
    shape : tuple of int
        (column, row, slice) of the source.
    """
    steps = np.linalg.norm(affine[:3, :2], axis=0)
    row, column = (affine[:3, :2] / steps).T
    normal = np.cross(row, column)
    normal /= np.linalg.norm(normal)
    apart = positions - positions[0]
    depth = apart @ normal
    places = np.stack([apart @ row / steps[0], apart @ column / steps[1], np.zeros(len(positions))], axis=1)
    if kind == "gantry_tilt":
        spacing = depth[-1] / (len(depth) - 1)
        places[:, 2] = np.arange(len(depth))
    else:
        spacing = float(np.median(np.diff(depth)))
        places[:, 2] = depth / spacing
    places[:, :2][:, np.ptp(places[:, :2], axis=0) < STILL_VOXELS] = 0.0
    places[:, :2] -= places[:, :2].min(axis=0)
    grown = np.ceil(places[:, :2].max(axis=0) - _WHOLE).astype(int)
    count = len(depth) if kind == "gantry_tilt" else int(np.floor(places[-1, 2] + _WHOLE)) + 1
    straight = np.eye(4)
    straight[:3, 0], straight[:3, 1], straight[:3, 2] = row * steps[0], column * steps[1], normal * spacing
    straight[:3, 3] = positions[0] - straight[:3, :2] @ places[0, :2]
    source = flip_lps_ras(affine) if kind == "gantry_tilt" else None
    return Straight(
        (shape[0] + int(grown[0]), shape[1] + int(grown[1]), count),
        straight,
        SliceMap(
            kind=kind,
            shape=shape,
            affine=None if source is None else tuple(tuple(float(value) for value in line) for line in source),
            places=tuple((float(i), float(j), float(k)) for i, j, k in places.round(6)),
        ),
    )


def resample(slices: np.ndarray, grid: Straight, fill: float) -> np.ndarray:
    """Resample slices to the regular grid: (slices, rows, columns) to the same axes of the grid, the dtype kept.

    Parameters
    ----------
    slices : ndarray
        Real values, in order along +normal.
    fill : float
        What voxels hold that no slice covers.
    """
    columns, rows, count = grid.shape
    out = np.empty((count, rows, columns), dtype=slices.dtype)
    places = np.asarray(grid.slices.places)
    if grid.slices.kind == "gantry_tilt":
        for target, values, (i, j, _) in zip(out, slices, places, strict=True):
            _keep(target, _shifted(values, float(i), float(j), (rows, columns), fill))
        return out
    after = np.clip(np.searchsorted(places[:, 2], np.arange(count)), 1, len(slices) - 1)
    for index, (target, upper) in enumerate(zip(out, after, strict=True)):
        low, high = places[upper - 1, 2], places[upper, 2]
        part = np.float32(np.clip((index - low) / (high - low), 0.0, 1.0))
        _keep(target, (1 - part) * slices[upper - 1].astype(np.float32) + part * slices[upper].astype(np.float32))
    return out


def _shifted(values: np.ndarray, i: float, j: float, shape: tuple[int, int], fill: float) -> np.ndarray:
    """Return one slice (rows, columns) moved by ``i`` columns and ``j`` rows into a larger one."""
    whole_i, whole_j = int(np.floor(i + _WHOLE)), int(np.floor(j + _WHOLE))
    moved = np.full(shape, fill, dtype=np.float32)
    moved[whole_j : whole_j + values.shape[0], whole_i : whole_i + values.shape[1]] = values
    for axis, part in ((1, i - whole_i), (0, j - whole_j)):
        if part > _WHOLE:
            before = np.roll(moved, 1, axis=axis)  # what comes round the end is fill: the grid is a voxel larger
            moved = (1 - np.float32(part)) * moved + np.float32(part) * before
    return moved


def _keep(target: np.ndarray, values: np.ndarray) -> None:
    """Write values into ``target``, rounded where it holds integers."""
    target[...] = np.rint(values) if target.dtype.kind in "iu" else values
