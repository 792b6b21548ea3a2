"""The one preprocessing of training and inference.

Four steps, in this order, each with an exact MONAI counterpart (the package's ``configs/inference.json`` names them),
with axes that point where the plan says (`Orientation`; RAS, unless the weights learned from files that lay otherwise):

1. crop to the foreground (`CropForeground`), if the plan says so: CT above -500 HU, everything else above 0;
2. resample to the plan's spacing, bilinear: the first voxel stays where it is (`Spacing`), or the outer edges of the
   image do (`Resize`), as nnU-Net has it;
3. normalise each channel (`NormalizeIntensity`, `ScaleIntensityRange`);
4. classifiers: bring to ``plan.size``, by padding and cropping around the centre (`ResizeWithPadOrCrop`) where the
   plan fixes a spacing, so that a millimetre stays a millimetre, and by interpolation (`Resize`) where it does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from medml.errors import Refusal
from medml.geometry import same_grid, spacing_of
from medml.records.plan import Normalisation, Plan
from medml.records.scan import Volume
from medml.transforms.resampling import Triple, resample_affine, resample_linear, resample_nearest

Shape = tuple[int, int, int]
Box = tuple[Shape, Shape]

CT_FOREGROUND_HU = -500.0
SAME_SPACING_MM = 1e-3  # MONAI's own tolerance within which an axis keeps its spacing
CANONICAL = "RAS"


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A volume as the network sees it, with what it takes to go back.

    Attributes
    ----------
    voxels : ndarray of shape (C, I, J, K), float32, contiguous
    affine : ndarray of shape (4, 4)
        Network voxel index to RAS mm.
    box : tuple
        Start and stop of the crop, in voxels of the volume's own grid, mirrored as ``mirrored`` says.
    shape : tuple of int
        The volume's own shape (I, J, K).
    resampled : tuple of int
        Shape after the spacing step, before a classifier's ``size``.
    step : tuple of float
        Network voxel pitch in voxels of the volume; (1, 1, 1) when nothing was resampled.
    offset : tuple of float
        Where the network's first voxel lies in the crop, in voxels of the volume.
    mirrored : tuple of int
        Axes that run the other way than the volume's own.
    body : ndarray of shape (I, J, K), bool, or None
        What is brighter than air, of the shape of ``voxels``; where the plan skips air.
    """

    voxels: np.ndarray
    affine: np.ndarray
    box: Box
    shape: Shape
    resampled: Shape
    step: Triple
    offset: Triple = (0.0, 0.0, 0.0)
    mirrored: tuple[int, ...] = ()
    body: np.ndarray | None = None

    def without_voxels(self) -> Prepared:
        """Return what `medml.transforms.restoring` needs, which is little."""
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
    axes = mirrored_axes(plan)
    volume = _mirrored(volume, axes)
    box = _crop_box(volume, plan)
    step, offset, resampled = _network_grid(volume, box, plan)
    start, stop = box
    cropped = volume.voxels[:, start[0] : stop[0], start[1] : stop[1], start[2] : stop[2]]
    tensor = torch.from_numpy(np.array(cropped, dtype=np.float32, order="C", copy=True))
    tensor = resample_linear(tensor, step, resampled, offset=offset)
    body = None
    if plan.task == "segment" and plan.skip_air:
        body = (tensor > foreground_threshold(plan.modality)).any(dim=0).numpy()
    for channel, rule in zip(tensor, plan.normalisation, strict=True):
        _normalise(channel, rule)
    if not bool(torch.isfinite(tensor.sum(dtype=torch.float64))):
        raise Refusal("not_finite", "the image holds NaN or infinite voxels after normalisation; check its source")
    affine = volume.affine @ _offset(start) @ _offset(offset) @ np.diag([*step, 1.0])
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
        offset=offset,
        mirrored=axes,
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
    axes = mirrored_axes(plan)
    volume, mask = _mirrored(volume, axes), np.flip(mask, axes)
    start, stop = _crop_box(volume, plan)
    step, offset, resampled = _network_grid(volume, (start, stop), plan)
    cropped = mask[start[0] : stop[0], start[1] : stop[1], start[2] : stop[2]]
    return resample_nearest(cropped, step, resampled, offset=offset)


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


def _network_grid(volume: Volume, box: Box, plan: Plan) -> tuple[Triple, Triple, Shape]:
    """Return the voxel pitch and the first voxel's place, in source voxels of the box, and the shape after resampling.

    As MONAI's `Spacing` chooses them; where the plan holds on to the edges, as nnU-Net does: as many voxels as fit
    best, stretched a little to fill the box.
    """
    start, stop = box
    inner: Shape = (stop[0] - start[0], stop[1] - start[1], stop[2] - start[2])
    if plan.spacing_mm is None:
        return (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), inner
    own = np.array(spacing_of(volume.affine))
    target = np.array(plan.spacing_mm)
    if plan.dims == 2:
        target[2] = own[2]  # a 2D network sees slices one by one; their distance is no business of its
    target = np.where(np.abs(own - target) <= SAME_SPACING_MM, own, target)
    if plan.anchor == "edges":
        i, j, k = (max(1, int(n)) for n in np.round(np.array(inner) * own / target))
        a, b, c = inner[0] / i, inner[1] / j, inner[2] / k
        return (a, b, c), ((a - 1) / 2, (b - 1) / 2, (c - 1) / 2), (i, j, k)
    i, j, k = (int(n) for n in np.round((np.array(inner) - 1) * own / target + 1.0))
    a, b, c = (float(s) for s in target / own)
    return (a, b, c), (0.0, 0.0, 0.0), (i, j, k)


def mirrored_axes(plan: Plan) -> tuple[int, ...]:
    """Return the axes along which the network's voxels run against the canonical (RAS) direction."""
    return tuple(axis for axis in range(3) if plan.orientation[axis] != CANONICAL[axis])


def _mirrored(volume: Volume, axes: tuple[int, ...]) -> Volume:
    """Return the same volume with the voxels of some axes in reverse order, without copying them."""
    if not axes:
        return volume
    turn = np.eye(4)
    for axis in axes:
        turn[axis, axis], turn[axis, 3] = -1, volume.voxels.shape[axis + 1] - 1
    voxels = np.flip(volume.voxels, tuple(axis + 1 for axis in axes))
    return replace(volume, voxels=voxels, affine=volume.affine @ turn)


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


def _offset(start: Shape | Triple) -> np.ndarray:
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
