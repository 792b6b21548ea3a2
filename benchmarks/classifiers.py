"""Images per second of classifier training: ours, the tutorials' loops in fp32, and the network's step alone.

Ours is the `Training` class with its batches, augmentation, loss, clipping, optimiser and averaged weights. The
peers are the loops that MedMNIST (ResNet-18, 28x28) and MONAI's MedNIST tutorial (DenseNet-121, 64x64) show, with the
same network from the same class: a DataLoader in this process over images that are in memory already. The bare step is
network, cross-entropy and AdamW on one batch of random tensors, in our precision and memory format.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data.dataset import ArrayDataset
from monai.data.utils import list_data_collate
from monai.transforms.compose import Compose
from monai.transforms.intensity.array import ScaleIntensity
from monai.transforms.spatial.array import RandFlip, RandRotate, RandZoom
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.pairs import Pair, compare
from medml.io.scans import write_scan
from medml.networks.build import build_network, run_network
from medml.networks.precision import autocast, choose_precision
from medml.records.dataset import Case, Dataset
from medml.records.home import Home
from medml.records.plan import Augmentation, Normalisation, Plan
from medml.records.scan import Scan, SourceGrid, Volume
from medml.training.cache import open_store
from medml.training.loop import Training
from medml.training.stopping import StopSignal

CASES = 512
STEPS = 4
ROUNDS = 7
CPU = torch.device("cpu")
SMALL_STEM = {"conv1_t_size": 3, "conv1_t_stride": 1, "no_max_pool": True}
IDENTITY = tuple(tuple(float(i == j) for j in range(4)) for i in range(4))
Step = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Task:
    """A network on square pictures, and the tutorial that trains it."""

    network: str
    options: dict[str, Any]
    side: int
    batch: int
    tutorial: str

    @property
    def name(self) -> str:
        """What the table calls it."""
        return f"{self.network}, {self.side}x{self.side}, batch {self.batch}"


TASKS = (
    Task("resnet18", SMALL_STEM, 28, 128, "MedMNIST"),
    Task("densenet121", {}, 64, 64, "MONAI MedNIST"),
)


def run() -> Iterator[Pair]:
    """Yield two pairs for each task; images per second of both sides stand in the last column."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for task in TASKS:
            with tempfile.TemporaryDirectory() as folder:
                yield from _pairs(task, Path(folder))
    finally:
        torch.set_num_threads(threads)


def _pairs(task: Task, folder: Path) -> Iterator[Pair]:
    plan, pictures = _plan(task), _pictures(task.side)
    classes = torch.arange(CASES) % 2
    training = _training(plan, pictures, folder)
    peers = {
        f"{task.tutorial} loop, fp32": _tutorial(task, plan, pictures, classes),
        f"bare step, {choose_precision(CPU)}": _bare(plan),
    }

    def ours() -> None:
        for _ in range(STEPS):
            training._train_step(0.0)

    for name, step in peers.items():
        pair = compare(task.name, name, ours, _times(step), agreement="", rounds=ROUNDS)
        rates = [STEPS * task.batch / seconds for seconds in (pair.ours_cpu, pair.peer_cpu)]
        yield Pair(
            pair.task,
            pair.peer,
            pair.ours_cpu,
            pair.peer_cpu,
            pair.ours_wall,
            pair.peer_wall,
            f"images per CPU s: {rates[0]:.0f}, {rates[1]:.0f} ({rates[0] / rates[1]:.2f}x)",
        )


def _times(step: Step) -> Step:
    return lambda: [step() for _ in range(STEPS)]


def _plan(task: Task) -> Plan:
    return Plan(
        task="classify",
        dims=2,
        modality="US",
        channels=("grey",),
        labels={0: "no", 1: "yes"},
        size=(task.side, task.side, 1),
        normalisation=(Normalisation(kind="zscore"),),
        network=task.network,
        network_options=task.options,
        batch=task.batch,
        steps_per_epoch=1_000_000,
        epochs=1,
        minutes=1_000_000,
        patience=1,
        learning_rate=1e-3,
        loss="cross_entropy",
        augmentation=Augmentation(flip_axes=(0,), translate=0.08),
        compile="never",
    )


