"""From the best weights to a package: calibration on validation cases, a card, the digests."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from medml.io.files import write_json
from medml.networks.build import build_network
from medml.networks.package import Calibration, write_package
from medml.records.dataset import Dataset
from medml.records.plan import Plan
from medml.training.batches import class_targets
from medml.training.cache import Store
from medml.training.calibration import fit_temperature, fit_threshold
from medml.training.validation import network_scores


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
    calibration = Calibration()
    if plan.task == "classify":
        calibration = calibrate(network, dataset, plan, store, fold=fold, device=device)
    write_json(run / "calibration.json", calibration.model_dump())
    return write_package(
        run / "package",
        network,
        plan,
        plan.labels,
        calibration,
        card(dataset, plan, calibration, _best_epoch(run)),
        {"dataset": dataset.digest, "test_set": dataset.test_digest},
        terms="; ".join(f"{name}: {terms}" for name, terms in sorted(dataset.licences.items()))
        or "see the model card, docs/README.md.",
    )


def calibrate(
    network: torch.nn.Module, dataset: Dataset, plan: Plan, store: Store, *, fold: int, device: torch.device
) -> Calibration:
    """Fit temperature and threshold of a classifier on all validation cases of the fold, in fp32 as in use."""
    cases = dataset.cases_of("validation", fold=fold)
    scores = network_scores(network, cases, store, plan, device=device, precision="fp32")
    target = class_targets(cases, plan).numpy()
    temperature = fit_temperature(scores, target, multi_label=plan.multi_label)
    return Calibration(temperature=temperature, threshold=fit_threshold(scores, target, temperature=temperature))


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
        *[f"- Licence of {name}: {terms}" for name, terms in sorted(dataset.licences.items())],
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
    return "\n".join([*lines, ""])


def _best_epoch(run: Path) -> dict[str, float]:
    """Return the metrics of the epoch whose weights were kept: the last one marked best."""
    lines = (run / "epochs.jsonl").read_text(encoding="utf-8").splitlines()
    best = [epoch for epoch in map(json.loads, lines) if epoch["best"]]
    metrics: dict[str, float] = best[-1]["metrics"] if best else {}
    return metrics
