"""Rules of the plan about grids: spacing, patch, input size, batch."""

from __future__ import annotations

import numpy as np

from medml.records.plan import Fingerprint

Shape = tuple[int, int, int]
Spacing = tuple[float, float, float]

ANISOTROPIC = 3.0
CROP_BELOW = 0.75
SMALLEST_SIDE = 16
PATCH_VOXELS = {"cpu": 200_000, "cuda": 128**3}
BATCH_VOXELS = {"cpu": 200_000, "cuda": 4 * 128**3}
LONGEST_SIDE = {("cpu", 2): 160, ("cuda", 2): 256, ("cpu", 3): 64, ("cuda", 3): 128}


def median_shape(fingerprint: Fingerprint) -> Shape:
    """Return the median of the shapes, axis by axis."""
    i, j, k = (int(n) for n in np.median(np.array(fingerprint.shapes), axis=0))
    return i, j, k


def crop(fingerprint: Fingerprint) -> tuple[bool, str]:
    """Say whether images are cropped to their foreground, and why."""
    if median_shape(fingerprint)[2] == 1:
        return False, "pictures are used whole"
    if not fingerprint.boxes:
        return False, "no foreground was measured"
    if fingerprint.task == "classify" and not fingerprint.spacings:
        return False, "images without spacing are resized whole: a crop would change the scale from case to case"
    held = np.prod(np.array(fingerprint.boxes, dtype=float), axis=1) / np.prod(np.array(fingerprint.shapes), axis=1)
    share = float(np.median(held))
    what = f"the box around what is brighter than air holds {share:.0%} of a median image"
    return share < CROP_BELOW, f"{what}, {'less' if share < CROP_BELOW else 'more'} than {CROP_BELOW:.0%}"


def thick_slices(fingerprint: Fingerprint) -> bool:
    """Say whether slices are over three times as far apart as pixels are wide, in the median training case."""
    if not fingerprint.spacings or median_shape(fingerprint)[2] == 1:
        return False
    spacing = np.sort(np.median(np.array(fingerprint.spacings), axis=0))
    return bool(spacing[2] > ANISOTROPIC * spacing[1])


def segmenter_spacing(fingerprint: Fingerprint) -> tuple[Spacing | None, str]:
    """Return the target spacing and why.

    The median; but where slices are over three times as thick as pixels are wide, the tenth percentile across them,
    so that the thinner scans lose less (nnU-Net, Isensee et al., Nature Methods 18:203, 2021).
    """
    if not fingerprint.spacings:
        return None, "the images have no spacing: voxels are taken as they are"
    spacings = np.array(fingerprint.spacings)
    target = np.median(spacings, axis=0)
    coarsest = int(target.argmax())
    others = np.delete(target, coarsest)
    reason = "the median spacing of the training cases"
    if target[coarsest] > ANISOTROPIC * others.max() and fingerprint.shapes[0][2] > 1:
        target[coarsest] = max(float(np.percentile(spacings[:, coarsest], 10)), float(others.max()))
        reason += ", with the tenth percentile along the thick slices"
    return _spacing(target), reason


def patch(fingerprint: Fingerprint, spacing: Spacing | None, *, device: str, multiple: int = 1) -> tuple[Shape, str]:
    """Return the patch: the median case on the target grid, shrunk to what the device can train, and why.

    Parameters
    ----------
    multiple : int
        What the sides must be multiples of, where the network is known already; a single slice stays one.
    """
    shape = np.maximum(1, np.round(_median_on_grid(fingerprint, spacing)))
    limit = PATCH_VOXELS[_kind(device)]
    whole = shape.prod() <= limit * 1.2
    while shape.prod() > limit:
        axis = int((shape * np.array(spacing or (1, 1, 1))).argmax())  # the longest side in space
        shape[axis] = np.ceil(shape[axis] * 0.9)
    single = shape[2] == 1
    size = [_divisible(int(length), multiple) for length in shape]
    reason = "holds a median case whole" if whole else f"the largest that a {_kind(device)} step can take"
    reason += "; its sides can be halved as often as the network does"
    return (size[0], size[1], 1 if single else size[2]), reason


def smaller_patch(size: Shape, spacing: Spacing | None, *, multiple: int = 1) -> Shape | None:
    """Return the patch with its longest side in space a step shorter; None when no side can be shortened."""
    for axis in np.argsort(-np.array(size) * np.array(spacing or (1, 1, 1)), kind="stable"):
        shorter, length = list(size), size[axis]
        while shorter[axis] == size[axis] and length > SMALLEST_SIDE:
            length -= 1
            shorter[axis] = min(size[axis], _divisible(length, multiple))
        if shorter[axis] < size[axis]:
            return shorter[0], shorter[1], shorter[2]
    return None


