"""Begin a training with weights that another training ended with, as far as they fit."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch import nn

from medml.errors import Refusal
from medml.networks.foreign import SHOWN, find_weights, fitting_names, read_foreign
from medml.records.plan import Plan
from medml.records.record import Record

logger = logging.getLogger(__name__)

LEAST_SHARE = 0.5


class Taken(Record):
    """What a network took over.

    Attributes
    ----------
    taken, expected : int
        Tensors of the network that were given, and all of them; the same counted in numbers.
    other_shape : tuple of str
        Tensors that are there in another shape, as the last layer for other labels is; they begin at random.
    missing, unused : tuple of str
        Tensors that only the network, or only the file has.
    """

    taken: int
    expected: int
    numbers: int
    expected_numbers: int
    other_shape: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()

    @property
    def share(self) -> float:
        """The share of the network's numbers that were given."""
        return self.numbers / max(1, self.expected_numbers)

    def describe(self) -> str:
        """Return it in words."""
        parts = [f"{self.taken} of {self.expected} tensors ({self.share:.0%} of the numbers) taken"]
        for what, names in (
            ("in another shape", self.other_shape),
            ("missing", self.missing),
            ("not used", self.unused),
        ):
            if names:
                more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
                parts.append(f"{len(names)} {what}: {', '.join(names[:SHOWN])}{more}")
        return "; ".join(parts)


def begin_with(network: nn.Module, source: Path, plan: Plan) -> Taken:
    """Give a network the weights of a package, of a MONAI bundle or of a file, where name and shape agree.

    Only tensors are read. A last layer for other labels, or a first one for other channels, stays random.

    Raises
    ------
    NotFound
        If there are no weights.
    Refusal
        ``weights_format``, ``weights_size``; ``weights_share`` if fewer than half of the network's numbers fit.
    """
    file = find_weights(source)
    state, nnunet = read_foreign(file)
    expected = network.state_dict()
    axes = tuple(reversed(range(plan.dims))) if nnunet else None
    found = fitting_names(state, expected, axes=axes)
    fits = {key: value for key, value in found.items() if key in expected and value.shape == expected[key].shape}
    taken = Taken(
        taken=len(fits),
        expected=len(expected),
        numbers=_count(fits),
        expected_numbers=_count(expected),
        other_shape=tuple(key for key in found if key in expected and key not in fits),
        missing=tuple(key for key in expected if key not in found),
        unused=tuple(key for key in found if key not in expected),
    )
    if taken.share < LEAST_SHARE:
        raise Refusal(
            "weights_share",
            f"{file.name}: too little of it fits the plan's {plan.network}: {taken.describe()}; at least "
            f"{LEAST_SHARE:.0%} must. Set plan.network and plan.network_options as they were where it was trained, or "
            "leave plan.pretrained out",
        )
    network.load_state_dict(fits, strict=False)
    logger.info("first weights from %s: %s", file.name, taken.describe())
    return taken


def _count(state: dict[str, torch.Tensor]) -> int:
    return sum(value.numel() for value in state.values())
