"""Masks metrics against a brute-force reference: every pair of border voxels, nothing clever."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from medml.metrics.overlap import dice, iou
from medml.metrics.surface import surface_scores

TOLERANCE = 1.0


def _border(mask: np.ndarray) -> list[tuple[int, ...]]:
    """Border voxels, one by one: a face neighbour is outside the mask, or outside the image."""
    found = []
    for index in map(tuple, np.argwhere(mask)):
        for axis, step in itertools.product(range(3), (-1, 1)):
            if mask.shape[axis] == 1:
                continue
            there = list(index)
            there[axis] += step
            if not 0 <= there[axis] < mask.shape[axis] or not mask[tuple(there)]:
                found.append(index)
                break
    return found


def _exact(prediction: np.ndarray, reference: np.ndarray, spacing: np.ndarray) -> tuple[float, float, float]:
    ours, theirs = (np.array(_border(mask), dtype=float).reshape(-1, 3) * spacing for mask in (prediction, reference))
    if not len(ours) or not len(theirs):
        return (float("nan"),) * 3
    apart = np.sqrt(((ours[:, None] - theirs[None]) ** 2).sum(axis=2))
    forth, back = apart.min(axis=1), apart.min(axis=0)
    both = np.concatenate([forth, back])
    hd95 = max(np.percentile(forth, 95), np.percentile(back, 95))
    return float(hd95), float((both <= TOLERANCE + 1e-9).mean()), float(both.mean())


def _pair(rng: np.random.Generator, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Blobs, single voxels, empties, masks at the image's border, flat images, anisotropic spacing."""
    shape = (1, 9, 9)[:: rng.choice([1, -1])] if number % 10 == 9 else tuple(rng.integers(4, 11, 3))
    masks = []
    for side in range(2):
        mask = np.zeros(shape, dtype=bool)
        kind = (number + side * rng.integers(0, 3)) % 5
        if kind == 1:
            mask[tuple(rng.integers(0, shape))] = True
        elif kind == 2:
            low = [rng.integers(0, n) for n in shape]
            mask[tuple(slice(a, rng.integers(a, n) + 1) for a, n in zip(low, shape, strict=True))] = True
        elif kind != 0 or number % 4:
            mask = rng.random(shape) < rng.uniform(0.02, 0.9)
        masks.append(mask)
    return masks[0], masks[1], rng.uniform(0.3, 5.0, 3)


def test_two_hundred_random_pairs() -> None:
    rng = np.random.default_rng(7)
    empties = 0
    for number in range(200):
        prediction, reference, spacing = _pair(rng, number)
        scores = surface_scores(prediction, reference, tuple(spacing), TOLERANCE)
        exact = _exact(prediction, reference, spacing)
        assert (scores.hd95, scores.nsd, scores.assd) == pytest.approx(exact, abs=1e-6, nan_ok=True)
        both, total = np.sum(prediction & reference), prediction.sum() + reference.sum()
        assert dice(prediction, reference) == pytest.approx(2 * both / total if total else np.nan, nan_ok=True)
        assert iou(prediction, reference) == pytest.approx(
            both / (total - both) if total - both else np.nan, nan_ok=True
        )
        empties += not prediction.any() or not reference.any()
    assert 10 <= empties <= 120
