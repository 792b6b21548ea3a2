"""A CT-like upper abdomen from implicit shapes: positions in the patient (LPS, mm) to Hounsfield units and labels.

Every shape is a signed distance in mm (negative inside). Shapes are painted one over the other with an edge about a
voxel wide, so that borders show the partial-volume effect of a real scan.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

ORGAN, LESION = 1, 2
LESION_RADIUS_MM = (14.0, 23.0)

AIR, FAT, MUSCLE, BONE = -1000.0, -100.0, 58.0, 420.0
LIVER, VESSEL, SPLEEN, KIDNEY, PANCREAS, BOWEL, STOMACH, BILE, CYST = (
    108.0,
    150.0,
    118.0,
    165.0,
    82.0,
    48.0,
    25.0,
    10.0,
    6.0,
)

Distance = np.ndarray


@dataclass(frozen=True, slots=True)
class Patient:
    """What one phantom patient looks like; lengths in mm, in a frame centred in the body.

    Attributes
    ----------
    seed : tuple of int
        Feeds every random choice about the anatomy.
    lesions : int
        How many to place; 0 for a healthy organ.
    lesion_contrast_hu : float
        How much darker than a typical organ lesions are.
    """

    seed: tuple[int, ...]
    lesions: int
    lesion_contrast_hu: float


@dataclass(frozen=True, slots=True, eq=False)
class Anatomy:
    """A patient sampled on a grid.

    Attributes
    ----------
    hounsfield : ndarray of shape (I, J, K)
        Noise-free, float64.
    labels : ndarray of shape (I, J, K)
        uint8: 0 background, 1 organ, 2 lesion.
    body : ndarray of shape (I, J, K)
        True inside the skin.
    """

    hounsfield: np.ndarray
    labels: np.ndarray
    body: np.ndarray


def sample_anatomy(patient: Patient, points: np.ndarray, *, edge_mm: float) -> Anatomy:
    """Sample a patient at the given positions.

    Parameters
    ----------
    points : ndarray of shape (3, I, J, K)
        LPS positions in mm, the body's centre at the origin.
    edge_mm : float
        Width of the soft border between two tissues, about one voxel.
    """
    rng = np.random.default_rng(patient.seed)
    canvas = _Canvas(points, edge_mm)
    size = rng.uniform(0.93, 1.05)
    skin, cavity = _paint_trunk(canvas, rng, size)
    _paint_neighbours(canvas, rng, size, cavity)
    liver = np.maximum(_liver(canvas.points, rng, size), cavity - 2.0)
    canvas.paint(liver, LIVER + rng.normal(0.0, 4.0))
    _paint_vessels(canvas, rng, size, liver)
    lesions = _lesions(canvas.points, rng, patient, liver)
    canvas.paint(lesions, LIVER - patient.lesion_contrast_hu)
    labels = np.zeros(liver.shape, dtype=np.uint8)
    labels[liver < 0] = ORGAN
    labels[(lesions < 0) & (liver < 0)] = LESION
    return Anatomy(canvas.hounsfield, labels, skin < 0)


class _Canvas:
    """Voxels being painted: each shape covers what lies beneath it by the share of the voxel it fills."""

    def __init__(self, points: np.ndarray, edge_mm: float) -> None:
        self.points = points
        self.edge_mm = edge_mm
        self.hounsfield = np.full(points.shape[1:], AIR)

    def paint(self, distance: Distance, hounsfield: float | np.ndarray) -> None:
        share = np.clip(0.5 - distance / self.edge_mm, 0.0, 1.0)
        self.hounsfield += share * (hounsfield - self.hounsfield)


def _ellipsoid(points: np.ndarray, centre: tuple[float, float, float], axes: tuple[float, float, float]) -> Distance:
    """Return the approximate signed distance to an ellipsoid; infinite axes make a cylinder."""
    squares = np.zeros(points.shape[1:])
    for along, middle, axis in zip(points, centre, axes, strict=True):
        if np.isfinite(axis):
            squares += ((along - middle) / axis) ** 2
    return (np.sqrt(squares) - 1.0) * min(axes)


def _blend(first: Distance, second: Distance, width: float) -> Distance:
    """Return the union of two shapes with a fillet of about ``width`` mm between them."""
    overlap = np.maximum(width - np.abs(first - second), 0.0)
    return np.minimum(first, second) - overlap**2 / (4.0 * width)


def _capsule(points: np.ndarray, start: np.ndarray, end: np.ndarray, radius: float) -> Distance:
    """Return the signed distance to a straight tube with round ends."""
    axis = end - start
    offset = [along - float(first) for along, first in zip(points, start, strict=True)]
    share = np.clip(sum(o * a for o, a in zip(offset, axis, strict=True)) / float(axis @ axis), 0.0, 1.0)
    squares = sum((o - share * a) ** 2 for o, a in zip(offset, axis, strict=True))
    return np.asarray(np.sqrt(squares) - radius)


def _ripple(points: np.ndarray, rng: np.random.Generator, amplitude: float, length: float) -> Distance:
    """Return a smooth random field in mm that makes borders irregular."""
    field = np.zeros(points.shape[1:])
    for _ in range(4):
        direction = rng.normal(size=3)
        wave = direction / np.linalg.norm(direction) * (2.0 * np.pi / (length * rng.uniform(0.7, 1.4)))
        phase = rng.uniform(0.0, 2.0 * np.pi)
        field += np.sin(wave[0] * points[0] + wave[1] * points[1] + wave[2] * points[2] + phase)
    return field * (amplitude / 2.0)


def _paint_trunk(canvas: _Canvas, rng: np.random.Generator, size: float) -> tuple[Distance, Distance]:
    """Paint fat, muscle wall, ribs and spine; return the distances to the skin and to the cavity inside the wall."""
    infinite = np.inf
    half_width, half_depth = 124.0 * size, 92.0 * size * rng.uniform(0.94, 1.06)
    fat = rng.uniform(7.0, 18.0)
    skin = _ellipsoid(canvas.points, (0.0, 0.0, 0.0), (half_width, half_depth, infinite))
    skin = skin + _ripple(canvas.points, rng, 1.5, 160.0)
    canvas.paint(skin, FAT)
    wall = _ellipsoid(canvas.points, (0.0, 2.0, 0.0), (half_width - fat, half_depth - fat, infinite))
    canvas.paint(wall, MUSCLE)
    cavity = wall + 11.0
    canvas.paint(cavity, FAT + 12.0 * _ripple(canvas.points, rng, 1.0, 40.0))
    _paint_ribs(canvas, rng, wall)
    for side in (-1.0, 1.0):
        canvas.paint(_ellipsoid(canvas.points, (side * 34.0, 62.0, 0.0), (24.0, 17.0, infinite)), MUSCLE)
    _paint_spine(canvas, rng)
    return skin, cavity


def _paint_ribs(canvas: _Canvas, rng: np.random.Generator, wall: Distance) -> None:
    """Paint ribs as oblique bands inside the muscle wall, open in front."""
    x, y, z = canvas.points
    angle = np.abs(np.arctan2(x, y))  # 0 at the spine, pi at the front
    height = z + 38.0 * angle + rng.uniform(0.0, 30.0)
    band = np.abs((height + 15.0) % 30.0 - 15.0) - 5.0
    ribs = np.maximum(np.maximum(band, np.abs(wall + 6.0) - 4.5), (angle - 2.2) * 60.0)
    canvas.paint(ribs, BONE - 100.0)


def _paint_spine(canvas: _Canvas, rng: np.random.Generator) -> None:
    z = canvas.points[2]
    phase = rng.uniform(0.0, 32.0)
    disc = 4.0 - np.abs((z + phase + 16.0) % 32.0 - 16.0)  # positive inside a disc
    vertebra = _ellipsoid(canvas.points, (0.0, 48.0, 0.0), (21.0, 16.0, np.inf))
    canvas.paint(vertebra, BONE - 160.0)
    canvas.paint(np.maximum(vertebra, -disc), 90.0)
    canvas.paint(vertebra + 3.0, np.where(disc > 0, 90.0, 200.0))
    process = _ellipsoid(canvas.points, (0.0, 76.0, 0.0), (6.0, 14.0, np.inf))
    canvas.paint(process, BONE)
    canvas.paint(_ellipsoid(canvas.points, (0.0, 68.0, 0.0), (8.0, 7.0, np.inf)), 30.0)


def _paint_neighbours(canvas: _Canvas, rng: np.random.Generator, size: float, cavity: Distance) -> None:
    """Paint the organs around the liver, many of them as dark as a lesion or as bright as the liver."""

    def at(x: float, y: float, z: float) -> tuple[float, float, float]:
        jitter = rng.normal(0.0, 3.0, size=3)
        return (size * x + jitter[0], size * y + jitter[1], z + 2.0 * jitter[2])

    def paint(distance: Distance, hounsfield: float) -> None:
        canvas.paint(np.maximum(distance, cavity), hounsfield)

    points, infinite = canvas.points, np.inf
    paint(_ellipsoid(points, at(74, 26, 12), (27.0, 38.0, 44.0)), SPLEEN)
    for side, z in ((-1, -42), (1, -34)):
        place = at(50 * side, 42, z)
        kidney = _ellipsoid(points, place, (23.0, 25.0, 46.0))
        paint(kidney, KIDNEY)
        paint(_ellipsoid(points, (place[0] - 12.0 * side, place[1] - 4.0, place[2]), (10.0, 9.0, 22.0)), BOWEL - 30.0)
        if rng.random() < 0.4:
            paint(_ellipsoid(points, (place[0] + 14.0 * side, *place[1:]), (11.0, 11.0, 11.0)), CYST)
    stomach = at(42, -34, 26)
    paint(_ellipsoid(points, stomach, (34.0, 27.0, 34.0)), MUSCLE + 15.0)
    lumen = _ellipsoid(points, stomach, (29.0, 22.0, 29.0))
    paint(lumen, STOMACH)
    paint(np.maximum(lumen, points[1] - stomach[1] + rng.uniform(4.0, 14.0)), AIR + 40.0)
    paint(_ellipsoid(points, at(14, -8, -22), (40.0, 11.0, 12.0)), PANCREAS)
    paint(_ellipsoid(points, at(10, 24, 0), (10.0, 10.0, infinite)), VESSEL + 20.0)
    paint(_ellipsoid(points, at(-18, 22, 0), (12.0, 9.0, infinite)), VESSEL - 10.0)
    for _ in range(10):
        _paint_bowel_loop(canvas, rng, size, cavity)


def _paint_bowel_loop(canvas: _Canvas, rng: np.random.Generator, size: float, cavity: Distance) -> None:
    x, y, z = rng.uniform(-60, 80) * size, rng.uniform(-55, 5) * size, rng.uniform(-90, -28)
    radius = rng.uniform(9.0, 16.0)
    loop = _ellipsoid(canvas.points, (x, y, z), (radius * rng.uniform(1.0, 1.7), radius, radius))
    loop = np.maximum(loop, cavity)
    canvas.paint(loop, MUSCLE + 15.0)
    canvas.paint(loop + 3.0, BOWEL + rng.uniform(-25.0, 15.0))
    if rng.random() < 0.5:
        gas = _ellipsoid(canvas.points, (x, y - 4.0, z), (radius * 0.7, radius * 0.5, radius * 0.7))
        canvas.paint(np.maximum(gas, loop + 3.0), AIR + 100.0)


def _liver(points: np.ndarray, rng: np.random.Generator, size: float) -> Distance:
    """Return the distance to a liver-like organ: right lobe, dome and left lobe, blended, with an irregular border."""
    shift = rng.normal(0.0, [4.0, 4.0, 7.0])
    grow = size * rng.uniform(0.9, 1.08)

    def lobe(x: float, y: float, z: float, a: float, b: float, c: float) -> Distance:
        spread = rng.uniform(0.93, 1.07, size=3)
        centre = (grow * x + shift[0], grow * y + shift[1], grow * z + shift[2])
        return _ellipsoid(points, centre, (grow * a * spread[0], grow * b * spread[1], grow * c * spread[2]))

    right = lobe(-58, 6, 6, 44, 56, 66)
    left = lobe(-8, -38, 22, 52, 26, 36)
    bridge = lobe(-36, -20, 24, 42, 36, 40)
    liver = _blend(_blend(right, bridge, 16.0), left, 14.0)
    return np.asarray(liver + _ripple(points, rng, 2.0, 60.0))


def _paint_vessels(canvas: _Canvas, rng: np.random.Generator, size: float, liver: Distance) -> None:
    """Paint portal branches inside the liver, and the gall bladder in its bed."""
    hilum = np.array([-30.0, -6.0, 8.0]) * size
    tree = np.full(liver.shape, np.inf)
    for target in ([-82, 16, 20], [-70, -30, 2], [-62, 30, -22], [2, -40, 26], [-46, -34, 46]):
        end = np.array(target, dtype=float) * size + rng.normal(0.0, 6.0, size=3)
        middle = (hilum + end) / 2.0 + rng.normal(0.0, 5.0, size=3)
        tree = np.minimum(tree, _capsule(canvas.points, hilum, middle, 5.0))
        tree = np.minimum(tree, _capsule(canvas.points, middle, end, 3.5))
    canvas.paint(np.maximum(tree, liver), VESSEL)
    place = np.array([-44.0, -36.0, -34.0]) * size + rng.normal(0.0, 5.0, size=3)
    bladder = _ellipsoid(canvas.points, (place[0], place[1], place[2]), (13.0, 15.0, 24.0))
    canvas.paint(np.maximum(bladder, -liver - 3.0), BILE)


def _lesions(points: np.ndarray, rng: np.random.Generator, patient: Patient, liver: Distance) -> Distance:
    """Return the distance to the union of the patient's lesions, each well inside the organ; infinite if none."""
    lesions = np.full(liver.shape, np.inf)
    for _ in range(patient.lesions):
        radius = rng.uniform(*LESION_RADIUS_MM)
        room = np.argwhere((liver < -0.7 * radius) & (lesions > radius))
        if not len(room):
            continue
        i, j, k = room[rng.integers(len(room))]
        centre = points[:, i, j, k] + rng.uniform(-1.0, 1.0, size=3)
        axes = radius * rng.uniform(0.85, 1.15, size=3)
        lesion = _ellipsoid(points, (centre[0], centre[1], centre[2]), (axes[0], axes[1], axes[2]))
        lesions = np.minimum(lesions, lesion + _ripple(points, rng, 0.8, 25.0))
    return lesions
