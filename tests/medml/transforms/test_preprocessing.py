from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from monai.transforms import (
    Compose,
    CropForeground,
    NormalizeIntensity,
    Resize,
    ResizeWithPadOrCrop,
    ScaleIntensityRange,
    Spacing,
)
from skimage.transform import resize

from medml.errors import Refusal
from medml.records.plan import Normalisation, Plan
from medml.records.scan import Volume
from medml.transforms.preprocessing import preprocess, preprocess_mask, stack_channels
from medml.transforms.restoring import restore, restore_probabilities, restore_values

PlanMaker = Callable[..., Plan]
OBLIQUE = np.array([[0.96, -0.84, 0.0, -31.0], [0.72, 1.12, 0.0, 12.0], [0.0, 0.0, 2.5, 4.0], [0, 0, 0, 1]])
FIXTURES = {"deadline": None, "max_examples": 15, "suppress_health_check": [HealthCheck.function_scoped_fixture]}


def by_monai(volume: Volume, *steps: Any) -> MetaTensor:
    image = MetaTensor(torch.from_numpy(volume.voxels.astype(np.float32)), affine=torch.from_numpy(volume.affine))
    return Compose(list(steps))(image)


@settings(**FIXTURES)
@given(spacing=st.tuples(*[st.floats(0.6, 4.0)] * 3), shape=st.tuples(*[st.integers(2, 13)] * 3), crop=st.booleans())
def test_equal_to_monai_for_any_spacing_and_shape(
    make_plan: PlanMaker, spacing: tuple[float, ...], shape: tuple[int, ...], crop: bool
) -> None:
    voxels = np.random.default_rng(0).normal(10, 20, (1, *shape)).astype(np.float32)
    volume = Volume(voxels, OBLIQUE)
    if crop and not (voxels > 0).any():
        return
    prepared = preprocess(volume, make_plan(spacing_mm=spacing, crop_foreground=crop))
    steps = [CropForeground(allow_smaller=True)] if crop else []
    theirs = by_monai(volume, *steps, Spacing(spacing, mode="bilinear"), NormalizeIntensity(channel_wise=True))
    if prepared.voxels.shape != theirs.shape:
        # A length that falls on half a voxel may be rounded either way.
        grown = (np.array(prepared.box[1]) - prepared.box[0] - 1) * np.array([1.2, 1.4, 2.5]) / spacing
        assert (np.abs(grown % 1 - 0.5) < 1e-6).any()
        return
    np.testing.assert_allclose(prepared.voxels, theirs.numpy(), atol=1e-4)
    np.testing.assert_allclose(prepared.affine, theirs.affine.numpy(), atol=1e-6)


def test_ct_is_cropped_above_minus_500_and_clipped_like_monai(make_plan: PlanMaker, blob: Volume) -> None:
    hounsfield = Volume(np.where(blob.voxels == 0, -1000, blob.voxels - 150).astype(np.int16), blob.affine)
    rule = Normalisation(kind="clip_zscore", low=-100, high=120, mean=30, std=50)
    plan = make_plan(modality="CT", crop_foreground=True, spacing_mm=(1.5, 1.5, 1.5), normalisation=(rule,))
    prepared = preprocess(hounsfield, plan)
    assert prepared.box == ((3, 2, 0), (20, 20, 12))
    theirs = by_monai(
        hounsfield,
        CropForeground(select_fn=lambda x: x > -500, allow_smaller=True),
        Spacing((1.5, 1.5, 1.5)),
        ScaleIntensityRange(-100, 120, -100, 120, clip=True),
        NormalizeIntensity(30, 50),
    )
    np.testing.assert_allclose(prepared.voxels, theirs.numpy(), atol=1e-4)


def test_each_channel_has_its_own_normalisation(make_plan: PlanMaker, blob: Volume) -> None:
    volume = Volume(np.concatenate([blob.voxels, blob.voxels]), blob.affine)
    rules = (Normalisation(kind="range", low=0, high=400), Normalisation(kind="zscore"))
    prepared = preprocess(volume, make_plan(channels=("a", "b"), normalisation=rules))
    np.testing.assert_allclose(prepared.voxels[0], np.clip(blob.voxels[0] / 400, 0, 1), atol=1e-6)
    assert abs(prepared.voxels[1].mean()) < 1e-4
    assert prepared.voxels[1].std() == pytest.approx(1, abs=1e-4)


