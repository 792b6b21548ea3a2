"""Small plans and volumes that several packages' tests share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from medml.records.plan import Normalisation, Plan
from medml.records.scan import Volume

OBLIQUE = np.array([[0.96, -0.84, 0.0, -31.0], [0.72, 1.12, 0.0, 12.0], [0.0, 0.0, 2.5, 4.0], [0, 0, 0, 1]])


@pytest.fixture
def make_plan() -> Callable[..., Plan]:
    """A segmenter's plan, or with ``task="classify"`` a classifier's, changed key by key."""

    def make(**changes: Any) -> Plan:
        classify = changes.get("task") == "classify"
        values: dict[str, Any] = {
            "task": "segment",
            "dims": 3,
            "modality": "MR",
            "channels": ("image",),
            "labels": {0: "absent", 1: "present"} if classify else {0: "background", 1: "organ"},
            "patch": None if classify else (16, 16, 16),
            "size": (16, 16, 16) if classify else None,
            "normalisation": tuple(Normalisation(kind="zscore") for _ in changes.get("channels", ("image",))),
            "network": "resnet18" if classify else "unet",
            "batch": 2,
            "steps_per_epoch": 1,
            "epochs": 1,
            "minutes": 1.0,
            "patience": 1,
            "learning_rate": 1e-3,
            "loss": "cross_entropy" if classify else "dice_ce",
        }
        return Plan(**(values | changes))

    return make


@pytest.fixture
def blob() -> Volume:
    """An oblique, anisotropic MR-like volume (1, 22, 20, 14): zero around a body, and a bright ellipsoid in it."""
    i, j, k = np.meshgrid(np.arange(22), np.arange(20), np.arange(14), indexing="ij")
    ellipsoid = ((i - 9) / 5) ** 2 + ((j - 10) / 4) ** 2 + ((k - 6) / 3) ** 2 < 1
    noise = np.random.default_rng(0).normal(100, 5, ellipsoid.shape)
    voxels = (noise + 200 * ellipsoid) * ((i > 2) & (i < 20) & (j > 1) & (k < 12))
    return Volume(voxels[np.newaxis].astype(np.float32), OBLIQUE)
