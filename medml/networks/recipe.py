"""How a network is described: its class, its options, and the defaults that follow from a plan."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from medml.errors import ConfigError
from medml.records.plan import Plan


@dataclass(frozen=True, slots=True)
class Recipe:
    """One entry of the dictionary of networks.

    Attributes
    ----------
    target : str
        Name of the class or function in ``monai.networks.nets``, for the bundle; of a network of our own
        ``scripts.<module>.<class>``, as the bundle carries its file along.
    build : callable
        Makes the module from keyword arguments; its state dict is that of ``target``.
    defaults : callable
        Plan to all keyword arguments that ``network_options`` does not name.
    options : tuple of str
        What ``plan.network_options`` may name.
    multiple : int
        Every side of the input must be a multiple of it.
    dims : tuple of int
        Whether it takes 2D images, 3D ones or both.
    """

    target: str
    build: Callable[..., nn.Module]
    defaults: Callable[[Plan], dict[str, Any]]
    options: tuple[str, ...]
    multiple: int = 1
    dims: tuple[int, ...] = (2, 3)

    @property
    def script(self) -> Path | None:
        """The file that a bundle carries along in its ``scripts`` folder; None for MONAI's own networks."""
        if not self.target.startswith("scripts."):
            return None
        return Path(inspect.getfile(self.build))

    def check(self, plan: Plan) -> None:
        """Refuse an input that no options make possible.

        Raises
        ------
        ConfigError
            If the network does not take the plan's dimensions, or a side is no multiple of what it halves.
        """
        if plan.dims not in self.dims:
            raise ConfigError(
                f"{plan.network} reads {self.dims[0]}D images, the plan has {plan.dims}D ones; choose another network"
            )
        shape = input_shape(plan)
        if any(side % self.multiple for side in shape):
            wanted = tuple(-(-side // self.multiple) * self.multiple for side in shape) + (1,) * (3 - len(shape))
            key = "patch" if plan.task == "segment" else "size"
            raise ConfigError(
                f"{plan.network} takes sides that are multiples of {self.multiple}, found "
                f"{'x'.join(map(str, shape))} voxels; set plan.{key} to {list(wanted)}"
            )


def own(build: type[nn.Module]) -> str:
    """Return the target of a network of our own: its file is copied to the bundle's ``scripts`` folder."""
    return f"scripts.{build.__module__.rpartition('.')[2]}.{build.__name__}"


def given(plan: Plan) -> dict[str, int]:
    """Return what no option may change: dimensions, channels in, labels out."""
    return {"spatial_dims": plan.dims, "in_channels": len(plan.channels), "out_channels": len(plan.labels)}


def input_shape(plan: Plan) -> tuple[int, ...]:
    """Return the spatial shape that the network sees: two axes for 2D plans, three for 3D."""
    key = "patch" if plan.task == "segment" else "size"
    shape: tuple[int, ...] | None = plan.patch if plan.task == "segment" else plan.size
    if shape is None:
        raise ConfigError(f"the plan has no {key}, which a network to {plan.task} needs; set plan.{key} to (I, J, K)")
    return shape[: plan.dims]
