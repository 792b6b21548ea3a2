"""How good a network is on validation cases, on the device that trains, at a bounded cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from medml.metrics.classification import auroc
from medml.metrics.overlap import dice
from medml.networks.build import run_network
from medml.networks.package import Package
from medml.networks.precision import Precision, autocast
from medml.networks.predictor import Predictor
from medml.records.calibration import Calibration
from medml.records.dataset import Case
from medml.records.plan import Plan
from medml.training.batches import class_targets
from medml.training.cache import Store
from medml.training.calibration import log_loss

SHARE_OF_TIME = 0.1
FORWARD_SHARE = 1 / 3  # of a training step's cost per image
OVERLAP = 0.25  # coarser than in use: the choice between epochs does not hang on seams
IMAGES_AT_ONCE = 128
FEWEST_CASES = 8


@dataclass(frozen=True, slots=True)
class Scores:
    """One validation.

    Attributes
    ----------
    metrics : dict
        For ``epochs.jsonl``; finite numbers only.
    score : float
        What the best epoch has most of; never NaN.
    error : float
        Standard error of ``score`` with so few cases; epochs closer than this cannot be told apart.
    loss : float
        Mean loss, or 1 - score.
    """

    metrics: dict[str, float]
    score: float
    error: float
    loss: float


def validation_cases(cases: Sequence[Case], plan: Plan) -> tuple[Case, ...]:
    """Return the cases to look at after each epoch: evenly spaced, as many as a tenth of an epoch's time allows."""
    images = SHARE_OF_TIME * plan.steps_per_epoch * plan.batch / FORWARD_SHARE
    most = max(FEWEST_CASES, int(images / _windows(cases, plan)))
    if len(cases) <= most:
        return tuple(cases)
    chosen = np.unique(np.linspace(0, len(cases) - 1, most).round().astype(int))
    return tuple(cases[index] for index in chosen)


def validate(
    network: nn.Module,
    cases: Sequence[Case],
    store: Store,
    plan: Plan,
    *,
    device: torch.device,
    precision: Precision,
    between: Callable[[], None] = lambda: None,
) -> Scores:
    """Score a network on cases; ``between`` is called now and then and may raise to stop."""
    if not cases:
        return Scores({}, 0.0, math.inf, math.inf)
    if plan.task == "segment":
        return _segmenter_scores(network, cases, store, plan, device=device, precision=precision, between=between)
    scores = network_scores(network, cases, store, plan, device=device, precision=precision, between=between)
    return _classifier_scores(scores, class_targets(cases, plan).numpy(), plan)


def network_scores(
    network: nn.Module,
    cases: Sequence[Case],
    store: Store,
    plan: Plan,
    *,
    device: torch.device,
    precision: Precision,
    between: Callable[[], None] = lambda: None,
) -> np.ndarray:
    """Return a classifier's raw scores (N, L) of cases."""
    network.eval()
    parts = []
    for first in range(0, len(cases), IMAGES_AT_ONCE):
        between()
        images = np.stack([store.image(case.case_id) for case in cases[first : first + IMAGES_AT_ONCE]])
        with torch.inference_mode(), autocast(device, precision):
            parts.append(run_network(network, torch.from_numpy(images).to(device), plan).float().cpu().numpy())
    return np.concatenate(parts) if parts else np.zeros((0, len(plan.labels)))


def mask_probabilities(
    network: nn.Module, cases: Sequence[Case], store: Store, plan: Plan, *, device: torch.device
) -> Iterator[tuple[Case, np.ndarray]]:
    """Yield each case with a segmenter's probabilities (L, I, J, K) on the network's grid, in fp32."""
    predictor = case_predictor(network, plan, device=device, precision="fp32")
    for case in cases:
        logits = predictor.logits(torch.from_numpy(np.array(store.image(case.case_id))))
        yield case, torch.softmax(logits.float(), dim=0).cpu().numpy()


