"""Dice, HD95 and NSD of one case: ours, and MONAI's metrics."""

from __future__ import annotations

import numpy as np
import torch
from monai.metrics import compute_dice, compute_hausdorff_distance, compute_surface_dice

from benchmarks.pairs import Pair, compare
from medml.metrics.overlap import dice
from medml.metrics.surface import surface_scores

SPACING = (1.0, 1.0, 2.0)


def run() -> list[Pair]:
    """Two shifted ellipsoids in 256x256x100 voxels."""
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in (256, 256, 100)], indexing="ij"))

    def ellipsoid(centre: tuple[int, int, int]) -> np.ndarray:
        scaled = (grid - np.reshape(centre, (3, 1, 1, 1))) / np.reshape((50, 40, 30), (3, 1, 1, 1))
        return np.square(scaled).sum(0) < 1

    reference, prediction = ellipsoid((128, 128, 50)), ellipsoid((131, 126, 51))
    tensors = [torch.from_numpy(mask)[None, None].float() for mask in (prediction, reference)]

    def ours() -> tuple[float, float, float]:
        scores = surface_scores(prediction, reference, SPACING, tolerance_mm=1.0)
        return dice(prediction, reference), scores.hd95, scores.nsd

    def theirs() -> tuple[float, float, float]:
        return (
            float(compute_dice(*tensors)),
            float(compute_hausdorff_distance(*tensors, include_background=True, percentile=95, spacing=SPACING)),
            float(compute_surface_dice(*tensors, [1.0], include_background=True, spacing=SPACING, use_subvoxels=False)),
        )

    mine, other = ours(), theirs()
    agreement = (
        f"Dice {abs(mine[0] - other[0]):.0e}, HD95 {abs(mine[1] - other[1]):.0e} mm, NSD {abs(mine[2] - other[2]):.3f}"
    )
    return [compare("Dice, HD95, NSD of a case", "MONAI", ours, theirs, agreement=agreement)]
