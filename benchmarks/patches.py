"""Patches for training, per patch, and what must be done before the first: ours, MONAI's CacheDataset, nnU-Net's b2nd.

All three hold the whole set in memory: MONAI as tensors, nnU-Net and ours as files that the system keeps in its page
cache, of the same arrays (nnU-Net's compressed). None changes patches at random; half of them are centred on a label.
Seconds are those of a thousand patches, milliseconds of one. Each draws in one process with one thread.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import CacheDataset, list_data_collate
from monai.transforms import (
    Compose,
    EnsureChannelFirstd,
    LoadImaged,
    NormalizeIntensityd,
    Orientationd,
    RandCropByPosNegLabeld,
    Spacingd,
    SpatialPadd,
)
from scipy import ndimage

from benchmarks.pairs import Pair
from benchmarks.peers import nnunet_python
from medml.io.scans import write_scan
from medml.records.dataset import Case
from medml.records.home import Home
from medml.records.plan import Normalisation, Plan
from medml.records.scan import Scan, SourceGrid, Volume
from medml.training.batches import Batches
from medml.training.cache import Store, open_store

Shape = tuple[int, int, int]
Times = tuple[float, float]
ROUNDS = 7


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of data: what is made, and how it is drawn from."""

    name: str
    cases: int
    shape: Shape
    spacing_mm: tuple[float, float, float]
    target_mm: tuple[float, float, float]
    patch: Shape
    batch: int
    batches: int


LARGE = Kind("256x256x128, patch 96^3", 4, (256, 256, 128), (0.8, 0.8, 1.5), (1.0, 1.0, 1.5), (96, 96, 96), 2, 8)
SMALL = Kind("36x50x36, patch 40x56x40", 60, (36, 50, 36), (1.0, 1.0, 1.0), (1.0, 1.0, 1.0), (40, 56, 40), 9, 10)


def run() -> list[Pair]:
    """Compare supply per patch with both peers, and the first build with MONAI's."""
    torch.set_num_threads(1)
    return [pair for kind in (LARGE, SMALL) for pair in compare_kind(kind)]


def compare_kind(kind: Kind) -> list[Pair]:
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder) / "home")
        cases = [_store_case(home, number, kind) for number in range(kind.cases)]
        plan = _plan(kind)
        store, ours_build = _timed(lambda: open_store(cases, plan, scans=home.scans, cache=home.cache))
        monai, monai_build = _timed(lambda: _cache_dataset(home, cases, kind))
        arrays = Path(folder) / "arrays"
        _hand_over(store, cases, arrays)
        batches = Batches(cases, store, plan)
        with _nnunet(arrays, kind) as child:
            times = _interleaved(kind, lambda n: batches.draw(n), lambda n: _collated(monai, n, kind), child)
        agreement = _agreement(store, monai, cases)
    per = 1000 / (kind.batch * kind.batches)
    ours, others = times.pop("ours"), times
    pairs = [_pair(f"1000 patches, {kind.name}", peer, ours, found, per, agreement) for peer, found in others.items()]
    build = f"first build, {kind.cases} x {kind.name.split(',')[0]}"
    return [*pairs, _pair(build, "MONAI CacheDataset", [ours_build], [monai_build], 1.0, agreement)]


def _store_case(home: Home, number: int, kind: Kind) -> Case:
    rng = np.random.default_rng(number)
    noise = rng.normal(size=kind.shape).astype(np.float32)
    smooth = ndimage.gaussian_filter(noise, 2)
    voxels = (3000 * smooth + 15 * noise + 500).astype(np.int16)
    mask = ((smooth > np.quantile(smooth, 0.97)) * (1 + (np.indices(kind.shape)[0] % 2))).astype(np.uint8)
    affine = np.diag([*kind.spacing_mm, 1.0])
    rows = tuple(tuple(float(value) for value in row) for row in affine)
    scan_id = f"{number:024x}"
    scan = Scan(
        scan_id=scan_id,
        collection="benchmark",
        patient=f"p-{number}",
        study=f"s-{number}",
        group=f"g-{number}",
        modality="MR",
        shape=kind.shape,
        affine=rows,
        spacing_mm=kind.spacing_mm,
        content=f"{number:064x}",
        source_grid=SourceGrid(shape=kind.shape, affine=rows, axes=(0, 1, 2), flips=(False, False, False)),
    )
    write_scan(home, Volume(voxels[None], affine), scan, masks={"mask.nii.gz": mask})
    return Case(
        case_id=scan_id,
        patient=f"p-{number}",
        scans=(scan_id,),
        mask="mask.nii.gz",
        digest=f"{number:064x}",
        shape=kind.shape,
        spacing_mm=kind.spacing_mm,
    )


