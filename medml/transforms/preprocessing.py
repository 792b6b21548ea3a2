"""The one preprocessing of training and inference, and the way back to the volume's own grid.

Four steps, in this order, each with an exact MONAI counterpart (the package's ``configs/inference.json`` names them):

1. crop to the foreground (`CropForeground`), if the plan says so: CT above -500 HU, everything else above 0;
2. resample to the plan's spacing (`Spacing`, bilinear): the first voxel stays where it is;
3. normalise each channel (`NormalizeIntensity`, `ScaleIntensityRange`);
4. classifiers: bring to ``plan.size``, by padding and cropping around the centre (`ResizeWithPadOrCrop`) where the
   plan fixes a spacing, so that a millimetre stays a millimetre, and by interpolation (`Resize`) where it does not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from medml.errors import Refusal
from medml.geometry import same_grid, spacing_of
from medml.records.plan import Normalisation, Plan
from medml.records.scan import Volume
from medml.transforms.resampling import resample_affine, resample_linear, resample_nearest

Shape = tuple[int, int, int]
Box = tuple[Shape, Shape]

CT_FOREGROUND_HU = -500.0
SAME_SPACING_MM = 1e-3  # MONAI's own tolerance within which an axis keeps its spacing
RESTORE_BYTES = 256 << 20


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A volume as the network sees it, with what it takes to go back.

    Attributes
    ----------
    voxels : ndarray of shape (C, I, J, K), float32, contiguous
    affine : ndarray of shape (4, 4)
        Network voxel index to RAS mm.
    box : tuple
        Start and stop of the crop, in voxels of the volume's own grid.
    shape : tuple of int
        The volume's own shape (I, J, K).
    resampled : tuple of int
        Shape after the spacing step, before a classifier's ``size``.
    step : tuple of float
        Network voxel pitch in voxels of the volume; (1, 1, 1) when nothing was resampled.
    body : ndarray of shape (I, J, K), bool, or None
        What is brighter than air, of the shape of ``voxels``; where the plan skips air.
    """

    voxels: np.ndarray
    affine: np.ndarray
    box: Box
    shape: Shape
    resampled: Shape
    step: tuple[float, float, float]
    body: np.ndarray | None = None

    def without_voxels(self) -> Prepared:
        """Return what `restore` needs, which is little."""
        return replace(self, voxels=np.empty((0, 0, 0, 0), dtype=np.float32), body=None)


def preprocess(volume: Volume, plan: Plan) -> Prepared:
    """Bring a canonical volume to what the plan's network expects.

    Parameters
    ----------
    volume : Volume
        (C, I, J, K), canonical orientation; never changed.

    Raises
    ------
    Refusal
        ``channels``, ``no_spacing``, ``not_finite``, or ``dimensions`` if the volume cannot meet the plan.
    """
    _check(volume, plan)
    box = _crop_box(volume, plan)
    step, resampled = _network_grid(volume, box, plan)
    start, stop = box
    cropped = volume.voxels[:, start[0] : stop[0], start[1] : stop[1], start[2] : stop[2]]
    tensor = torch.from_numpy(np.array(cropped, dtype=np.float32, order="C", copy=True))
    tensor = resample_linear(tensor, step, resampled)
    body = None
    if plan.task == "segment" and plan.skip_air:
        body = (tensor > foreground_threshold(plan.modality)).any(dim=0).numpy()
    for channel, rule in zip(tensor, plan.normalisation, strict=True):
        _normalise(channel, rule)
    if not bool(torch.isfinite(tensor.sum(dtype=torch.float64))):
        raise Refusal("not_finite", "the image holds NaN or infinite voxels after normalisation; check its source")
    affine = volume.affine @ _offset(start) @ np.diag([*step, 1.0])
    if plan.task == "classify" and plan.size is not None:
        tensor, change = _fit(tensor, plan.size, keep_scale=plan.spacing_mm is not None)
        affine = affine @ change
    return Prepared(
        voxels=np.ascontiguousarray(tensor.numpy()),
        affine=affine,
        box=box,
        shape=_shape(volume.voxels),
        resampled=resampled,
        step=step,
        body=body,
    )


