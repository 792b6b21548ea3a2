"""The package runs under MONAI in an environment that has no medml, and says what our predictor says."""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from medml.io.nifti import read_nifti, write_nifti, write_on_grid
from medml.networks.build import build_network
from medml.networks.package import load_package
from medml.networks.predictor import Predictor
from medml.records.plan import Normalisation, Plan
from medml.records.scan import Volume

Trained = Callable[..., tuple[torch.nn.Module, Plan]]
Run = Callable[[Path, Path, Path], None]

# What docs/packages.md tells people to install; fire is the command line of monai.bundle.
ENOUGH = ("monai", "torch", "nibabel", "einops", "scipy", "scikit-image", "fire")
# Axes as stored: index map from stored to canonical voxels, for a volume of 22 x 20 x 14.
STORED = {
    "swapped": (lambda v: v[:, ::-1].transpose(0, 2, 1, 3), [[0, -1, 0, 21], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]),
    "LAS": (lambda v: v[:, ::-1], [[-1, 0, 0, 21], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]),
}
CT = Normalisation(kind="clip_zscore", low=-100, high=350, mean=90, std=60)


def needed(names: tuple[str, ...]) -> set[str]:
    """Return the installed distributions that these need, themselves included; extras are not followed."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in found:
            continue
        try:
            requirements = distribution(name).requires or []
        except PackageNotFoundError:  # a requirement of another platform
            continue
        found.add(name)
        waiting += [re.match(r"[\w.-]+", text)[0] for text in requirements if "extra ==" not in text]  # type: ignore[index]
    return found


@pytest.fixture(scope="session")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter with MONAI and what it needs, linked from here, and nothing else: neither medml nor MLflow."""
    pytest.importorskip("fire", reason="the command line of monai.bundle needs fire")
    folder = tmp_path_factory.mktemp("alone")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    for name in needed(ENOUGH):
        tops = {file.parts[0] for file in distribution(name).files or () if file.parts[0] not in ("..", "__pycache__")}
        for top in tops:
            source = Path(str(distribution(name).locate_file(top)))
            if source.exists() and not (site / top).exists():
                (site / top).symlink_to(source)
    python = folder / "bin" / "python"
    for name in ("medml", "pipelines", "mlflow", "pydantic"):
        done = subprocess.run(
            [str(python), "-c", f"import {name}"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": ""},
        )
        assert done.returncode == 1
        assert f"No module named '{name}'" in done.stderr
    return python


@pytest.fixture
def run_bundle(alone: Path) -> Run:
    """Run a package on an image, as docs/packages.md says."""

    def run(package: Path, image: Path, out: Path) -> None:
        command = [str(alone), "-W", "ignore", "-m", "monai.bundle", "run"]
        command += ["--config_file", "configs/inference.json", "--input", str(image), "--output_dir", str(out)]
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {
            "OMP_NUM_THREADS": "1"
        }
        done = subprocess.run(
            command, check=False, cwd=package, capture_output=True, text=True, timeout=280, env=environment
        )
        assert done.returncode == 0, done.stderr[-2000:]

    return run


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
        {"members": 3, "tta_flips": (0, 2), "stored": "LAS", "orientation": "LPS", "anchor": "edges"},
        pytest.param({"members": 3, "tta_flips": (0, 2), "stored": "LAS"}, marks=pytest.mark.slow),
        pytest.param({"modality": "CT", "crop_foreground": True, "normalisation": (CT,)}, marks=pytest.mark.slow),
        pytest.param({"spacing_mm": None, "stored": "LAS"}, marks=pytest.mark.slow),
        pytest.param({"spacing_mm": (0.9, 1.7, 3.1), "stored": "LAS"}, marks=pytest.mark.slow),
    ],
    ids=[
        "channels-cropped",
        "slices",
        "ensemble-LAS-edges",
        "ensemble-LAS",
        "CT",
        "own-voxels-LAS",
        "coarser-and-finer-LAS",
    ],
)
def test_a_segmenters_mask_is_the_same(
    trained: Trained, pack: Any, blob: Volume, run_bundle: Run, tmp_path: Path, changes: dict[str, Any]
) -> None:
    count, stored = changes.get("members", 1), changes.get("stored", "swapped")
    network, plan = trained(**{key: value for key, value in changes.items() if key not in ("members", "stored")})
    package = pack([network, *(shaken(network, seed) for seed in range(1, count))], plan)
    assert len(load_package(package).members) == count
    image = tmp_path / "scan.nii.gz"
    turn, index_map = STORED[stored]
    voxels = turn(np.concatenate([blob.voxels] * len(plan.channels)))
    write_nifti(image, Volume(np.ascontiguousarray(voxels), blob.affine @ np.array(index_map)))
    volume, grid = read_nifti(image)
    ours = Predictor(package).predict(volume).mask
    assert ours is not None
    write_on_grid(tmp_path / "ours.nii.gz", ours, grid)
    run_bundle(package, image, tmp_path / "out")
    mine, theirs = (nib.load(path) for path in (tmp_path / "ours.nii.gz", tmp_path / "out" / "scan_seg.nii.gz"))
    assert mine.shape == theirs.shape
    np.testing.assert_allclose(mine.affine, theirs.affine, atol=1e-4)
    one, other = (np.asarray(mask.dataobj) > 0 for mask in (mine, theirs))
    assert one.sum() > 50
    assert 2 * (one & other).sum() / (one.sum() + other.sum()) >= 0.999


def shaken(network: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Return a copy with slightly other weights, as another fold would have them."""
    torch.manual_seed(seed)
    other = copy.deepcopy(network)
    with torch.no_grad():
        for value in other.parameters():
            value.mul_(1 + 0.05 * torch.randn_like(value))
    return other


@pytest.mark.parametrize(
    "changes",
    [
        {"network": "vit", "network_options": {"hidden_size": 12, "mlp_dim": 12, "num_layers": 1}},
        {"dims": 2, "size": (24, 24, 1), "multi_label": True, "members": 2, "network_options": {"widen_factor": 0.125}},
        pytest.param(
            {"network_options": {"widen_factor": 0.125}, "members": 2, "tta_flips": (0,)}, marks=pytest.mark.slow
        ),
        pytest.param(
            {"network": "slice_sequence", "network_options": {"widen_factor": 0.125, "hidden": 4}},
            marks=pytest.mark.slow,
        ),
    ],
    ids=["vit-3d", "resnet-2d", "ensemble-3d", "slice-sequence"],
)
def test_a_classifiers_probabilities_are_the_same(
    make_plan: Callable[..., Plan],
    pack: Any,
    blob: Volume,
    run_bundle: Run,
    tmp_path: Path,
    changes: dict[str, Any],
) -> None:
    spacing = (2.0, 2.0, 2.0) if changes.get("dims") != 2 else None
    count = changes.get("members", 1)
    plan = make_plan(
        task="classify", spacing_mm=spacing, **{key: value for key, value in changes.items() if key != "members"}
    )
    torch.manual_seed(0)
    package = pack([build_network(plan) for _ in range(count)], plan, temperature=2.0)
    image = tmp_path / "scan.nii.gz"
    write_nifti(image, Volume(blob.voxels[..., 6:7] if plan.dims == 2 else blob.voxels, blob.affine))
    ours = Predictor(package).predict(read_nifti(image)[0]).probabilities
    run_bundle(package, image, tmp_path / "out")
    theirs = json.loads((tmp_path / "out" / "probabilities.json").read_text())
    assert list(theirs) == ["absent", "present"]
    np.testing.assert_allclose(ours, list(theirs.values()), atol=1e-4)
