"""The plan of a classifier: choices in the order in which they follow from each other."""

from __future__ import annotations

import math
from typing import Any

from medml.records.dataset import Dataset
from medml.records.experiment import Experiment
from medml.records.plan import Augmentation, Fingerprint
from medml.training import appearance, grids, sizing
from medml.training.draft import Draft
from medml.training.guide import LAYERS
from medml.training.memory import fit_memory
from medml.training.schedule_plan import VALIDATE_EVERY, set_budget, set_epochs
from medml.training.sizing import Candidate

IMAGES_SEEN = 40_000
FEWEST_PASSES, MOST_PASSES = 12, 400
SMALL_IMAGE = 64
SMALL_SET = 200
HALF_WIDTH_BELOW, QUARTER_WIDTH_BELOW = 2000, 1000
MOST_STARTS = 5
ROOM = 1.5  # what a training may take longer than its steps were timed to


def plan_classifier(
    draft: Draft, fingerprint: Fingerprint, dataset: Dataset, experiment: Experiment, device: str
) -> None:
    """Make every choice of a classifier that is not made yet."""
    draft.set("spacing_mm", *grids.classifier_spacing(fingerprint, dims=draft["dims"], device=device))
    draft.set("size", *grids.classifier_size(fingerprint, draft["spacing_mm"], dims=draft["dims"], device=device))
    draft.set("batch", *grids.image_batch(fingerprint.cases))
    set_budget(draft, experiment)
    draft.fix("steps_per_epoch", 1)
    draft.set("loss", *appearance.classifier_loss(draft["multi_label"]))
    draft.set("class_weights", *appearance.class_weights(fingerprint, draft["labels"], draft["multi_label"]))
    draft.set("weight_decay", 1e-2, "small data sets are learned by heart without it")
    candidates = classifier_candidates(draft, fingerprint)
    fit_memory(
        draft,
        lambda: sizing.largest_of(draft, candidates),
        device=device,
        gigabytes=experiment.budget.memory_gb,
    )
    steps = classifier_steps(fingerprint.cases, draft["batch"])
    masked = sum(case.mask is not None for case in dataset.cases_of("train", fold=experiment.fold))
    possible = sizing.choose_network(draft, candidates, steps=steps, device=device)
    _set_starts(draft, experiment, possible=possible, steps=steps)
    guided = 2 * masked >= fingerprint.cases and draft["network"] in LAYERS
    draft.set("guided", guided, f"{masked} of {fingerprint.cases} training cases carry masks to learn from")
    draft.set("augmentation", *_augmentation(draft["dims"], fingerprint, dataset))
    draft.set("tta_flips", *_mirrored(draft["augmentation"].flip_axes))
    per_pass = -(-fingerprint.cases // draft["batch"])
    set_epochs(draft, experiment, steps=steps, per_epoch=min(max(per_pass, 10), VALIDATE_EVERY["cuda"]))


def _set_starts(draft: Draft, experiment: Experiment, *, possible: int, steps: int) -> None:
    """Spend what the budget leaves over after one whole training on more of them, from other starts.

    On small data sets the same training from another start ranks cases differently; the average of a few is better
    than each (Lakshminarayanan et al., NeurIPS 2017).
    """
    given = experiment.budget.epochs or experiment.budget.steps or experiment.seeds
    alone = given or not isinstance(experiment.folds, int)
    starts = 1 if alone else min(max(int(possible / (ROOM * steps)), 1), MOST_STARTS)
    several = f"the budget holds {starts} whole trainings, averaged"
    draft.set(
        "starts", starts, several if starts > 1 else "steps, epochs, folds or seeds are given, or no time is left"
    )
    if draft["starts"] > 1 and not experiment.seeds:
        minutes = experiment.budget.minutes / draft["starts"]
        draft.set("minutes", minutes, f"the budget, shared by {draft['starts']} trainings")


def _mirrored(flips: tuple[int, ...]) -> tuple[tuple[int, ...], str]:
    """Return along which axis a second view is taken of each case, and why."""
    if not flips:
        return (), "training does not mirror, so neither does testing"
    return flips[:1], "averaged with its mirror image; each further axis would double the time"


def classifier_steps(cases: int, batch: int) -> int:
    """Return how many steps are enough: 40,000 images seen, and each image neither too seldom nor too often."""
    passes = min(max(IMAGES_SEEN / cases, FEWEST_PASSES), MOST_PASSES)
    return math.ceil(passes * cases / batch)


def classifier_candidates(draft: Draft, fingerprint: Fingerprint) -> list[Candidate]:
    """Return networks that fit the input size, largest first.

    Thick slices are read one by one, in order: kernels across them would mix what does not touch.

    Below 64 pixels the stem neither strides nor pools, or nothing would be left to look at; in 3D it strides where
    the volume is large. Few cases get no wide network: several narrow ones, averaged, learn less by heart.
    """
    dims, longest, cases = draft["dims"], max(draft["size"]), fingerprint.cases
    widths, few = _widths(cases)
    if dims == 3 and grids.thick_slices(fingerprint):
        note = f"thick slices are read one by one by a ResNet-18, in order by an LSTM{few}"
        return [Candidate("slice_sequence", {"widen_factor": width}, note) for width in widths]
    if longest <= SMALL_IMAGE:
        stem: dict[str, Any] = {"conv1_t_size": 3, "conv1_t_stride": 1 if dims == 2 else 2, "no_max_pool": True}
        small = [Candidate("resnet18", stem | {"widen_factor": w}, f"ResNet-18 with a small stem{few}") for w in widths]
        return small
    stem = {"conv1_t_size": 7 if dims == 2 else 5, "conv1_t_stride": 2, "no_max_pool": False}
    large = [Candidate("resnet18", stem | {"widen_factor": w}, f"ResNet-18{few}") for w in widths]
    return [Candidate("densenet121", {}, "DenseNet-121"), *large] if cases >= SMALL_SET else large


def _widths(cases: int) -> tuple[tuple[float, ...], str]:
    """Return what shares of the usual channels a ResNet may have, and words on it for the plan."""
    if cases < QUARTER_WIDTH_BELOW:
        return (0.25,), f", a quarter as wide for want of cases ({cases})"
    if cases < HALF_WIDTH_BELOW:
        return (0.5, 0.25), f", at most half as wide for want of cases ({cases})"
    return (1.0, 0.5, 0.25), ""


def _augmentation(dims: int, fingerprint: Fingerprint, dataset: Dataset) -> tuple[Augmentation, str]:
    flips, reason = appearance.dataset_flips(fingerprint, dataset, dims=dims)
    changes = Augmentation(flip_axes=flips, translate=0.08)
    return changes, f"small rotations, scaling and intensity changes; {reason}"