def preprocess_mask(mask: np.ndarray, volume: Volume, plan: Plan) -> np.ndarray:
    """Bring labels (I, J, K) on the volume's grid to the grid of ``preprocess(volume, plan)``, nearest neighbour.

    A classifier's ``size`` is not applied: masks belong to segmenters.
    """
    if mask.shape != volume.voxels.shape[1:]:
        raise Refusal(
            "mask_shape",
            f"the mask has shape {mask.shape}, its image {volume.voxels.shape[1:]}; they must share one grid",
        )
    _check(volume, plan)
    start, stop = _crop_box(volume, plan)
    step, resampled = _network_grid(volume, (start, stop), plan)
    cropped = mask[start[0] : stop[0], start[1] : stop[1], start[2] : stop[2]]
    return resample_nearest(cropped, step, resampled)


def restore(scores: np.ndarray | torch.Tensor, prepared: Prepared, plan: Plan) -> np.ndarray:
    """Turn a segmenter's output into labels on the volume's own grid.

    Scores are resampled linearly before the argmax, slab by slab, so that the full-size scores of all labels never
    exist at once. Outside the crop is background.

    Parameters
    ----------
    scores : array of shape (L, I, J, K)
        Logits or probabilities on the network grid; on any device.

    Returns
    -------
    ndarray of shape (I, J, K), uint8
    """
    tensor = torch.as_tensor(scores)
    expected = (len(plan.labels), *prepared.resampled)
    if tuple(tensor.shape) != expected:
        raise ValueError(f"scores have shape {tuple(tensor.shape)}, expected {expected} (labels, I, J, K)")
    start, stop = prepared.box
    inner: Shape = (stop[0] - start[0], stop[1] - start[1], stop[2] - start[2])
    labels = _labels_on(tensor, inner, prepared.step)
    if inner == prepared.shape:
        return labels
    mask = np.zeros(prepared.shape, dtype=np.uint8)
    mask[start[0] : stop[0], start[1] : stop[1], start[2] : stop[2]] = labels
    return mask


def restore_probabilities(scores: np.ndarray | torch.Tensor, prepared: Prepared, plan: Plan) -> np.ndarray:
    """Turn a segmenter's logits into probabilities of each label on the volume's own grid.

    Parameters
    ----------
    scores : array of shape (L, I, J, K)
        Logits on the network grid; resampled linearly as `restore` does, then softmax.

    Returns
    -------
    ndarray of shape (L, I, J, K), float16
        Outside the crop the background has 1.
    """
    result = np.zeros((len(scores), *prepared.shape), dtype=np.float16)
    result[0] = 1
    for where, part in _slabs_back(torch.as_tensor(scores), prepared):
        result[where] = torch.softmax(part.float(), dim=0).to(torch.float16).cpu().numpy()
    return result


def restore_values(values: torch.Tensor, prepared: Prepared) -> np.ndarray:
    """Bring one value per voxel (I, J, K) of the network grid to the volume's own grid, linearly; 0 outside the crop.

    Returns
    -------
    ndarray of shape (I, J, K), float16
    """
    result = np.zeros(prepared.shape, dtype=np.float16)
    for where, part in _slabs_back(values[None], prepared):
        result[where[1:]] = part[0].to(torch.float16).cpu().numpy()
    return result


def best_label(scores: torch.Tensor) -> torch.Tensor:
    """Return the argmax over the first axis as uint8; ties go to the lower label.

    One pass per label, about ten times faster on a CPU than `torch.argmax` over a short leading axis.
    """
    best = scores[0].clone()
    label = torch.zeros(scores.shape[1:], dtype=torch.uint8, device=scores.device)
    for value in range(1, scores.shape[0]):
        label.masked_fill_(scores[value] > best, value)
        torch.maximum(best, scores[value], out=best)
    return label


def stack_channels(volumes: Sequence[Volume]) -> Volume:
    """Put the channels of one case onto the grid of the first one, by their headers; nothing is registered.

    A channel on another grid is resampled linearly; where it has no data it gets its own lowest value.

    Raises
    ------
    Refusal
        ``no_overlap`` if a channel lies elsewhere, ``channel_geometry`` if it has no geometry and another shape.
    """
    first = volumes[0]
    if len(volumes) == 1:
        return first
    arrays = [first.voxels, *(_onto(first, other, number) for number, other in enumerate(volumes[1:], start=1))]
    dtype = np.result_type(*arrays)
    if dtype.kind == "f":
        dtype = np.dtype(np.float32)
    return Volume(np.concatenate([a.astype(dtype, copy=False) for a in arrays]), first.affine, first.geometry)


