"""Resampling of voxel arrays: separable along the axes, or by any affine."""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage

Shape = tuple[int, int, int]
Triple = tuple[float, float, float]


def resample_linear(
    tensor: torch.Tensor, step: Triple, shape: Shape, *, offset: Triple = (0.0, 0.0, 0.0), first: Shape = (0, 0, 0)
) -> torch.Tensor:
    """Sample (C, I, J, K) linearly at ``(first + n) * step + offset`` for n in ``shape``; beyond the edge, the edge.

    Trilinear interpolation along the axes is separable, so each axis is done alone, the ones that shrink first:
    the same numbers as MONAI's `Spacing` at a fraction of its time.
    """
    growth = [shape[axis] / tensor.shape[axis + 1] for axis in range(3)]
    for axis in sorted(range(3), key=lambda axis: growth[axis]):
        tensor = _resample_axis(tensor, axis + 1, step[axis], shape[axis], offset[axis], first[axis])
    return tensor


def resample_nearest(labels: np.ndarray, step: Triple, shape: Shape, *, offset: Triple = (0.0, 0.0, 0.0)) -> np.ndarray:
    """Sample labels (I, J, K) at ``n * step + offset`` for n in ``shape``, nearest neighbour, halves to even."""
    if shape == labels.shape and step == (1.0, 1.0, 1.0) and offset == (0.0, 0.0, 0.0):
        return np.array(labels, order="C")
    index = [
        np.clip(np.rint(np.arange(shape[axis]) * step[axis] + offset[axis]).astype(np.intp), 0, labels.shape[axis] - 1)
        for axis in range(3)
    ]
    return np.ascontiguousarray(labels[np.ix_(*index)])


def resample_affine(voxels: np.ndarray, matrix: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Sample (C, I, J, K) linearly at ``matrix @ index`` for every index of ``shape``.

    Where there is no data, the channel's lowest value stands.
    """
    resampled = np.empty((voxels.shape[0], *shape), dtype=np.float32)
    for channel, out in zip(voxels, resampled, strict=True):
        ndimage.affine_transform(
            channel.astype(np.float32, copy=False),
            matrix[:3, :3],
            offset=matrix[:3, 3],
            output_shape=shape,
            output=out,
            order=1,
            mode="grid-constant",
            cval=float(channel.min()),
        )
    return resampled


def _resample_axis(
    tensor: torch.Tensor, axis: int, step: float, length: int, offset: float, first: int
) -> torch.Tensor:
    last = tensor.shape[axis] - 1
    if step == 1.0 and offset == 0.0 and first == 0 and length == last + 1:
        return tensor
    where = (torch.arange(first, first + length, dtype=torch.float64) * step + offset).clamp_(0, last)
    below = where.floor().clamp_(max=max(last - 1, 0))
    weight = (where - below).to(dtype=tensor.dtype, device=tensor.device)
    low = below.to(dtype=torch.int64, device=tensor.device)
    high = (low + 1).clamp_(max=last)
    shape = [1] * tensor.ndim
    shape[axis] = length
    lower = tensor.index_select(axis, low)
    return lower.lerp_(tensor.index_select(axis, high), weight.view(shape))
