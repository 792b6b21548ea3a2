"""Random changes to a batch of training cases, on tensors, on the device that trains.

One resampling does rotation, scaling and translation for image and mask together; flips are exact. Every random
number follows from (seed, step), so a resumed training sees the very batches it would have seen.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch.nn import functional

from medml.records.plan import Augmentation

ANISOTROPIC = 3.0
SHARE_BLURRED = 0.2


def augment(
    images: torch.Tensor,
    masks: torch.Tensor | None,
    augmentation: Augmentation,
    *,
    spacing_mm: tuple[float, float, float] | None,
    seed: int,
    step: int,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return randomly changed copies of a batch.

    Parameters
    ----------
    images : Tensor of shape (B, C, I, J, K), float32
        K = 1 in 2D.
    masks : Tensor of shape (B, 1, I, J, K), integer, or None
        Moved with the images, nearest neighbour.
    spacing_mm : tuple of float or None
        Voxel size, so that a rotation is a rotation in space; None means equal along all axes. Where one axis is over
        three times as coarse as another, rotation stays in the plane of the two others.
    seed, step : int
        Name the random numbers.
    """
    draw = torch.Generator().manual_seed((seed * 1_000_003 + step) & 0x7FFF_FFFF_FFFF_FFFF)
    images, masks = _flip(images, masks, augmentation.flip_axes, draw)
    images, masks = _move(images, masks, augmentation, spacing_mm or (1.0, 1.0, 1.0), draw)
    images = _blur(images, augmentation.blur, draw)
    return _recolour(images, augmentation, draw), masks


def mix(images: torch.Tensor, strength: float, *, seed: int, step: int) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Blend each image with another of its batch (mixup, Zhang et al., ICLR 2018).

    Parameters
    ----------
    strength : float
        Both parameters of the Beta distribution that the share is drawn from.

    Returns
    -------
    images : Tensor
        ``share * images + (1 - share) * images[order]``.
    order : Tensor of shape (B,)
    share : float
        In [0.5, 1]: the larger part is the image's own.
    """
    draw = np.random.default_rng((seed, step, 2))
    share = float(draw.beta(strength, strength))
    share = max(share, 1 - share)
    order = torch.from_numpy(draw.permutation(len(images))).to(images.device)
    return share * images + (1 - share) * images[order], order, share


def _flip(
    images: torch.Tensor, masks: torch.Tensor | None, axes: tuple[int, ...], draw: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor | None]:
    for axis in axes:
        chosen = (torch.rand(len(images), generator=draw) < 0.5).to(images.device)
        where = chosen.view(-1, 1, 1, 1, 1)
        images = torch.where(where, images.flip(2 + axis), images)
        if masks is not None:
            masks = torch.where(where, masks.flip(2 + axis), masks)
    return images, masks


def _move(
    images: torch.Tensor,
    masks: torch.Tensor | None,
    augmentation: Augmentation,
    spacing_mm: tuple[float, float, float],
    draw: torch.Generator,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Rotate, scale and translate a share of the cases by one resampling."""
    moved = torch.nonzero(torch.rand(len(images), generator=draw) < augmentation.share).flatten()
    matrices = random_affines(len(moved), tuple(images.shape[2:]), augmentation, spacing_mm, draw)
    if not len(moved) or (augmentation.rotate_deg, augmentation.scale, augmentation.translate) == (0.0, 0.0, 0.0):
        return images, masks
    moved, matrices = moved.to(images.device), matrices.to(images)
    images = images.index_copy(0, moved, resample(images[moved], matrices, mode="bilinear"))
    if masks is not None:
        labels = resample(masks[moved].to(images.dtype), matrices, mode="nearest")
        masks = masks.index_copy(0, moved, labels.to(masks.dtype))
    return images, masks


def random_affines(
    count: int,
    shape: tuple[int, ...],
    augmentation: Augmentation,
    spacing_mm: tuple[float, float, float],
    draw: torch.Generator,
) -> torch.Tensor:
    """Return matrices (count, 3, 4) that map output to input positions, both in [-1, 1] along (I, J, K)."""
    extent = torch.tensor([size * width for size, width in zip(shape, spacing_mm, strict=True)])
    rotation = torch.eye(3).expand(count, 3, 3)
    for axis in _rotation_axes(shape, spacing_mm):
        angle = math.radians(augmentation.rotate_deg) * _uniform(draw, count)
        rotation = rotation @ _rotation_about(axis, angle)
    factor = 1 + augmentation.scale * _uniform(draw, count)
    shift = augmentation.translate * 2 * _uniform(draw, count, 3)
    if shape[2] == 1:
        shift[:, 2] = 0.0
    linear = rotation / factor.view(-1, 1, 1) * extent.view(1, 1, 3) / extent.view(1, 3, 1)
    return torch.cat([linear, shift.unsqueeze(2)], dim=2)