def test_pictures_without_spacing_are_resized_like_monai(make_plan: PlanMaker) -> None:
    picture = Volume(np.random.default_rng(1).integers(0, 255, (1, 40, 30, 1)).astype(np.uint8), np.eye(4), "none")
    rule = Normalisation(kind="range", low=0, high=255)
    plan = make_plan(task="classify", dims=2, size=(28, 32, 1), normalisation=(rule,))
    prepared = preprocess(picture, plan)
    theirs = by_monai(
        picture, ScaleIntensityRange(0, 255, 0, 1, clip=True), Resize((28, 32, 1), mode="trilinear", anti_aliasing=True)
    )
    np.testing.assert_allclose(prepared.voxels, theirs.numpy(), atol=1e-4)
    np.testing.assert_allclose(prepared.affine, theirs.affine.numpy(), atol=1e-6)


@pytest.mark.parametrize("size", [(10, 30, 15), (23, 19, 16), (8, 8, 8)])
def test_with_spacing_a_classifier_pads_and_crops_like_monai(
    make_plan: PlanMaker, blob: Volume, size: tuple[int, int, int]
) -> None:
    plan = make_plan(task="classify", size=size, spacing_mm=(1.2, 1.6, 2.0))
    prepared = preprocess(blob, plan)
    theirs = by_monai(
        blob, Spacing((1.2, 1.6, 2.0)), NormalizeIntensity(channel_wise=True), ResizeWithPadOrCrop(spatial_size=size)
    )
    np.testing.assert_allclose(prepared.voxels, theirs.numpy(), atol=1e-4)
    np.testing.assert_allclose(prepared.affine, theirs.affine.numpy(), atol=1e-6)


def test_an_axis_that_is_all_but_right_is_left_alone(make_plan: PlanMaker, blob: Volume) -> None:
    prepared = preprocess(blob, make_plan(spacing_mm=(1.2009, 1.3992, 1.25)))
    assert prepared.step == (1.0, 1.0, 0.5)
    theirs = by_monai(blob, Spacing((1.2009, 1.3992, 1.25)), NormalizeIntensity(channel_wise=True))
    np.testing.assert_allclose(prepared.voxels, theirs.numpy(), atol=1e-4)


def test_the_volume_is_not_changed(make_plan: PlanMaker, blob: Volume) -> None:
    before = blob.voxels.copy()
    preprocess(blob, make_plan())
    np.testing.assert_array_equal(blob.voxels, before)


def test_a_flat_image_becomes_zero_and_an_empty_one_is_not_cropped(make_plan: PlanMaker) -> None:
    flat = Volume(np.zeros((1, 4, 5, 6), dtype=np.int16), np.eye(4))
    prepared = preprocess(flat, make_plan(crop_foreground=True))
    assert prepared.voxels.shape == (1, 4, 5, 6)
    assert not prepared.voxels.any()


@pytest.mark.parametrize("changes", [{}, {"anchor": "edges", "orientation": "LPI"}])
def test_left_stays_left(make_plan: PlanMaker, changes: dict[str, str]) -> None:
    """A bright spot lies at the same place in the patient before and after."""
    voxels = np.ones((1, 20, 18, 16), dtype=np.float32)
    voxels[0, 4, 12, 8] = 100
    volume = Volume(voxels, OBLIQUE)
    prepared = preprocess(volume, make_plan(spacing_mm=(0.6, 0.7, 1.25), crop_foreground=True, **changes))
    brightest = np.unravel_index(prepared.voxels[0].argmax(), prepared.voxels.shape[1:])
    np.testing.assert_allclose(prepared.affine @ [*brightest, 1], OBLIQUE @ [4, 12, 8, 1], atol=0.63)  # half a voxel


def test_a_mask_that_needs_no_resampling_is_a_copy(make_plan: PlanMaker, blob: Volume) -> None:
    labels = (blob.voxels[0] > 0).astype(np.uint8)
    before = labels.copy()
    kept = preprocess_mask(labels, blob, make_plan(spacing_mm=None))
    np.testing.assert_array_equal(kept, before)
    kept[:] = 7
    np.testing.assert_array_equal(labels, before)