def _plan(kind: Kind) -> Plan:
    return Plan(
        task="segment",
        dims=3,
        modality="MR",
        channels=("image",),
        labels={0: "background", 1: "odd", 2: "even"},
        spacing_mm=kind.target_mm,
        patch=kind.patch,
        normalisation=(Normalisation(kind="zscore"),),
        network="unet",
        batch=kind.batch,
        steps_per_epoch=1,
        epochs=1,
        minutes=1,
        patience=1,
        learning_rate=1e-3,
        loss="dice_ce",
    )


def _cache_dataset(home: Home, cases: list[Case], kind: Kind) -> Any:
    both = ["image", "mask"]
    files = [
        {
            "image": home.scan_folder(case.case_id) / "image.nii.gz",
            "mask": home.scan_folder(case.case_id) / str(case.mask),
        }
        for case in cases
    ]
    transforms = Compose(
        [
            LoadImaged(both),
            EnsureChannelFirstd(both),
            Orientationd(both, "RAS", labels=(("L", "R"), ("P", "A"), ("I", "S"))),
            Spacingd(both, kind.target_mm, mode=("bilinear", "nearest")),
            NormalizeIntensityd("image"),
            SpatialPadd(both, kind.patch),
            RandCropByPosNegLabeld(both, "mask", kind.patch, pos=1, neg=1, num_samples=1),
        ]
    )
    return CacheDataset(files, transforms, num_workers=1, progress=False)


def _collated(dataset: Any, number: int, kind: Kind) -> Any:
    first = number * kind.batch
    return list_data_collate([dataset[(first + place) % len(dataset)] for place in range(kind.batch)])


def _hand_over(store: Store, cases: list[Case], folder: Path) -> None:
    """Write our arrays for nnU-Net to store in its own way, so that both hold the same."""
    folder.mkdir()
    for case in cases:
        np.savez(
            folder / f"case_{case.case_id}.npz",
            image=store.image(case.case_id),
            mask=store.mask(case.case_id),
            points=store.points(case.case_id),
        )


class _nnunet:
    """nnU-Net's loader in a process of its own; ``draw(n)`` has it draw n batches and tells what they took."""

    def __init__(self, folder: Path, kind: Kind) -> None:
        child = str(Path(__file__).with_name("nnunet_patches.py"))
        self._command = [str(nnunet_python()), child, str(folder), json.dumps(kind.patch), str(kind.batch)]

    def __enter__(self) -> Callable[[int], Times]:
        pipe = subprocess.PIPE
        self._child = subprocess.Popen(self._command, stdin=pipe, stdout=pipe, text=True)
        if "ready" not in self._answer():
            raise RuntimeError("nnU-Net's loader did not start")
        return self._draw

    def __exit__(self, *_: object) -> None:
        self._child.communicate()

    def _draw(self, count: int) -> Times:
        assert self._child.stdin is not None
        self._child.stdin.write(f"{count}\n")
        self._child.stdin.flush()
        cpu, wall = json.loads(self._answer())
        return cpu, wall

    def _answer(self) -> str:
        assert self._child.stdout is not None
        return self._child.stdout.readline()


def _interleaved(
    kind: Kind, ours: Callable[[int], object], monai: Callable[[int], object], nnunet: Callable[[int], Times]
) -> dict[str, list[Times]]:
    """Return times of each in turn, after one round that does not count."""
    times: dict[str, list[Times]] = {"ours": [], "MONAI CacheDataset": [], "nnU-Net b2nd": []}
    for number in range(ROUNDS + 1):
        numbers = range(number * kind.batches, (number + 1) * kind.batches)
        found = {
            "ours": _timed(lambda numbers=numbers: [ours(n) for n in numbers])[1],  # type: ignore[misc]
            "MONAI CacheDataset": _timed(lambda numbers=numbers: [monai(n) for n in numbers])[1],  # type: ignore[misc]
            "nnU-Net b2nd": nnunet(kind.batches),
        }
        for name, taken in found.items():
            if number:
                times[name].append(taken)
    return times


def _timed(work: Callable[[], Any]) -> tuple[Any, Times]:
    cpu, wall = time.process_time(), time.perf_counter()
    result = work()
    return result, (time.process_time() - cpu, time.perf_counter() - wall)


def _agreement(store: Store, monai: Any, cases: list[Case]) -> str:
    """Compare the arrays that patches are cut from."""
    largest = 0.0
    for case, item in zip(cases, monai._cache, strict=True):
        own, other = store.image(case.case_id), np.asarray(item["image"])
        edge = tuple(slice((o - n) // 2, (o - n) // 2 + n) for n, o in zip(own.shape[1:], other.shape[1:], strict=True))
        largest = max(largest, float(np.abs(own - other[(slice(None), *edge)]).max()))
    return f"arrays within {largest:.1e}"


def _pair(task: str, peer: str, ours: list[Times], theirs: list[Times], per: float, agreement: str) -> Pair:
    own, other = ([per * statistics.median(column) for column in zip(*times, strict=True)] for times in (ours, theirs))
    return Pair(task, peer, own[0], other[0], own[1], other[1], agreement)
