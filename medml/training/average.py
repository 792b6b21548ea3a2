"""The running average of a network's weights: what is validated and kept (Izmailov et al., UAI 2018)."""

from __future__ import annotations

import torch
from torch import nn

from medml.training.schedule import average_decay

Weights = dict[str, torch.Tensor]


class Average:
    """Averaged weights of a network, as plain tensors.

    Parameters
    ----------
    span : float
        Share of the steps so far that the average reaches over.
    """

    def __init__(self, network: nn.Module, span: float) -> None:
        self._span = span
        current = network.state_dict()  # shares memory with the network, so it is asked for only once
        self.values: Weights = {name: value.detach().clone() for name, value in current.items()}
        moving = [name for name, value in current.items() if value.is_floating_point()]
        self._moving = [self.values[name] for name in moving], [current[name] for name in moving]
        self._counted = [(self.values[name], current[name]) for name in current.keys() - set(moving)]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after a step."""
        averaged, current = self._moving
        torch._foreach_lerp_(averaged, current, 1 - average_decay(step, self._span))
        for value, new in self._counted:
            value.copy_(new)

    def snapshot(self) -> Weights:
        """Return a copy."""
        return {name: value.clone() for name, value in self.values.items()}

    def load(self, values: Weights) -> None:
        """Take over the values of a snapshot."""
        for name, value in self.values.items():
            value.copy_(values[name])