def test_a_resampled_mask_keeps_its_volume(make_plan: PlanMaker) -> None:
    i, j, k = np.meshgrid(np.arange(40), np.arange(40), np.arange(24), indexing="ij")
    ball = ((i - 20) * 1.2) ** 2 + ((j - 19) * 1.4) ** 2 + ((k - 12) * 2.5) ** 2 < 18**2
    volume = Volume(ball[np.newaxis].astype(np.float32), OBLIQUE)
    moved = preprocess_mask(ball.astype(np.uint8), volume, make_plan(spacing_mm=(1.0, 2.0, 1.5)))
    after = moved.sum() * 1.0 * 2.0 * 1.5
    # One voxel of OBLIQUE is 1.2 x 1.4 x 2.5 mm.
    before = ball.sum() * 4.2
    assert after == pytest.approx(before, rel=0.03)


def test_edges_or_the_first_voxel_stay_in_place(make_plan: PlanMaker) -> None:
    """Five voxels of 1 mm as two of 2.5 mm, or as three that begin where the first does and lie 2 mm apart."""
    volume = Volume(np.arange(0, 50, 10, dtype=np.float32).reshape(1, 5, 1, 1).repeat(2, axis=3), np.eye(4))
    whole = {"normalisation": (Normalisation(kind="range", low=0, high=1000),)}
    edges = preprocess(volume, make_plan(spacing_mm=(2.4, 1, 1), anchor="edges", **whole))
    np.testing.assert_allclose(edges.voxels[0, :, 0, 0] * 1000, [7.5, 32.5], rtol=1e-5)  # at 0.75 and 3.25 mm
    np.testing.assert_allclose(edges.affine @ [1, 0, 0, 1], [3.25, 0, 0, 1])
    first = preprocess(volume, make_plan(spacing_mm=(2, 1, 1), **whole))
    np.testing.assert_allclose(first.voxels[0, :, 0, 0] * 1000, [0, 20, 40], rtol=1e-5)


def test_anchored_edges_are_those_of_nnunet(make_plan: PlanMaker) -> None:
    """nnU-Net calls scikit-image's `resize`; of order 1 here, which MONAI and torch have on every device."""
    voxels = np.random.default_rng(0).normal(100, 20, (23, 17, 9)).astype(np.float32)
    volume = Volume(voxels[np.newaxis], np.diag([0.8, 1.1, 3.0, 1.0]))
    rule = Normalisation(kind="range", low=0, high=200)
    plan = make_plan(spacing_mm=(1.5, 0.7, 2.0), anchor="edges", normalisation=(rule,))
    prepared = preprocess(volume, plan)
    shape = (12, 27, 14)  # 18.4 / 1.5, 18.7 / 0.7, 27 / 2 = 13.5: halves to even
    theirs = resize(voxels, shape, order=1, mode="edge", anti_aliasing=False)
    np.testing.assert_allclose(prepared.voxels[0], (theirs / 200).clip(0, 1), atol=1e-5)
    scores = np.random.default_rng(1).normal(size=(2, *shape)).astype(np.float32)
    back = np.stack([resize(label, voxels.shape, order=1, mode="edge", anti_aliasing=False) for label in scores])
    same = restore(scores, prepared, plan) == back.argmax(axis=0)
    assert same.mean() > 0.999


def test_an_orientation_mirrors_what_the_network_sees_and_nothing_else(make_plan: PlanMaker, blob: Volume) -> None:
    turned, straight = make_plan(orientation="LAI"), make_plan()
    seen = preprocess(blob, turned)
    np.testing.assert_array_equal(seen.voxels[:, ::-1, :, ::-1], preprocess(blob, straight).voxels)
    labels = (blob.voxels[0] > 200).astype(np.uint8)
    labels[:6] = 0
    mask = preprocess_mask(labels, blob, turned)
    np.testing.assert_array_equal(mask[::-1, :, ::-1], labels)
    scores = np.eye(2, dtype=np.float32)[mask].transpose(3, 0, 1, 2)
    np.testing.assert_array_equal(restore(scores, seen, turned), labels)
    np.testing.assert_array_equal(restore_probabilities(scores, seen, turned)[1] > 0.5, labels)
    np.testing.assert_array_equal(restore_values(torch.from_numpy(scores[1].copy()), seen), labels)


