"""A body with eight landmarks at known places of patient space, sampled onto any grid.

Positions are RAS in mm. The body is lopsided and off centre, so that a flip, a transposition or a shift of half a
voxel shows; each landmark is one voxel of its own value, so that an exact copy has it once and at one place.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

CENTRE = np.array([12.0, -31.0, 47.0])
# Landmark number n has the value FIRST + n * STEP; positions are from the centre.
FIRST, STEP = 1100, 150
LANDMARKS = np.array(
    [
        (-13.0, 2.0, -11.0),
        (9.0, -14.0, 6.0),
        (14.0, 7.0, -5.0),
        (-6.0, 13.0, 12.0),
        (3.0, -4.0, 14.0),
        (-10.0, -9.0, 4.0),
        (6.0, 11.0, -13.0),
        (-2.0, -12.0, -8.0),
    ]
)
VALUES = FIRST + STEP * np.arange(len(LANDMARKS))
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Grid:
    """A lattice as DICOM describes it: (column, row, slice) to LPS mm.

    Attributes
    ----------
    row, column : unit vectors of shape (3,)
        Directions of a growing column number and of a growing row number (ImageOrientationPatient).
    spacing : (between columns, between rows) in mm
    step : ndarray of shape (3,)
        From one slice to the next.
    origin : ndarray of shape (3,)
        Centre of voxel (0, 0, 0).
    """

    row: np.ndarray
    column: np.ndarray
    spacing: tuple[float, float]
    step: np.ndarray
    shape: tuple[int, int, int]
    origin: np.ndarray

    @property
    def affine(self) -> np.ndarray:
        """(column, row, slice) to LPS mm."""
        affine = np.eye(4)
        affine[:3, 0], affine[:3, 1], affine[:3, 2] = (
            self.row * self.spacing[0],
            self.column * self.spacing[1],
            self.step,
        )
        affine[:3, 3] = self.origin
        return affine

    def position(self, index: float) -> np.ndarray:
        """Return ImagePositionPatient of a slice."""
        return np.asarray(self.origin + index * self.step)


def make_grid(
    row: tuple[float, ...] = (1, 0, 0),
    column: tuple[float, ...] = (0, 1, 0),
    *,
    spacing: tuple[float, float] = (2.0, 2.5),
    step: float = 4.0,
    shape: tuple[int, int, int] = (24, 20, 12),
    shear: tuple[float, float] = (0.0, 0.0),
) -> Grid:
    """Return a grid around the body's centre.

    Parameters
    ----------
    step : float
        Distance along row x column; negative runs against it.
    shear : (along the row, along the column) in mm a slice
        What a tilted gantry does.
    """
    u = np.asarray(row, dtype=float) / np.linalg.norm(row)
    v = np.asarray(column, dtype=float) / np.linalg.norm(column)
    along = step * np.cross(u, v) + shear[0] * u + shear[1] * v
    middle = (np.array(shape) - 1) / 2
    reach = middle[0] * spacing[0] * u + middle[1] * spacing[1] * v + middle[2] * along
    origin = np.round(CENTRE * [-1, -1, 1] - reach + np.array([0.3, -0.7, 0.1]), 6)
    return Grid(u, v, spacing, along, shape, origin)


AXIAL = make_grid()


@dataclass(frozen=True, eq=False)
class Truth:
    """What one image holds and where.

    Attributes
    ----------
    points : dict
        Landmark's value to its position in RAS mm.
    values : ndarray of shape (I, J, K) or None
        Every voxel, where the image is one regular lattice.
    affine : ndarray of shape (4, 4) or None
        Index of ``values`` to RAS mm.
    mask : ndarray of shape (I, J, K) or None
        The label map that must come with it.
    agreement : float
        Smallest share of the mask's labelled voxels that must agree (Dice); 1 is exact.
    tolerance : float
        Largest difference in value (lossy codecs).
    resampled : bool
        The tool had to resample: landmarks within 0.35 mm and a tenth of a voxel, values not compared.
    flat : bool
        A 2D picture: compared by (column, row), its place in space is unknown.
    component : int
        Which of the image's components.
    columns : dict
        Facts that the scan must carry.
    """

    points: dict[float, tuple[float, float, float]]
    values: np.ndarray | None = None
    affine: np.ndarray | None = None
    mask: np.ndarray | None = None
    agreement: float = 1.0
    tolerance: float = 0.01
    resampled: bool = False
    flat: bool = False
    component: int = 0
    columns: dict[str, Any] = field(default_factory=dict)


def sample(affine: np.ndarray, shape: tuple[int, int, int]) -> tuple[np.ndarray, dict[int, tuple[int, int, int]]]:
    """Sample the body on a grid.

    Parameters
    ----------
    affine : ndarray of shape (4, 4)
        Index to RAS mm.

    Returns
    -------
    values : ndarray of shape ``shape``, int32
        Hounsfield units.
    landmarks : dict
        Value to index.
    """
    index = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1)
    x, y, z = np.moveaxis(index @ affine[:3, :3].T + affine[:3, 3] - CENTRE, -1, 0)
    texture = (7 * index[..., 0] + 13 * index[..., 1] + 29 * index[..., 2]) % 31
    values = -1000 + texture % 5
    body = (x / 19) ** 2 + (y / 21) ** 2 + (z / 18) ** 2 < 1
    organ = ((x + 7) / 7) ** 2 + ((y - 5) / 6) ** 2 + ((z - 3) / 8) ** 2 < 1
    values = np.where(body, 20 + texture, values)
    values = np.where(organ, 280 + texture, values)
    landmarks: dict[int, tuple[int, int, int]] = {}
    inverse = np.linalg.inv(affine)
    for value, place in zip(VALUES, LANDMARKS + CENTRE, strict=True):
        nearest = np.rint(inverse[:3, :3] @ place + inverse[:3, 3]).astype(int)
        if (nearest >= 0).all() and (nearest < shape).all():
            at = (int(nearest[0]), int(nearest[1]), int(nearest[2]))
            values[at] = value
            landmarks[int(value)] = at
    return values.astype(np.int32), landmarks


def organ_mask(affine: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Return a label map (I, J, K) of two lopsided lumps: 1 the organ, 2 a smaller one beside it."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1)
    x, y, z = np.moveaxis(index @ affine[:3, :3].T + affine[:3, 3] - CENTRE, -1, 0)
    mask = np.zeros(shape, dtype=np.uint8)
    mask[((x + 7) / 7) ** 2 + ((y - 5) / 6) ** 2 + ((z - 3) / 8) ** 2 < 1] = 1
    mask[((x - 8) / 5) ** 2 + ((y + 6) / 7) ** 2 + ((z + 2) / 9) ** 2 < 1] = 2
    return mask


def truth_of(affine: np.ndarray, shape: tuple[int, int, int], **more: Any) -> Truth:
    """Return what an exact copy of the body on a grid (index to RAS) holds."""
    values, landmarks = sample(affine, shape)
    points = {float(value): place(affine, at) for value, at in landmarks.items()}
    return Truth(points, values.astype(float), affine, **more)


def place(affine: np.ndarray, index: tuple[float, ...]) -> tuple[float, float, float]:
    """Return the RAS position of a voxel index."""
    x, y, z = affine[:3, :3] @ np.asarray(index, dtype=float) + affine[:3, 3]
    return float(x), float(y), float(z)


def even(values: np.ndarray) -> np.ndarray:
    """Leave the landmarks alone in one grey, so that resampling keeps each one's centre of mass."""
    return np.where(values >= FIRST, values, 40)


def to_byte(values: np.ndarray) -> np.ndarray:
    """Squeeze Hounsfield units into eight bits; landmark number n becomes 130 + 17 n."""
    last = FIRST + STEP * 7
    return np.rint(np.interp(values, [-1000, 0, 330, FIRST, last], [2, 20, 60, 130, 249])).astype(np.uint8)


def with_points(truth: Truth, change: Any, **more: Any) -> Truth:
    """Return a truth whose values, and the landmarks' values with them, went through ``change``."""
    fields = {name: getattr(truth, name) for name in truth.__dataclass_fields__}
    points = {float(change(np.array([value]))[0]): at for value, at in truth.points.items()}
    values = None if truth.values is None else np.asarray(change(truth.values), dtype=float)
    return Truth(**(fields | {"points": points, "values": values} | more))


def only_changed(truth: Truth, **changes: Any) -> Truth:
    """Return a truth with other fields."""
    fields = {name: getattr(truth, name) for name in truth.__dataclass_fields__}
    return Truth(**(fields | changes))
