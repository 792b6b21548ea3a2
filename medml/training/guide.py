"""Masks that teach a classifier where to look.

A scan's class hangs on a few voxels, and some dozens of scans do not tell which. Where training cases carry masks, a
small head on a middle layer learns to draw them, coarsely, while the network learns the classes. The head is thrown
away afterwards: the package holds the network alone, and inference needs no mask.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from medml.networks.build import run_network
from medml.records.plan import Plan

LAYERS = {
    "resnet18": "layer2",
    "resnet34": "layer2",
    "resnet50": "layer2",
    "densenet121": "features.denseblock2",
}
LABELS = 8  # of masks; larger values count as the last
UNKNOWN = 255  # in every voxel of a case without a mask


class GuidedNetwork(nn.Module):
    """A classifier with a head on a middle layer; returns class scores and the head's (B, LABELS, i, j, k)."""

    def __init__(self, network: nn.Module, plan: Plan, device: torch.device) -> None:
        super().__init__()
        self.network = network
        self._seen: list[torch.Tensor] = []
        network.get_submodule(LAYERS[plan.network]).register_forward_hook(self._keep)
        with torch.no_grad():
            run_network(network.eval(), torch.zeros(1, len(plan.channels), *(plan.size or ()), device=device), plan)
        convolution = nn.Conv2d if plan.dims == 2 else nn.Conv3d
        self.head = convolution(self._seen.pop().shape[1], LABELS, 1).to(device)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return scores and map."""
        scores = self.network(images)
        return scores, self.head(self._seen.pop())

    def _keep(self, module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        self._seen[:] = [output]


def guide_loss(drawn: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Return cross-entropy plus Dice of a coarse map against the share of each label in its cells.

    Parameters
    ----------
    drawn : Tensor of shape (B, LABELS, i, j[, k])
        Scores of the head.
    masks : Tensor of shape (B, 1, I, J, K), uint8
        `UNKNOWN` where a case has no mask; such cases do not count.
    """
    known = (masks != UNKNOWN).flatten(1).all(dim=1)
    if drawn.ndim == 4:
        drawn = drawn.unsqueeze(-1)
    if not bool(known.any()):
        return drawn.sum() * 0.0
    drawn, masks = drawn.float()[known], masks[known, 0].clamp(max=LABELS - 1)
    cells = (drawn.shape[2], drawn.shape[3], drawn.shape[4])
    shares = torch.stack(
        [functional.adaptive_avg_pool3d((masks == label).float(), cells) for label in range(LABELS)], dim=1
    )
    entropy = -(shares * drawn.log_softmax(dim=1)).sum(dim=1).mean()
    found = drawn.softmax(dim=1)
    over = (0, 2, 3, 4)
    overlap = 2 * (found * shares).sum(over) / (found.square() + shares.square()).sum(over).clamp(min=1e-5)
    there = shares.sum(over) > 0
    there[0] = False  # background
    return entropy + (1 - overlap[there]).sum() / there.sum().clamp(min=1)


def fit_mask(mask: np.ndarray, size: tuple[int, int, int], *, keep_scale: bool) -> np.ndarray:
    """Bring labels (I, J, K) to a classifier's input shape, as `preprocess` brings its image there.

    Parameters
    ----------
    keep_scale : bool
        Pad and crop around the centre; else stretch, nearest neighbour.
    """
    if not keep_scale:
        index = [((np.arange(n) + 0.5) * old / n).astype(int) for n, old in zip(size, mask.shape, strict=True)]
        return np.ascontiguousarray(mask[np.ix_(*index)])
    fitted = np.zeros(size, dtype=mask.dtype)
    first = [-((n - old) // 2) if old < n else old // 2 - n // 2 for n, old in zip(size, mask.shape, strict=True)]
    pairs = list(zip(first, mask.shape, size, strict=True))
    here = tuple(slice(max(0, -f), max(0, -f) + min(old, n)) for f, old, n in pairs)
    there = tuple(slice(max(0, f), max(0, f) + min(old, n)) for f, old, n in pairs)
    fitted[here] = mask[there]
    return fitted
