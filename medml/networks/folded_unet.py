"""A U-Net on folded voxels, for slow machines. Needs torch and MONAI alone: packages carry this file along."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from monai.networks.nets.dynunet import DynUNet
from torch import nn


class FoldedUNet(nn.Module):
    """A DynUNet that sees each small block of voxels as one voxel with more channels.

    Folding loses nothing, and the layers at full resolution, which cost most and learn least, are saved: the scores of
    a block come out as channels and are unfolded again (sub-pixel convolution, Shi et al., CVPR 2016,
    arXiv:1609.05158).

    Parameters
    ----------
    filters, strides : sequence
        Channels and stride of each stage, at least three; the first stride is (1, …).
    fold : sequence of int
        Voxels per block along each axis; every side of an image must be a multiple of fold times strides.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        filters: Sequence[int],
        strides: Sequence[Sequence[int]],
        fold: Sequence[int],
    ) -> None:
        super().__init__()
        self.fold = tuple(int(length) for length in fold)
        block, steps = math.prod(self.fold), [tuple(stride) for stride in strides]
        self.inner = DynUNet(
            spatial_dims,
            block * in_channels,
            block * out_channels,
            [(3,) * spatial_dims] * len(steps),
            steps,
            steps[1:],
            filters=list(filters),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return scores (B, L, …) of images (B, C, …)."""
        return unfold_blocks(self.inner(fold_blocks(images, self.fold)), self.fold)


def fold_blocks(voxels: torch.Tensor, fold: tuple[int, ...]) -> torch.Tensor:
    """Return (B, C * block, I / fold, …) of (B, C, I, …): the voxels of a block lie one after the other."""
    batch, channels, *shape = voxels.shape
    small = [length // width for length, width in zip(shape, fold, strict=True)]
    split = [part for pair in zip(small, fold, strict=True) for part in pair]
    axes = range(len(fold))
    order = [0, 1, *(3 + 2 * axis for axis in axes), *(2 + 2 * axis for axis in axes)]
    return voxels.reshape(batch, channels, *split).permute(order).reshape(batch, channels * math.prod(fold), *small)


def unfold_blocks(folded: torch.Tensor, fold: tuple[int, ...]) -> torch.Tensor:
    """Return (B, C, I, …) of what `fold_blocks` made of it."""
    batch, channels, *small = folded.shape
    channels //= math.prod(fold)
    first = 2 + len(fold)
    order = [0, 1, *(place for axis in range(len(fold)) for place in (first + axis, 2 + axis))]
    shape = [length * width for length, width in zip(small, fold, strict=True)]
    return folded.reshape(batch, channels, *fold, *small).permute(order).reshape(batch, channels, *shape)
