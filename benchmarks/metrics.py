"""Dice, HD95, ASSD and NSD of a case of 512x512x200 voxels: ours, MONAI's and surface-distance's.

Every contender runs in a process of its own, in turn, on the same two label maps; imports and the making of the maps
are not counted. Memory is the peak above what stood before the call. ``python -m benchmarks.metrics OUT.json`` writes
what was found.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.pairs import Pair

SHAPE, SPACING, TOLERANCE = (512, 512, 200), (0.8, 0.8, 1.5), 1.0
CENTRES = ((0.45, 0.45, 0.45), (0.75, 0.72, 0.5), (0.2, 0.7, 0.6), (0.7, 0.22, 0.3))
RADII = (0.22, 0.12, 0.1, 0.06)
CONTENDERS = ("ours", "MONAI", "surface-distance")
ROUNDS = 3
Scores = dict[str, list[float]]


def run() -> list[Pair]:
    """The whole table, as `make bench` prints it."""
    return [pair for labels in (1, 4) for pair in _pairs(measure(labels), labels)]


def measure(labels: int, rounds: int = ROUNDS) -> dict[str, list[dict[str, Any]]]:
    """Run every contender in turn; return what each process said."""
    said: dict[str, list[dict[str, Any]]] = {name: [] for name in CONTENDERS}
    for _ in range(rounds):
        for name in CONTENDERS:
            command = [sys.executable, "-m", "benchmarks.metrics", "child", name, str(labels)]
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
            said[name].append(json.loads(done.stdout.splitlines()[-1]))
    return said


def masks(labels: int) -> tuple[np.ndarray, np.ndarray]:
    """Return prediction and reference, uint8: bodies with wavy surfaces, the prediction's shifted and larger."""
    grid = np.ogrid[tuple(slice(0, side) for side in SHAPE)]
    found = []
    for shift, growth in ((3, 1.02), (0, 1.0)):
        mask = np.zeros(SHAPE, dtype=np.uint8)
        for label in range(labels):
            parts = zip(grid, SHAPE, CENTRES[label], strict=True)
            scale = RADII[label] * growth
            distance = sum(((axis - shift - side * centre) / (side * scale)) ** 2 for axis, side, centre in parts)
            mask[distance < 1 + 0.15 * np.sin(grid[0] / 9.0) * np.cos(grid[1] / 7.0)] = label + 1
        found.append(mask)
    return found[0], found[1]


def ours(prediction: np.ndarray, reference: np.ndarray, labels: int) -> Scores:
    from medml.metrics.overlap import overlaps
    from medml.metrics.surface import label_surface_scores

    wanted = list(range(1, labels + 1))
    counts = overlaps(prediction, reference, wanted)
    surfaces = label_surface_scores(prediction, reference, wanted, SPACING, TOLERANCE).values()
    return {
        "dice": [count.dice for count in counts.values()],
        "hd95": [scores.hd95 for scores in surfaces],
        "assd": [scores.assd for scores in surfaces],
        "nsd": [scores.nsd for scores in surfaces],
    }


def monai(prediction: np.ndarray, reference: np.ndarray, labels: int) -> Scores:
    import torch
    from monai.metrics import (
        compute_average_surface_distance,
        compute_dice,
        compute_hausdorff_distance,
        compute_surface_dice,
    )

    values = torch.arange(1, labels + 1, dtype=torch.uint8).view(1, -1, 1, 1, 1)
    masks = [torch.from_numpy(mask)[None, None] == values for mask in (prediction, reference)]
    found = {
        "dice": compute_dice(*masks, include_background=True),
        "hd95": compute_hausdorff_distance(*masks, include_background=True, percentile=95, spacing=SPACING),
        "assd": compute_average_surface_distance(*masks, include_background=True, symmetric=True, spacing=SPACING),
        "nsd": compute_surface_dice(
            *masks, [TOLERANCE] * labels, include_background=True, spacing=SPACING, use_subvoxels=False
        ),
    }
    return {name: value[0].tolist() for name, value in found.items()}