def foreground_threshold(modality: str) -> float:
    """Return the intensity above which a voxel counts as foreground when cropping."""
    return CT_FOREGROUND_HU if modality == "CT" else 0.0


def _check(volume: Volume, plan: Plan) -> None:
    found, expected = volume.voxels.shape[0], len(plan.channels)
    if found != expected:
        raise Refusal(
            "channels",
            f"the image has {found} channel{'s' * (found != 1)}, the model expects {expected} "
            f"({', '.join(plan.channels)}); give one file per channel or another model",
        )
    if plan.spacing_mm is not None and volume.geometry == "none":
        raise Refusal(
            "no_spacing",
            f"the image has no voxel spacing, the model works at {plan.spacing_mm} mm; "
            "give images whose header holds their spacing",
        )
    if plan.task == "classify" and plan.dims == 2 and volume.voxels.shape[3] != 1:
        raise Refusal(
            "dimensions",
            f"the image has {volume.voxels.shape[3]} slices, the model classifies single pictures; give one slice",
        )
    if plan.dims == 3 and volume.voxels.shape[3] == 1:
        raise Refusal("dimensions", "the image is a single slice, the model expects a 3D volume")


def _shape(voxels: np.ndarray) -> Shape:
    i, j, k = voxels.shape[1:]
    return i, j, k


def _crop_box(volume: Volume, plan: Plan) -> Box:
    """Return the box of the foreground, or of everything if there is no crop or no foreground."""
    whole: Box = ((0, 0, 0), _shape(volume.voxels))
    if not plan.crop_foreground:
        return whole
    return foreground_box(volume, foreground_threshold(plan.modality)) or whole


def foreground_box(volume: Volume, threshold: float) -> Box | None:
    """Return start and stop of the smallest box around what is brighter than ``threshold``; None where nothing is."""
    foreground = np.asarray(np.any(volume.voxels > threshold, axis=0))
    profiles = [np.flatnonzero(foreground.any(axis=others)) for others in ((1, 2), (0, 2), (0, 1))]
    if any(profile.size == 0 for profile in profiles):
        return None
    (i0, i1), (j0, j1), (k0, k1) = ((int(p[0]), int(p[-1]) + 1) for p in profiles)
    return (i0, j0, k0), (i1, j1, k1)


def _network_grid(volume: Volume, box: Box, plan: Plan) -> tuple[tuple[float, float, float], Shape]:
    """Return the voxel pitch in source voxels and the shape after resampling, as MONAI's `Spacing` would choose."""
    start, stop = box
    inner: Shape = (stop[0] - start[0], stop[1] - start[1], stop[2] - start[2])
    if plan.spacing_mm is None:
        return (1.0, 1.0, 1.0), inner
    own = np.array(spacing_of(volume.affine))
    target = np.array(plan.spacing_mm)
    if plan.dims == 2:
        target[2] = own[2]  # a 2D network sees slices one by one; their distance is no business of its
    target = np.where(np.abs(own - target) <= SAME_SPACING_MM, own, target)
    i, j, k = (int(n) for n in np.round((np.array(inner) - 1) * own / target + 1.0))
    a, b, c = (float(s) for s in target / own)
    return (a, b, c), (i, j, k)


def _normalise(channel: torch.Tensor, rule: Normalisation) -> None:
    """Scale one channel in place."""
    if rule.kind == "range":
        width = rule.high - rule.low
        channel.sub_(rule.low).div_(width if width > 0 else 1.0).clamp_(0.0, 1.0)
        return
    if rule.kind == "clip_zscore":
        channel.clamp_(rule.low, rule.high).sub_(rule.mean).div_(rule.std if rule.std > 0 else 1.0)
        return
    mean = channel.mean(dtype=torch.float64)
    channel.sub_(float(mean))
    std = float(torch.linalg.vector_norm(channel, dtype=torch.float64)) / channel.numel() ** 0.5
    channel.div_(std if std > 1e-6 * max(1.0, abs(float(mean))) else 1.0)


def _offset(start: Shape) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, 3] = start
    return matrix


