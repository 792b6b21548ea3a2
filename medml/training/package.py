"""From the best weights to a package: calibration on validation cases, a card, the digests."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from medml.io.files import write_json
from medml.metrics.conformal import conformal_quantile, risk_controlled
from medml.networks.build import build_network
from medml.networks.package import Calibration, write_package
from medml.records.dataset import Dataset
from medml.records.plan import Plan
from medml.training.batches import class_targets
from medml.training.cache import Store
from medml.training.calibration import fit_temperature, fit_threshold
from medml.training.calibration import probabilities as probabilities_of
from medml.training.validation import mask_probabilities, network_scores, validation_cases

OUTER_STEPS = np.array([0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.07, *np.arange(0.1, 0.501, 0.025).round(3)])


def write_trained(
    weights: dict[str, torch.Tensor],
    dataset: Dataset,
    plan: Plan,
    store: Store,
    *,
    fold: int,
    run: Path,
    device: torch.device,
) -> Path:
    """Write ``package/`` of a finished training into its run folder."""
    network = build_network(plan).to(device)
    network.load_state_dict(weights)
    network.eval()
    calibrated = calibrate if plan.task == "classify" else calibrate_masks
    calibration = calibrated(network, dataset, plan, store, fold=fold, device=device)
    write_json(run / "calibration.json", calibration.model_dump())
    return write_package(
        run / "package",
        network,
        plan,
        plan.labels,
        calibration,
        card(dataset, plan, calibration, _best_epoch(run)),
        {"dataset": dataset.digest, "test_set": dataset.test_digest},
        terms="; ".join(f"{name}: {terms or 'not stated'}" for name, terms in sorted(dataset.licences.items()))
        or "see the model card, docs/README.md.",
    )


def calibrate(
    network: torch.nn.Module, dataset: Dataset, plan: Plan, store: Store, *, fold: int, device: torch.device
) -> Calibration:
    """Fit temperature, threshold and conformal quantile of a classifier on all validation cases, in fp32 as in use."""
    cases = dataset.cases_of("validation", fold=fold)
    scores = network_scores(network, cases, store, plan, device=device, precision="fp32")
    target = class_targets(cases, plan).numpy()
    temperature = fit_temperature(scores, target, multi_label=plan.multi_label)
    return Calibration(
        temperature=temperature,
        threshold=fit_threshold(scores, target, temperature=temperature),
        quantile=_quantile(scores, target, [case.patient for case in cases], temperature),
    )


def calibrate_masks(
    network: torch.nn.Module, dataset: Dataset, plan: Plan, store: Store, *, fold: int, device: torch.device
) -> Calibration:
    """Find the probability from which each label's outer mask begins, on validation cases, on the network's grid."""
    cases = validation_cases(dataset.cases_of("validation", fold=fold), plan)
    labels = [label for label in sorted(plan.labels) if label != 0]
    losses: dict[int, list[np.ndarray]] = {label: [] for label in labels}
    patients: dict[int, list[str]] = {label: [] for label in labels}
    for case, probabilities in mask_probabilities(network, cases, store, plan, device=device):
        reference = store.mask(case.case_id)
        for label in labels:
            inside = np.sort(probabilities[label][reference == label])
            if inside.size:
                losses[label].append(np.searchsorted(inside, OUTER_STEPS) / inside.size)
                patients[label].append(case.patient)
    miss = Calibration().miss
    outer = {}
    for label in labels:
        chosen = risk_controlled(np.array(losses[label]), np.array(patients[label]), miss) if losses[label] else None
        if chosen is not None:
            outer[label] = float(OUTER_STEPS[chosen])
    return Calibration(outer=outer)


def _quantile(scores: np.ndarray, target: np.ndarray, patients: list[str], temperature: float) -> float | None:
    """Return the conformal quantile; None where several classes may hold, or for too few patients."""
    if target.ndim != 1 or not len(target):
        return None
    shares = probabilities_of(scores, temperature=temperature, multi_label=False)
    found = conformal_quantile(1 - shares[np.arange(len(target)), target], np.array(patients), Calibration().miss)
    return found if np.isfinite(found) else None


def card(dataset: Dataset, plan: Plan, calibration: Calibration, best: dict[str, float]) -> str:
    """Return the model card, Markdown: what it is, what it learned from, how far to trust it."""
    lines = [
        f"# {dataset.name}: {plan.task} {', '.join(plan.labels.values())}",
        "",
        "Research use only. Not a medical device.",
        "",
        "## Data",
        f"- Dataset `{dataset.name}`, digest `{dataset.digest}`; test set `{dataset.test_digest}`, never trained on",
        f"- {len(dataset.cases)} cases, {len(dataset.test)} of them held out",
        f"- Modality {plan.modality}; channels {', '.join(plan.channels)}",
        *[f"- Licence of {name}: {terms or 'not stated'}" for name, terms in sorted(dataset.licences.items())],
        *[f"- Consent for {name}: {note or 'not stated'}" for name, note in sorted(dataset.consents.items())],
        "",
        "## Model",
        f"- {plan.network}, input {plan.patch or plan.size} voxels, spacing {plan.spacing_mm or 'as in the image'}",
        "",
        "## Validation (used to choose the epoch; not a test)",
        *[f"- {name}: {value:.4f}" for name, value in sorted(best.items())],
    ]
    if plan.task == "classify":
        lines += ["", "## Calibration", f"- temperature {calibration.temperature:.4f}, fitted on validation cases"]
    if calibration.threshold is not None:
        lines.append(f"- threshold {calibration.threshold:.4f} for {plan.labels[1]}: Youden's J on validation cases")
    if calibration.quantile is not None:
        lines.append(
            f"- conformal sets at {1 - calibration.miss:.0%}: classes of at least {1 - calibration.quantile:.4f}"
        )
    if calibration.outer:
        lines += ["", "## Calibration"]
        lines += [
            f"- outer mask of {plan.labels[label]}: probability of at least {threshold:g}; holds all but "
            f"{calibration.miss:.0%} of it on average"
            for label, threshold in calibration.outer.items()
        ]
    return "\n".join([*lines, ""])


def _best_epoch(run: Path) -> dict[str, float]:
    """Return the metrics of the epoch whose weights were kept: the last one marked best."""
    lines = (run / "epochs.jsonl").read_text(encoding="utf-8").splitlines()
    best = [epoch for epoch in map(json.loads, lines) if epoch["best"]]
    metrics: dict[str, float] = best[-1]["metrics"] if best else {}
    return metrics
