"""A batch holds as much memory and as many files after a thousand scans as after a hundred."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import gc, json, os, resource, sys
from pathlib import Path
import numpy as np
from medml.inference.batch import Stages, run_batch
from medml.io.nifti import read_checked
from medml.io.nifti_write import save_nifti
from medml.networks.build import build_network
from medml.networks.package import load_package, write_package
from medml.records.calibration import Calibration
from medml.networks.predictor import Predictor
from medml.records.batch import Job, Written
from medml.records.candidate import Candidate
from medml.records.plan import Normalisation, Plan
from medml.records.scan import Volume
from medml.results.masks import write_mask

folder, scans, first = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
plan = Plan(
    task="segment", dims=3, modality="MR", channels=("image",), labels={0: "background", 1: "organ"},
    patch=(16, 16, 16), normalisation=(Normalisation(kind="zscore"),), network="unet", spacing_mm=(1.0, 1.0, 2.0),
    network_options={"channels": (4, 8), "strides": (2,), "num_res_units": 0}, batch=1, steps_per_epoch=1,
    epochs=1, minutes=1, patience=1, learning_rate=1e-3, loss="dice_ce",
)
package = write_package(folder / "package", build_network(plan), plan, plan.labels, Calibration(), "# Card", {})
predictor = Predictor(package, "cpu")
sides = [(20, 24, 18), (26, 22, 30), (32, 18, 22)]
for number, shape in enumerate(sides):
    voxels = np.random.default_rng(number).normal(100, 20, (1, *shape)).astype(np.float32)
    save_nifti(folder / f"{number}.nii.gz", Volume(voxels, np.eye(4)))

def candidate(number):
    path = folder / f"{number % len(sides)}.nii.gz"
    return Candidate(source=f"{number}", files=1, identity="", stamp=f"{number}", read=lambda: read_checked(path),
                     patient=("", ""), study="", group="")

def write(job, prediction):
    write_mask(folder, job.scan_id, prediction.mask, job.reading.grid)
    return Written()

seen = []

def look(row):
    if len(seen) in (first, scans - 1):
        gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    seen.append((pages * resource.getpagesize() / 1e6, len(os.listdir("/proc/self/fd"))))

prepare, infer, restore = predictor.stages()
stages = Stages(
    lambda found: Job(f"scan-{found.source}", found.source, found.read()),
    lambda job: prepare(job.reading.volume), infer, restore, write,
)
counts = run_batch(map(candidate, range(scans)), stages, done={}, record=lambda row: None, on_row=look)
assert counts["done"] == scans, counts
print(json.dumps({"grown_mb": seen[-1][0] - seen[first][0], "files": [seen[first][1], seen[-1][1]]}))
"""


@pytest.mark.parametrize(
    ("scans", "first", "most_mb"), [(80, 20, 25), pytest.param(1000, 100, 50, marks=pytest.mark.slow)]
)
def test_memory_and_open_files_stay_flat_over_a_batch(tmp_path: Path, scans: int, first: int, most_mb: float) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path), str(scans), str(first)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["grown_mb"] < most_mb
    assert found["files"][1] <= found["files"][0] + 2  # a file of the scan being read or written
    assert len(list((tmp_path / "masks").glob("*.nii.gz"))) == scans
