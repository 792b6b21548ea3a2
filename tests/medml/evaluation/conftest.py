"""A small dataset of phantoms on disk, and models whose answers are known beforehand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medml.io.scans import write_scan
from medml.records.batch import Prediction
from medml.records.dataset import Case, Dataset
from medml.records.home import Home
from medml.records.plan import Plan
from medml.records.scan import Annotation, Scan, SourceGrid, Volume

SHAPE = (12, 10, 6)
AFFINE = np.diag([1.0, 1.0, 2.0, 1.0])
LABELS = {0: "background", 1: "left lobe", 2: "lesion"}


@dataclass
class Model:
    """Answers with what ``answer`` makes of the image; a real object, not a stand-in for a network."""

    plan: Plan
    answer: Callable[[Volume], Prediction]
    asked: list[int] = field(default_factory=list)

    def predict(self, volume: Volume, *, detailed: bool = False) -> Prediction:
        self.asked.append(int(volume.voxels.max()))
        return self.answer(volume)


@dataclass
class Bench:
    """A home with scans, and the dataset over them."""

    home: Home
    dataset: Dataset

    @property
    def scans(self) -> Path:
        return self.home.scans


def phantom(number: int) -> np.ndarray:
    """Return a mask: a lobe, and in every second case a lesion that grows with the number."""
    mask = np.zeros(SHAPE, np.uint8)
    mask[2:8, 2:8, 1:5] = 1
    if number % 2:
        mask[4:6, 4:6, 2 : 3 + number % 3] = 2
    return mask


@pytest.fixture
def segment_bench(tmp_path: Path) -> Bench:
    """Twelve patients with masks; the image is 10 times the mask, plus the case's number at the corner."""
    home, cases = Home(tmp_path / "home"), []
    for number in range(12):
        mask = phantom(number)
        voxels = (mask[np.newaxis] * 10).astype(np.float32)
        voxels[0, 0, 0, 0] = 100 + number
        cases.append(store(home, number, voxels, AFFINE, "mm", mask=mask))
    return Bench(home, dataset("segment", cases, LABELS))


@pytest.fixture
def class_bench(tmp_path: Path) -> Bench:
    """24 pictures without spacing, every second one positive; the corner holds the number."""
    home, cases = Home(tmp_path / "home"), []
    for number in range(24):
        voxels = np.zeros((1, 6, 5, 1), np.float32)
        voxels[0, 0, 0, 0] = 100 + number
        cases.append(store(home, number, voxels, np.eye(4), "none", classes=(number % 2,)))
    return Bench(home, dataset("classify", cases, {0: "healthy", 1: "ill"}))


@pytest.fixture
def make_model(make_plan: Callable[..., Plan]) -> Callable[..., Model]:
    def make(answer: Callable[[Volume], Prediction], **changes: Any) -> Model:
        return Model(make_plan(**changes), answer)

    return make


@pytest.fixture
def perfect() -> Callable[[Volume], Prediction]:
    """Answers with the mask that the image was made from."""

    def answer(volume: Volume) -> Prediction:
        mask = np.where(volume.voxels[0] < 100, volume.voxels[0] / 10, 0).astype(np.uint8)
        return Prediction(mask=mask, seconds={"network": 0.25})

    return answer


def store(
    home: Home,
    number: int,
    voxels: np.ndarray,
    affine: np.ndarray,
    geometry: str,
    *,
    mask: np.ndarray | None = None,
    classes: tuple[int, ...] | None = None,
) -> Case:
    scan_id, shape = f"{number + 1:024x}", voxels.shape[1:]
    matrix = tuple(tuple(float(value) for value in row) for row in affine)
    spacing = tuple(float(value) for value in np.diag(affine)[:3]) if geometry == "mm" else None
    columns = {"sex": "FM"[number % 2], "scanner": "A" if number < 8 else "B"}
    scan = Scan(
        scan_id=scan_id,
        collection="bench",
        patient=f"p-{number}",
        study=f"s-{number}",
        group=f"g-{number}",
        shape=shape,
        affine=matrix,
        geometry=geometry,
        spacing_mm=spacing,
        content="0" * 64,
        source_grid=SourceGrid(shape=shape, affine=matrix, axes=(0, 1, 2), flips=(False, False, False)),
        columns=columns,
    )
    annotations, masks = (), {}
    if mask is not None:
        file = "mask.nii.gz"
        annotations = (
            Annotation(scan_id=scan_id, kind="mask", labels=LABELS, origin="phantom", file=file, content="0" * 64),
        )
        masks = {file: mask}
    write_scan(home, Volume(voxels, affine, geometry), scan, annotations, masks)
    return Case(
        case_id=scan_id,
        patient=f"p-{number}",
        scans=(scan_id,),
        mask="mask.nii.gz" if mask is not None else None,
        classes=classes,
        digest="0" * 64,
        shape=shape,
        spacing_mm=spacing,
        columns=columns,
    )


def dataset(task: str, cases: list[Case], labels: dict[int, str], **changes: Any) -> Dataset:
    values: dict[str, Any] = {
        "name": "bench",
        "digest": "d" * 64,
        "created": "2026-01-01T00:00:00+00:00",
        "task": task,
        "select": {},
        "split": "patient",
        "seed": 0,
        "labels": labels,
        "channels": ("image",),
        "modality": "MR",
        "geometry": "mm" if task == "segment" else "none",
        "cases": tuple(cases),
        "test": tuple(case.case_id for case in cases),
        "folds": ((),),
        "test_digest": "e" * 64,
        "subgroups": ("sex", "scanner", "site"),
    }
    return Dataset(**(values | changes))
