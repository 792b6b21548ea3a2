"""One process or several (torchrun): who is first, how all agree, and how sums over all of them are made."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed


@dataclass(frozen=True, slots=True)
class Processes:
    """This process among those that train together."""

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def wait(self) -> None:
        """Wait until all are here."""
        if self.world > 1:
            distributed.barrier()

    def agree(self, values: Sequence[float], device: torch.device) -> list[float]:
        """Return the first process's values in all of them."""
        return self.largest([value if self.first else float("-inf") for value in values], device)

    def largest(self, values: Sequence[float], device: torch.device) -> list[float]:
        """Return the largest of each value over all processes."""
        if self.world == 1:
            return list(values)
        shared = torch.tensor(values, dtype=torch.float64, device=device)
        distributed.all_reduce(shared, distributed.ReduceOp.MAX)
        return [float(value) for value in shared.tolist()]

    def add(self, sums: torch.Tensor) -> torch.Tensor:
        """Return sums over all processes; gradients flow back through them.

        A loss computed from such sums is the loss of the whole batch, the same in every process. Its gradient comes out
        right after `DistributedDataParallel`, which takes the mean over processes of what they computed.
        """
        if self.world == 1:
            return sums
        total: torch.Tensor = _Sum.apply(sums, self.world)  # type: ignore[no-untyped-call]
        return total

    def images_of(self, batch: int, piece: int, pieces: int) -> int:
        """Return how many images of a batch all processes together have in one of its pieces."""
        own = [len(range(rank, batch, self.world)) for rank in range(self.world)]
        return sum(count // pieces + (piece < count % pieces) for count in own)


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, sums: torch.Tensor, world: int) -> torch.Tensor:
        ctx.world = world
        total = sums.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        # Every process has the same gradient here; the factor takes back the mean over processes that follows.
        return gradients[0] * ctx.world, None


def join_processes(device: str) -> tuple[Processes, str]:
    """Join the group that torchrun made, if it did; return it and this process's own device."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        return Processes(), device
    cuda = device != "cpu" and torch.cuda.is_available()
    if cuda:
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if cuda else "gloo")
    return Processes(int(os.environ["RANK"]), world), device


def leave_processes(processes: Processes) -> None:
    """End the group."""
    if processes.world > 1:
        distributed.destroy_process_group()
