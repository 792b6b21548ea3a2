"""A guard around one fault of the CPU's bf16 convolutions."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

THINNEST = 2


def guard_thin_volumes(network: nn.Module) -> None:
    """Make 3D convolutions run in fp32 where an input side is at most two voxels.

    On CPUs with bf16, torch 2.13 (oneDNN) returns weight gradients with uninitialised memory for a kernel of 3 over a
    first axis of 2: NaN or, worse, finite nonsense. Such inputs are tiny, so fp32 costs nothing there.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv3d):
            setattr(module, "forward", _guarded(module.forward))  # noqa: B010  (assigning a method is no type)


def _guarded(forward: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
    def run(inputs: torch.Tensor) -> torch.Tensor:
        if min(inputs.shape[2:]) > THINNEST:
            return forward(inputs)
        with torch.autocast("cpu", enabled=False):
            return forward(inputs.float())

    return run
