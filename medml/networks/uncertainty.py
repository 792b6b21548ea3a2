"""How unsure scores are: entropies as shares of the largest possible."""

from __future__ import annotations

import math

import numpy as np
import torch

from medml.transforms.restoring import best_label

SLAB_VOXELS = 1 << 22


def mean_entropy(logits: torch.Tensor) -> float:
    """Return the mean entropy, as a share of the largest possible, of logits (L, I, J, K).

    Over the box of what is predicted as foreground; over everything when nothing is.
    """
    inner = logits[(slice(None), *foreground_box(logits))]
    depth = max(1, SLAB_VOXELS // (inner.shape[0] * inner.shape[1] * inner.shape[2]))
    total = 0.0
    for slab in torch.split(inner, depth, dim=3):
        log = torch.log_softmax(slab.float(), dim=0)
        total -= float((log.exp() * log).sum(dtype=torch.float64))
    return total / (math.prod(inner.shape[1:]) * math.log(logits.shape[0]))


def foreground_box(logits: torch.Tensor) -> tuple[slice, slice, slice]:
    """Return the box of what logits (L, I, J, K) say is not background; everything when nothing is."""
    foreground = best_label(logits) > 0
    lines = [torch.nonzero(foreground.any(dim=b).any(dim=a)) for a, b in ((1, 2), (0, 2), (0, 1))]
    i, j, k = (slice(int(line[0]), int(line[-1]) + 1) if len(line) else slice(None) for line in lines)
    return i, j, k


def entropy_share(probabilities: torch.Tensor, *, multi_label: bool) -> float:
    """Return the entropy of class probabilities (N,) as a share of the largest possible."""
    if multi_label:
        return float(np.mean([entropy_share(torch.stack((p, 1 - p)), multi_label=False) for p in probabilities]))
    if len(probabilities) < 2:
        return 0.0
    return float(torch.special.entr(probabilities).sum()) / math.log(len(probabilities))
