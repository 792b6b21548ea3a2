"""Rules of the plan about what images and labels look like: intensities, flips, class balance."""

from __future__ import annotations

import re

from medml.records.dataset import Dataset
from medml.records.plan import Fingerprint, Normalisation

# A soft-tissue window: it holds organs, vessels, fat and contrast medium; classifiers have no mask that would say
# which intensities matter.
SOFT_TISSUE_HU = (-160.0, 240.0)
RADIOGRAPHS = frozenset({"CR", "DX", "DR", "MG", "RF", "XA", "PX", "IO"})
RADIOGRAPHIC_VIEWS = frozenset({"AP", "PA", "LL", "RL", "LATERAL", "CC", "MLO"})
SIDES = (
    re.compile(r"\b(left|right|lt|rt)\b|[_\s](l|r)$", re.IGNORECASE),
    re.compile(r"\b(anterior|posterior|ventral|dorsal)\b", re.IGNORECASE),
    re.compile(r"\b(superior|inferior|upper|lower|cranial|caudal)\b", re.IGNORECASE),
)
BRIGHTEST = 255.0  # of 8 bits
AXIS_NAMES = ("left-right", "front-back", "head-foot")
RARE = 10.0
# Shares of labelled voxels beyond which patches need no help to meet a label, or need more.
COMMON, SCARCE = 0.1, 0.001
NO_UNIT = {
    "MR": "depend on coil, sequence and scanner",
    "PT": "are not all SUV",
    **dict.fromkeys(RADIOGRAPHS, "depend on exposure and on the maker's processing"),
}


def is_radiograph(fingerprint: Fingerprint, dataset: Dataset) -> bool:
    """Say whether pictures are radiographs, by their modality or by the name of a view."""
    views = {str(case.columns.get("view")).upper() for case in dataset.cases}
    return fingerprint.modality in RADIOGRAPHS or bool(views & RADIOGRAPHIC_VIEWS)


def normalisation(fingerprint: Fingerprint, *, radiograph: bool) -> tuple[tuple[Normalisation, ...], str]:
    """Return one rule per channel and why."""
    if fingerprint.modality == "CT" and fingerprint.task == "classify":
        low, high = SOFT_TISSUE_HU
        rule = Normalisation(kind="clip_zscore", low=low, high=high, mean=(low + high) / 2, std=(high - low) / 4)
        return (rule,) * len(fingerprint.channels), "Hounsfield units are absolute: the soft-tissue window"
    if fingerprint.modality == "CT":
        rules = tuple(_clipped(found, found["p00_5"], found["p99_5"]) for found in fingerprint.intensity)
        return rules, "Hounsfield units are absolute: clipped and scaled by the labelled voxels of the training cases"
    if fingerprint.modality == "PT" and fingerprint.units == ("g/mL",):
        rules = tuple(_clipped(found, found["p00_5"], found["p99_5"]) for found in fingerprint.intensity)
        where = "labelled voxels" if fingerprint.task == "segment" else "voxels"
        return rules, f"SUV is absolute: clipped and scaled by the {where} of the training cases"
    if _is_colour(fingerprint):
        rules = tuple(_clipped(found, found["min"], found["max"]) for found in fingerprint.intensity)
        return rules, "colour carries meaning: scaled by the training set's mean and spread, not picture by picture"
    if _is_for_display(fingerprint) and not radiograph:
        rules = tuple(_clipped(found, found["min"], found["max"]) for found in fingerprint.intensity)
        return rules, "grey of 8 bits, as readers see it, carries meaning: scaled by the training set's mean and spread"
    rules = tuple(Normalisation(kind="zscore") for _ in fingerprint.intensity)
    why = NO_UNIT.get(fingerprint.modality, "have no fixed unit")
    return rules, f"{fingerprint.modality} intensities {why}: each image to mean 0 and spread 1"


