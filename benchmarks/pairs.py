"""Run two functions in turn and compare their medians of CPU and wall time."""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class Pair:
    """One comparison; ratios below 1 mean that ours is faster."""

    task: str
    peer: str
    ours_cpu: float
    peer_cpu: float
    ours_wall: float
    peer_wall: float
    agreement: str

    def row(self) -> str:
        """Return the line of the table."""
        cpu, wall = self.ours_cpu / self.peer_cpu, self.ours_wall / self.peer_wall
        return (
            f"| {self.task} | {self.peer} | {self.ours_cpu:.2f} | {self.peer_cpu:.2f} | {cpu:.2f} | {wall:.2f} "
            f"| {self.agreement} |"
        )


def compare(
    task: str, peer: str, ours: Callable[[], object], theirs: Callable[[], object], *, agreement: str, rounds: int = 5
) -> Pair:
    """Time both in turn, after one round that does not count."""
    times: dict[str, list[tuple[float, float]]] = {"ours": [], "peer": []}
    for n in range(rounds + 1):
        for name, function in (("ours", ours), ("peer", theirs)):
            cpu, wall = time.process_time(), time.perf_counter()
            function()
            if n:
                times[name].append((time.process_time() - cpu, time.perf_counter() - wall))
    medians = {
        name: [statistics.median(column) for column in zip(*found, strict=True)] for name, found in times.items()
    }
    (ours_cpu, ours_wall), (peer_cpu, peer_wall) = medians["ours"], medians["peer"]
    return Pair(task, peer, ours_cpu, peer_cpu, ours_wall, peer_wall, agreement)


def whole_process(command: Sequence[str], environment: Mapping[str, str]) -> tuple[float, float]:
    """Return CPU and wall seconds of a process and its children, from its start to its end."""
    start = time.perf_counter()
    child = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{command[0]} ended with {child.returncode}")
    return usage.ru_utime + usage.ru_stime, time.perf_counter() - start
