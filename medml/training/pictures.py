"""What the network says about a few validation cases, drawn as it learns; without a name of a case."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from medml.io.files import write_atomic
from medml.pages.overlays import contact_sheet, overlay_png
from medml.records.dataset import Case
from medml.records.plan import Plan
from medml.training.cache import Store
from medml.training.calibration import probabilities
from medml.training.validation import mask_probabilities, network_scores
from medml.transforms.preprocessing import mirrored_axes

FOLDER = "pictures"
TIMES = 10
VOLUMES, IMAGES = 2, 18


def draw_examples(
    network: nn.Module, cases: Sequence[Case], store: Store, plan: Plan, *, run: Path, epoch: int, device: torch.device
) -> None:
    """Write ``pictures/<name>-<epoch>.png``: volumes with reference and prediction, or a sheet of classified images."""
    if not cases:
        return
    if plan.task == "segment":
        found = mask_probabilities(network, cases[:VOLUMES], store, plan, device=device)
        pictures = {
            f"example_{number}": _segmented(case, shares.argmax(axis=0), store, plan)
            for number, (case, shares) in enumerate(found, start=1)
        }
    else:
        pictures = {"examples": _classified(network, cases[:IMAGES], store, plan, device=device)}
    (run / FOLDER).mkdir(exist_ok=True)
    for name, picture in pictures.items():
        _keep(run / FOLDER / f"{name}-{epoch:05d}.png", picture)


def _keep(path: Path, picture: bytes) -> None:
    def write(temporary: Path) -> None:
        temporary.write_bytes(picture)

    write_atomic(path, write)


def _canonical(array: np.ndarray, plan: Plan) -> np.ndarray:
    """Return a copy of ([C,] I, J, K) whose axes point as in every other picture."""
    return np.flip(array, tuple(axis - 3 for axis in mirrored_axes(plan))).copy()


def _segmented(case: Case, found: np.ndarray, store: Store, plan: Plan) -> bytes:
    return overlay_png(
        _canonical(store.image(case.case_id), plan),
        _canonical(found.astype(np.uint8), plan),
        _canonical(store.mask(case.case_id), plan),
        spacing_mm=plan.spacing_mm or case.spacing_mm,
        labels={label: name for label, name in plan.labels.items() if label != 0},
    )


def _classified(network: nn.Module, cases: Sequence[Case], store: Store, plan: Plan, *, device: torch.device) -> bytes:
    scores = network_scores(network, cases, store, plan, device=device, precision="fp32")
    shares = probabilities(scores, temperature=1.0, multi_label=plan.multi_label)
    captions = []
    for case, row in zip(cases, shares, strict=True):
        best = int(row.argmax())
        true = ", ".join(plan.labels[label] for label in case.classes or ()) or "none"
        captions.append(f"{plan.labels[best]} {row[best]:.2f} ({true})")
    images = [_canonical(store.image(case.case_id), plan) for case in cases]
    return contact_sheet(images, captions, title="Predicted class, its probability, and the true one")
