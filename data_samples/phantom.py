"""One phantom patient as a scanner saw it: facts, grid, noise."""

from __future__ import annotations

import enum
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from data_samples.anatomy import Patient, sample_anatomy


class Style(enum.Enum):
    """How a patient's scan is stored."""

    PLAIN = "uncompressed DICOM"
    RLE = "DICOM, RLE lossless"
    JPEG_LS = "DICOM, JPEG-LS lossless"
    JPEG_2000 = "DICOM, JPEG 2000 lossless"
    NIFTI = "NIfTI"


@dataclass(frozen=True, slots=True)
class Scanner:
    """What makes one scanner's pictures differ from another's.

    Attributes
    ----------
    spacing_mm : tuple of float
        Between columns, between rows, between slices.
    kernel_mm : float
        Standard deviation of the reconstruction kernel, in the plane.
    rescale : tuple of float
        DICOM slope and intercept.
    """

    name: str
    maker: str
    site: str
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    kernel_mm: float
    noise_hu: float
    offset_hu: float
    rescale: tuple[float, float]
    signed: bool


SCANNERS = (
    Scanner(
        name="Phantascan 64",
        maker="Fictitious Imaging",
        site="north",
        shape=(48, 40, 16),
        spacing_mm=(5.8, 5.8, 8.75),
        kernel_mm=2.6,
        noise_hu=13.0,
        offset_hu=0.0,
        rescale=(1.0, -1024.0),
        signed=False,
    ),
    Scanner(
        name="Tomodraft 16",
        maker="Invented Devices",
        site="south",
        shape=(48, 42, 16),
        spacing_mm=(5.7, 5.4, 8.5),
        kernel_mm=1.8,
        noise_hu=17.0,
        offset_hu=6.0,
        rescale=(0.5, -200.0),
        signed=True,
    ),
)


@dataclass(frozen=True, slots=True, eq=False)
class Phantom:
    """A scanned phantom patient.

    Attributes
    ----------
    affine_lps : ndarray of shape (4, 4)
        (column, row, slice) to LPS mm; slices run along the cross product of row and column direction.
    hounsfield : ndarray of shape (columns, rows, slices)
        float64, noise included.
    labels : ndarray of shape (columns, rows, slices)
        uint8: 0 background, 1 organ, 2 lesion.
    body : ndarray of shape (columns, rows, slices)
        True inside the skin.
    feet_first, shuffled : bool
        Table direction, and whether instance numbers say nothing about the order of slices.
    """

    subject: str
    seed: int
    number: int
    reconstruction: int
    sex: str
    age: int
    scanner: Scanner
    style: Style
    feet_first: bool
    shuffled: bool
    affine_lps: np.ndarray
    hounsfield: np.ndarray
    labels: np.ndarray
    body: np.ndarray

    @property
    def label(self) -> str:
        return "lesion" if (self.labels == 2).any() else "healthy"


def make_phantom(
    number: int,
    *,
    seed: int = 0,
    reconstruction: int = 1,
    style: Style | None = None,
    shape: tuple[int, int, int] | None = None,
) -> Phantom:
    """Make one patient; every second one has lesions.

    Parameters
    ----------
    number : int
        The patient; with ``seed`` it decides everything.
    reconstruction : int
        Another number reconstructs the same examination with other noise.
    style : Style
        Overrides the drawn one.
    shape : tuple of int
        Columns, rows, slices over the same field of view, in place of the scanner's.
    """
    rng = np.random.default_rng((seed, number))
    scanner = SCANNERS[int(rng.random() < 0.45)]
    age = int(rng.integers(90, 97)) if rng.random() < 0.06 else int(rng.integers(30, 90))
    sex = "F" if rng.random() < 0.5 else "M"
    drawn = rng.choice(
        np.array([Style.PLAIN, Style.RLE, Style.JPEG_LS, Style.JPEG_2000, Style.NIFTI]), p=[0.35, 0.12, 0.12, 0.11, 0.3]
    )
    feet_first, shuffled = bool(rng.random() < 0.3), bool(rng.random() < 0.4)
    affine = _grid(scanner, shape or scanner.shape, feet_first, rng)
    has_lesions = number % 2 == 0
    patient = Patient(
        (seed, number, 1),
        lesions=int(rng.integers(2, 5)) if has_lesions else 0,
        lesion_contrast_hu=float(rng.uniform(80.0, 100.0)),
    )
    points = _positions(affine, shape or scanner.shape)
    anatomy = sample_anatomy(patient, points, edge_mm=float(np.mean(np.linalg.norm(affine[:3, :3], axis=0))))
    noise = np.random.default_rng((seed, number, 2, reconstruction))
    return Phantom(
        subject=f"PHANTOM-{number:04d}",
        seed=seed,
        number=number,
        reconstruction=reconstruction,
        sex=sex,
        age=age,
        scanner=scanner,
        style=style or drawn,
        feet_first=feet_first,
        shuffled=shuffled,
        affine_lps=affine,
        hounsfield=_scan(anatomy.hounsfield, affine, scanner, noise),
        labels=anatomy.labels,
        body=anatomy.body,
    )


def _grid(scanner: Scanner, shape: tuple[int, int, int], feet_first: bool, rng: np.random.Generator) -> np.ndarray:
    """Return the affine of a slightly oblique field of view around the body's centre."""
    turn = _rotation(np.deg2rad(rng.uniform(-4.0, 4.0, size=3)))
    row = turn @ np.array([-1.0 if feet_first else 1.0, 0.0, 0.0])
    column = turn @ np.array([0.0, 1.0, 0.0])
    extent = np.array(scanner.spacing_mm) * scanner.shape
    directions = np.stack([row, column, np.cross(row, column)], axis=1) * (extent / shape)
    affine = np.eye(4)
    affine[:3, :3] = directions.round(6)
    affine[:3, 3] = (-directions @ ((np.array(shape) - 1) / 2.0) + rng.normal(0.0, 3.0, size=3)).round(4)
    return affine


def _rotation(angles: np.ndarray) -> np.ndarray:
    """Return the rotation by small angles in radians about x, y and z in turn."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(angles), np.sin(angles)
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return np.asarray(about_z @ about_y @ about_x)


def _positions(affine: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    i, j, k = np.meshgrid(*[np.arange(n) for n in shape], indexing="ij")
    return np.stack([row[0] * i + row[1] * j + row[2] * k + row[3] for row in affine[:3]])


def _scan(clean: np.ndarray, affine: np.ndarray, scanner: Scanner, noise: np.random.Generator) -> np.ndarray:
    """Smooth with the scanner's kernel, add noise of its texture and its offset, round to whole HU."""
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    sigma = (scanner.kernel_mm / spacing[0], scanner.kernel_mm / spacing[1], 0.0)
    grain = ndimage.gaussian_filter(noise.normal(size=clean.shape), sigma)
    grain *= scanner.noise_hu / grain.std()
    picture = ndimage.gaussian_filter(clean, sigma, mode="nearest") + grain + scanner.offset_hu
    return np.asarray(np.clip(np.rint(picture), -1024, 2047))
