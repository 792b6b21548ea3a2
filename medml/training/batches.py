"""Which cases and patches a step sees: a function of (seed, step) alone, so that a resumed training goes on exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

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
    places : tuple of int
        Where each case stands in the batch of all processes.
    masks : Tensor of shape (B, 1, I, J, K)
        Guided classifiers: what to look at.
    """

    images: torch.Tensor
    target: torch.Tensor
    cases: tuple[str, ...]
    places: tuple[int, ...] = ()
    masks: torch.Tensor | None = None

    def pinned(self) -> Batch:
        """Return the same in memory that a GPU fetches from while it computes."""
        masks = None if self.masks is None else self.masks.pin_memory()
        return replace(self, images=self.images.pin_memory(), target=self.target.pin_memory(), masks=masks)


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
            return self._images(cases, tuple(mine))
        centred = size - round(size * self._plan.foreground_share)  # the last of each batch are centred on labels
        patch = self._plan.patch or ()
        images = np.empty((len(cases), len(self._plan.channels), *patch), dtype=np.float32)
        masks = np.empty((len(cases), 1, *patch), dtype=np.uint8)
        for row, (case, place) in enumerate(zip(cases, mine, strict=True)):
            rng = np.random.default_rng((self._plan.seed, step, place))
            self._patch(case, rng, images[row], masks[row], on_label=place >= centred)
        ids = tuple(case.case_id for case in cases)
        return Batch(torch.from_numpy(images), torch.from_numpy(masks), ids, tuple(mine))

    def _pick(self, position: int) -> int:
        """Return the case at one position of an endless row of shuffled passes."""
        number, place = divmod(position, len(self._cases))
        if self._order[0] != number:
            order = np.random.default_rng((self._plan.seed, 1, number)).permutation(len(self._cases))
            self._order = (number, order)
        return int(self._order[1][place])

    def _images(self, cases: Sequence[Case], places: tuple[int, ...]) -> Batch:
        images = torch.from_numpy(np.stack([self._store.image(case.case_id) for case in cases]))
        masks = None
        if self._plan.guided:
            masks = torch.from_numpy(np.stack([self._store.mask(case.case_id) for case in cases])[:, None])
        return Batch(images, class_targets(cases, self._plan), tuple(case.case_id for case in cases), places, masks)

    def _patch(
        self, case: Case, rng: np.random.Generator, image: np.ndarray, mask: np.ndarray, *, on_label: bool
    ) -> None:
        """Put a patch of one case into ``image`` (C, I, J, K) and ``mask`` (1, I, J, K)."""
        voxels, labels = self._store.stored(case.case_id), self._store.mask(case.case_id)
        points = self._store.points(case.case_id)
        size, shape = np.array(mask.shape[1:]), np.array(labels.shape)
        if on_label and len(points):
            firsts = np.flatnonzero(np.diff(points[:, 0], prepend=-1))
            label = rng.integers(len(firsts))
            last = firsts[label + 1] if label + 1 < len(firsts) else len(points)
            start = points[rng.integers(firsts[label], last), 1:] - size // 2
        else:
            start = rng.integers(0, np.maximum(shape - size, 0) + 1)
        inside = np.clip(start, 0, np.maximum(shape - size, 0))
        # A volume smaller than the patch lies in its middle, as it does in the sliding window.
        start = np.where(shape >= size, inside, -((size - shape) // 2))
        cut(voxels, start, image)
        cut(labels[None], start, mask)


def cut(array: np.ndarray, start: np.ndarray, box: np.ndarray) -> None:
    """Fill a box (C, i, j, k) from an array (C, I, J, K), beginning at ``start``; zero where it reaches outside."""
    size = np.array(box.shape[1:])
    low, high = np.maximum(start, 0), np.minimum(start + size, array.shape[1:])
    if (high - low < size).any():
        box[:] = 0
    source = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    target = tuple(slice(int(a), int(b)) for a, b in zip(low - start, high - start, strict=True))
    box[(slice(None), *target)] = array[(slice(None), *source)]


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
