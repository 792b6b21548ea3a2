"""Which cases and patches a step sees: a function of (seed, step) alone, so that a resumed training goes on exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from medml.errors import MedmlError
from medml.records.dataset import Case
from medml.records.plan import Plan
from medml.training.cache import Store


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """What one step trains on.

    Attributes
    ----------
    images : Tensor of shape (B, C, I, J, K), float32
    target : Tensor
        Masks (B, 1, I, J, K); classes (B,); or zeros and ones (B, L).
    cases : tuple of str
    masks : Tensor of shape (B, 1, I, J, K)
        Guided classifiers: what to look at.
    """

    images: torch.Tensor
    target: torch.Tensor
    cases: tuple[str, ...]
    masks: torch.Tensor | None = None


class Batches:
    """Draws batches from preprocessed training cases.

    Parameters
    ----------
    rank, world : int
        This process and how many there are: each takes every ``world``-th case of a step.
    """

    def __init__(self, cases: Sequence[Case], store: Store, plan: Plan, *, rank: int = 0, world: int = 1) -> None:
        if not cases:
            raise MedmlError("there are no training cases; check the dataset's split")
        self._cases, self._store, self._plan = cases, store, plan
        self._rank, self._world = rank, world
        self._order: tuple[int, np.ndarray] = (-1, np.zeros(0, dtype=np.int64))

    def draw(self, step: int) -> Batch:
        """Return the batch of one step."""
        size = max(self._plan.batch, self._world)
        mine = range(self._rank, size, self._world)
        cases = [self._cases[self._pick(step * size + place)] for place in mine]
        if self._plan.task == "classify":
            return self._images(cases)
        centred = size - round(size * self._plan.foreground_share)  # the last of each batch are centred on labels
        patches = [
            self._patch(case, np.random.default_rng((self._plan.seed, step, place)), on_label=place >= centred)
            for case, place in zip(cases, mine, strict=True)
        ]
        images = torch.from_numpy(np.stack([image for image, _ in patches]))
        masks = torch.from_numpy(np.stack([mask for _, mask in patches])[:, None])
        return Batch(images, masks, tuple(case.case_id for case in cases))

    def _pick(self, position: int) -> int:
        """Return the case at one position of an endless row of shuffled passes."""
        number, place = divmod(position, len(self._cases))
        if self._order[0] != number:
            order = np.random.default_rng((self._plan.seed, 1, number)).permutation(len(self._cases))
            self._order = (number, order)
        return int(self._order[1][place])

    def _images(self, cases: Sequence[Case]) -> Batch:
        images = torch.from_numpy(np.stack([self._store.image(case.case_id) for case in cases]))
        masks = None
        if self._plan.guided:
            masks = torch.from_numpy(np.stack([self._store.mask(case.case_id) for case in cases])[:, None])
        return Batch(images, class_targets(cases, self._plan), tuple(case.case_id for case in cases), masks)

    def _patch(self, case: Case, rng: np.random.Generator, *, on_label: bool) -> tuple[np.ndarray, np.ndarray]:
        image, mask = self._store.image(case.case_id), self._store.mask(case.case_id)
        size = np.array(self._plan.patch)
        points = self._store.points(case.case_id)
        shape = np.array(mask.shape)
        if on_label and len(points):
            label = rng.choice(np.unique(points[:, 0]))
            start = rng.choice(points[points[:, 0] == label])[1:] - size // 2
        else:
            start = rng.integers(0, np.maximum(shape - size, 0) + 1)
        inside = np.clip(start, 0, np.maximum(shape - size, 0))
        # A volume smaller than the patch lies in its middle, as it does in the sliding window.
        start = np.where(shape >= size, inside, -((size - shape) // 2))
        return cut(image, start, size), cut(mask[None], start, size)[0]


def cut(array: np.ndarray, start: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Return a box (C, *size) of an array (C, I, J, K) from ``start``, zero where it reaches outside."""
    box = np.zeros((array.shape[0], *(int(n) for n in size)), dtype=array.dtype)
    low, high = np.maximum(start, 0), np.minimum(start + size, array.shape[1:])
    source = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    target = tuple(slice(int(a), int(b)) for a, b in zip(low - start, high - start, strict=True))
    box[(slice(None), *target)] = array[(slice(None), *source)]
    return box


def class_targets(cases: Sequence[Case], plan: Plan) -> torch.Tensor:
    """Return classes (N,), or zeros and ones (N, L) if several can hold.

    Raises
    ------
    MedmlError
        If a case has no class, or not exactly one where one is expected.
    """
    if plan.multi_label:
        target = torch.zeros(len(cases), len(plan.labels))
        for row, case in enumerate(cases):
            target[row, list(_classes(case))] = 1.0
        return target
    for case in cases:
        if len(_classes(case)) != 1:
            raise MedmlError(f"case {case.case_id} has {len(_classes(case))} classes, expected exactly one")
    return torch.tensor([_classes(case)[0] for case in cases])


def _classes(case: Case) -> tuple[int, ...]:
    if case.classes is None:
        raise MedmlError(f"case {case.case_id} has no class label; freeze the dataset again")
    return case.classes
