"""From the network's grid back to the volume's own."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from medml.records.plan import Plan
from medml.records.scan import Volume
from medml.transforms import restoring
from medml.transforms.preprocessing import preprocess, preprocess_mask
from medml.transforms.restoring import best_label, restore, restore_probabilities

PlanMaker = Callable[..., Plan]
GRIDS = [{}, {"anchor": "edges"}, {"anchor": "edges", "orientation": "LPS"}]


@pytest.mark.parametrize("changes", GRIDS, ids=["voxel", "edges", "edges-LPS"])
@pytest.mark.parametrize("crop", [True, False])
@pytest.mark.parametrize("spacing", [None, (0.6, 0.7, 1.25)])
def test_preprocess_then_restore_returns_the_label(
    make_plan: PlanMaker,
    blob: Volume,
    crop: bool,
    spacing: tuple[float, float, float] | None,
    changes: dict[str, str],
) -> None:
    label = (blob.voxels[0] > 200).astype(np.uint8)
    plan = make_plan(crop_foreground=crop, spacing_mm=spacing, **changes)
    prepared = preprocess(blob, plan)
    seen = preprocess_mask(label, blob, plan)
    assert seen.shape == prepared.voxels.shape[1:]
    scores = np.eye(2, dtype=np.float32)[seen].transpose(3, 0, 1, 2)
    back = restore(scores, prepared, plan)
    assert back.dtype == np.uint8
    dice = 2 * (back & label).sum() / (back.sum() + label.sum())
    assert dice == 1.0 if spacing is None else dice > 0.93


@pytest.mark.parametrize("changes", GRIDS, ids=["voxel", "edges", "edges-LPS"])
def test_restore_slab_by_slab_is_restore_at_once(
    make_plan: PlanMaker, blob: Volume, monkeypatch: pytest.MonkeyPatch, changes: dict[str, str]
) -> None:
    plan = make_plan(spacing_mm=(2.0, 2.0, 2.0), **changes)
    prepared = preprocess(blob, plan)
    scores = np.random.default_rng(0).normal(size=(2, *prepared.resampled)).astype(np.float32)
    at_once = restore(scores, prepared, plan)
    monkeypatch.setattr(restoring, "RESTORE_BYTES", 1)
    np.testing.assert_array_equal(restore(torch.from_numpy(scores), prepared, plan), at_once)


@pytest.mark.parametrize("spacing", [None, (2.0, 2.0, 2.0)])
def test_restored_probabilities_sum_to_one_and_agree_with_the_mask(
    make_plan: PlanMaker, blob: Volume, monkeypatch: pytest.MonkeyPatch, spacing: tuple[float, float, float] | None
) -> None:
    plan = make_plan(spacing_mm=spacing, crop_foreground=True)
    prepared = preprocess(blob, plan)
    scores = 5 * np.random.default_rng(0).normal(size=(2, *prepared.resampled)).astype(np.float32)
    monkeypatch.setattr(restoring, "RESTORE_BYTES", 1 << 12)
    shares = restore_probabilities(scores, prepared, plan).astype(float)
    assert shares.shape == (2, *prepared.shape)
    np.testing.assert_allclose(shares.sum(axis=0), 1, atol=2e-3)
    clear = np.abs(shares[1] - 0.5) > 0.01
    np.testing.assert_array_equal((shares[1] > 0.5)[clear], (restore(scores, prepared, plan) == 1)[clear])
    outside = np.ones(prepared.shape, bool)
    outside[tuple(slice(a, b) for a, b in zip(*prepared.box, strict=True))] = False
    assert (shares[0][outside] == 1).all()


def test_the_best_label_is_the_argmax_and_ties_go_to_the_lower_one() -> None:
    scores = torch.from_numpy(np.random.default_rng(0).integers(0, 4, (5, 6, 7, 8)).astype(np.float32))
    np.testing.assert_array_equal(best_label(scores).numpy(), scores.numpy().argmax(axis=0))


def test_restore_refuses_scores_of_another_shape(make_plan: PlanMaker, blob: Volume) -> None:
    plan = make_plan()
    with pytest.raises(ValueError, match=r"shape \(2, 3, 3, 3\), expected \(2, 22, 20, 14\)"):
        restore(np.zeros((2, 3, 3, 3)), preprocess(blob, plan), plan)
