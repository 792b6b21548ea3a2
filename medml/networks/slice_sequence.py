"""A classifier that reads a thick stack slice by slice. Needs torch and MONAI alone: packages carry this file along."""

from __future__ import annotations

from typing import Any, Literal

import torch
from monai.networks.nets.resnet import resnet18
from torch import nn


class SliceSequence(nn.Module):
    """A ResNet-18 sees each slice, a bidirectional LSTM reads the slices in order, a pooling makes one answer.

    Where slices are far apart, neighbours show different anatomy: kernels across them mix what does not touch, while
    a 2D network per slice (as in Bien et al., PLoS Medicine 15:e1002699, 2018, who take the maximum over slices)
    keeps the plane's resolution, and the LSTM keeps the order.

    Parameters
    ----------
    axis : int
        Spatial axis (0, 1 or 2) along which the slices lie.
    pooling : "attention" or "mean"
        Slices weighted by what they hold, or all alike.
    hidden : int
        Cells of the LSTM in each direction.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        axis: int = 2,
        widen_factor: float = 1.0,
        conv1_t_size: int = 7,
        conv1_t_stride: int = 2,
        no_max_pool: bool = False,
        hidden: int = 128,
        pooling: Literal["attention", "mean"] = "attention",
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        if axis not in (0, 1, 2):
            raise ValueError(f"axis {axis}: slices lie along axis 0, 1 or 2")
        if pooling not in ("attention", "mean"):
            raise ValueError(f"pooling {pooling!r}: expected attention or mean")
        self.axis = axis
        self.slices = resnet18(
            spatial_dims=2,
            n_input_channels=in_channels,
            feed_forward=False,
            widen_factor=widen_factor,
            conv1_t_size=conv1_t_size,
            conv1_t_stride=conv1_t_stride,
            no_max_pool=no_max_pool,
        )
        last: Any = self.slices.layer4[-1]
        features = int(last.conv2.out_channels)
        self.sequence = nn.LSTM(features, hidden, batch_first=True, bidirectional=True)
        self.weight = nn.Linear(2 * hidden, 1) if pooling == "attention" else None
        self.dropout = nn.Dropout(dropout)
        self.scores = nn.Linear(2 * hidden, out_channels)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return scores (B, L) of volumes (B, C, I, J, K)."""
        stack = images.movedim(self.axis + 2, 1)
        count, length = stack.shape[:2]
        features = self.slices(stack.reshape(count * length, *stack.shape[2:])).reshape(count, length, -1)
        states, _ = self.sequence(features)
        shares = 1 / length if self.weight is None else self.weight(states).softmax(dim=1)
        scores: torch.Tensor = self.scores(self.dropout((states * shares).sum(dim=1)))
        return scores