def resample(voxels: torch.Tensor, matrices: torch.Tensor, *, mode: str) -> torch.Tensor:
    """Resample a batch (B, C, I, J, K) by matrices (B, 3, 4) as of `random_affines`; outside, the border goes on."""
    if voxels.shape[-1] == 1:
        flat = voxels.squeeze(-1)
        return _sample(flat, matrices[:, :2][:, :, [0, 1, 3]], mode).unsqueeze(-1)
    return _sample(voxels, matrices, mode)


def _sample(voxels: torch.Tensor, matrices: torch.Tensor, mode: str) -> torch.Tensor:
    # torch names positions (x, y, z) from the last axis to the first, we name axes from the first to the last.
    linear = matrices[:, :, :-1].flip(1, 2)
    shift = matrices[:, :, -1:].flip(1)
    grid = functional.affine_grid(torch.cat([linear, shift], dim=2), list(voxels.shape), align_corners=False)
    return functional.grid_sample(voxels, grid, mode=mode, padding_mode="border", align_corners=False)


def _rotation_axes(shape: tuple[int, ...], spacing_mm: tuple[float, float, float]) -> tuple[int, ...]:
    if shape[2] == 1:
        return (2,)
    coarsest = max(range(3), key=lambda axis: spacing_mm[axis])
    return (coarsest,) if spacing_mm[coarsest] > ANISOTROPIC * min(spacing_mm) else (0, 1, 2)


def _rotation_about(axis: int, angle: torch.Tensor) -> torch.Tensor:
    first, second = [other for other in range(3) if other != axis]
    rotation = torch.eye(3).repeat(len(angle), 1, 1)
    rotation[:, first, first] = rotation[:, second, second] = angle.cos()
    rotation[:, first, second] = -angle.sin()
    rotation[:, second, first] = angle.sin()
    return rotation


def _blur(images: torch.Tensor, width: float, draw: torch.Generator) -> torch.Tensor:
    """Smooth a fifth of the cases by a Gaussian of up to ``width`` voxels."""
    if width <= 0:
        return images
    sigma = max(0.25, width * float(torch.rand(1, generator=draw)))
    chosen = (torch.rand(len(images), generator=draw) < SHARE_BLURRED).view(-1, 1, 1, 1, 1).to(images.device)
    radius = math.ceil(2 * sigma)
    offsets = torch.arange(-radius, radius + 1, device=images.device, dtype=images.dtype)
    weights = torch.exp(-0.5 * (offsets / sigma) ** 2)
    weights = weights / weights.sum()
    smooth = images.flatten(0, 1).unsqueeze(1)
    for axis in range(3):
        if images.shape[2 + axis] > 1:
            kernel_shape, margin = [1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0]
            kernel_shape[2 + axis] = len(weights)
            margin[4 - 2 * axis] = margin[5 - 2 * axis] = radius
            padded = functional.pad(smooth, margin, mode="replicate")
            smooth = functional.conv3d(padded, weights.view(kernel_shape))
    return torch.where(chosen, smooth.view_as(images), images)


def _recolour(images: torch.Tensor, augmentation: Augmentation, draw: torch.Generator) -> torch.Tensor:
    """Change contrast about each channel's mean and brightness, and add noise; intensities have unit scale."""
    batch, channels = images.shape[:2]
    contrast = (1 + augmentation.contrast * _uniform(draw, batch, channels, 1, 1, 1)).to(images)
    brightness = (augmentation.brightness * _uniform(draw, batch, channels, 1, 1, 1)).to(images)
    if augmentation.contrast or augmentation.brightness:
        mean = images.mean(dim=(2, 3, 4), keepdim=True)
        images = (images - mean) * contrast + mean + brightness
    if augmentation.noise:
        strength = (augmentation.noise * torch.rand(batch, 1, 1, 1, 1, generator=draw)).to(images)
        seed = int(torch.randint(2**62, (1,), generator=draw))
        on_device = torch.Generator(images.device).manual_seed(seed)
        noise = torch.randn(images.shape, generator=on_device, device=images.device, dtype=images.dtype)
        images = images + strength * noise
    return images


def _uniform(draw: torch.Generator, *shape: int) -> torch.Tensor:
    """Return numbers in [-1, 1]."""
    return torch.rand(*shape, generator=draw) * 2 - 1