def foreground_share(fingerprint: Fingerprint) -> tuple[float, str]:
    """Return the share of patches that are centred on a label, and why."""
    labelled = sum(count for value, count in fingerprint.label_voxels.items() if value != 0)
    share = labelled / max(1, sum(fingerprint.label_voxels.values()))
    held = f"{share:.2%} of the voxels are labelled"
    if share > COMMON:
        return 1 / 3, f"{held}: a patch seldom misses them, a third centred on one is enough"
    if 0 < share < SCARCE:
        return 2 / 3, f"{held}: two of three patches are centred on one, or networks hardly meet them"
    return 0.5, f"{held}: every second patch is centred on one, so that small ones are seen"


def dataset_flips(fingerprint: Fingerprint, dataset: Dataset, *, dims: int) -> tuple[tuple[int, ...], str]:
    """Return the axes that may be mirrored and why, by the dataset's labels and views."""
    radiograph = is_radiograph(fingerprint, dataset)
    return flip_axes(fingerprint, tuple(dataset.labels.values()), dims=dims, radiograph=radiograph)


def flip_axes(
    fingerprint: Fingerprint, labels: tuple[str, ...], *, dims: int, radiograph: bool
) -> tuple[tuple[int, ...], str]:
    """Return the axes that may be mirrored and why.

    An axis is left alone where a label names a side along it. Radiographs are never mirrored (the heart's side shows),
    other grey pictures from left to right only (ultrasound comes from above), colour pictures both ways. Volumes of
    known orientation are mirrored from left to right only where they are segmented: bodies are about symmetric so, and
    a network need not learn them upside down.
    """
    if dims == 2 and radiograph:
        return (), "no flips: a radiograph has a left and a right"
    axes = tuple(range(dims))
    if dims == 2 and not _is_colour(fingerprint):
        axes = (0,)
    if dims == 3 and fingerprint.task == "segment" and fingerprint.geometry == "mm":
        axes = (0,)
    sided = [axis for axis in axes if any(SIDES[axis].search(label.replace("_", " ")) for label in labels)]
    free = tuple(axis for axis in axes if axis not in sided)
    reason = f"flips along {', '.join(AXIS_NAMES[axis] for axis in free)}" if free else "no flips"
    if sided:
        reason += f", not {', '.join(AXIS_NAMES[axis] for axis in sided)}: labels name sides"
    return free, reason


def classifier_loss(multi_label: bool) -> tuple[str, str]:
    """Return the name of the loss and why."""
    if multi_label:
        return "bce", "several classes can hold at once: one yes or no each"
    return "cross_entropy", "exactly one class holds"


def class_weights(
    fingerprint: Fingerprint, labels: dict[int, str], multi_label: bool
) -> tuple[tuple[float, ...] | None, str]:
    """Return one weight per class, the square root of how rare it is, and why.

    The square root helps rare classes without tearing probabilities far from their frequencies. Multi-label: the
    weight of a positive against a negative.
    """
    counts = [fingerprint.class_counts.get(value, 0) for value in sorted(labels)]
    if multi_label:
        ratios = [(fingerprint.cases - count) / max(count, 1) for count in counts]
    else:
        ratios = [sum(counts) / (len(counts) * max(count, 1)) for count in counts]
    weights = tuple(round(min(max(ratio, 1 / RARE), RARE) ** 0.5, 4) for ratio in ratios)
    if max(weights) / min(weights) < 1.1 and not multi_label:
        return None, "classes are about equally frequent"
    return weights, "square root of how rare each class is among the training cases"


def _is_colour(fingerprint: Fingerprint) -> bool:
    return tuple(name.upper() for name in fingerprint.channels) == ("R", "G", "B")


def _is_for_display(fingerprint: Fingerprint) -> bool:
    """Say whether classes are told by pictures of 8 bits whose levels depend neither on a coil nor on an exposure."""
    flat = fingerprint.task == "classify" and all(shape[2] == 1 for shape in fingerprint.shapes)
    ranged = all(found["min"] >= 0 and 1 < found["max"] <= BRIGHTEST for found in fingerprint.intensity)
    return flat and ranged and fingerprint.modality not in NO_UNIT


def _clipped(found: dict[str, float], low: float, high: float) -> Normalisation:
    return Normalisation(
        kind="clip_zscore", low=low, high=max(high, low + 1e-6), mean=found["mean"], std=max(found["std"], 1e-6)
    )