def _segmenter_scores(
    network: nn.Module,
    cases: Sequence[Case],
    store: Store,
    plan: Plan,
    *,
    device: torch.device,
    precision: Precision,
    between: Callable[[], None],
) -> Scores:
    """Return Dice on the network's grid: per case over labels, then over cases."""
    predictor = case_predictor(network, plan, device=device, precision=precision)
    labels = [label for label in sorted(plan.labels) if label != 0]
    table = np.full((len(cases), len(labels)), np.nan)
    for row, case in enumerate(cases):
        between()
        image = torch.from_numpy(np.array(store.image(case.case_id)))
        found = predictor.logits(image).argmax(dim=0).cpu().numpy()
        reference = store.mask(case.case_id)
        table[row] = [dice(found == label, reference == label) for label in labels]
    per_case = [_mean(row) for row in table]
    score = _mean(np.array(per_case))
    metrics = {"val_dice": score}
    metrics |= {f"val_dice_{plan.labels[n]}": _mean(column) for n, column in zip(labels, table.T, strict=True)}
    score = score if math.isfinite(score) else 0.0
    return Scores(_finite(metrics), score, 0.0, 1 - score)


def _classifier_scores(scores: np.ndarray, target: np.ndarray, plan: Plan) -> Scores:
    """Return AUROC, macro one-versus-rest; where it is undefined the loss decides."""
    truth = target if plan.multi_label else np.eye(len(plan.labels))[target]
    areas = [(auroc(truth[:, n], scores[:, n]), truth[:, n]) for n in range(truth.shape[1])]
    defined = [(area, present) for area, present in areas if math.isfinite(area)]
    loss = log_loss(scores, target, multi_label=plan.multi_label)
    metrics = {"val_auroc": _mean(np.array([area for area, _ in defined])), "val_loss": loss}
    if not plan.multi_label:
        metrics["val_accuracy"] = float((scores.argmax(axis=1) == target).mean())
    if not defined:
        return Scores(_finite(metrics), -loss, 0.0, loss)
    error = float(np.mean([area_error(area, int(p.sum()), int(len(p) - p.sum())) for area, p in defined]))
    return Scores(_finite(metrics), metrics["val_auroc"], error, loss)


def area_error(area: float, positives: int, negatives: int) -> float:
    """Return the standard error of an AUROC (Hanley and McNeil, Radiology 143:29, 1982)."""
    both_positive, both_negative = area / (2 - area), 2 * area**2 / (1 + area)
    variance = area * (1 - area) + (positives - 1) * (both_positive - area**2)
    variance += (negatives - 1) * (both_negative - area**2)
    return math.sqrt(max(0.0, variance) / (positives * negatives))


def case_predictor(network: nn.Module, plan: Plan, *, device: torch.device, precision: Precision) -> Predictor:
    """Return what asks a segmenter for whole cases, one coarser-tiled view each."""
    package = Package(
        folder=Path(),
        name="validation",
        version="",
        plan=plan.model_copy(update={"overlap": OVERLAP, "tta_flips": ()}),
        labels=plan.labels,
        calibration=Calibration(),
        sources={},
        environment={},
        digest="",
        network=network,
    )
    return Predictor(package, str(device), precision=precision)


def _windows(cases: Sequence[Case], plan: Plan) -> float:
    """Return about how many windows a case takes."""
    if plan.task == "classify" or plan.patch is None or not cases:
        return 1.0
    shapes = np.array([case.shape for case in cases], dtype=float)
    if plan.spacing_mm is not None:
        shapes = shapes * np.array([case.spacing_mm or plan.spacing_mm for case in cases]) / np.array(plan.spacing_mm)
    patch = np.array(plan.patch)
    windows = 1 + np.ceil(np.maximum(shapes - patch, 0) / (patch * (1 - OVERLAP)))
    return float(windows.prod(axis=1).mean())


def _mean(values: np.ndarray) -> float:
    defined = values[np.isfinite(values)]
    return float(defined.mean()) if len(defined) else math.nan


def _finite(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if math.isfinite(value)}