def surface_distance(prediction: np.ndarray, reference: np.ndarray, labels: int) -> Scores:
    import surface_distance as package

    scores: Scores = {"dice": [], "hd95": [], "assd": [], "nsd": []}
    for label in range(1, labels + 1):
        one, other = reference == label, prediction == label
        distances = package.compute_surface_distances(one, other, SPACING)
        scores["dice"].append(float(package.compute_dice_coefficient(one, other)))
        scores["hd95"].append(float(package.compute_robust_hausdorff(distances, 95)))
        scores["assd"].append(float(np.mean(package.compute_average_surface_distance(distances))))
        scores["nsd"].append(float(package.compute_surface_dice_at_tolerance(distances, TOLERANCE)))
    return scores


FUNCTIONS: dict[str, Callable[[np.ndarray, np.ndarray, int], Scores]] = {
    "ours": ours,
    "MONAI": monai,
    "surface-distance": surface_distance,
}


def child(name: str, labels: int) -> None:
    """Time one contender, after a small call that pays for its imports."""
    warnings.simplefilter("ignore")
    tiny = np.zeros((8, 8, 8), np.uint8)
    tiny[2:5, 2:5, 2:5] = 1
    FUNCTIONS[name](tiny, tiny, 1)
    prediction, reference = masks(labels)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts from here
    before = _peak_mb()
    cpu, wall = time.process_time(), time.perf_counter()
    scores = FUNCTIONS[name](prediction, reference, labels)
    spent = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall, "peak_mb": _peak_mb() - before}
    print(json.dumps({**spent, "scores": scores}))


def _peak_mb() -> float:
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def _pairs(said: dict[str, list[dict[str, Any]]], labels: int) -> list[Pair]:
    task = f"Dice, HD95, ASSD, NSD of 512x512x200, {labels} label{'s' * (labels > 1)}"
    mine = said["ours"]
    pairs = []
    for name in CONTENDERS[1:]:
        apart = differences(mine[0]["scores"], said[name][0]["scores"])
        text = "largest difference " + ", ".join(f"{key} {value:.1e}" for key, value in apart.items())
        peaks = f"; peak MB {_median(mine, 'peak_mb'):.0f} and {_median(said[name], 'peak_mb'):.0f}"
        times = [_median(each, key) for key in ("cpu", "wall") for each in (mine, said[name])]
        pairs.append(Pair(task, name, *times, text + peaks))
    return pairs


def differences(one: Scores, other: Scores) -> dict[str, float]:
    """Return the largest difference of each score over the labels."""
    return {name: max(abs(a - b) for a, b in zip(one[name], other[name], strict=True)) for name in one}


def _median(said: list[dict[str, Any]], key: str) -> float:
    return statistics.median(each[key] for each in said)


def write(path: Path) -> None:
    """Write medians, ratios, scores, commit and machine."""
    from benchmarks.__main__ import processor

    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    result: dict[str, Any] = {
        "commit": commit.stdout.strip(),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": {"processor": processor(), "python": platform.python_version(), "load": os.getloadavg()[0]},
        "shape": SHAPE,
        "spacing_mm": SPACING,
        "tolerance_mm": TOLERANCE,
        "rounds": ROUNDS,
        "definitions": {"ours": "border", "MONAI": "border", "surface-distance": "area"},
    }
    for labels in (1, 4):
        said = measure(labels)
        cpu = {name: _median(each, "cpu") for name, each in said.items()}
        result[f"labels_{labels}"] = {
            "cpu_s": cpu,
            "cpu_ratio": {name: cpu["ours"] / cpu[name] for name in CONTENDERS[1:]},
            "peak_mb": {name: _median(each, "peak_mb") for name, each in said.items()},
            "scores": {name: each[0]["scores"] for name, each in said.items()},
            "difference_from_MONAI": differences(said["ours"][0]["scores"], said["MONAI"][0]["scores"]),
        }
        print(json.dumps(result[f"labels_{labels}"], indent=1), flush=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        child(sys.argv[2], int(sys.argv[3]))
    else:
        write(Path(sys.argv[1]))