def _pictures(side: int) -> np.ndarray:
    """Return grey pictures (N, 1, side, side) of 8 bits, half of them with a bright square."""
    pictures = np.random.default_rng(0).integers(0, 100, (CASES, 1, side, side), dtype=np.uint8)
    pictures[1::2, :, side // 4 : side // 2, side // 4 : side // 2] += 100
    return pictures


def _training(plan: Plan, pictures: np.ndarray, folder: Path) -> Training:
    """Return our training of stored pictures, as the child makes it."""
    home, cases = Home(folder), []
    for number, picture in enumerate(pictures):
        cases.append(_stored(home, number, picture))
    ids = [case.case_id for case in cases]
    dataset = Dataset(
        name="pictures",
        digest="0" * 64,
        created="2026-01-01T00:00:00Z",
        task="classify",
        select={},
        split="patient",
        seed=0,
        labels=plan.labels,
        channels=plan.channels,
        modality=plan.modality,
        geometry="none",
        cases=tuple(cases),
        test=(ids[-1],),
        folds=((ids[-2],),),
        test_digest="0" * 64,
    )
    (folder / "run").mkdir()
    store = open_store(cases, plan, scans=home.scans, cache=home.cache)
    return Training(dataset, plan, store, fold=0, run=folder / "run", device=CPU, stop=StopSignal())


def _stored(home: Home, number: int, picture: np.ndarray) -> Case:
    name, shape = f"{number:024x}", (*picture.shape[1:], 1)
    scan = Scan(
        scan_id=name,
        collection="pictures",
        patient=f"p-{number}",
        study=f"s-{number}",
        group=f"g-{number}",
        modality="US",
        shape=shape,
        affine=IDENTITY,
        spacing_mm=(1.0, 1.0, 1.0),
        geometry="none",
        content="0" * 64,
        source_grid=SourceGrid(shape=shape, affine=IDENTITY, axes=(0, 1, 2), flips=(False, False, False)),
    )
    write_scan(home, Volume(picture[..., None].astype(np.float32), np.eye(4), "none"), scan)
    return Case(
        case_id=name,
        patient=f"p-{number}",
        scans=(name,),
        digest=f"{number:064x}",
        shape=shape,
        spacing_mm=None,
        classes=(number % 2,),
    )


def _tutorial(task: Task, plan: Plan, pictures: np.ndarray, classes: torch.Tensor) -> Step:
    """Return a step of the tutorial's loop: a batch from its DataLoader, the network in fp32, Adam."""
    network = build_network(plan).train()
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3 if task.tutorial == "MedMNIST" else 1e-5)
    loss = nn.CrossEntropyLoss()
    batches = _endless(_loader(task, pictures, classes))

    def step() -> float:
        images, target = next(batches)
        optimiser.zero_grad()
        found = loss(network(images), target)
        found.backward()
        optimiser.step()
        return float(found.item())

    return step


def _loader(task: Task, pictures: np.ndarray, classes: torch.Tensor) -> DataLoader[Any]:
    if task.tutorial == "MedMNIST":  # scaled to [-1, 1], no augmentation
        scaled = (torch.from_numpy(pictures).float() / 255 - 0.5) / 0.5
        return DataLoader(TensorDataset(scaled, classes), batch_size=task.batch, shuffle=True, drop_last=True)
    changes = Compose(
        [
            ScaleIntensity(),
            RandRotate(range_x=np.pi / 12, prob=0.5, keep_size=True),
            RandFlip(spatial_axis=0, prob=0.5),
            RandZoom(min_zoom=0.9, max_zoom=1.1, prob=0.5),
        ]
    )
    dataset = ArrayDataset(list(pictures.astype(np.float32)), changes, labels=classes.tolist())
    return DataLoader(
        dataset, batch_size=task.batch, shuffle=True, drop_last=True, collate_fn=list_data_collate, num_workers=0
    )


def _endless(loader: DataLoader[Any]) -> Iterator[Any]:
    while True:
        yield from loader


def _bare(plan: Plan) -> Step:
    """Return the network's step alone on random tensors, in our precision and memory format."""
    network = build_network(plan).train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3, fused=True)
    images = torch.randn(plan.batch, 1, *(plan.size or ()))
    target, precision = torch.arange(plan.batch) % 2, choose_precision(CPU)

    def step() -> float:
        optimiser.zero_grad(set_to_none=True)
        with autocast(CPU, precision):
            scores = run_network(network, images, plan)
        loss = nn.functional.cross_entropy(scores.float(), target)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        return float(loss.detach())

    return step
