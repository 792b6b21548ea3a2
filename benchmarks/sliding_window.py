"""One volume through a segmenter: our predictor as planned, and MONAI's inferer in fp32, same network and weights."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
from monai.inferers import sliding_window_inference

from benchmarks.pairs import Pair, compare
from medml.networks.build import build_network, run_network
from medml.networks.package import Calibration, write_package
from medml.networks.predictor import Predictor
from medml.records.plan import Normalisation, Plan
from medml.records.scan import Volume

SHAPE = (128, 128, 96)
PATCH = (64, 64, 64)


def run() -> list[Pair]:
    """Random weights: the arithmetic is what costs."""
    torch.manual_seed(0)
    plan = Plan(
        task="segment",
        dims=3,
        modality="MR",
        channels=("image",),
        labels={0: "background", 1: "organ"},
        patch=PATCH,
        normalisation=(Normalisation(kind="zscore"),),
        network="unet",
        batch=1,
        steps_per_epoch=1,
        epochs=1,
        minutes=1,
        patience=1,
        learning_rate=1e-3,
        loss="dice_ce",
    )
    network = build_network(plan)
    voxels = np.random.default_rng(0).normal(size=(1, *SHAPE)).astype(np.float32)
    volume = Volume(voxels=voxels, affine=np.eye(4))
    with tempfile.TemporaryDirectory() as folder:
        package = write_package(Path(folder) / "p", network, plan, plan.labels, Calibration(), "benchmark", {})
        predictor = Predictor(package, device="cpu")
    image = torch.from_numpy((voxels - voxels.mean()) / voxels.std())[None]
    network.eval()

    @torch.inference_mode()
    def theirs() -> np.ndarray:
        logits = sliding_window_inference(
            image, PATCH, 1, lambda batch: run_network(network, batch, plan), overlap=plan.overlap, mode="gaussian"
        )
        return np.asarray(logits.argmax(1)[0].to(torch.uint8))

    same = float((predictor.predict(volume).mask == theirs()).mean())
    peer = "MONAI sliding_window_inference, fp32"
    agreement = f"argmax {100 * same:.2f} %"
    return [
        compare(
            "sliding window, 128x128x96", peer, lambda: predictor.predict(volume), theirs, agreement=agreement, rounds=3
        )
    ]
