"""One process or several (torchrun): who is first, and how all agree."""

from __future__ import annotations

import os
from dataclasses import dataclass

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

    def agree(self, value: float, device: torch.device) -> float:
        """Return the first process's value in all of them."""
        if self.world == 1:
            return value
        shared = torch.tensor([value], dtype=torch.float64, device=device)
        distributed.broadcast(shared, 0)
        return float(shared.item())

    def any(self, value: float, device: torch.device) -> float:
        """Return the largest value of all processes."""
        if self.world == 1:
            return value
        shared = torch.tensor([value], dtype=torch.float64, device=device)
        distributed.all_reduce(shared, distributed.ReduceOp.MAX)
        return float(shared.item())


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
