"""How a network is described: the MONAI class, its options, and the defaults that follow from a plan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
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
        Name of the class or function in ``monai.networks.nets``, for the bundle.
    build : callable
        Makes the module from keyword arguments; its state dict is that of ``target``.
    defaults : callable
        Plan to all keyword arguments that ``network_options`` does not name.
    options : tuple of str
        What ``plan.network_options`` may name.
    """

    target: str
    build: Callable[..., nn.Module]
    defaults: Callable[[Plan], dict[str, Any]]
    options: tuple[str, ...]


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
