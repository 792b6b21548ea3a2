"""A fingerprint in, a plan out: every choice with one sentence that says why."""

from __future__ import annotations

from medml.config import validate
from medml.records.dataset import Dataset
from medml.records.experiment import Experiment
from medml.records.plan import Fingerprint, Plan
from medml.training import appearance, grids, sizing
from medml.training.classifier_plan import plan_classifier
from medml.training.draft import Draft
from medml.training.memory import GB, memory_budget, step_memory
from medml.training.segmenter_plan import plan_segmenter

# Keys that nothing in a fingerprint speaks for or against; what a plan of a task sets itself comes first.
USUAL = {
    "class_weights": "labels weigh alike",
    "pretrained": "random weights; name a model or a file to begin with",
    "anchor": "the first voxel stays in place; nnU-Net's models want the edges to",
    "orientation": "axes point right, anterior, superior; other letters are for weights that learned otherwise",
    "optimiser": "AdamW needs little tuning",
    "schedule": "half a cosine: high rates for most of the budget, low ones at its end",
    "accumulate": "a batch fits at once",
    "gradient_clip": "a rare steep step does no harm",
    "average_span": "an average of the last tenth of the weights is steadier than the last ones",
    "compile": "tried where the budget is long enough to earn its cost back",
    "starts": "one training; more of them, averaged, are for what the budget leaves over",
    "meanings": "codes of the labels, for DICOM; none are given",
    "deterministic": "the fastest kernels, whose sums may differ in the last digits",
    "guided": "belongs to classifiers",
    "size": "belongs to classifiers; segmenters see patches",
    "patch": "belongs to segmenters; classifiers see whole images",
    "foreground_share": "belongs to segmenters",
    "precision": "what the device is fast at",
    "overlap": "half a window: borders of windows are weighed down where others see them better",
    "tta_flips": "mirrored views double the time of inference for little",
    "skip_air": "every window is asked; true spares those of air, for labels that never lie in air alone",
    "keep_largest": "a label may have several parts",
}


def make_plan(fingerprint: Fingerprint, dataset: Dataset, experiment: Experiment, *, device: str = "auto") -> Plan:
    """Return the plan for one experiment.

    Parameters
    ----------
    fingerprint : Fingerprint
        Of the training cases of the experiment's fold.
    experiment : Experiment
        Its ``plan`` overrides single choices; later choices follow from overridden ones.
    device : str
        "auto", "cpu", "cuda" or "cuda:n": decides how large a network its minutes can train. With
        ``budget.memory_gb`` a GPU may be planned for that is not there.

    Raises
    ------
    ConfigError
        If an override names an unknown key or has a wrong value.
    """
    draft = Draft(experiment.plan)
    device = sizing.resolve_device(device, planned=experiment.budget.memory_gb is not None)
    _identity(draft, fingerprint, dataset)
    if draft["crop_foreground"] and fingerprint.boxes:
        fingerprint = fingerprint.model_copy(update={"shapes": fingerprint.boxes})
    if dataset.task == "segment":
        plan_segmenter(draft, fingerprint, dataset, experiment, device)
    else:
        plan_classifier(draft, fingerprint, dataset, experiment, device)
    draft.set("seed", dataset.seed, "the dataset's seed")
    for key, reason in USUAL.items():
        draft.fill(key, Plan.model_fields[key].default, reason)
    _memory(draft, experiment, device)
    return validate(draft.finished(), Plan, name="plan")


def _identity(draft: Draft, fingerprint: Fingerprint, dataset: Dataset) -> None:
    slices = grids.median_shape(fingerprint)[2]
    draft.fix("task", dataset.task)
    draft.fix("modality", dataset.modality)
    draft.fix("channels", dataset.channels)
    draft.fix("labels", dataset.labels)
    draft.fix("multi_label", dataset.multi_label)
    draft.set("dims", 2 if slices == 1 else 3, "images have one slice" if slices == 1 else "images are volumes")
    draft.set("crop_foreground", *grids.crop(fingerprint))
    radiograph = appearance.is_radiograph(fingerprint, dataset)
    draft.set("normalisation", *appearance.normalisation(fingerprint, radiograph=radiograph))


def _memory(draft: Draft, experiment: Experiment, device: str) -> None:
    """Say what a step needs, and whether that is more than there is."""
    need = step_memory(validate(draft.finished(), Plan, name="plan"), device)
    budget = memory_budget(device, experiment.budget.memory_gb)
    reason = need.describe()
    if budget is not None and need.total > budget:
        reason += f"; more than the {budget / GB:.3g} GB there are: training halves a batch that does not fit"
    draft.set("memory_gb", round(need.total / GB, 3), reason)
