"""From a drawn batch to what the network sees: on the device, randomly changed."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from medml.records.plan import Plan
from medml.training.batches import Batch
from medml.transforms.augmentation import augment, mix


@dataclass(frozen=True, slots=True, eq=False)
class Lesson:
    """What one step learns from.

    Attributes
    ----------
    images : Tensor of shape (B, C, I, J, K), float32
    targets : list of (share, Tensor)
        What the loss compares scores with; several where images were mixed.
    masks : Tensor of shape (B, 1, I, J, K) or None
        Guided classifiers: what to look at.
    cases : tuple of str
    """

    images: torch.Tensor
    targets: list[tuple[float, torch.Tensor]]
    masks: torch.Tensor | None
    cases: tuple[str, ...]


@torch.no_grad()
def make_lesson(batch: Batch, plan: Plan, *, step: int, device: torch.device) -> Lesson:
    """Bring a batch to the device and change it; random numbers follow from seed and step."""
    segment = plan.task == "segment"
    images = batch.images.to(device, non_blocking=True)
    target = batch.target.to(device, non_blocking=True)
    masks = target if segment else batch.masks
    masks = None if masks is None else masks.to(device, non_blocking=True)
    images, masks = augment(
        images, masks, plan.augmentation, spacing_mm=plan.spacing_mm, seed=plan.seed, step=step, places=batch.places
    )
    if segment and masks is not None:
        return Lesson(images, [(1.0, masks)], None, batch.cases)
    if plan.guided or plan.augmentation.mix <= 0:
        return Lesson(images, [(1.0, target)], masks, batch.cases)
    images, order, share = mix(images, plan.augmentation.mix, seed=plan.seed, step=step)
    return Lesson(images, [(share, target), (1 - share, target[order])], None, batch.cases)
