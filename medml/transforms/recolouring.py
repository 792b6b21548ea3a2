"""Random changes of intensity: blur and lower resolution, gamma, contrast and brightness, noise.

Blur and a coarser scan are linear along each axis: both together are one matrix per case and axis. Contrast,
brightness and what gamma changed of mean and spread are one multiply-add of the whole batch.
"""

from __future__ import annotations

import math

import torch

from medml.records.plan import Augmentation
from medml.transforms.draws import COLOUR, NOISE, SOFTEN, Draws, spread

SMALLEST_SIGMA = 0.25
SHARE_INVERTED = 1 / 3
TINY = 1e-6


def soften(images: torch.Tensor, augmentation: Augmentation, draws: Draws) -> torch.Tensor:
    """Blur a share of the cases (B, C, I, J, K), and sample a share as a coarser scan would."""
    numbers = draws.uniform(SOFTEN, 4)
    blurred = (numbers[:, 0] < augmentation.blur_share) & (augmentation.blur > 0)
    coarse = (numbers[:, 1] < augmentation.low_resolution_share) & (augmentation.low_resolution < 1)
    rows = torch.nonzero(blurred | coarse).flatten()
    if not len(rows):
        return images
    sigma = torch.where(blurred, (augmentation.blur * numbers[:, 2]).clamp(min=SMALLEST_SIGMA), 0.0)[rows]
    kept = torch.where(coarse, 1 - (1 - augmentation.low_resolution) * numbers[:, 3], 1.0)[rows]
    where = rows.to(images.device)
    soft = images[where]
    for axis, along in enumerate(("nij,ncjkl->ncikl", "nij,nckjl->nckil", "nij,ncklj->nckli")):
        size = images.shape[2 + axis]
        if size > 1:
            matrix = coarse_matrix(size, kept) @ blur_matrix(size, sigma)
            soft = torch.einsum(along, matrix.to(images), soft)
    return images.index_copy(0, where, soft)


def blur_matrix(size: int, sigma: torch.Tensor) -> torch.Tensor:
    """Return matrices (N, size, size) that blur a line by Gaussians of sigma (N,) voxels; beyond the edge, the edge."""
    reach = max(1, math.ceil(4 * float(sigma.max())))
    offsets = torch.arange(-reach, reach + 1)
    weights = torch.exp(-0.5 * (offsets / sigma.clamp(min=TINY).unsqueeze(1)) ** 2)
    weights = weights / weights.sum(dim=1, keepdim=True)
    columns = (torch.arange(size).unsqueeze(1) + offsets).clamp(0, size - 1)
    count = len(sigma)
    return torch.zeros(count, size, size).scatter_add_(
        2, columns.expand(count, -1, -1), weights.unsqueeze(1).expand(-1, size, -1)
    )


def coarse_matrix(size: int, kept: torch.Tensor) -> torch.Tensor:
    """Return matrices (N, size, size) that keep a share (N,) of a line's voxels, nearest, and interpolate between."""
    coarse = (kept * size).round().clamp(1, size).unsqueeze(1)
    place = ((torch.arange(size) + 0.5) * coarse / size - 0.5).clamp(min=0)
    low = place.floor()
    weight = (place - low).unsqueeze(2)
    ends = [((torch.minimum(end, coarse - 1) + 0.5) * size / coarse).long() for end in (low, low + 1)]
    matrix = torch.zeros(len(kept), size, size)
    matrix.scatter_add_(2, ends[0].unsqueeze(2), 1 - weight)
    return matrix.scatter_add_(2, ends[1].unsqueeze(2), weight)


def recolour(images: torch.Tensor, augmentation: Augmentation, draws: Draws) -> torch.Tensor:
    """Change gamma, contrast about the mean and brightness of each channel; intensities have about unit scale."""
    if not (augmentation.contrast or augmentation.brightness or augmentation.gamma):
        return images
    batch, channels = images.shape[:2]
    numbers = draws.uniform(COLOUR, 4 + 3 * channels)
    change = spread(numbers[:, 4:]).view(batch, 3, channels)
    chosen = numbers[:, :3] < torch.tensor(
        [augmentation.contrast_share, augmentation.brightness_share, augmentation.gamma_share]
    )
    factor = (1 + augmentation.contrast * change[:, 0] * chosen[:, :1]).to(images)
    shift = (augmentation.brightness * change[:, 1] * chosen[:, 1:2]).to(images)
    mean = images.mean(dim=(2, 3, 4))
    shift, factor = shift + mean, factor.clone()
    rows = torch.nonzero(chosen[:, 2]).flatten()
    if augmentation.gamma and len(rows):
        inverted = numbers[rows, 3] < SHARE_INVERTED
        power = torch.exp(augmentation.gamma * change[rows, 2])
        rows = rows.to(images.device)
        bent = bend(images[rows], power.to(images), inverted.to(images.device))
        factor[rows] *= _deviation(images[rows], mean[rows]) / _deviation(bent, bent.mean(dim=(2, 3, 4))).clamp(
            min=TINY
        )
        images, mean = images.index_copy(0, rows, bent), mean.index_copy(0, rows, bent.mean(dim=(2, 3, 4)))
    return torch.addcmul(_per_voxel(shift - factor * mean), images, _per_voxel(factor))


def bend(images: torch.Tensor, power: torch.Tensor, inverted: torch.Tensor) -> torch.Tensor:
    """Return each channel's shares of its range to the power (N, C); where inverted (N,), minus those from above."""
    low, high = torch.aminmax(images.flatten(2), dim=2)
    width = (high - low).clamp(min=TINY)
    start = torch.where(inverted.unsqueeze(1), high, low)
    sign = torch.where(inverted, -1.0, 1.0).unsqueeze(1)
    shares = ((images - _per_voxel(start)) * _per_voxel(sign / width)).clamp_(0, 1)
    return shares.pow_(_per_voxel(power)).mul_(_per_voxel(sign.expand_as(power)))


def add_noise(images: torch.Tensor, augmentation: Augmentation, draws: Draws) -> torch.Tensor:
    """Add Gaussian noise of a random strength to a share of the cases."""
    if not augmentation.noise:
        return images
    numbers = draws.uniform(NOISE, 2)
    changed = images.clone()
    for row in torch.nonzero(numbers[:, 0] < augmentation.noise_share).flatten().tolist():
        generator = draws.generator(NOISE, row, images.device)
        noise = torch.randn(images.shape[1:], generator=generator, device=images.device, dtype=images.dtype)
        changed[row].add_(noise, alpha=augmentation.noise * float(numbers[row, 1]))
    return changed


def _deviation(images: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    """Return the standard deviation (N, C) of each channel."""
    return (images - _per_voxel(mean)).square().mean(dim=(2, 3, 4)).sqrt()


def _per_voxel(values: torch.Tensor) -> torch.Tensor:
    """Return (N, C) shaped to meet voxels (N, C, I, J, K)."""
    return values[:, :, None, None, None]
