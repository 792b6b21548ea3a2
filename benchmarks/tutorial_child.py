"""The loop of MONAI's spleen tutorial on our training cases; started by `benchmarks.training_step`, a step a line."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from typing import Any

import torch
from monai.data.dataloader import DataLoader
from monai.data.dataset import CacheDataset
from monai.losses.dice import DiceLoss
from monai.networks.nets.unet import UNet
from monai.transforms.compose import Compose
from monai.transforms.croppad.dictionary import RandCropByPosNegLabeld, SpatialPadd
from monai.transforms.intensity.dictionary import NormalizeIntensityd
from monai.transforms.io.dictionary import LoadImaged
from monai.transforms.spatial.dictionary import Orientationd, Spacingd
from monai.transforms.utility.dictionary import EnsureChannelFirstd

from benchmarks.hippocampus import prepare, scored_files

PATCH = (48, 64, 48)
IMAGES, CROPS = 2, 4  # of a batch: eight patches


def main() -> None:
    """Answer every line with one iteration, loading and cropping included."""
    torch.set_num_threads(2)
    batches = _batches()
    network = UNet(3, 1, 3, channels=(16, 32, 64, 128, 256), strides=(2, 2, 2, 2), num_res_units=2, norm="BATCH")
    loss, optimiser = DiceLoss(to_onehot_y=True, softmax=True), torch.optim.Adam(network.parameters(), 1e-4)
    print(json.dumps({"ready": True}), flush=True)
    for _ in sys.stdin:
        start, cpu = time.perf_counter(), time.process_time()
        batch = next(batches)
        optimiser.zero_grad()
        value = loss(network(batch["image"]), batch["label"])
        value.backward()
        optimiser.step()
        found = value.item()
        took = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu, "loss": found}
        print(json.dumps(took), flush=True)


def _batches() -> Iterator[dict[str, Any]]:
    data, both = prepare(), ["image", "label"]
    scored = set(scored_files(data).values())
    names = [path.name.removesuffix("_0000.nii.gz") for path in sorted((data.raw / "imagesTr").glob("*.nii.gz"))]
    files = [
        {"image": str(data.raw / "imagesTr" / f"{n}_0000.nii.gz"), "label": str(data.raw / "labelsTr" / f"{n}.nii.gz")}
        for n in names
        if n not in scored
    ]
    crop = RandCropByPosNegLabeld(
        keys=both, label_key="label", spatial_size=PATCH, pos=1, neg=1, num_samples=CROPS, image_key="image"
    )
    changes = Compose(
        [
            LoadImaged(keys=both),
            EnsureChannelFirstd(keys=both),
            NormalizeIntensityd(keys="image"),
            Orientationd(keys=both, axcodes="RAS"),
            Spacingd(keys=both, pixdim=(1.0, 1.0, 1.0), mode=("bilinear", "nearest")),
            SpatialPadd(keys=both, spatial_size=PATCH),
            crop,
        ]
    )
    loader = DataLoader(
        CacheDataset(data=files, transform=changes, cache_rate=1.0, progress=False),
        batch_size=IMAGES,
        shuffle=True,
        num_workers=0,
    )
    while True:
        yield from loader


if __name__ == "__main__":
    main()