def patch_batch(size: Shape, cases: int, *, device: str) -> tuple[int, str]:
    """Return how many patches make a batch and why."""
    fits = BATCH_VOXELS[_kind(device)] // int(np.prod(size))
    return int(np.clip(fits, 2, max(2, min(32, cases)))), f"about {BATCH_VOXELS[_kind(device)]} voxels per step"


def classifier_spacing(fingerprint: Fingerprint, *, dims: int, device: str) -> tuple[Spacing | None, str]:
    """Return the target spacing of a classifier and why.

    A whole scan has to fit: no side is longer than `LONGEST_SIDE`. Thick slices stay as they are, and the plane gets
    what they leave of as many voxels.
    """
    if dims == 2:
        return None, "pictures are resized whole"
    if not fingerprint.spacings:
        return None, "the images have no spacing: they are resized whole"
    target = np.median(np.array(fingerprint.spacings), axis=0)
    extents = np.percentile(np.array(fingerprint.shapes) * np.array(fingerprint.spacings), 90, axis=0)
    finest = extents / LONGEST_SIDE[_kind(device), dims]
    if thick_slices(fingerprint):
        finest = _finest_plane(extents, target, LONGEST_SIDE[_kind(device), dims])
    coarsened = bool((finest > target * 1.001).any())
    spacing = _spacing(np.maximum(target, finest))
    reason = "the finest at which a whole scan fits a step" if coarsened else "the median spacing of the training cases"
    return spacing, reason + ("; thick slices stay as they are" if thick_slices(fingerprint) else "")


def classifier_size(fingerprint: Fingerprint, spacing: Spacing | None, *, dims: int, device: str) -> tuple[Shape, str]:
    """Return the fixed input shape and why."""
    longest = LONGEST_SIDE[_kind(device), dims]
    if dims == 3 and thick_slices(fingerprint):
        longest = LONGEST_SIDE[_kind(device), 2]
    if spacing is not None:
        extents = np.array(fingerprint.shapes) * np.array(fingerprint.spacings)
        shape = np.percentile(extents, 90, axis=0) / np.array(spacing)
        reason = "holds nine of ten training cases whole, padded or cropped around the centre"
    else:
        shape = np.array(median_shape(fingerprint), dtype=float)
        shape = shape * min(1.0, longest / shape.max())
        reason = "the median shape, resized" if len(set(fingerprint.shapes)) > 1 else "the shape all images have"
    size = [min(int(np.ceil(round(length, 3))), longest) for length in shape]
    if len(set(fingerprint.shapes)) > 1 or spacing is not None:
        size = [-(-length // 8) * 8 if length > 16 else length for length in size]
    return (max(1, size[0]), max(1, size[1]), 1 if dims == 2 else max(1, size[2])), reason


def image_batch(cases: int) -> tuple[int, str]:
    """Return how many images make a batch and why."""
    batch = 8
    while batch < 64 and batch * 16 <= cases and (batch < 32 or cases >= 5000):
        batch *= 2
    return min(batch, max(2, cases)), f"{cases} training cases: enough steps per pass, steady batch statistics"


def _median_on_grid(fingerprint: Fingerprint, spacing: Spacing | None) -> np.ndarray:
    shapes = np.array(fingerprint.shapes, dtype=float)
    if spacing is not None and fingerprint.spacings:
        shapes = shapes * np.array(fingerprint.spacings) / np.array(spacing)
    median: np.ndarray = np.median(shapes, axis=0)
    return median


def _finest_plane(extents: np.ndarray, target: np.ndarray, longest: int) -> np.ndarray:
    """Return the finest spacing at which a thick stack has at most ``longest`` cubed voxels; its slices are kept."""
    across = int(target.argmax())
    slices = extents[across] / target[across]
    finest = np.full(3, float(np.sqrt(np.delete(extents, across).prod() * slices / longest**3)))
    finest[across] = target[across] * max(1.0, slices / longest)
    return finest


def _divisible(length: int, multiple: int = 1) -> int:
    """Round up so that halving ends at four to seven voxels; thin axes stay as they are unless a network asks."""
    step = 1
    while length / step > 7:
        step *= 2
    step = max(min(step, 32), multiple)
    return -(-length // step) * step


def _spacing(values: np.ndarray) -> Spacing:
    i, j, k = (round(float(v), 4) for v in values)
    return i, j, k


def _kind(device: str) -> str:
    return device.partition(":")[0]
