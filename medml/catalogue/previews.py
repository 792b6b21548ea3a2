"""Small pictures of a scan for the quality page: three planes, or a flat image as it is, with outlined masks.

Planes are shown in radiological convention: the patient's left on the right side, anterior up (axial) or left
(sagittal), superior up.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from medml.geometry import spacing_of
from medml.io.pictures import jpeg_bytes
from medml.records.scan import Volume

BOX = 160
MOST_SAMPLED = 1 << 18
# Okabe and Ito 2008 in the order that stands out on black.
COLOURS = np.array(
    [(86, 180, 233), (230, 159, 0), (0, 158, 115), (204, 121, 167), (240, 228, 66), (213, 94, 0), (0, 114, 178)],
    dtype=np.float32,
)
# The axis cut, then the picture's axes: down and right; all run backwards.
_PLANES = ((2, 1, 0), (1, 2, 0), (0, 2, 1))


def preview_jpeg(volume: Volume, masks: Iterable[np.ndarray] = (), *, modality: str = "") -> bytes:
    """Return a JPEG of a scan, 160 pixels high: planes side by side on one scale.

    Parameters
    ----------
    volume : Volume
        Canonical, (C, I, J, K). The first component is shown; three of one slice are shown as colour.
    masks : iterable of ndarray of shape (I, J, K)
        Label values, 0 is background; the planes are cut through their largest areas.
    modality : str
        "CT" leaves air out of the range of grey values.
    """
    voxels = volume.voxels
    shape = voxels.shape[1:]
    kept = list(masks)
    spacing = spacing_of(volume.affine) if volume.geometry == "mm" else (1.0, 1.0, 1.0)
    low, high = grey_range(voxels, modality)
    if shape[2] == 1:
        colour = voxels[:3] if voxels.shape[0] == 3 else voxels[:1]
        return jpeg_bytes(_drawn(colour[..., 0].swapaxes(1, 2), [mask[..., 0].T for mask in kept], (1, 1), low, high))
    places = _places(kept, shape)
    largest = max(n * side for n, side in zip(shape, spacing, strict=True))
    cuts = []
    for cut, down, right in _PLANES:
        size = (shape[down] * spacing[down] / largest, shape[right] * spacing[right] / largest)
        plane = _cut(voxels[0], cut, places[cut])
        labels = [_cut(mask, cut, places[cut]) for mask in kept]
        cuts.append(_drawn(plane[np.newaxis], labels, size, low, high))
    if any(cut.ndim == 3 for cut in cuts):
        cuts = [cut if cut.ndim == 3 else np.repeat(cut[..., np.newaxis], 3, axis=2) for cut in cuts]
    return jpeg_bytes(np.concatenate(cuts, axis=1))


def grey_range(voxels: np.ndarray, modality: str = "") -> tuple[float, float]:
    """Return the values shown as black and white: the 1st and 99.5th percentile of what is not background.

    Background is what equals the smallest value; in CT, whatever is below -500 HU as long as something is left.
    """
    step = max(1, int(np.ceil((voxels[0].size / MOST_SAMPLED) ** (1 / 3))))
    values = voxels[..., ::step, ::step, ::step] if voxels.shape[3] > 1 else voxels[:, ::step, ::step]
    values = np.sort(values, axis=None)
    values = values[np.isfinite(values)]
    if not len(values):
        return 0.0, 1.0
    floor = -500.0 if modality == "CT" else float(values[0])
    inside = values[np.searchsorted(values, floor, side="right") :]
    inside = inside if len(inside) else values
    low, high = (float(inside[int((len(inside) - 1) * share)]) for share in (0.01, 0.995))
    return (low, high) if high > low else (float(values[0]), float(max(values[-1], values[0] + 1)))


def _places(masks: list[np.ndarray], shape: tuple[int, ...]) -> list[int]:
    """Return where each axis is cut: through the largest area of the masks, else the middle."""
    places = [n // 2 for n in shape]
    step = [max(1, n // 128) for n in shape]
    labelled = [mask[:: step[0], :: step[1], :: step[2]] > 0 for mask in masks]
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        areas = [np.count_nonzero(mask, axis=others) for mask in labelled if mask.any()]
        if areas:
            places[axis] = min(shape[axis] - 1, int(np.argmax(np.sum(areas, axis=0))) * step[axis])
    return places


def _cut(volume: np.ndarray, axis: int, place: int) -> np.ndarray:
    """Return one plane (down, right) as it is shown."""
    plane = volume[tuple(place if n == axis else slice(None) for n in range(3))]  # np.take would copy the volume
    return plane.T[::-1, ::-1]


def _drawn(
    plane: np.ndarray, labels: list[np.ndarray], size: tuple[float, float], low: float, high: float
) -> np.ndarray:
    """Return components (C, down, right) in grey or colour in a square box, with labels outlined.

    ``size`` is the part of the box that height and width take, before the longer one of a flat image fills it.
    """
    if size == (1, 1):
        longest = max(plane.shape[1:])
        size = plane.shape[1] / longest, plane.shape[2] / longest
    height, width = (max(1, round(BOX * share)) for share in size)
    rows, columns = _picked(plane.shape[1], 2 * height), _picked(plane.shape[2], 2 * width)
    fine = plane[:, rows[:, None], columns].astype(np.float32)
    grey = fine.reshape(len(plane), height, 2, width, 2).mean(axis=(2, 4))
    shown = np.clip((np.nan_to_num(grey) - low) * (255 / (high - low)), 0, 255)
    shown = shown[0] if len(shown) == 1 else np.moveaxis(shown, 0, 2)
    for label in labels:
        shown = _outlined(shown, label[rows[::2, None], columns[::2]])
    box = np.zeros((BOX, BOX, *shown.shape[2:]), dtype=np.uint8)
    top, left = (BOX - height) // 2, (BOX - width) // 2
    box[top : top + height, left : left + width] = shown
    return box


def _picked(count: int, wanted: int) -> np.ndarray:
    return ((np.arange(wanted) + 0.5) * count / wanted).astype(np.int64)


def _outlined(picture: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Tint labels lightly and draw their rims, each in its colour."""
    if not labels.any():
        return picture
    picture = picture if picture.ndim == 3 else np.repeat(picture[..., np.newaxis], 3, axis=2)
    padded = np.pad(labels, 1)
    rim = np.zeros(labels.shape, dtype=bool)
    for rows, columns in ((0, 1), (2, 1), (1, 0), (1, 2)):
        rim |= padded[rows : rows + labels.shape[0], columns : columns + labels.shape[1]] != labels
    colours = COLOURS[(labels.astype(np.int64) - 1) % len(COLOURS)]
    inside = labels > 0
    opacity = np.where(rim, 0.9, 0.2)[..., np.newaxis] * inside[..., np.newaxis]
    return np.asarray((1 - opacity) * picture + opacity * colours)
