"""What the layers see: edges first, then shapes, then parts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from medml.explain.subject import Subject

MAPS_PER_LAYER = 6
MOST_LAYERS = 4


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """Some feature maps of one layer.

    Attributes
    ----------
    name : str
        The module's name.
    maps : ndarray of shape (maps, I, J, K)
        Those that differ most within the image, strongest first.
    voxels : tuple of int
        Image voxels that one voxel of the map stands for, along each axis.
    """

    name: str
    maps: np.ndarray
    voxels: tuple[int, ...]


def feature_maps(subject: Subject) -> list[Layer]:
    """Return up to four layers on the way down, each coarser than the one before."""
    found: dict[tuple[int, ...], tuple[str, torch.Tensor]] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: object, output: object) -> None:
            if isinstance(output, torch.Tensor) and output.ndim == subject.image.ndim and min(output.shape[2:]) > 1:
                finest = min(found, default=output.shape[2:], key=lambda shape: int(np.prod(shape)))
                if np.prod(output.shape[2:]) <= np.prod(finest):  # on the way down only
                    found[tuple(output.shape[2:])] = (name, output.detach())

        return hook

    kinds = (nn.Conv2d, nn.Conv3d)
    handles = [
        module.register_forward_hook(keep(name))
        for name, module in subject.network.network.named_modules()
        if isinstance(module, kinds)
    ]
    with torch.no_grad():
        subject.network(subject.image)
    for handle in handles:
        handle.remove()
    chosen = list(found.items())
    if len(chosen) > MOST_LAYERS:
        places = np.unique(np.linspace(0, len(chosen) - 1, MOST_LAYERS).round().astype(int))
        chosen = [chosen[place] for place in places]
    return [_layer(name, output, subject) for _, (name, output) in chosen]


def _layer(name: str, output: torch.Tensor, subject: Subject) -> Layer:
    maps = output[0].float().cpu().numpy()
    spread = maps.reshape(len(maps), -1).std(axis=1)
    strongest = maps[np.argsort(-spread, kind="stable")[:MAPS_PER_LAYER]]
    if subject.plan.dims == 2:
        strongest = strongest[..., np.newaxis]
    sides = zip(subject.image.shape[2:], output.shape[2:], strict=True)
    return Layer(name, strongest, tuple(max(1, round(whole / part)) for whole, part in sides))
