"""The plan of a segmenter: choices in the order in which they follow from each other."""

from __future__ import annotations

from medml.networks.segmenters import halvings
from medml.records.dataset import Dataset
from medml.records.experiment import Experiment
from medml.records.plan import Augmentation, Fingerprint
from medml.training import appearance, grids, sizing
from medml.training.draft import Draft
from medml.training.memory import fit_memory
from medml.training.schedule_plan import set_budget, set_epochs
from medml.training.sizing import Candidate

STEPS = {"cpu": 20_000, "cuda": 30_000}
ENOUGH_STEPS = {"cpu": 24_000, "cuda": 30_000}  # a network is affordable that can take a third of them
WIDTHS = (96, 64, 48, 32, 16)
LOOKS = 60  # at the validation cases in the whole budget
FEWEST, MOST = 50, 250  # steps between two looks
MANY_PASSES = 50  # over the training cases


def plan_segmenter(
    draft: Draft, fingerprint: Fingerprint, dataset: Dataset, experiment: Experiment, device: str
) -> None:
    """Make every choice of a segmenter that is not made yet."""
    draft.set("spacing_mm", *grids.segmenter_spacing(fingerprint))
    multiple = sizing.side_multiple(draft)
    draft.set("patch", *grids.patch(fingerprint, draft["spacing_mm"], device=device, multiple=multiple))
    draft.set("batch", *grids.patch_batch(draft["patch"], fingerprint.cases, device=device))
    set_budget(draft, experiment)
    draft.fix("steps_per_epoch", 1)
    draft.set("loss", "dice_ce", "Dice holds small structures, cross-entropy steadies it")
    draft.set("class_weights", None, "Dice weighs labels alike, however small they are")
    draft.set("weight_decay", 1e-4, "little: patches differ anyway")
    fit_memory(
        draft,
        lambda: sizing.largest_of(draft, segmenter_candidates(draft, device)),
        device=device,
        gigabytes=experiment.budget.memory_gb,
        multiple=multiple,
    )
    steps = STEPS[sizing.kind_of(device)]
    wanted = ENOUGH_STEPS[sizing.kind_of(device)]
    possible = sizing.choose_network(draft, segmenter_candidates(draft, device), steps=wanted, device=device)
    set_epochs(draft, experiment, steps=steps, per_epoch=min(max(min(possible, steps) // LOOKS, FEWEST), MOST))
    passes = min(possible, steps) * draft["batch"] / fingerprint.cases
    draft.set("augmentation", *_augmentation(fingerprint, dataset, draft["dims"], passes))
    draft.set("tta_flips", draft["augmentation"].flip_axes, "mirrored views are averaged where training mirrored")
    draft.set("foreground_share", *appearance.foreground_share(fingerprint))


def _augmentation(fingerprint: Fingerprint, dataset: Dataset, dims: int, passes: float) -> tuple[Augmentation, str]:
    """Return changes that are the stronger the more often each case is seen, and why."""
    flips, reason = appearance.dataset_flips(fingerprint, dataset, dims=dims)
    if passes < MANY_PASSES:
        # Resampling a patch costs as much as a tenth of a step, so a part of the cases is enough (as in nnU-Net).
        few = Augmentation(flip_axes=flips, scale=0.2, share=0.4)
        return few, f"small changes, as each case is seen about {passes:.0f} times; {reason}"
    many = Augmentation(
        flip_axes=flips,
        rotate_deg=20.0,
        scale=0.2,
        scale_each=0.1,
        elastic=1.5,
        elastic_distance=10.0,
        share=0.7,
        gamma=0.3,
        blur=0.8,
        low_resolution=0.6,
        low_resolution_share=0.15,
    )
    return many, f"strong changes against learning by heart: each case is seen about {passes:.0f} times; {reason}"


def segmenter_candidates(draft: Draft, device: str) -> list[Candidate]:
    """Return networks that fit the patch, largest first; on a CPU those that spare the full resolution."""
    if sizing.kind_of(device) == "cuda":
        return [Candidate("dynunet", {}, "nnU-Net's network")]
    stages = max(3, len(_pools(draft)))
    return [
        Candidate(
            "folded_unet",
            {"filters": tuple(min(width * 2**stage, 8 * width) for stage in range(stages))},
            f"a U-Net of {width} to {min(width * 2 ** (stages - 1), 8 * width)} channels on folded voxels",
        )
        for width in WIDTHS
    ]


def _pools(draft: Draft) -> list[tuple[int, ...]]:
    dims, spacing = draft["dims"], draft["spacing_mm"]
    return halvings(draft["patch"][:dims], spacing[:dims] if spacing else None)
