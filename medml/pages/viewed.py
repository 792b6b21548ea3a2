"""A case made small enough to travel inside the viewer: a copy for looking, not for measuring."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod

import numpy as np

from medml.geometry import spacing_of
from medml.pages.overlays import OUTCOME_COLOURS, label_colour, middle_of, outcomes_of, window
from medml.pages.viewer import MAX_CASE_BYTES, Layer, ViewerCase
from medml.records.scan import Volume

MARGIN = 0.3  # of the masks' extent, kept around them where a scan is cut
LEAST_MARGIN = 12  # voxels
Legend = dict[int, tuple[str, str]]
Triple = tuple[int, int, int]
Pack = Callable[[Volume], bytes]


def viewer_case(
    volume: Volume,
    mask: np.ndarray | None,
    reference: np.ndarray | None,
    *,
    name: str,
    caption: str,
    labels: Mapping[int, str],
    pack: Pack,
    modality: str = "",
    most: int | None = None,
) -> ViewerCase:
    """Return one case for the viewer: brightness in 256 steps, masks and where they differ.

    A scan of more than ``most`` voxels is cut to the surroundings of its masks, and thinned along its finest axis by
    twos until it fits; the caption says so. The headers are built new; the affine is voxel size alone.

    Parameters
    ----------
    mask, reference : ndarray of shape (I, J, K)
        Label values on the volume's grid.
    pack : callable
        Makes a ``.nii.gz`` of a volume: `io.nifti_write.nifti_bytes`.
    modality : str
        "CT" windows to the body.
    most : int or None
        Voxels that are shown; None: ``MAX_CASE_BYTES``.
    """
    grey = _grey(volume.voxels)
    flat = grey.shape[2] == 1
    spacing = spacing_of(volume.affine) if volume.geometry == "mm" else (1.0, 1.0, 1.0)
    box, steps = shown_part(mask, reference, (grey.shape[0], grey.shape[1], grey.shape[2]), spacing, most)
    cut = tuple(slice(low, high, step) for (low, high), step in zip(box, steps, strict=True))
    low, high = window(grey[np.newaxis], modality=modality)
    image = np.rint(np.clip(np.nan_to_num((grey[cut].astype(np.float32) - low) / (high - low)), 0, 1) * 255)
    affine = np.diag([*(size * step for size, step in zip(spacing, steps, strict=True)), 1.0])
    if flat:
        affine[1, 1] *= -1  # rows of a picture run down
    shown = [None if part is None else part[cut] for part in (mask, reference)]
    place = middle_of(shown[1], shown[0], (image.shape[0], image.shape[1], image.shape[2]))
    return ViewerCase(
        name=name,
        caption=f"{caption}{_remark(box, steps, grey.shape)}",
        image=pack(_bytes_of(image, affine, volume)),
        layers=[
            Layer(title, pack(_bytes_of(values, affine, volume)), legend)
            for title, values, legend in _layers(shown[0], shown[1], labels)
        ],
        flat=flat,
        place=tuple((n + 0.5) / size for n, size in zip(place, image.shape, strict=True)),
        directions=volume.geometry == "mm",
    )


def shown_part(
    mask: np.ndarray | None,
    reference: np.ndarray | None,
    shape: Triple,
    spacing: tuple[float, float, float],
    most: int | None = None,
) -> tuple[tuple[tuple[int, int], ...], Triple]:
    """Return the box (low, high along I, J, K) and the step along each axis that keep a case small."""
    most = MAX_CASE_BYTES if most is None else most
    box = tuple((0, size) for size in shape)
    if prod(shape) > most:
        box = _box(mask, reference, shape)
    steps = [1, 1, 1]
    while prod(_counts(box, steps)) > most:
        counts = _counts(box, steps)
        finest = min((n for n in range(3) if counts[n] > 1), key=lambda n: spacing[n] * steps[n])
        steps[finest] *= 2
    return box, (steps[0], steps[1], steps[2])


def _counts(box: tuple[tuple[int, int], ...], steps: list[int]) -> list[int]:
    return [-(-(high - low) // step) for (low, high), step in zip(box, steps, strict=True)]


def _box(mask: np.ndarray | None, reference: np.ndarray | None, shape: Triple) -> tuple[tuple[int, int], ...]:
    """Return the box around both masks with its margin; the whole grid if they are empty."""
    inside = [part > 0 for part in (mask, reference) if part is not None and (part > 0).any()]
    if not inside:
        return tuple((0, size) for size in shape)
    found = np.logical_or.reduce(inside)
    box = []
    for axis, size in enumerate(shape):
        places = np.flatnonzero(found.any(axis=tuple(n for n in range(3) if n != axis)))
        first, last = int(places[0]), int(places[-1]) + 1
        margin = max(LEAST_MARGIN, round(MARGIN * (last - first)))
        box.append((max(0, first - margin), min(size, last + margin)))
    return tuple(box)


def _grey(voxels: np.ndarray) -> np.ndarray:
    """Return one component (I, J, K): the first, or the mean of a picture's three colours."""
    if voxels.shape[0] == 3 and voxels.shape[3] == 1:
        colours: np.ndarray = voxels.mean(axis=0, dtype=np.float32)
        return colours
    first: np.ndarray = voxels[0]
    return first


def _layers(
    mask: np.ndarray | None, reference: np.ndarray | None, labels: Mapping[int, str]
) -> list[tuple[str, np.ndarray, Legend]]:
    """Return prediction, reference and difference as far as they exist, with the names and colours of their values."""
    layers = [
        (title, part, _legend(part, labels))
        for title, part in (("Prediction", mask), ("Reference", reference))
        if part is not None
    ]
    if mask is not None and reference is not None:
        values, legend = np.zeros(mask.shape, np.uint8), {}
        for value, (title, inside) in enumerate(outcomes_of(mask, reference).items(), start=1):
            values[inside] = value
            legend[value] = (title, OUTCOME_COLOURS[title])
        layers.append(("Difference", values, legend))
    return [(title, _numbered(values, legend), _renumbered(legend)) for title, values, legend in layers]


def _legend(mask: np.ndarray, labels: Mapping[int, str]) -> Legend:
    present = [int(value) for value in np.unique(mask) if value > 0]
    return {value: (labels.get(value, f"label {value}"), label_colour(value)) for value in present}


def _numbered(values: np.ndarray, legend: Legend) -> np.ndarray:
    """Return the mask with its values numbered 1, 2, … in the legend's order, so that any label fits a byte."""
    numbered: np.ndarray = np.searchsorted(np.array([0, *sorted(legend)]), values)
    return numbered


def _renumbered(legend: Legend) -> Legend:
    return {number: legend[value] for number, value in enumerate(sorted(legend), start=1)}


def _remark(box: tuple[tuple[int, int], ...], steps: Triple, shape: tuple[int, ...]) -> str:
    cut = " Cut to the surroundings of the masks." if any(b != (0, n) for b, n in zip(box, shape, strict=True)) else ""
    thin = f" Every {' x '.join(map(str, steps))} voxels, one is shown." if max(steps) > 1 else ""
    return cut + thin


def _bytes_of(values: np.ndarray, affine: np.ndarray, volume: Volume) -> Volume:
    return Volume(values.astype(np.uint8)[np.newaxis], affine, volume.geometry)
