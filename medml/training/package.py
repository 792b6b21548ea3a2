"""From the best weights to a package: calibration on validation cases, a card, the digests."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from medml.io.files import write_json
from medml.metrics.conformal import conformal_quantile, risk_controlled
from medml.networks.build import build_network
from medml.networks.ensemble import Ensemble
from medml.networks.package import load_package, write_package
from medml.records.calibration import Calibration
from medml.records.dataset import Dataset
from medml.records.plan import Plan, Trained
from medml.training.batches import class_targets
from medml.training.cache import Store
from medml.training.calibration import fit_temperature, fit_threshold
from medml.training.calibration import probabilities as probabilities_of
from medml.training.norms import learn_norms
from medml.training.validation import mask_probabilities, network_scores, validation_cases

OUTER_STEPS = np.array([0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.07, *np.arange(0.1, 0.501, 0.025).round(3)])


@dataclass(frozen=True, slots=True)
class Fitted:
    """A trained network and the fold whose validation cases it did not learn from."""

    network: torch.nn.Module
    fold: int


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
    network = build_network(plan)
    network.load_state_dict(weights)
    return _write([Fitted(network, fold)], dataset, plan, store, run=run, device=device, best=best_epoch(run))


def write_ensemble(
    members: Sequence[Trained], dataset: Dataset, plan: Plan, store: Store, *, run: Path, device: torch.device
) -> Path:
    """Write one ``package/`` of several finished trainings, whose probabilities are averaged, into a run folder.

    Its calibration is out of fold: each validation case is scored by the average of the members that did
    not learn from it.
    """
    fitted = [Fitted(load_package(Path(member.package)).network, member.fold) for member in members]
    found = [best_epoch(Path(member.package).parent) for member in members]
    best = {name: float(np.mean([each[name] for each in found if name in each])) for name in found[0]}
    return _write(fitted, dataset, plan, store, run=run, device=device, best=best)


def calibrate(
    members: Sequence[Fitted], dataset: Dataset, plan: Plan, store: Store, *, device: torch.device
) -> Calibration:
    """Fit temperature, threshold and conformal quantile of a classifier on all validation cases, in fp32 as in use."""
    parts, targets, patients = [], [], []
    for fold, network in _judges(members, plan):
        cases = dataset.cases_of("validation", fold=fold)
        parts.append(network_scores(network.to(device), cases, store, plan, device=device, precision="fp32"))
        targets.append(class_targets(cases, plan).numpy())
        patients += [case.patient for case in cases]
        network.cpu()
    scores, target = np.concatenate(parts), np.concatenate(targets)
    temperature = fit_temperature(scores, target, multi_label=plan.multi_label)
    return Calibration(
        temperature=temperature,
        threshold=fit_threshold(scores, target, temperature=temperature),
        quantile=_quantile(scores, target, patients, temperature),
        patients=len(set(patients)),
    )


def calibrate_masks(
    members: Sequence[Fitted], dataset: Dataset, plan: Plan, store: Store, *, device: torch.device
) -> Calibration:
    """Find the probability from which each label's outer mask begins, on validation cases, on the network's grid."""
    labels = [label for label in sorted(plan.labels) if label != 0]
    losses: dict[int, list[np.ndarray]] = {label: [] for label in labels}
    patients: dict[int, list[str]] = {label: [] for label in labels}
    for fold, network in _judges(members, plan):
        cases = validation_cases(dataset.cases_of("validation", fold=fold), plan)
        for case, probabilities in mask_probabilities(network.to(device), cases, store, plan, device=device):
            reference = store.mask(case.case_id)
            for label in labels:
                inside = np.sort(probabilities[label][reference == label])
                if inside.size:
                    losses[label].append(np.searchsorted(inside, OUTER_STEPS) / inside.size)
                    patients[label].append(case.patient)
        network.cpu()
    miss = Calibration().miss
    outer = {}
    for label in labels:
        chosen = risk_controlled(np.array(losses[label]), np.array(patients[label]), miss) if losses[label] else None
        if chosen is not None:
            outer[label] = float(OUTER_STEPS[chosen])
    return Calibration(outer=outer)


def _judges(members: Sequence[Fitted], plan: Plan) -> Iterator[tuple[int, torch.nn.Module]]:
    """Yield each fold with the networks that did not learn from its validation cases, as one."""
    for fold in sorted({member.fold for member in members}):
        own = [member.network.eval() for member in members if member.fold == fold]
        segment = plan.task == "segment"
        # A segmenter's mirrored views cost as much again each, and move its outer masks little.
        flips = () if segment else plan.tta_flips
        alone = len(own) == 1 and not flips
        yield (
            fold,
            own[0] if alone else Ensemble(own, flips=flips, per_voxel=segment, multi_label=plan.multi_label),
        )


def _write(
    members: Sequence[Fitted],
    dataset: Dataset,
    plan: Plan,
    store: Store,
    *,
    run: Path,
    device: torch.device,
    best: dict[str, float],
) -> Path:
    """Calibrate and package networks that share a plan."""
    calibrated = calibrate if plan.task == "classify" else calibrate_masks
    calibration = calibrated(members, dataset, plan, store, device=device)
    write_json(run / "calibration.json", calibration.model_dump())
    folds = [member.fold for member in members]
    first = members[0]
    norms = learn_norms(
        first.network,
        dataset.cases_of("train", fold=first.fold),
        dataset.cases_of("validation", fold=first.fold),
        store,
        plan,
        temperature=calibration.temperature,
        device=device,
    )
    return write_package(
        run / "package",
        [member.network for member in members],
        plan,
        plan.labels,
        calibration,
        card(dataset, plan, calibration, best, folds=folds),
        {
            "dataset": dataset.digest,
            "test_set": dataset.test_digest,
            "folds": ",".join(map(str, sorted(set(folds)))),
        },
        terms="; ".join(f"{name}: {terms or 'not stated'}" for name, terms in sorted(dataset.licences.items()))
        or "see the model card, docs/README.md.",
        norms=norms,
    )


def _quantile(scores: np.ndarray, target: np.ndarray, patients: list[str], temperature: float) -> float | None:
    """Return the conformal quantile; None where several classes may hold, or for too few patients."""
    if target.ndim != 1 or not len(target):
        return None
    shares = probabilities_of(scores, temperature=temperature, multi_label=False)
    found = conformal_quantile(1 - shares[np.arange(len(target)), target], np.array(patients), Calibration().miss)
    return found if np.isfinite(found) else None


def card(
    dataset: Dataset, plan: Plan, calibration: Calibration, best: dict[str, float], *, folds: Sequence[int] = (0,)
) -> str:
    """Return the model card, Markdown: what it is, what it learned from, how far to trust it.

    Parameters
    ----------
    folds : sequence of int
        The fold of each network of the model.
    """
    several = len(folds) > 1
    cases = "out-of-fold cases" if several else "validation cases"
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
        *([f"- Began with the weights of {plan.pretrained}"] if plan.pretrained else []),
        *_ensemble(folds),
        "",
        "## Validation (used to choose the epoch; not a test)",
        *[f"- {name}: {value:.4f}" for name, value in sorted(best.items())],
    ]
    if plan.task == "classify":
        lines += ["", "## Calibration", f"- temperature {calibration.temperature:.4f}, fitted on {cases}"]
    if calibration.threshold is not None:
        lines.append(f"- threshold {calibration.threshold:.4f} for {plan.labels[1]}: Youden's J on {cases}")
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
    if several and (plan.task == "classify" or calibration.outer):
        lines.append(
            "- each case was scored by the networks that had not learned from it; averaging all of them makes "
            "probabilities a little less certain than these"
        )
    return "\n".join([*lines, ""])


def _ensemble(folds: Sequence[int]) -> list[str]:
    """Say in the card how many networks are averaged."""
    if len(folds) == 1:
        return []
    parts = ", ".join(str(fold) for fold in sorted(set(folds)))
    starts = len(folds) // len(set(folds))
    return [f"- {len(folds)} networks, whose probabilities are averaged: folds {parts}; {starts} for each fold"]


def best_epoch(run: Path) -> dict[str, float]:
    """Return the metrics of the epoch whose weights a finished run kept: the last one marked best."""
    lines = (run / "epochs.jsonl").read_text(encoding="utf-8").splitlines()
    best = [epoch for epoch in map(json.loads, lines) if epoch["best"]]
    metrics: dict[str, float] = best[-1]["metrics"] if best else {}
    return metrics
