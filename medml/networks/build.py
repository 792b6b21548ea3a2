"""From a plan to a network: one dictionary of names, one way to run what it builds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from medml.errors import ConfigError
from medml.networks.classifiers import CLASSIFIERS
from medml.networks.recipe import input_shape
from medml.networks.segmenters import SEGMENTERS
from medml.networks.shapes import shapes_only
from medml.records.plan import Plan

NETWORKS = {"segment": SEGMENTERS, "classify": CLASSIFIERS}


def build_network(plan: Plan, *, proved: bool = False) -> nn.Module:
    """Build the plan's network with fresh weights, after proving on shapes alone that it fits the plan's input.

    Parameters
    ----------
    proved : bool
        Whether the plan has built this network before: proving it again takes about 30 ms for a small one.

    Raises
    ------
    ConfigError
        For an unknown name, an option the network does not have, or an input size it cannot take.
    """
    arguments = network_arguments(plan)
    NETWORKS[plan.task][plan.network].check(plan)
    if not proved:
        _check_fit(_outline(plan, arguments), plan)
    return _construct(plan, arguments)


def network_shapes(plan: Plan) -> dict[str, tuple[int, ...]]:
    """Return the shape of every entry of the network's state dict, without memory for its weights."""
    outline = _outline(plan, network_arguments(plan))
    return {name: tuple(value.shape) for name, value in outline.state_dict().items()}


def network_arguments(plan: Plan) -> dict[str, Any]:
    """Return all keyword arguments of the plan's network: computed defaults, then ``plan.network_options``."""
    family = NETWORKS[plan.task]
    if plan.network not in family:
        raise ConfigError(f"network {plan.network!r} cannot {plan.task}; choose one of {', '.join(sorted(family))}")
    if len(plan.labels) > 256:
        raise ConfigError(f"the plan has {len(plan.labels)} labels; at most 256 fit an 8-bit mask")
    recipe = family[plan.network]
    unknown = sorted(set(plan.network_options) - set(recipe.options))
    if unknown:
        raise ConfigError(
            f"network_options of {plan.network}: {', '.join(unknown)} is not an option; "
            f"it takes {', '.join(recipe.options)}"
        )
    return recipe.defaults(plan) | dict(plan.network_options)


def network_target(plan: Plan) -> str:
    """Return the ``_target_`` of the bundle: a class of ``monai.networks.nets``, or one in the bundle's ``scripts``."""
    return NETWORKS[plan.task][plan.network].target


def network_script(plan: Plan) -> Path | None:
    """Return the file of a network of our own, which its bundle carries along; None for MONAI's."""
    return NETWORKS[plan.task][plan.network].script


def run_network(network: Callable[[torch.Tensor], Any], batch: torch.Tensor, plan: Plan) -> Any:
    """Run a batch (B, C, I, J, K) and return logits: (B, L, I, J, K) of a segmenter, (B, L) of a classifier.

    The only place where the slice axis of 2D plans is dropped and put back. While training, a DynUNet with deep
    supervision returns (B, heads, L, I, J, K).
    """
    logits = network(batch[..., 0] if plan.dims == 2 else batch)
    if plan.dims == 2 and plan.task == "segment":
        return logits.unsqueeze(-1)
    return logits


def _outline(plan: Plan, arguments: dict[str, Any]) -> nn.Module:
    """Return the network on shapes alone."""
    with shapes_only():
        return _construct(plan, arguments)


def _construct(plan: Plan, arguments: dict[str, Any]) -> nn.Module:
    recipe = NETWORKS[plan.task][plan.network]
    try:
        return recipe.build(**arguments)
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        raise ConfigError(f"network_options of {plan.network} do not fit together: {error}") from None


def _check_fit(draft: nn.Module, plan: Plan) -> None:
    """Run the network on tensors without memory; a shape it cannot take fails here and not after an hour."""
    shape = input_shape(plan)
    try:
        with torch.no_grad(), shapes_only():
            logits = draft.eval()(torch.empty(1, len(plan.channels), *shape))
    except (RuntimeError, ValueError, IndexError) as error:
        raise ConfigError(
            f"{plan.network} cannot take an input of {'x'.join(map(str, shape))} voxels: {error}; "
            "choose another network, other options or another size"
        ) from None
    expected = (1, len(plan.labels), *(shape if plan.task == "segment" else ()))
    if tuple(logits.shape) != expected:
        raise ConfigError(
            f"{plan.network} turns an input of {'x'.join(map(str, shape))} voxels into {tuple(logits.shape)}, "
            f"expected {expected}; its strides do not divide the patch"
        )
