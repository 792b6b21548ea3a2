"""Affines, spacing and orientation. Pure NumPy; space is RAS in mm, DICOM's LPS is flipped here and nowhere else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from medml.errors import GeometryError
from medml.records.scan import SliceMap, SourceGrid

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def spacing_of(affine: np.ndarray) -> tuple[float, float, float]:
    """Return the voxel size along I, J and K in mm: the column norms of ``affine`` (4, 4)."""
    i, j, k = np.linalg.norm(np.asarray(affine, dtype=float)[:3, :3], axis=0)
    return float(i), float(j), float(k)


def plane_of(normal: Sequence[float] | np.ndarray) -> Literal["sagittal", "coronal", "axial"]:
    """Return the patient's plane whose normal is closest to ``normal`` (x, y, z), of either sign."""
    planes: tuple[Literal["sagittal", "coronal", "axial"], ...] = ("sagittal", "coronal", "axial")
    return planes[int(np.argmax(np.abs(np.asarray(normal))))]


def flip_lps_ras(affine: np.ndarray) -> np.ndarray:
    """Turn an affine (4, 4) to LPS into one to RAS, or back; the flip is its own inverse."""
    return np.asarray(LPS_TO_RAS @ np.asarray(affine, dtype=float))


def world_points(affine: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Map voxel indices (N, 3) to RAS positions (N, 3) in mm."""
    affine = np.asarray(affine, dtype=float)
    return np.asarray(np.asarray(indices, dtype=float) @ affine[:3, :3].T + affine[:3, 3])


def canonical_grid(shape: tuple[int, int, int], affine: np.ndarray) -> SourceGrid:
    """Describe how an image on its source grid is permuted and flipped to the orientation closest to RAS+.

    Parameters
    ----------
    shape : tuple of int
        Source shape, three axes.
    affine : ndarray of shape (4, 4)
        Source voxel index to RAS mm.

    Raises
    ------
    GeometryError
        If the affine is not finite or not invertible.
    """
    affine = np.asarray(affine, dtype=float)
    if affine.shape != (4, 4) or not np.isfinite(affine).all():
        raise GeometryError("bad_affine", "the affine is not a finite 4x4 matrix; the header is damaged")
    directions = affine[:3, :3]
    norms = np.linalg.norm(directions, axis=0)
    if (norms < 1e-6).any() or abs(np.linalg.det(directions / np.where(norms < 1e-6, 1.0, norms))) < 1e-3:
        raise GeometryError(
            "bad_affine", f"the affine is singular (axis lengths {norms.round(6).tolist()} mm); the header is damaged"
        )
    axes = _closest_axes(directions / norms)
    flips = tuple(bool(directions[world, axes[world]] < 0) for world in range(3))
    return SourceGrid(
        shape=shape,
        affine=tuple(tuple(float(v) for v in row) for row in affine),
        axes=axes,
        flips=(flips[0], flips[1], flips[2]),
    )


def to_canonical(voxels: np.ndarray, grid: SourceGrid) -> np.ndarray:
    """Permute and flip the last three axes of ``voxels`` from the source grid to the canonical one (a view)."""
    lead = voxels.ndim - 3
    order = [*range(lead), *(lead + axis for axis in grid.axes)]
    return np.flip(voxels.transpose(order), axis=_reversed(lead, grid))


def to_source(voxels: np.ndarray, grid: SourceGrid) -> np.ndarray:
    """Undo `to_canonical`: the last three axes of ``voxels`` return to the source grid.

    A view; of a repaired source a copy on its own slices, by nearest neighbour: fit for labels.
    """
    lead = voxels.ndim - 3
    flipped = np.flip(voxels, axis=_reversed(lead, grid))
    inverse = [lead + int(axis) for axis in np.argsort(grid.axes)]
    regular = np.asarray(flipped.transpose([*range(lead), *inverse]))
    return regular if grid.repair is None else _to_slices(regular, grid.repair)


def from_source(labels: np.ndarray, grid: SourceGrid) -> np.ndarray:
    """Bring labels on the source's own slices to the canonical grid: `to_canonical`, after the source's repair if any.

    Nearest neighbour; 0 where the source has no voxel.
    """
    return to_canonical(labels if grid.repair is None else _to_regular(labels, grid, grid.repair), grid)


def source_shape(grid: SourceGrid) -> tuple[int, int, int]:
    """Return the shape of what `to_source` gives."""
    return grid.shape if grid.repair is None else grid.repair.shape


def source_affine(grid: SourceGrid) -> np.ndarray | None:
    """Return the affine (4, 4) of what `to_source` gives; None if its slices stand at varying distances."""
    matrix = grid.affine if grid.repair is None else grid.repair.affine
    return None if matrix is None else np.asarray(matrix, dtype=float)


def canonical_affine(grid: SourceGrid) -> np.ndarray:
    """Return the affine (4, 4), canonical voxel index to RAS mm, of the image that `to_canonical` makes."""
    return np.asarray(np.asarray(grid.affine) @ _index_map(grid))


def canonical_shape(grid: SourceGrid) -> tuple[int, int, int]:
    """Return the shape of the image that `to_canonical` makes."""
    i, j, k = (grid.shape[axis] for axis in grid.axes)
    return i, j, k


def same_grid(
    shape: tuple[int, ...], affine: np.ndarray, other_shape: tuple[int, ...], other_affine: np.ndarray
) -> bool:
    """Say whether two grids put every corner voxel at the same place, to a tenth of a voxel."""
    if tuple(shape) != tuple(other_shape):
        return False
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in shape[:3]])).reshape(3, -1).T
    apart = np.abs(world_points(affine, corners) - world_points(other_affine, corners)).max()
    return bool(apart <= 0.1 * min(spacing_of(affine)))


def _reversed(lead: int, grid: SourceGrid) -> tuple[int, ...]:
    """Return the canonical axes that run against their source axis, after ``lead`` leading ones."""
    return tuple(lead + n for n, flip in enumerate(grid.flips) if flip)


def _nearest(repair: SliceMap) -> np.ndarray:
    """Return the whole indices (slices, 3) of the regular grid that are nearest to the first voxel of each slice."""
    return np.floor(np.asarray(repair.places) + 0.5).astype(int)


def _to_slices(regular: np.ndarray, repair: SliceMap) -> np.ndarray:
    columns, rows, _ = repair.shape
    slices = [regular[..., i : i + columns, j : j + rows, k] for i, j, k in _nearest(repair).tolist()]
    return np.stack(slices, axis=-1)


def _to_regular(labels: np.ndarray, grid: SourceGrid, repair: SliceMap) -> np.ndarray:
    if labels.shape[-3:] != repair.shape:
        raise GeometryError("shape_mismatch", f"labels have the shape {labels.shape[-3:]}, expected {repair.shape}")
    columns, rows, _ = repair.shape
    regular = np.zeros((*labels.shape[:-3], *grid.shape), dtype=labels.dtype)
    first = _nearest(repair)
    depths = np.asarray(repair.places)[:, 2]
    for k in range(grid.shape[2]):
        nearest = int(np.argmin(np.abs(depths - k)))
        i, j, _ = first[nearest].tolist()
        regular[..., i : i + columns, j : j + rows, k] = labels[..., nearest]
    return regular


def _closest_axes(directions: np.ndarray) -> tuple[int, int, int]:
    """Return, for R, A and S in turn, the source axis that runs along it; the assignment with the largest sum."""
    best = max(
        ((a, b, c) for a in range(3) for b in range(3) for c in range(3) if len({a, b, c}) == 3),
        key=lambda axes: sum(abs(directions[world, axis]) for world, axis in enumerate(axes)),
    )
    return best


def _index_map(grid: SourceGrid) -> np.ndarray:
    """Return the matrix (4, 4) from canonical voxel index to source voxel index."""
    matrix = np.zeros((4, 4))
    matrix[3, 3] = 1.0
    for canonical, (source, flip) in enumerate(zip(grid.axes, grid.flips, strict=True)):
        matrix[source, canonical] = -1.0 if flip else 1.0
        matrix[source, 3] = grid.shape[source] - 1 if flip else 0.0
    return matrix