def _fit(tensor: torch.Tensor, size: Shape, *, keep_scale: bool) -> tuple[torch.Tensor, np.ndarray]:
    """Bring (C, I, J, K) to ``size``; also return the matrix (4, 4) from new to old voxel index."""
    found = np.array(tensor.shape[1:])
    if tuple(found) == tuple(size):
        return tensor, np.eye(4)
    if keep_scale:
        # Negative padding crops; the odd voxel goes where MONAI's ResizeWithPadOrCrop puts it.
        before = [(s - n) // 2 if n < s else s // 2 - n // 2 for n, s in zip(found.tolist(), size, strict=True)]
        after = [s - n - b for n, s, b in zip(found.tolist(), size, before, strict=True)]
        pads = [width for pair in zip(reversed(before), reversed(after), strict=True) for width in pair]
        return torch.nn.functional.pad(tensor, pads), _offset((-before[0], -before[1], -before[2]))
    # MONAI's transforms cost a second to import, and most plans never get here.
    from monai.transforms.spatial.array import Resize

    ratio = found / np.array(size)
    change = np.diag([*ratio, 1.0])
    change[:3, 3] = (ratio - 1) / 2
    fitted = Resize(spatial_size=size, mode="trilinear", anti_aliasing=True)(tensor)
    return torch.as_tensor(np.asarray(fitted)), change


def _labels_on(scores: torch.Tensor, shape: Shape, step: tuple[float, float, float]) -> np.ndarray:
    """Resample scores (L, …) to ``shape`` and take the argmax, a slab along K at a time."""
    back = (1 / step[0], 1 / step[1], 1 / step[2])
    if step == (1.0, 1.0, 1.0) and tuple(scores.shape[1:]) == shape:
        return best_label(scores).cpu().numpy()
    labels = np.empty(shape, dtype=np.uint8)
    slab = max(1, RESTORE_BYTES // (4 * scores.shape[0] * shape[0] * shape[1]))
    for first in range(0, shape[2], slab):
        depth = min(slab, shape[2] - first)
        part = resample_linear(scores, back, (shape[0], shape[1], depth), first=(0, 0, first))
        labels[:, :, first : first + depth] = best_label(part).cpu().numpy()
    return labels


def _slabs_back(
    tensor: torch.Tensor, prepared: Prepared
) -> Iterator[tuple[tuple[slice, slice, slice, slice], torch.Tensor]]:
    """Yield (N, I, J, K) resampled to the volume's own grid, a slab along K at a time, with the place it goes to."""
    start, stop = prepared.box
    inner: Shape = (stop[0] - start[0], stop[1] - start[1], stop[2] - start[2])
    back = (1 / prepared.step[0], 1 / prepared.step[1], 1 / prepared.step[2])
    slab = max(1, RESTORE_BYTES // (4 * tensor.shape[0] * inner[0] * inner[1]))
    for first in range(0, inner[2], slab):
        depth = min(slab, inner[2] - first)
        into = slice(start[2] + first, start[2] + first + depth)
        part = resample_linear(tensor, back, (inner[0], inner[1], depth), first=(0, 0, first))
        yield (slice(None), slice(start[0], stop[0]), slice(start[1], stop[1]), into), part


def _onto(first: Volume, other: Volume, number: int) -> np.ndarray:
    """Return the voxels of ``other`` on the grid of ``first``."""
    shape, found = first.voxels.shape[1:], other.voxels.shape[1:]
    if first.geometry == "none" or other.geometry == "none":
        if shape != found or first.geometry != other.geometry:
            raise Refusal(
                "channel_geometry",
                f"channel {number} has shape {found} and geometry {other.geometry!r}, the first channel {shape} and "
                f"{first.geometry!r}; without spacing, channels must match voxel by voxel",
            )
        return other.voxels
    if same_grid(shape, first.affine, found, other.affine):
        return other.voxels
    matrix = np.linalg.solve(other.affine, first.affine)
    if not _overlap(matrix, shape, found):
        raise Refusal(
            "no_overlap",
            f"channel {number} lies outside the first channel's volume; they are not images of the same region",
        )
    return resample_affine(other.voxels, matrix, shape)


def _overlap(matrix: np.ndarray, shape: tuple[int, ...], found: tuple[int, ...]) -> bool:
    """Say whether any of a coarse lattice over ``shape`` falls inside ``found`` under index map ``matrix``."""
    lattice = np.meshgrid(*(np.linspace(0, n - 1, min(n, 24)) for n in shape), indexing="ij")
    points = np.stack(lattice).reshape(3, -1)
    inside = matrix[:3, :3] @ points + matrix[:3, 3:]
    limits = np.array(found)[:, None] - 0.5
    return bool(((inside >= -0.5) & (inside <= limits)).all(axis=0).any())
