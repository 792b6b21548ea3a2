"""How 3D convolutions are run in training on a CPU: around a fault, and around a slow path."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

THINNEST = 2
NARROWEST, NARROW = 2, 12  # channels; one alone has no order in memory


def guard_thin_volumes(network: nn.Module) -> None:
    """Make 3D convolutions run in fp32 where an input side is at most two voxels.

    On CPUs with bf16, torch 2.13 (oneDNN) returns weight gradients with uninitialised memory for a kernel of 3 over a
    first axis of 2: NaN or, worse, finite nonsense. Such inputs are tiny, so fp32 costs nothing there.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv3d):
            setattr(module, "forward", _guarded(module.forward))  # noqa: B010  (assigning a method is no type)


def quicken_narrow(network: nn.Module) -> None:
    """Make 3D convolutions of few channels work with channels last; what goes in and comes out keeps its order.

    In the usual order oneDNN has fast paths for multiples of 16 channels only: forth and back, 3 to 3 channels take
    2.7 (fp32) and 4.4 times (bf16) as long as with channels last, copies included; 8 to 8 take 2.0 and 2.4 times.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv3d) and _is_narrow(module):
            module.register_forward_pre_hook(_channels_last)
            module.register_forward_hook(_channels_first)


def _is_narrow(module: nn.Conv3d) -> bool:
    few = NARROWEST <= module.in_channels <= NARROW and module.out_channels <= NARROW
    return few and module.groups == 1 and set(module.stride) == {1}


def _channels_last(module: nn.Module, inputs: tuple[torch.Tensor]) -> torch.Tensor:
    return inputs[0].contiguous(memory_format=torch.channels_last_3d)


def _channels_first(module: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
    return output.contiguous()


def _guarded(forward: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
    def run(inputs: torch.Tensor) -> torch.Tensor:
        if min(inputs.shape[2:]) > THINNEST:
            return forward(inputs)
        with torch.autocast("cpu", enabled=False):
            return forward(inputs.float())

    return run