def test_a_2d_plan_keeps_the_slices_of_a_volume(make_plan: PlanMaker, blob: Volume) -> None:
    plan = make_plan(dims=2, patch=(16, 16, 1), spacing_mm=(2.5, 2.0, 9.0))
    # 21 steps of 1.2 mm are 10.08 of 2.5 mm, 19 of 1.4 mm are 13.3 of 2 mm.
    assert preprocess(blob, plan).voxels.shape == (1, 11, 14, 14)


@pytest.mark.parametrize(
    ("changes", "volume", "code", "words"),
    [
        ({"channels": ("T1", "T2")}, Volume(np.ones((1, 4, 4, 4)), np.eye(4)), "channels", "has 1 channel, .* 2"),
        ({}, Volume(np.ones((3, 4, 4, 4)), np.eye(4)), "channels", "has 3 channels, .* 1"),
        ({"spacing_mm": (1, 1, 1)}, Volume(np.ones((1, 4, 4, 4)), np.eye(4), "none"), "no_spacing", "no voxel spacing"),
        ({}, Volume(np.ones((1, 4, 4, 1)), np.eye(4)), "dimensions", "single slice"),
        (
            {"task": "classify", "dims": 2, "size": (4, 4, 1)},
            Volume(np.ones((1, 4, 4, 9)), np.eye(4)),
            "dimensions",
            "9 slices",
        ),
        ({}, Volume(np.full((1, 4, 4, 4), np.nan), np.eye(4)), "not_finite", "NaN or infinite"),
    ],
)
def test_what_cannot_meet_the_plan_is_refused(
    make_plan: PlanMaker, changes: dict[str, Any], volume: Volume, code: str, words: str
) -> None:
    with pytest.raises(Refusal, match=words) as refusal:
        preprocess(volume, make_plan(**changes))
    assert refusal.value.code == code


def test_a_mask_on_another_grid_is_refused(make_plan: PlanMaker, blob: Volume) -> None:
    with pytest.raises(Refusal, match="they must share one grid"):
        preprocess_mask(np.zeros((3, 3, 3), dtype=np.uint8), blob, make_plan())


def ramp(shape: tuple[int, int, int], affine: np.ndarray) -> Volume:
    """A volume whose voxels hold their own R + 2A + 3S position in mm: linear, so that resampling is exact."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")).reshape(3, -1)
    world = affine[:3, :3] @ index + affine[:3, 3:]
    return Volume((np.array([1.0, 2.0, 3.0]) @ world).reshape(1, *shape).astype(np.float32), affine)


def test_channels_meet_on_the_first_grid_by_their_headers() -> None:
    first = ramp((8, 9, 6), np.diag([2.0, 2.0, 3.0, 1.0]))
    wide = np.diag([1.5, 2.5, 2.0, 1.0])
    wide[:3, 3] = (-3, -4, -5)
    other = ramp((20, 14, 16), wide)
    stacked = stack_channels([first, other])
    assert stacked.voxels.shape == (2, 8, 9, 6)
    np.testing.assert_allclose(stacked.voxels[1], first.voxels[0], atol=1e-3)
    np.testing.assert_array_equal(stacked.affine, first.affine)


def test_channels_on_one_grid_are_not_touched() -> None:
    one = Volume(np.arange(24, dtype=np.int16).reshape(1, 2, 3, 4), np.eye(4))
    stacked = stack_channels([one, one])
    assert stacked.voxels.dtype == np.int16
    np.testing.assert_array_equal(stacked.voxels[1], one.voxels[0])
    assert stack_channels([one]) is one


def test_where_a_channel_has_no_data_it_gets_its_lowest_value() -> None:
    first = Volume(np.zeros((1, 4, 4, 4)), np.eye(4))
    shifted = np.eye(4)
    shifted[0, 3] = 2
    stacked = stack_channels([first, Volume(np.full((1, 4, 4, 4), -7.0), shifted)])
    np.testing.assert_array_equal(stacked.voxels[1], -7.0)


def test_channels_that_do_not_meet_are_refused() -> None:
    first = Volume(np.zeros((1, 4, 4, 4)), np.eye(4))
    far = np.eye(4)
    far[2, 3] = 400
    with pytest.raises(Refusal, match="channel 1 lies outside the first channel's volume"):
        stack_channels([first, Volume(np.zeros((1, 4, 4, 4)), far)])
    with pytest.raises(Refusal, match="channels must match voxel by voxel"):
        stack_channels([first, Volume(np.zeros((1, 5, 4, 4)), np.eye(4), "none")])
