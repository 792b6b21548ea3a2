"""A fingerprint in, a plan out: every choice with one sentence that says why."""

from __future__ import annotations

from medml.config import validate
from medml.records.dataset import Dataset
from medml.records.experiment import Experiment
from medml.records.plan import Augmentation, Fingerprint, Plan
from medml.training import appearance, grids, sizing
from medml.training.draft import Draft
from medml.training.guide import LAYERS

MIX = 0.3
VALIDATE_EVERY = {"cpu": 50, "cuda": 250}


def make_plan(fingerprint: Fingerprint, dataset: Dataset, experiment: Experiment, *, device: str = "auto") -> Plan:
    """Return the plan for one experiment.

    Parameters
    ----------
    fingerprint : Fingerprint
        Of the training cases of the experiment's fold.
    experiment : Experiment
        Its ``plan`` overrides single choices; later choices follow from overridden ones.
    device : str
        "auto", "cpu", "cuda" or "cuda:n": decides how large a network its minutes can train.

    Raises
    ------
    ConfigError
        If an override names an unknown key or has a wrong value.
    """
    draft = Draft(experiment.plan)
    device = sizing.resolve_device(device)
    _identity(draft, fingerprint, dataset)
    if dataset.task == "segment":
        _segmenter(draft, fingerprint, dataset, experiment, device)
    else:
        _classifier(draft, fingerprint, dataset, experiment, device)
    draft.set("seed", dataset.seed, "the dataset's seed")
    return validate(draft.finished(), Plan, name="plan")


def _identity(draft: Draft, fingerprint: Fingerprint, dataset: Dataset) -> None:
    slices = grids.median_shape(fingerprint)[2]
    draft.fix("task", dataset.task)
    draft.fix("modality", dataset.modality)
    draft.fix("channels", dataset.channels)
    draft.fix("labels", dataset.labels)
    draft.fix("multi_label", dataset.multi_label)
    draft.set("dims", 2 if slices == 1 else 3, "images have one slice" if slices == 1 else "images are volumes")
    draft.set("normalisation", *appearance.normalisation(fingerprint))


def _augmentation(draft: Draft, fingerprint: Fingerprint, dataset: Dataset) -> tuple[Augmentation, str]:
    views = {case.columns.get("view") for case in dataset.cases}
    labels = tuple(dataset.labels.values())
    flips, reason = appearance.flip_axes(fingerprint, labels, dims=draft["dims"], views=views)
    if dataset.task == "segment":
        # Resampling a patch costs as much as a tenth of a step, so a part of the cases is enough (as in nnU-Net).
        changes = Augmentation(flip_axes=flips, scale=0.2, share=0.4)
    else:
        changes = Augmentation(flip_axes=flips, translate=0.08, mix=0.0 if draft["guided"] else MIX)
        reason += "; masks guide, so images are not mixed" if draft["guided"] else "; mixup against learning by heart"
    return changes, f"small rotations, scaling and intensity changes; {reason}"


def _segmenter(draft: Draft, fingerprint: Fingerprint, dataset: Dataset, experiment: Experiment, device: str) -> None:
    draft.set("spacing_mm", *grids.segmenter_spacing(fingerprint))
    draft.set("patch", *grids.patch(fingerprint, draft["spacing_mm"], device=device))
    draft.set("batch", *grids.patch_batch(draft["patch"], fingerprint.cases, device=device))
    _budget(draft, experiment)
    draft.fix("steps_per_epoch", 1)
    draft.set("loss", "dice_ce", "Dice holds small structures, cross-entropy steadies it")
    draft.set("weight_decay", 1e-4, "little: patches differ anyway")
    steps = sizing.SEGMENTER_STEPS[sizing.kind_of(device)]
    sizing.choose_network(draft, sizing.segmenter_candidates(draft, device), steps=steps, device=device)
    _epochs(draft, experiment, steps=steps, per_epoch=VALIDATE_EVERY[sizing.kind_of(device)])
    draft.set("augmentation", *_augmentation(draft, fingerprint, dataset))
    draft.set("foreground_share", 0.5, "every second patch is centred on a label, so that small ones are seen")


def _classifier(draft: Draft, fingerprint: Fingerprint, dataset: Dataset, experiment: Experiment, device: str) -> None:
    draft.set("spacing_mm", *grids.classifier_spacing(fingerprint, dims=draft["dims"], device=device))
    draft.set("size", *grids.classifier_size(fingerprint, draft["spacing_mm"], dims=draft["dims"], device=device))
    draft.set("batch", *grids.image_batch(fingerprint.cases))
    _budget(draft, experiment)
    draft.fix("steps_per_epoch", 1)
    draft.set("loss", *appearance.classifier_loss(draft["multi_label"]))
    draft.set("class_weights", *appearance.class_weights(fingerprint, draft["labels"], draft["multi_label"]))
    draft.set("weight_decay", 1e-2, "small data sets are learned by heart without it")
    steps = sizing.classifier_steps(fingerprint.cases, draft["batch"])
    masked = sum(case.mask is not None for case in dataset.cases_of("train", fold=experiment.fold))
    sizing.choose_network(draft, sizing.classifier_candidates(draft, fingerprint.cases), steps=steps, device=device)
    guided = 2 * masked >= fingerprint.cases and draft["network"] in LAYERS
    draft.set("guided", guided, f"{masked} of {fingerprint.cases} training cases carry masks to learn from")
    draft.set("augmentation", *_augmentation(draft, fingerprint, dataset))
    per_pass = -(-fingerprint.cases // draft["batch"])
    _epochs(draft, experiment, steps=steps, per_epoch=min(max(per_pass, 10), VALIDATE_EVERY["cuda"]))


def _budget(draft: Draft, experiment: Experiment) -> None:
    draft.set("minutes", experiment.budget.minutes, "the experiment's budget; the learning rate reaches zero with it")


def _epochs(draft: Draft, experiment: Experiment, *, steps: int, per_epoch: int) -> None:
    del draft["steps_per_epoch"]
    draft.set("steps_per_epoch", per_epoch, "validation then costs little and still comes often")
    if experiment.budget.epochs is not None:
        draft.set("epochs", experiment.budget.epochs, "the experiment's budget")
    else:
        draft.set(
            "epochs", max(1, -(-steps // draft["steps_per_epoch"])), f"about {steps} steps are enough for such data"
        )
    draft.set("patience", max(20, draft["epochs"] // 3), "validation is noisy, so one third of the epochs")
    draft.set("warmup_steps", min(100, max(1, steps // 20)), "the first steps are the least stable")
