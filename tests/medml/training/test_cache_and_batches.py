"""Preprocessing once, proved before use; batches that follow from (seed, step)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from medml.errors import MedmlError
from medml.io.scans import read_image, read_mask
from medml.records.plan import Normalisation
from medml.training import cache, pictures
from medml.training.batches import Batches, class_targets, cut
from medml.training.cache import open_store, preprocessing_digest
from medml.transforms.preprocessing import preprocess


def opened(phantoms: Any, **changes: Any) -> cache.Store:
    plan = phantoms.plan.model_copy(update=changes)
    return open_store(phantoms.dataset.cases, plan, scans=phantoms.home.scans, cache=phantoms.home.cache)


def test_the_store_holds_what_inference_would_see(blocks: Any) -> None:
    store, case = opened(blocks), blocks.dataset.cases[4]
    expected = preprocess(read_image(blocks.home.scans, case.case_id), blocks.plan).voxels
    assert np.array_equal(store.image(case.case_id), expected)
    mask = read_mask(blocks.home.scans, case.case_id).voxels[0]
    assert np.array_equal(store.mask(case.case_id), mask)
    points = store.points(case.case_id)
    assert len(points) == mask.sum() == 75
    assert all(mask[tuple(point[1:])] == point[0] for point in points)


def test_a_second_opening_reads_nothing_and_another_plan_shares_the_arrays(
    blocks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(blocks)
    monkeypatch.setattr(cache, "_prepare", lambda *_: pytest.fail("preprocessed again"))
    opened(blocks, batch=7, learning_rate=1.0)


def test_plans_that_preprocess_differently_have_arrays_of_their_own(blocks: Any) -> None:
    other = blocks.plan.model_copy(update={"normalisation": (Normalisation(kind="range", high=9.0),)})
    assert preprocessing_digest(other) != preprocessing_digest(blocks.plan)
    assert preprocessing_digest(blocks.plan.model_copy(update={"epochs": 9})) == preprocessing_digest(blocks.plan)


@pytest.mark.parametrize("kind", ["image.npy", "mask.npy", "points.npy", "json"])
def test_a_damaged_file_is_made_again(blocks: Any, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "CASES_PER_CHUNK", 2)
    case = blocks.dataset.cases[2].case_id
    before = np.array(opened(blocks).image(case))
    path = next(blocks.home.cache.rglob(f"000001.{kind}"))
    whole = path.read_bytes()
    path.write_bytes(whole[:-3] + b"bad")
    assert np.array_equal(opened(blocks).image(case), before)
    assert path.read_bytes() == whole


def test_many_cases_share_a_chunk(pictures: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "CASES_PER_CHUNK", 5)
    store = opened(pictures)
    assert len(list(pictures.home.cache.rglob("*.image.npy"))) == 3
    assert store.image(pictures.dataset.cases[11].case_id).shape == (1, 12, 12, 8)


def test_several_processes_make_the_same_arrays(blocks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    case = blocks.dataset.cases[0].case_id
    alone = np.array(opened(blocks).image(case))
    for path in blocks.home.cache.rglob("*.json"):
        path.unlink()
    monkeypatch.setattr(cache, "START_SECONDS", 0.0)
    monkeypatch.setattr(cache, "CASES_PER_CHUNK", 5)
    assert np.array_equal(opened(blocks).image(case), alone)


def test_progress_counts_cases_and_may_stop(blocks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "CASES_PER_CHUNK", 1)
    seen: list[tuple[int, int]] = []

    def stop_at_three(done: int, total: int) -> None:
        seen.append((done, total))
        if done == 3:
            raise SystemExit(143)

    with pytest.raises(SystemExit):
        open_store(
            blocks.dataset.cases,
            blocks.plan,
            scans=blocks.home.scans,
            cache=blocks.home.cache,
            on_progress=stop_at_three,
        )
    assert seen == [(0, 9), (1, 9), (2, 9), (3, 9)]


def test_a_case_that_cannot_be_preprocessed_is_named(blocks: Any) -> None:
    case = blocks.dataset.cases[3]
    with pytest.raises(MedmlError, match=r"case 0{24} cannot be trained on: the image has 1 channel"):
        opened(blocks, channels=("T1", "T2"), normalisation=blocks.plan.normalisation * 2)
    bare = case.model_copy(update={"mask": None})
    with pytest.raises(MedmlError, match="it has no mask"):
        open_store([bare], blocks.plan, scans=blocks.home.scans, cache=blocks.home.cache)


def test_a_label_that_the_plan_does_not_know_is_refused(blocks: Any) -> None:
    with pytest.raises(MedmlError, match=r"its mask holds \[1\], expected \[0, 2\]"):
        opened(blocks, labels={0: "background", 2: "other"})


def test_the_same_step_gives_the_same_batch_in_any_order(blocks: Any) -> None:
    store = opened(blocks)
    first, second = (Batches(blocks.dataset.cases, store, blocks.plan) for _ in range(2))
    for step in range(5):
        first.draw(step)
    again, fresh = first.draw(2), second.draw(2)
    assert again.cases == fresh.cases
    assert torch.equal(again.images, fresh.images)
    assert torch.equal(again.target, fresh.target)


def test_every_case_comes_once_per_pass(blocks: Any) -> None:
    batches = Batches(blocks.dataset.cases, opened(blocks), blocks.plan.model_copy(update={"batch": 3}))
    seen = [case for step in range(3) for case in batches.draw(step).cases]
    assert sorted(seen) == sorted(case.case_id for case in blocks.dataset.cases)


def test_processes_share_a_batch_between_them(blocks: Any) -> None:
    store, plan = opened(blocks), blocks.plan.model_copy(update={"batch": 4})
    whole = Batches(blocks.dataset.cases, store, plan).draw(1)
    parts = [Batches(blocks.dataset.cases, store, plan, rank=rank, world=2).draw(1) for rank in (0, 1)]
    assert parts[0].cases == whole.cases[0::2]
    assert parts[1].cases == whole.cases[1::2]
    assert torch.equal(parts[1].images, whole.images[1::2])


def test_patches_centred_on_labels_hold_them(blocks: Any) -> None:
    plan = blocks.plan.model_copy(update={"patch": (4, 4, 4), "foreground_share": 1.0, "batch": 9})
    batch = Batches(blocks.dataset.cases, opened(blocks), plan).draw(0)
    assert batch.images.shape == (9, 1, 4, 4, 4)
    assert batch.target.shape == (9, 1, 4, 4, 4)
    assert bool((batch.target.flatten(1) == 1).any(dim=1).all())


def test_a_patch_larger_than_the_volume_holds_it_in_its_middle(blocks: Any) -> None:
    plan = blocks.plan.model_copy(update={"patch": (16, 16, 16), "batch": 1})
    store = opened(blocks)
    batch = Batches(blocks.dataset.cases[:1], store, plan).draw(0)
    assert np.array_equal(batch.images[0, :, 2:14, 2:14, 4:12].numpy(), store.image(blocks.dataset.cases[0].case_id))
    assert float(batch.images[0, :, :2].abs().sum()) == 0


def test_cut_is_zero_outside() -> None:
    array = np.arange(8, dtype=np.float32).reshape(1, 2, 2, 2)
    box = np.full((1, 2, 2, 2), 9.0, dtype=np.float32)
    cut(array, np.array([-1, 0, 1]), box)
    assert box[0].tolist() == [[[0, 0], [0, 0]], [[1, 0], [3, 0]]]


def test_class_targets(pictures: Any, make_case: Callable[..., Any]) -> None:
    assert class_targets(pictures.dataset.cases[:3], pictures.plan).tolist() == [0, 1, 0]
    several = pictures.plan.model_copy(update={"multi_label": True, "labels": {0: "a", 1: "b", 2: "c"}})
    cases = [make_case(1, classes=(0, 2)), make_case(2, classes=())]
    assert class_targets(cases, several).tolist() == [[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]
    with pytest.raises(MedmlError, match="has 2 classes, expected exactly one"):
        class_targets(cases[:1], pictures.plan)
    with pytest.raises(MedmlError, match="has no class label"):
        class_targets([make_case(3)], pictures.plan)


def test_no_training_cases_is_said(blocks: Any) -> None:
    with pytest.raises(MedmlError, match="there are no training cases"):
        Batches([], opened(blocks), blocks.plan)


def test_arrays_are_mapped_and_lie_behind_each_other_in_few_files(blocks: Any) -> None:
    store = opened(blocks)
    assert len(list(blocks.home.cache.rglob("*.image.npy"))) == 1
    for case in blocks.dataset.cases:
        assert store.image(case.case_id).base is not None  # a view, nothing was read
        assert not store.image(case.case_id).flags.writeable
        assert store.image(case.case_id).shape == (1, 12, 12, 8)


def test_a_chunk_closes_once_it_holds_enough_voxels(blocks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "VOXELS_PER_CHUNK", 3 * 12 * 12 * 8)
    opened(blocks)
    assert len(list(blocks.home.cache.rglob("*.image.npy"))) == 3


def test_cases_of_different_shapes_share_a_file(tmp_path: Path, blocks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = blocks.dataset.cases
    wanted = {case.case_id: cache._prepare(case, blocks.plan, blocks.home.scans) for case in cases}
    cut_off = {
        id_: (image[:, n:], mask[n:]) for n, (id_, (image, mask)) in enumerate(wanted.items()) if mask is not None
    }
    monkeypatch.setattr(cache, "_prepare", lambda case, plan, scans: cut_off[case.case_id])
    store = opened(blocks)
    for case_id, (image, mask) in cut_off.items():
        assert np.array_equal(store.image(case_id), image)
        assert np.array_equal(store.mask(case_id), mask)
        assert all(mask[tuple(point[1:])] == point[0] for point in store.points(case_id))


def test_what_does_not_fit_into_memory_is_stored_in_half_the_space(
    blocks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = blocks.dataset.cases[0].case_id
    exact = np.array(opened(blocks).image(case))
    monkeypatch.setattr(cache, "RAM_SHARE", 0.0)
    store = opened(blocks)
    assert store.stored(case).dtype == np.float16
    assert store.image(case).dtype == np.float32
    assert np.allclose(store.image(case), exact, rtol=1e-3)
    batch = Batches(blocks.dataset.cases, store, blocks.plan).draw(0)
    assert batch.images.dtype == torch.float32


def test_points_are_a_sample_of_each_label_in_its_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "POINTS_PER_LABEL", 4)
    mask = np.zeros((4, 4, 4), dtype=np.uint8)
    mask[1, 2, 3], mask[2:] = 7, 2
    points = cache.labelled_points(mask, seed=0)
    assert points[:, 0].tolist() == [2, 2, 2, 2, 7]
    assert points[4].tolist() == [7, 1, 2, 3]
    assert len(np.unique(points, axis=0)) == 5
    assert cache.labelled_points(np.zeros((2, 2, 2), dtype=np.uint8), seed=0).shape == (0, 4)


def test_every_label_is_centred_on_as_often(blocks: Any) -> None:
    store = opened(blocks)
    case = blocks.dataset.cases[0]
    points = np.array([[1, 2, 2, 2]] * 9 + [[2, 9, 9, 5]], dtype=np.int16)
    rare = SimpleNamespace(stored=store.stored, mask=store.mask, points=lambda _: points)
    plan = blocks.plan.model_copy(update={"patch": (2, 2, 2), "foreground_share": 1.0, "batch": 64})
    batches = Batches([case], rare, plan)  # type: ignore[arg-type]
    seen = [np.array_equal(patch[0], store.image(case.case_id)[0, 8:10, 8:10, 4:6]) for patch in batches.draw(0).images]
    assert 20 < sum(seen) < 44


def test_the_batch_knows_the_places_of_its_cases(blocks: Any) -> None:
    plan = blocks.plan.model_copy(update={"batch": 5})
    batches = Batches(blocks.dataset.cases, opened(blocks), plan, rank=1, world=2)
    assert batches.draw(3).places == (1, 3)


def test_a_plan_of_another_orientation_learns_mirrored_and_its_pictures_are_not(blocks: Any) -> None:
    turned = blocks.plan.model_copy(update={"orientation": "LPS"})
    case = blocks.dataset.cases[4]
    straight, mirrored = opened(blocks), opened(blocks, orientation="LPS")
    assert np.array_equal(mirrored.image(case.case_id)[:, ::-1, ::-1], straight.image(case.case_id))
    assert not np.array_equal(mirrored.mask(case.case_id), straight.mask(case.case_id))
    shown = [
        pictures._segmented(case, store.mask(case.case_id), store, plan)
        for store, plan in ((straight, blocks.plan), (mirrored, turned))
    ]
    assert shown[0] == shown[1]
