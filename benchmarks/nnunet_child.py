"""nnU-Net v2 in its own environment: train against the clock or step by step, predict; started by the benchmarks."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

SECONDS_BETWEEN_SNAPSHOTS = 120.0
CONFIGURATION, PLANS = "3d_fullres", "nnUNetPlans"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("part", choices=("train", "predict", "steps"))
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--out", type=Path, default=Path(), help="where snapshots or masks and a JSON go")
    parser.add_argument("--images", type=Path, help="predict: the folder of images")
    parser.add_argument("--snapshot", default="final", help="predict: which snapshot")
    parser.add_argument("--batch", type=int, default=9, help="steps: patches in a batch")
    given = parser.parse_args()
    if given.part == "train":
        train(given.minutes, given.out)
    elif given.part == "steps":
        answer_steps(given.batch)
    else:
        predict(given.out, given.images, given.snapshot)


def make_trainer() -> Any:
    """Return nnU-Net's own trainer of fold 0, as `nnUNetv2_train` makes it."""
    from nnunetv2.run.run_training import get_trainer_from_args

    trainer = get_trainer_from_args("4", CONFIGURATION, 0, "nnUNetTrainer", PLANS, device=torch.device("cpu"))
    trainer.disable_checkpointing = True
    return trainer


def train(minutes: float, out: Path) -> None:
    """Run nnU-Net's steps until the minutes are used; its polynomial schedule ends with them.

    Everything is nnU-Net's own: network, loss, optimiser, loader, augmentation. The clock runs only while a batch is
    waited for and trained on: neither its start, nor validation (left out), nor snapshots count.
    """
    trainer = make_trainer()
    trainer.on_train_start()
    trainer.network.train()
    budget, used, saved, losses, snapshots = 60 * minutes, 0.0, 0.0, [], {}
    cpu = time.process_time()
    while used < budget:
        for group in trainer.optimizer.param_groups:
            group["lr"] = trainer.initial_lr * (1 - used / budget) ** 0.9
        start = time.perf_counter()
        losses.append(float(trainer.train_step(next(trainer.dataloader_train))["loss"]))
        used += time.perf_counter() - start
        if used - saved >= SECONDS_BETWEEN_SNAPSHOTS and used < budget:
            saved = used
            name = f"{used:06.0f}"
            snapshots[name] = {"seconds": used, "steps": len(losses)}
            save(trainer, out / f"{name}.pth")
            print(name, len(losses), losses[-1], flush=True)
    snapshots["final"] = {"seconds": used, "steps": len(losses)}
    save(trainer, out / "final.pth")
    record = {"snapshots": snapshots, "losses": losses, "cpu_seconds": time.process_time() - cpu, "minutes": minutes}
    (out / "training.json").write_text(json.dumps(record), encoding="utf-8")
    trainer.on_train_end()


def answer_steps(batch: int) -> None:
    """Do one iteration of nnU-Net's trainer, loading and augmentation included, for every line that comes in."""
    trainer = make_trainer()
    trainer.configuration_manager.configuration["batch_size"] = batch
    trainer.on_train_start()
    trainer.network.train()
    print(json.dumps({"ready": True, "parameters": sum(p.numel() for p in trainer.network.parameters())}), flush=True)
    for _ in sys.stdin:
        start, cpu = time.perf_counter(), time.process_time()
        loss = float(trainer.train_step(next(trainer.dataloader_train))["loss"])
        took = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu, "loss": loss}
        print(json.dumps(took), flush=True)


def save(trainer: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(trainer.network.state_dict(), path)


def predict(out: Path, images: Path, snapshot: str) -> None:
    """Segment a folder of images with nnU-Net's predictor as it comes: windows half overlapping, all mirrorings."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    trainer = make_trainer()
    trainer.initialize()
    trainer.set_deep_supervision_enabled(False)
    trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    weights = torch.load(out / f"{snapshot}.pth", weights_only=True)
    predictor = nnUNetPredictor(device=torch.device("cpu"), perform_everything_on_device=False)
    predictor.manual_initialization(
        trainer.network,
        trainer.plans_manager,
        trainer.configuration_manager,
        [weights],
        trainer.dataset_json,
        "nnUNetTrainer",
        trainer.inference_allowed_mirroring_axes,
    )
    start, cpu = time.perf_counter(), time.process_time()
    predictor.predict_from_files_sequential(str(images), str(out / f"masks-{snapshot}"), save_probabilities=False)
    seconds = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu}
    (out / f"masks-{snapshot}.json").write_text(json.dumps(seconds), encoding="utf-8")


if __name__ == "__main__":
    main()
