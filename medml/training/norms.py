"""What the training data look like, measured once when a model is packaged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import nn

from medml.metrics.structures import shapes_of
from medml.networks.build import run_network
from medml.networks.familiarity import FeatureTap, Measured, deepest_layer, learn_aspects, measure
from medml.networks.uncertainty import entropy_share, mean_entropy
from medml.records.dataset import Case
from medml.records.norms import Norms, Structure
from medml.records.plan import Plan
from medml.training.cache import Store
from medml.training.calibration import probabilities
from medml.training.validation import case_predictor, validation_cases

MOST_SCANS = 200


def learn_norms(
    network: nn.Module,
    learned: Sequence[Case],
    judged: Sequence[Case],
    store: Store,
    plan: Plan,
    *,
    temperature: float,
    device: torch.device,
) -> Norms:
    """Measure up to `MOST_SCANS` training scans, and as many that the network did not learn from.

    The network itself looks at as many of each as a validation does.

    Parameters
    ----------
    network : nn.Module
        The first member of an ensemble.
    learned, judged : sequence of Case
        Training and validation cases of its fold.
    temperature : float
        A classifier's, from its calibration.
    """
    learned, judged = _spread(learned), _spread(judged)
    # Which windows are asked would depend on the scan's air, and with them the features.
    layer = "" if plan.skip_air else deepest_layer(plan)
    looked: dict[str, float] = {}
    found = {case.case_id: _measured(case, store, plan) for case in (*learned, *judged)}
    seen = (*validation_cases(learned, plan), *validation_cases(judged, plan))
    with FeatureTap(network, layer) as tap:
        for case, uncertainty in _looks(network.to(device), seen, store, plan, temperature, device):
            features = tap.take()
            looked[case.case_id] = uncertainty
            if features is not None:
                found[case.case_id]["features"] = features
    network.cpu()
    aspects, scores = learn_aspects([found[case.case_id] for case in learned], [found[case.case_id] for case in judged])
    return Norms(
        learned=len(learned),
        judged=len(judged),
        layer=layer if "features" in aspects else "",
        aspects=aspects,
        scores=tuple(round(score, 6) for score in scores),
        uncertainty=tuple(sorted(round(looked[c.case_id], 6) for c in judged if c.case_id in looked)),
        structures=_structures((*learned, *judged), store, plan) if plan.task == "segment" else {},
    )


def _spread(cases: Sequence[Case]) -> tuple[Case, ...]:
    """Return evenly spaced cases, `MOST_SCANS` at most."""
    places = np.unique(np.linspace(0, len(cases) - 1, min(len(cases), MOST_SCANS)).round().astype(int))
    return tuple(cases[place] for place in places)


def _measured(case: Case, store: Store, plan: Plan) -> Measured:
    image = torch.from_numpy(np.array(store.image(case.case_id)))
    return measure(image, case.shape, case.spacing_mm, plan.dims)


def _looks(
    network: nn.Module, cases: Sequence[Case], store: Store, plan: Plan, temperature: float, device: torch.device
) -> Iterator[tuple[Case, float]]:
    """Yield each case with the network's uncertainty of it, one after the other."""
    network.eval()
    predictor = case_predictor(network, plan, device=device, precision="fp32") if plan.task == "segment" else None
    for case in cases:
        image = torch.from_numpy(np.array(store.image(case.case_id)))
        if predictor is not None:
            yield case, mean_entropy(predictor.logits(image))
            continue
        with torch.inference_mode():
            scores = run_network(network, image[None].to(device), plan).float().cpu().numpy()
        shares = probabilities(scores, temperature=temperature, multi_label=plan.multi_label)[0]
        yield case, entropy_share(torch.from_numpy(shares), multi_label=plan.multi_label)


def _structures(cases: Sequence[Case], store: Store, plan: Plan) -> dict[int, Structure]:
    """Return what the references of each label look like; cases without a mask do not count."""
    labels = [label for label in sorted(plan.labels) if label != 0]
    shapes = []
    for case in cases:
        spacing = plan.spacing_mm or case.spacing_mm
        voxel_ml = None if spacing is None else float(np.prod(spacing)) / 1000
        shapes.append((shapes_of(np.asarray(store.mask(case.case_id)), labels), voxel_ml))
    result = {}
    for label in labels:
        mine = [(found[label], voxel_ml) for found, voxel_ml in shapes]
        there = [(shape, voxel_ml) for shape, voxel_ml in mine if shape.voxels]
        volumes = [shape.voxels * voxel_ml for shape, voxel_ml in there if voxel_ml is not None]
        result[label] = Structure(
            scans=len(mine),
            absent=len(mine) - len(there),
            touching=sum(shape.touching for shape, _ in there),
            pieces=max((shape.pieces for shape, _ in there), default=1),
            least_ml=round(min(volumes), 6) if volumes else None,
            most_ml=round(max(volumes), 6) if volumes else None,
        )
    return result
