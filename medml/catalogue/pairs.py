"""One image file and its label mask to a `Reading`: same grid, known labels, named components."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from medml.errors import Refusal
from medml.geometry import same_grid, spacing_of, world_points
from medml.io.limits import MASK_LIMITS
from medml.io.nifti import as_labels, read_checked, read_labels
from medml.io.nifti_header import Conflict
from medml.io.pictures import read_label_picture, read_picture
from medml.io.text_headers import SUFFIXES as TEXT_HEADER_SUFFIXES
from medml.io.text_headers import read_text_header_volume
from medml.records.candidate import Reading
from medml.records.scan import Finding, Volume

NIFTI_SUFFIXES = (".nii", ".nii.gz")
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg")
VOLUME_SUFFIXES = NIFTI_SUFFIXES + TEXT_HEADER_SUFFIXES
IMAGE_SUFFIXES = VOLUME_SUFFIXES + PICTURE_SUFFIXES

ReadImage = Callable[[], Reading]


def read_pair(
    image: Path | ReadImage,
    mask: Path | None = None,
    *,
    labels: Mapping[int, str] | None = None,
    components: int | None = None,
    conflict: Conflict = "refuse",
    findings: tuple[Finding, ...] = (),
) -> Reading:
    """Read an image and, if there is one, its mask.

    Parameters
    ----------
    image : Path or callable
        A NIfTI or picture file, or what reads an image of another kind.
    labels : mapping
        Every value that the mask may hold; None if the source does not say.
    components : int
        How many components the image must have; None if the source does not say.
    conflict : "refuse", "sform" or "qform"
        What counts where the two forms of a NIfTI header disagree.
    findings : tuple of Finding
        What is known already, put before the findings of reading.

    Raises
    ------
    Refusal
        As the readers, and ``channel_count``, ``grid_mismatch`` or ``unknown_label``.
    """
    reading = _read_image(image, conflict) if isinstance(image, Path) else image()
    found = reading.volume.voxels.shape[0]
    if components is not None and found != components:
        raise Refusal(
            "channel_count", f"the image has {found} components, its source names {components} channels; correct either"
        )
    reading = replace(reading, findings=findings + reading.findings)
    if mask is None:
        return reading
    return replace(reading, mask=fit_mask(_read_mask(mask, conflict), reading.volume, labels))


def fit_mask(mask: Volume, image: Volume, labels: Mapping[int, str] | None) -> np.ndarray:
    """Return the labels (I, J, K) of ``mask`` once they are proved to lie on the image's grid and to be declared.

    An undeclared mask of 0 and 255 is a mask of 0 and 1.
    """
    shape, wanted = mask.voxels.shape[1:], image.voxels.shape[1:]
    known = image.geometry == "mm" and mask.geometry == "mm"
    if shape != wanted or (known and not same_grid(wanted, image.affine, shape, mask.affine)):
        apart = grid_difference(mask, image)
        raise Refusal("grid_mismatch", f"the label map lies on another grid than the image: {apart}")
    voxels: np.ndarray = mask.voxels[0]
    present = np.flatnonzero(np.bincount(voxels.ravel(), minlength=256))
    if labels is None:
        return (voxels > 0).astype(np.uint8) if present.tolist() in ([0, 255], [255]) else voxels
    unknown = [int(value) for value in present if int(value) not in labels and value != 0]
    if unknown:
        raise Refusal(
            "unknown_label",
            f"the label map holds the values {unknown[:8]}, the source declares {sorted(labels)}; "
            "declare them or correct the label map",
        )
    return voxels


def labels_of(mask: np.ndarray, declared: Mapping[int, str] | None) -> dict[int, str]:
    """Return the names of a mask's values: those declared, else a name by number for each value present."""
    if declared is not None:
        return {0: "background", **declared}
    values = np.flatnonzero(np.bincount(mask.ravel(), minlength=2))
    return {0: "background", **{int(value): f"label_{value}" for value in values if value}}


def is_image(relative: str) -> bool:
    """Say whether a name is that of a volume or a picture."""
    return relative.lower().endswith(IMAGE_SUFFIXES)


def is_picture(relative: str) -> bool:
    """Say whether a name is that of a picture."""
    return relative.lower().endswith(PICTURE_SUFFIXES)


def _read_image(path: Path, conflict: Conflict) -> Reading:
    if is_picture(path.name):
        volume, grid = read_picture(path)
        return Reading(volume, grid)
    if path.name.lower().endswith(TEXT_HEADER_SUFFIXES):
        return read_text_header_volume(path)
    return read_checked(path, conflict=conflict)


def _read_mask(path: Path, conflict: Conflict) -> Volume:
    if path.name.lower().endswith(TEXT_HEADER_SUFFIXES):
        return as_labels(read_text_header_volume(path, limits=MASK_LIMITS))[0]
    if not is_picture(path.name):
        return read_labels(path, conflict=conflict)[0]
    volume, _ = read_label_picture(path)
    if volume.voxels.max() > 255:
        raise Refusal("bad_labels", f"label values run up to {volume.voxels.max()}, expected 0 to 255")
    return replace(volume, voxels=volume.voxels.astype(np.uint8))


def grid_difference(mask: Volume, image: Volume) -> str:
    """Say in words how the grid of a mask differs from its image's."""
    shape, wanted = mask.voxels.shape[1:], image.voxels.shape[1:]
    if shape != wanted:
        return f"label map {_by(shape)} voxels, image {_by(wanted)} voxels; draw it again on this image, or resample it"
    corners = np.array([[0, 0, 0], [n - 1 for n in shape]], dtype=float)
    apart = np.linalg.norm(world_points(mask.affine, corners) - world_points(image.affine, corners), axis=1).max()
    return (
        f"label map {_by(shape)} voxels of {_mm(mask)} mm, image {_by(wanted)} voxels of {_mm(image)} mm, "
        f"corners up to {apart:.2f} mm apart, expected at most a tenth of a voxel; check both headers"
    )


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(str(n) for n in shape)


def _mm(volume: Volume) -> str:
    return "x".join(f"{value:.3g}" for value in spacing_of(volume.affine))


def reader(
    image: Path | ReadImage,
    mask: Path | None = None,
    *,
    labels: Mapping[int, str] | None = None,
    components: int | None = None,
    conflict: Conflict = "refuse",
    findings: tuple[Finding, ...] = (),
) -> ReadImage:
    """Return a callable that reads the pair when asked, see `read_pair`."""
    return partial(read_pair, image, mask, labels=labels, components=components, conflict=conflict, findings=findings)
