"""Tiny stored phantoms, datasets over them and plans that train on a CPU in seconds."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medml.io.scans import write_scan
from medml.records.dataset import Case, Dataset
from medml.records.home import Home
from medml.records.plan import Augmentation, Normalisation, Plan
from medml.records.scan import Scan, SourceGrid, Volume

IDENTITY = tuple(tuple(float(i == j) for j in range(4)) for i in range(4))


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@dataclass(frozen=True)
class Phantoms:
    """A home with scans, a dataset over them and a plan."""

    home: Home
    dataset: Dataset
    plan: Plan


def make_case(number: int, **values: Any) -> Case:
    shape = values.pop("shape", (12, 12, 8))
    return Case(
        case_id=f"{number:024x}",
        patient=values.pop("patient", f"p-{number}"),
        scans=(f"{number:024x}",),
        digest=f"{number:064x}",
        shape=shape,
        spacing_mm=(1.0, 1.0, 1.0),
        **values,
    )


def make_dataset(task: str, cases: list[Case], **values: Any) -> Dataset:
    """Return a dataset whose last third is split into validation and test."""
    ids = [case.case_id for case in cases]
    third = max(1, len(ids) // 3)
    given: dict[str, Any] = {
        "name": "phantoms",
        "digest": "d" * 64,
        "created": "2026-01-01T00:00:00Z",
        "task": task,
        "select": {},
        "split": "patient",
        "seed": 0,
        "labels": {0: "background", 1: "block"} if task == "segment" else {0: "dark", 1: "bright"},
        "channels": ("image",),
        "modality": "MR",
        "geometry": "mm",
        "cases": tuple(cases),
        "test": tuple(ids[-1:]),
        "folds": (tuple(ids[-1 - third : -1]),),
        "test_digest": "t" * 64,
    }
    return Dataset(**{**given, **values})


def make_plan_record(task: str, **values: Any) -> Plan:
    given: dict[str, Any] = {
        "task": task,
        "dims": 3,
        "modality": "MR",
        "channels": ("image",),
        "labels": {0: "background", 1: "block"} if task == "segment" else {0: "dark", 1: "bright"},
        "normalisation": (Normalisation(kind="zscore"),),
        "batch": 2,
        "steps_per_epoch": 3,
        "epochs": 4,
        "minutes": 600.0,
        "patience": 100,
        "learning_rate": 1e-3,
        "warmup_steps": 1,
        "augmentation": Augmentation(flip_axes=(0,), translate=0.05),
        "precision": "fp32",
    }
    if task == "segment":
        given |= {"patch": (8, 8, 8), "network": "unet", "loss": "dice_ce"}
        given["network_options"] = {"channels": (4, 8), "strides": (2,), "num_res_units": 1}
    else:
        given |= {"size": (12, 12, 8), "network": "resnet18", "loss": "cross_entropy"}
        given["augmentation"] = Augmentation(flip_axes=(0,), translate=0.05, mix=0.3)
        given["network_options"] = {"conv1_t_size": 3, "conv1_t_stride": 1, "no_max_pool": True, "widen_factor": 0.0625}
    return Plan(**{**given, **values})


def store_scan(home: Home, number: int, voxels: np.ndarray, mask: np.ndarray | None = None) -> None:
    shape = voxels.shape[1:]
    scan = Scan(
        scan_id=f"{number:024x}",
        collection="phantoms",
        patient=f"p-{number}",
        study=f"s-{number}",
        group=f"g-{number}",
        modality="MR",
        shape=shape,
        affine=IDENTITY,
        spacing_mm=(1.0, 1.0, 1.0),
        content="c" * 64,
        source_grid=SourceGrid(shape=shape, affine=IDENTITY, axes=(0, 1, 2), flips=(False, False, False)),
    )
    write_scan(home, Volume(voxels, np.eye(4)), scan, masks={} if mask is None else {"mask.nii.gz": mask})


@pytest.fixture
def blocks(tmp_path: Path) -> Phantoms:
    """Nine volumes of noise, each with one bright block that is also its mask."""
    home, rng, cases = Home(tmp_path), np.random.default_rng(0), []
    for number in range(9):
        voxels = rng.normal(0, 1, (1, 12, 12, 8)).astype(np.float32)
        mask = np.zeros((12, 12, 8), dtype=np.uint8)
        corner = rng.integers(1, 5, 3)
        mask[corner[0] : corner[0] + 5, corner[1] : corner[1] + 5, corner[2] : corner[2] + 3] = 1
        voxels[0][mask == 1] += 5
        store_scan(home, number, voxels, mask)
        cases.append(make_case(number, mask="mask.nii.gz"))
    return Phantoms(home, make_dataset("segment", cases), make_plan_record("segment"))


@pytest.fixture
def pictures(tmp_path: Path) -> Phantoms:
    """Twelve small volumes; every second one has a bright spot, and that is its class."""
    home, rng, cases = Home(tmp_path), np.random.default_rng(0), []
    for number in range(12):
        voxels = rng.normal(0, 1, (1, 12, 12, 8)).astype(np.float32)
        if number % 2:
            voxels[0, 3:9, 3:9, 2:6] += 4
        store_scan(home, number, voxels)
        cases.append(make_case(number, classes=(number % 2,)))
    return Phantoms(home, make_dataset("classify", cases), make_plan_record("classify"))


@pytest.fixture
def write_job(tmp_path: Path) -> Callable[..., Path]:
    """Write what the training child is told; return the job's path."""
    from medml.io.files import write_record
    from medml.records.plan import TrainingJob

    def write(phantoms: Phantoms, run: str = "run") -> Path:
        folder = tmp_path / run
        write_record(folder / "dataset.json", phantoms.dataset)
        write_record(folder / "plan.json", phantoms.plan)
        job = TrainingJob(
            dataset=str(folder / "dataset.json"),
            plan=str(folder / "plan.json"),
            fold=0,
            scans=str(phantoms.home.scans),
            cache=str(phantoms.home.cache),
            run=str(folder),
            device="cpu",
        )
        write_record(folder / "job.json", job)
        return folder / "job.json"

    return write


@pytest.fixture(name="make_case")
def make_case_fixture() -> Callable[..., Case]:
    return make_case
