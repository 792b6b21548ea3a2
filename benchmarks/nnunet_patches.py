"""nnU-Net's own loader over its own b2nd files, in its own environment; `benchmarks.patches` talks to it by lines."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params, nnUNetDatasetBlosc2


def main(folder: Path, patch: list[int], batch: int) -> None:
    """Store the arrays of a folder as nnU-Net does; then draw as many batches as each line asks for."""
    for path in folder.glob("*.npz"):
        with np.load(path) as arrays:
            image, mask, points = arrays["image"], arrays["mask"], arrays["points"]
        blocks, chunks = comp_blosc2_params(image.shape, tuple(patch), image.itemsize)
        # Its class locations are rows of (channel, i, j, k).
        locations = {
            int(label): np.insert(points[points[:, 0] == label][:, 1:].astype(np.int64), 0, 0, axis=1)
            for label in np.unique(points[:, 0])
        }
        nnUNetDatasetBlosc2.save_case(
            image,
            mask[None].astype(np.int8),
            {"class_locations": locations},
            str(path.with_suffix("")),
            chunks=chunks,
            blocks=blocks,
            chunks_seg=chunks,
            blocks_seg=blocks,
        )
        path.unlink()
    labels = SimpleNamespace(all_labels=[1, 2], has_ignore_label=False)
    loader = nnUNetDataLoader(nnUNetDatasetBlosc2(str(folder)), batch, patch, patch, labels, 0.5)
    print("ready", flush=True)
    for line in sys.stdin:
        cpu, wall = time.process_time(), time.perf_counter()
        for _ in range(int(line)):
            next(loader)
        print(json.dumps([time.process_time() - cpu, time.perf_counter() - wall]), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]), int(sys.argv[3]))
