"""Random changes to a batch of training cases, on tensors, on the device that trains.

One resampling moves image and mask together (`movement`), then intensities change (`recolouring`). Every random number
follows from seed, step and place, so a resumed training sees the very batches it would have seen, and several processes
see what one would.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from medml.records.plan import Augmentation
from medml.transforms.draws import Draws
from medml.transforms.movement import flip, move
from medml.transforms.recolouring import add_noise, recolour, soften

MIX = 2  # the stream of random numbers that mixing draws from


def augment(
    images: torch.Tensor,
    masks: torch.Tensor | None,
    augmentation: Augmentation,
    *,
    spacing_mm: tuple[float, float, float] | None,
    seed: int,
    step: int,
    places: Sequence[int] | None = None,
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
        three times as coarse as another, everything but flips and translation stays in the plane of the two others.
    seed, step : int
        Name the random numbers.
    places : sequence of int, optional
        Where each case stands in the batch of all processes; 0 to B - 1 if not given.
    """
    draws = Draws(seed, step, range(len(images)) if places is None else places)
    images, masks = flip(images, masks, augmentation.flip_axes, draws)
    images, masks = move(images, masks, augmentation, spacing_mm or (1.0, 1.0, 1.0), draws)
    images = soften(images, augmentation, draws)
    images = recolour(images, augmentation, draws)
    return add_noise(images, augmentation, draws), masks


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
    draw = np.random.default_rng((seed, step, MIX))
    share = float(draw.beta(strength, strength))
    share = max(share, 1 - share)
    order = torch.from_numpy(draw.permutation(len(images))).to(images.device)
    return share * images + (1 - share) * images[order], order, share
