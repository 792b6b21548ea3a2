"""A U-Net whose encoder alone is residual and deep. Needs torch and MONAI alone: packages carry this file along."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.blocks.dynunet_block import UnetBasicBlock, UnetResBlock, get_conv_layer
from torch import nn

ACT = ("leakyrelu", {"inplace": True, "negative_slope": 0.01})


class ResidualEncoderUNet(nn.Module):
    """Several residual blocks per stage on the way down, one plain convolution per stage on the way up.

    After the residual encoder presets of nnU-Net (Isensee et al., MICCAI 2024, arXiv:2404.09556): the encoder gets
    the depth, the decoder stays light.

    Parameters
    ----------
    filters, strides, blocks : sequence
        Channels, stride (one int or one per axis) and residual blocks of each stage; the first stride is 1.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        filters: Sequence[int],
        strides: Sequence[Sequence[int] | int],
        blocks: Sequence[int],
    ) -> None:
        super().__init__()
        if not len(filters) == len(strides) == len(blocks) >= 2:
            raise ValueError(
                f"{len(filters)} filters, {len(strides)} strides and {len(blocks)} blocks: expected one of each for "
                "every stage, at least two"
            )
        norm = ("INSTANCE", {"affine": True})
        inputs = [filters[0], *filters[:-1]]
        self.stem = UnetBasicBlock(spatial_dims, in_channels, filters[0], 3, 1, norm)
        self.encoder = nn.ModuleList(
            nn.Sequential(
                UnetResBlock(spatial_dims, before, width, 3, stride, norm),
                *(UnetResBlock(spatial_dims, width, width, 3, 1, norm) for _ in range(count - 1)),
            )
            for before, width, stride, count in zip(inputs, filters, strides, blocks, strict=True)
        )
        steps = list(zip(filters[1:], filters[:-1], strides[1:], strict=True))[::-1]
        self.up = nn.ModuleList(
            get_conv_layer(
                spatial_dims, deep, width, kernel_size=stride, stride=stride, act=None, norm=None, is_transposed=True
            )
            for deep, width, stride in steps
        )
        self.decoder = nn.ModuleList(
            get_conv_layer(spatial_dims, 2 * width, width, kernel_size=3, stride=1, act=ACT, norm=norm, conv_only=False)
            for _, width, _ in steps
        )
        self.scores = get_conv_layer(
            spatial_dims, filters[0], out_channels, kernel_size=1, stride=1, act=None, norm=None, bias=True
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return scores (B, L, …) of images (B, C, …)."""
        x = self.stem(images)
        skips = []
        for stage in self.encoder:
            x = stage(x)
            skips.append(x)
        skips.pop()
        for up, convolution in zip(self.up, self.decoder, strict=True):
            x = convolution(torch.cat([up(x), skips.pop()], dim=1))
        scores: torch.Tensor = self.scores(x)
        return scores
