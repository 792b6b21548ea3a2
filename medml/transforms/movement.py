"""Rotation, scale, shear, translation and elastic displacement of a batch by one resampling; flips are exact."""

from __future__ import annotations

import itertools
import math

import torch
from torch.nn import functional

from medml.records.plan import Augmentation
from medml.transforms.draws import ELASTIC, FLIP, MOVE, Draws, spread

ANISOTROPIC = 3.0
Spacing = tuple[float, float, float]


def flip(
    images: torch.Tensor, masks: torch.Tensor | None, axes: tuple[int, ...], draws: Draws
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Mirror half of the cases along each of the axes."""
    if not axes:
        return images, masks
    chosen = (draws.uniform(FLIP, 3) < 0.5).to(images.device)
    for axis in axes:
        where = chosen[:, axis].view(-1, 1, 1, 1, 1)
        images = torch.where(where, images.flip(2 + axis), images)
        if masks is not None:
            masks = torch.where(where, masks.flip(2 + axis), masks)
    return images, masks


def move(
    images: torch.Tensor, masks: torch.Tensor | None, augmentation: Augmentation, spacing_mm: Spacing, draws: Draws
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Resample a share of the cases (B, C, I, J, K), and their masks, along random affine maps and displacements."""
    sizes = ("rotate_deg", "scale", "scale_each", "shear", "translate", "elastic")
    numbers = draws.uniform(MOVE, 18)
    moved = torch.nonzero(numbers[:, 0] < augmentation.share).flatten()
    if not len(moved) or not any(getattr(augmentation, size) for size in sizes):
        return images, masks
    shape = (images.shape[2], images.shape[3], images.shape[4])
    matrices = affines(spread(numbers[moved, 1:]), shape, augmentation, spacing_mm)
    rows, field = moved.to(images.device), None
    if augmentation.elastic:
        parts = displacements(numbers[:, -1], shape, augmentation, spacing_mm, draws)
        field = [parts[0][moved].to(images), *(part.to(images) for part in parts[1:])]
    grid = sampling_grid(matrices.to(images), shape, field)
    images = images.index_copy(0, rows, sample(images[rows], grid, mode="bilinear"))
    if masks is not None:
        labels = sample(masks[rows].to(images.dtype), grid, mode="nearest")
        masks = masks.index_copy(0, rows, labels.to(masks.dtype))
    return images, masks


def affines(
    numbers: torch.Tensor, shape: tuple[int, int, int], augmentation: Augmentation, spacing_mm: Spacing
) -> torch.Tensor:
    """Return matrices (N, 3, 4) that map output to input positions, both in [-1, 1] along (I, J, K).

    Parameters
    ----------
    numbers : Tensor of shape (N, 17)
        In [-1, 1): three angles, a scale, three scales, three translations, six shears; the last is not for these.
    """
    plane = plane_axes(shape, spacing_mm)
    extent = torch.tensor([size * width for size, width in zip(shape, spacing_mm, strict=True)])
    linear = torch.eye(3).expand(len(numbers), 3, 3)
    for axis in range(3):
        if all(other in plane for other in range(3) if other != axis):
            linear = linear @ _rotation_about(axis, math.radians(augmentation.rotate_deg) * numbers[:, axis])
    shear = torch.eye(3).repeat(len(numbers), 1, 1)
    for number, (row, column) in enumerate(itertools.permutations(range(3), 2)):
        if row in plane and column in plane:
            shear[:, row, column] = augmentation.shear * numbers[:, 10 + number]
    factors = torch.ones(len(numbers), 3)
    for axis in plane:
        each = 1 + augmentation.scale_each * numbers[:, 4 + axis]
        factors[:, axis] = (1 + augmentation.scale * numbers[:, 3]) * each
    linear = linear @ shear / factors.unsqueeze(1) * extent.view(1, 1, 3) / extent.view(1, 3, 1)
    shift = augmentation.translate * 2 * numbers[:, 7:10]
    if shape[2] == 1:
        shift[:, 2] = 0.0
    return torch.cat([linear, shift.unsqueeze(2)], dim=2)


def plane_axes(shape: tuple[int, int, int], spacing_mm: Spacing) -> tuple[int, ...]:
    """Return the axes along which voxels are fine enough to be moved between."""
    if shape[2] == 1:
        return (0, 1)
    coarsest = max(range(3), key=lambda axis: spacing_mm[axis])
    thick = spacing_mm[coarsest] > ANISOTROPIC * min(spacing_mm)
    return tuple(axis for axis in range(3) if axis != coarsest or not thick)


def displacements(
    strength: torch.Tensor,
    shape: tuple[int, int, int],
    augmentation: Augmentation,
    spacing_mm: Spacing,
    draws: Draws,
) -> list[torch.Tensor]:
    """Return a smooth random displacement: points (B, a, b, c, 3), and what spreads them along each axis (size, a).

    Displacements are in halves of the extent, as positions are. Cubic B-splines spread the points; each voxel's weights
    have unit length, so that the displacement has the same standard deviation everywhere.

    Parameters
    ----------
    strength : Tensor of shape (B,)
        Share of the largest standard deviation, in [0, 1).
    """
    finest = min(spacing_mm)
    spreads = [
        _spline(size, augmentation.elastic_distance * finest / width)
        for size, width in zip(shape, spacing_mm, strict=True)
    ]
    counts = [basis.shape[1] for basis in spreads]
    numbers = draws.normal(ELASTIC, 3 * math.prod(counts))
    points = (augmentation.elastic * strength.unsqueeze(1) * numbers).view(len(strength), *counts, 3)
    plane = plane_axes(shape, spacing_mm)
    halves = [
        2 * finest / (size * width) if axis in plane else 0.0
        for axis, (size, width) in enumerate(zip(shape, spacing_mm, strict=True))
    ]
    return [points * torch.tensor(halves), *spreads]


def sampling_grid(
    matrices: torch.Tensor, shape: tuple[int, int, int], field: list[torch.Tensor] | None = None
) -> torch.Tensor:
    """Return where each voxel is sampled: (N, I, J, K, 3) in [-1, 1], in torch's order of axes (K, J, I).

    The numbers of `torch.nn.functional.affine_grid` in a tenth of its time: one sum for each number of the grid.
    """
    along = [(2 * torch.arange(size, device=matrices.device) + 1) / size - 1 for size in shape]
    first, second, third = along[0].view(-1, 1, 1), along[1].view(-1, 1), along[2]
    grid = matrices.new_empty(len(matrices), *shape, 3)
    for axis in range(3):
        i, j, k, shift = matrices[:, axis, :, None, None, None].unbind(1)
        torch.add(i * first + j * second + shift, k * third, out=grid[..., 2 - axis])
    if field is None:
        return grid
    points, *spreads = field
    spread_out = torch.einsum("kc,nabcd->nabkd", spreads[2], points.flip(-1))
    spread_out = torch.einsum("jb,nabkd->najkd", spreads[1], spread_out).flatten(2)
    flat = torch.baddbmm(grid.flatten(2), spreads[0].expand(len(points), -1, -1), spread_out)
    return flat.view_as(grid)


def sample(voxels: torch.Tensor, grid: torch.Tensor, *, mode: str) -> torch.Tensor:
    """Sample a batch (B, C, I, J, K) along a grid (B, I, J, K, 3); outside, the border goes on."""
    if voxels.shape[-1] > 1:
        return functional.grid_sample(voxels, grid, mode=mode, padding_mode="border", align_corners=False)
    flat, plane = voxels.squeeze(-1), grid.squeeze(3)[..., 1:]
    return functional.grid_sample(flat, plane, mode=mode, padding_mode="border", align_corners=False).unsqueeze(-1)


def _rotation_about(axis: int, angle: torch.Tensor) -> torch.Tensor:
    first, second = [other for other in range(3) if other != axis]
    rotation = torch.eye(3).repeat(len(angle), 1, 1)
    rotation[:, first, first] = rotation[:, second, second] = angle.cos()
    rotation[:, first, second] = -angle.sin()
    rotation[:, second, first] = angle.sin()
    return rotation


def _spline(size: int, distance: float) -> torch.Tensor:
    """Return weights (size, points) of cubic B-splines ``distance`` voxels apart, each row of unit length."""
    if size == 1:
        return torch.ones(1, 1)
    intervals = max(1, math.ceil((size - 1) / distance))
    away = (torch.arange(size).unsqueeze(1) / distance - torch.arange(-1, intervals + 2)).abs()
    inner, outer = 2 / 3 - away**2 + away**3 / 2, (2 - away).clamp(min=0) ** 3 / 6
    return functional.normalize(torch.where(away < 1, inner, outer), dim=1)
