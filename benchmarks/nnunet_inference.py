"""nnU-Net v2's predictor in its own environment: a network trained briefly on a phantom, a batch from files to masks.

``nnunet_inference.py train FOLDER``; ``nnunet_inference.py answer JOB.json`` does the job once for every line that
comes in, and answers with what it took.
"""

from __future__ import annotations

import contextlib
import json
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

STEPS = 300
RATE = 3e-3


def main() -> None:
    part, given = sys.argv[1], Path(sys.argv[2])
    if part == "train":
        train(given)
    else:
        answer(json.loads(given.read_text(encoding="utf-8")))


def build(folder: Path) -> tuple[torch.nn.Module, Any, Any, dict[str, Any]]:
    """Return the network of a plan, and what nnU-Net's predictor wants beside it."""
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    dataset = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    plans = PlansManager(json.loads((folder / "plans.json").read_text(encoding="utf-8")))
    found = plans.get_configuration("3d_fullres")
    labels = plans.get_label_manager(dataset).num_segmentation_heads
    arguments = (
        found.network_arch_class_name,
        found.network_arch_init_kwargs,
        found.network_arch_init_kwargs_req_import,
    )
    torch.manual_seed(0)
    network = get_network_from_plans(*arguments, 1, labels, allow_init=True, deep_supervision=False)
    return network, plans, found, dataset


def train(folder: Path) -> None:
    """Learn a phantom, crop by crop, in bf16; enough for clear labels."""
    network, _, found, _ = build(folder)
    with np.load(folder / "phantom.npz") as phantom:
        image, labels = torch.from_numpy(phantom["image"]), torch.from_numpy(phantom["labels"]).long()
    short = [max(0, side - length) for side, length in zip(found.patch_size, image.shape)]  # noqa: B905
    pads = [width for lack in reversed(short) for width in (lack // 2, lack - lack // 2)]
    image, labels = torch.nn.functional.pad(image, pads), torch.nn.functional.pad(labels, pads)
    optimiser = torch.optim.AdamW(network.parameters(), lr=RATE)
    draw = np.random.default_rng(0)
    for step in range(STEPS):
        for group in optimiser.param_groups:
            group["lr"] = RATE * (1 - step / STEPS)
        starts = [int(draw.integers(0, length - side + 1)) for length, side in zip(image.shape, found.patch_size)]  # noqa: B905
        place = tuple(slice(start, start + side) for start, side in zip(starts, found.patch_size))  # noqa: B905
        axes = [axis for axis in range(3) if draw.random() < 0.5]  # files of each side lie the other way round
        with torch.autocast("cpu", dtype=torch.bfloat16):
            scores = network(image[place].flip(axes)[None, None])
        loss = torch.nn.functional.cross_entropy(scores.float(), labels[place].flip(axes)[None])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    print(float(loss.detach()))
    torch.save({"network_weights": network.state_dict()}, folder / "weights.pth")


def answer(job: dict[str, Any]) -> None:
    """Do the job for every line that comes in; mirrored views are off, as on the other sides."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    folder, out = Path(job["nnunet"]), Path(job["out"])
    device = torch.device(job["device"])
    network, plans, found, dataset = build(folder)
    weights = torch.load(folder / "weights.pth", weights_only=True, map_location="cpu")
    weights = weights.get("network_weights", weights)
    own = network.state_dict().keys()
    missing = own - weights.keys()
    if missing:
        raise SystemExit(f"{len(missing)} entries of the network have no weights")
    predictor = nnUNetPredictor(
        device=device, use_mirroring=False, perform_everything_on_device=device.type == "cuda", allow_tqdm=False
    )
    weights = {key: weights[key] for key in own}
    predictor.manual_initialization(network.to(device), plans, found, [weights], dataset, "nnUNetTrainer", None)
    print(json.dumps({"ready": True}), flush=True)
    for _ in sys.stdin:
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        start, cpu = time.perf_counter(), _cpu_seconds()
        images = convert(job, out) if job["dicom"] else sorted(Path(job["source"]).iterdir())
        masks = [str(out / path.name.split(".")[0].removesuffix("_0000")) for path in images]
        with contextlib.redirect_stdout(sys.stderr):
            predictor.predict_from_files_sequential([[str(path)] for path in images], masks)
        took = {"seconds": time.perf_counter() - start, "cpu_seconds": _cpu_seconds() - cpu}
        print(json.dumps(took), flush=True)


def convert(job: dict[str, Any], out: Path) -> list[Path]:
    """Convert the series by dcm2niix, uncompressed, which is fastest; nnU-Net reads no DICOM, so its time counts."""
    folder = out / "nifti"
    folder.mkdir()
    for series in sorted(Path(job["source"]).iterdir()):
        command = [job["dcm2niix"], "-z", "n", "-b", "n", "-o", str(folder), "-f", series.name, str(series)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return sorted(folder.glob("*.nii"))


def _cpu_seconds() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


if __name__ == "__main__":
    main()
