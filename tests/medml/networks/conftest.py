"""A trained segmenter and classifier, small enough for every test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from medml.networks.build import build_network, run_network
from medml.networks.package import write_package
from medml.records.calibration import Calibration
from medml.records.plan import Plan
from medml.records.scan import Volume
from medml.transforms.preprocessing import preprocess, preprocess_mask

SMALL = {"channels": (8, 16), "strides": (2,), "num_res_units": 0}


@pytest.fixture
def trained(make_plan: Callable[..., Plan], blob: Volume) -> Callable[..., tuple[torch.nn.Module, Plan]]:
    """A network that has learned to find the bright ellipsoid of ``blob`` under a plan with the given changes."""

    def train(**changes: object) -> tuple[torch.nn.Module, Plan]:
        plan = make_plan(**({"network_options": SMALL, "spacing_mm": (1.5, 1.5, 2.0)} | changes))
        torch.manual_seed(0)
        network = build_network(plan)
        volume = Volume(np.concatenate([blob.voxels] * len(plan.channels)), blob.affine)
        image = torch.from_numpy(preprocess(volume, plan).voxels)[None]
        target = torch.from_numpy(preprocess_mask((blob.voxels[0] > 200).astype(np.uint8), volume, plan)).long()[None]
        even = [slice(0, n // 4 * 4) for n in target.shape[1:]]
        image, target = image[(..., *even)], target[(..., *even)]
        if plan.dims == 2:
            image, target = image[0].movedim(3, 0)[..., None], target[0].movedim(2, 0)[..., None]
        optimiser = torch.optim.Adam(network.parameters(), lr=2e-2)
        for _ in range(30):
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(run_network(network, image, plan), target).backward()
            optimiser.step()
        return network, plan

    return train


@pytest.fixture
def pack(tmp_path: Path) -> Callable[..., Path]:
    """Write a package of a network and its plan."""

    def write(network: torch.nn.Module, plan: Plan, **calibration: float) -> Path:
        return write_package(
            tmp_path / "package",
            network,
            plan,
            plan.labels,
            Calibration(**calibration),
            "# Card\n",
            {"dataset": "d" * 64, "test_set": "e" * 64, "code": "1234"},
            name="organ",
            version="3",
        )

    return write
