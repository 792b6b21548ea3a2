"""Whole processes that only import torch and MONAI: as Python does it, and as our trainings and workers do."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys

from benchmarks.pairs import Pair, whole_process

ROUNDS = 5
OURS = (
    "from medml.interpreter import run_quickly; from medml.networks.monai_import import import_monai; "
    "run_quickly(import_monai)"
)
PEERS = {"import torch, monai": "import torch, monai", "import torch alone, the floor": "import torch"}
NETWORKS = "import monai.networks.nets as nets; print(*sorted(vars(nets)))"


def run() -> list[Pair]:
    programs = {"ours": OURS, **PEERS}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in programs}
    for round_ in range(ROUNDS + 1):
        for name, program in programs.items():
            taken = whole_process([sys.executable, "-c", program], os.environ)
            if round_:  # the first brings the files into memory
                times[name].append(taken)
    medians = {name: [statistics.median(one) for one in zip(*found, strict=True)] for name, found in times.items()}
    (own_cpu, own_wall), same = medians["ours"], _networks(f"{OURS}; {NETWORKS}") == _networks(NETWORKS)
    agreement = "the same networks" if same else "**other networks**"
    return [
        Pair("start and end with MONAI", name, own_cpu, medians[name][0], own_wall, medians[name][1], agreement)
        for name in PEERS
    ]


def _networks(program: str) -> str:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
