"""The package runs under MONAI alone, in a process of its own, and says what our predictor says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from medml.io.nifti import read_nifti, write_nifti, write_on_grid
from medml.networks.build import build_network
from medml.networks.predictor import Predictor
from medml.records.plan import Normalisation, Plan
from medml.records.scan import Volume

Trained = Callable[..., tuple[torch.nn.Module, Plan]]


def run_bundle(package: Path, image: Path, out: Path) -> None:
    pytest.importorskip("fire", reason="the command line of monai.bundle needs fire")
    command = [sys.executable, "-W", "ignore", "-m", "monai.bundle", "run", "--config_file", "configs/inference.json"]
    command += ["--input", str(image), "--output_dir", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, check=False, cwd=package, capture_output=True, text=True, timeout=240, env=environment
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize(
    "changes",
    [
        {
            "crop_foreground": True,
            "keep_largest": True,
            "channels": ("T1", "T2"),
            "normalisation": (
                Normalisation(kind="zscore"),
                Normalisation(kind="clip_zscore", high=350, mean=90, std=60),
            ),
        },
        {"dims": 2, "patch": (16, 16, 1)},
    ],
    ids=["channels-cropped", "slices"],
)
def test_a_segmenters_mask_is_the_same(
    trained: Trained, pack: Any, blob: Volume, tmp_path: Path, changes: dict[str, Any]
) -> None:
    network, plan = trained(**changes)
    package = pack(network, plan)
    image = tmp_path / "scan.nii.gz"
    # Stored with two axes swapped and one flipped, as scanners do.
    stored = np.concatenate([blob.voxels] * len(plan.channels))[:, ::-1].transpose(0, 2, 1, 3)
    swap = np.array([[0, -1, 0, 21], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    write_nifti(image, Volume(np.ascontiguousarray(stored), blob.affine @ swap))
    volume, grid = read_nifti(image)
    ours = Predictor(package, precision="fp32").predict(volume).mask
    assert ours is not None
    write_on_grid(tmp_path / "ours.nii.gz", ours, grid)
    run_bundle(package, image, tmp_path / "out")
    mine, theirs = (nib.load(path) for path in (tmp_path / "ours.nii.gz", tmp_path / "out" / "scan_seg.nii.gz"))
    assert mine.shape == theirs.shape
    np.testing.assert_allclose(mine.affine, theirs.affine, atol=1e-4)
    assert np.asarray(mine.dataobj).sum() > 50
    assert (np.asarray(mine.dataobj) == np.asarray(theirs.dataobj)).mean() >= 0.999


@pytest.mark.parametrize(
    "changes",
    [
        {"network": "vit", "network_options": {"hidden_size": 12, "mlp_dim": 12, "num_layers": 1}},
        {"dims": 2, "size": (24, 24, 1), "multi_label": True, "network_options": {"widen_factor": 0.125}},
    ],
    ids=["vit-3d", "resnet-2d"],
)
def test_a_classifiers_probabilities_are_the_same(
    make_plan: Callable[..., Plan], pack: Any, blob: Volume, tmp_path: Path, changes: dict[str, Any]
) -> None:
    spacing = (2.0, 2.0, 2.0) if changes.get("dims") != 2 else None
    plan = make_plan(task="classify", spacing_mm=spacing, **changes)
    torch.manual_seed(0)
    package = pack(build_network(plan), plan, temperature=2.0)
    image = tmp_path / "scan.nii.gz"
    write_nifti(image, Volume(blob.voxels[..., 6:7] if plan.dims == 2 else blob.voxels, blob.affine))
    ours = Predictor(package).predict(read_nifti(image)[0]).probabilities
    run_bundle(package, image, tmp_path / "out")
    theirs = json.loads((tmp_path / "out" / "probabilities.json").read_text())
    assert list(theirs) == ["absent", "present"]
    np.testing.assert_allclose(ours, list(theirs.values()), atol=1e-4)
