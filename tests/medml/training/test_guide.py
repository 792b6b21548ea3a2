"""Masks that teach a classifier where to look."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medml.io.files import read_record
from medml.networks.build import build_network
from medml.networks.package import load_package
from medml.records.plan import TrainingJob
from medml.training.cache import open_store
from medml.training.guide import LABELS, UNKNOWN, GuidedNetwork, fit_mask, guide_loss
from medml.training.job import train
from medml.training.stopping import StopSignal


def guided(blocks: Any, pictures_plan: Any) -> Any:
    """The blocks as a guided classifier's data: some cases have a mask, all have a class."""
    cases = tuple(
        case.model_copy(update={"classes": (number % 2,), "mask": None if number == 0 else case.mask})
        for number, case in enumerate(blocks.dataset.cases)
    )
    dataset = blocks.dataset.model_copy(update={"task": "classify", "cases": cases, "labels": pictures_plan.labels})
    return type(blocks)(blocks.home, dataset, pictures_plan.model_copy(update={"guided": True, "epochs": 1}))


def test_a_mask_is_padded_and_cropped_around_its_centre() -> None:
    mask = np.arange(1, 6, dtype=np.uint8).reshape(5, 1, 1)
    assert fit_mask(mask, (3, 1, 1), keep_scale=True).ravel().tolist() == [2, 3, 4]
    assert fit_mask(mask, (10, 1, 1), keep_scale=False).ravel().tolist() == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]


def test_a_mask_lands_where_its_image_does() -> None:
    from medml.transforms.preprocessing import _fit

    rng = np.random.default_rng(0)
    for shape, size in [((5, 8, 3), (8, 5, 4)), ((6, 7, 9), (9, 4, 4))]:
        mask = rng.integers(0, 3, shape).astype(np.uint8)
        image, _ = _fit(torch.from_numpy(mask[None].astype(np.float32)), size, keep_scale=True)
        assert np.array_equal(image[0].numpy(), fit_mask(mask, size, keep_scale=True))


def test_a_map_that_is_right_costs_little_and_cases_without_a_mask_nothing() -> None:
    masks = torch.zeros(2, 1, 4, 4, 4, dtype=torch.uint8)
    masks[0, 0, :2] = 1
    masks[1] = UNKNOWN
    drawn = torch.full((2, LABELS, 2, 2, 2), -20.0)
    drawn[0, 1, 0] = drawn[0, 0, 1] = 20.0
    assert float(guide_loss(drawn, masks)) == pytest.approx(0.0, abs=1e-4)
    assert float(guide_loss(drawn.flip(2), masks)) > 10
    assert float(guide_loss(drawn, masks[[1, 1]])) == 0.0


def test_the_head_draws_at_a_quarter_of_the_size_and_leaves_the_scores_alone(pictures: Any) -> None:
    network = build_network(pictures.plan)
    whole = GuidedNetwork(network, pictures.plan, torch.device("cpu")).eval()
    images = torch.randn(2, 1, 12, 12, 8)
    scores, drawn = whole(images)
    assert torch.equal(scores, network(images))
    assert drawn.shape == (2, LABELS, 6, 6, 4)


def test_a_guided_classifier_learns_from_masks_and_its_package_needs_none(
    blocks: Any, pictures: Any, write_job: Callable[..., Path]
) -> None:
    phantoms = guided(blocks, pictures.plan)
    store = open_store(phantoms.dataset.cases, phantoms.plan, scans=phantoms.home.scans, cache=phantoms.home.cache)
    assert np.unique(store.mask(phantoms.dataset.cases[0].case_id)).tolist() == [UNKNOWN]
    assert store.mask(phantoms.dataset.cases[1].case_id).sum() == 75
    job = write_job(phantoms)
    train(read_record(job, TrainingJob), StopSignal())
    network = load_package(job.parent / "package").network
    assert not any("head" in name for name in network.state_dict())
