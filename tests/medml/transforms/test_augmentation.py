"""Random changes move image and mask together, and follow from (seed, step)."""

import torch

from medml.records.plan import Augmentation
from medml.transforms.augmentation import augment, mix, random_affines, resample

STILL = Augmentation(rotate_deg=0, scale=0, translate=0, noise=0, contrast=0, brightness=0)


def test_nothing_asked_nothing_changed() -> None:
    images, masks = torch.randn(2, 1, 4, 5, 6), torch.randint(0, 3, (2, 1, 4, 5, 6), dtype=torch.uint8)
    changed, moved = augment(images, masks, STILL, spacing_mm=None, seed=0, step=0)
    assert torch.equal(changed, images)
    assert moved is not None
    assert torch.equal(moved, masks)


def test_same_seed_and_step_give_the_same_batch_and_another_step_another() -> None:
    images = torch.randn(4, 2, 6, 6, 6)
    first, _ = augment(images, None, Augmentation(), spacing_mm=None, seed=3, step=7)
    again, _ = augment(images, None, Augmentation(), spacing_mm=None, seed=3, step=7)
    other, _ = augment(images, None, Augmentation(), spacing_mm=None, seed=3, step=8)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_flip_mirrors_image_and_mask_of_the_same_cases_along_the_named_axis_only() -> None:
    images = torch.arange(2.0).view(1, 1, 2, 1, 1).expand(32, 1, 2, 3, 3).contiguous()
    masks = images.to(torch.uint8)
    changed, moved = augment(
        images, masks, STILL.model_copy(update={"flip_axes": (0,)}), spacing_mm=None, seed=0, step=0
    )
    flipped = changed[:, 0, 0, 0, 0] == 1
    assert 0 < int(flipped.sum()) < 32
    assert moved is not None
    assert torch.equal(moved.float(), changed)
    untouched, _ = augment(
        images, masks, STILL.model_copy(update={"flip_axes": (1, 2)}), spacing_mm=None, seed=0, step=0
    )
    assert torch.equal(untouched, images)


def test_image_and_mask_move_together() -> None:
    masks = torch.zeros(4, 1, 24, 24, 24, dtype=torch.uint8)
    masks[:, :, 4:14, 6:12, 8:18] = 1
    changed, moved = augment(
        masks.float(),
        masks,
        STILL.model_copy(update={"rotate_deg": 20.0, "scale": 0.2, "translate": 0.1}),
        spacing_mm=None,
        seed=0,
        step=0,
    )
    assert moved is not None
    assert not torch.equal(moved, masks)
    assert float(((changed > 0.5) == (moved > 0)).float().mean()) > 0.995


def test_quarter_turn_in_space_maps_a_bar_along_i_to_a_bar_along_j() -> None:
    bar = torch.zeros(1, 1, 9, 9, 9)
    bar[0, 0, :, 4, 4] = 1
    turn = torch.tensor([[[0.0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0]]])
    turned = resample(bar, turn, mode="nearest")
    assert torch.equal(turned[0, 0, 4, :, 4], torch.ones(9))
    assert float(turned.sum()) == 9


def test_translation_is_a_share_of_the_extent_and_2d_stays_in_its_plane() -> None:
    change = STILL.model_copy(update={"translate": 0.1})
    matrices = random_affines(50, (10, 20, 1), change, (1.0, 1.0, 1.0), torch.Generator().manual_seed(0))
    assert float(matrices[:, :2, 3].abs().max()) <= 0.2
    assert torch.equal(matrices[:, 2, 3], torch.zeros(50))
    assert torch.allclose(matrices[:, :, :3], torch.eye(3).expand(50, 3, 3))


def test_thick_slices_are_rotated_in_their_plane_only() -> None:
    change = STILL.model_copy(update={"rotate_deg": 30.0})
    matrices = random_affines(5, (64, 64, 10), change, (0.5, 0.5, 5.0), torch.Generator().manual_seed(0))
    assert torch.allclose(matrices[:, 2, :3], torch.tensor([0.0, 0.0, 1.0]).expand(5, 3))
    assert not torch.allclose(matrices[:, 0, 1], torch.zeros(5))


def test_rotation_keeps_lengths_in_millimetres_on_an_uneven_grid() -> None:
    change = STILL.model_copy(update={"rotate_deg": 30.0})
    extent = torch.tensor([40.0, 20.0, 20.0])
    matrix = random_affines(1, (40, 20, 10), change, (1.0, 1.0, 2.0), torch.Generator().manual_seed(0))[0, :, :3]
    in_mm = torch.diag(extent) @ matrix @ torch.diag(1 / extent)
    assert torch.allclose(in_mm @ in_mm.T, torch.eye(3), atol=1e-5)


def test_two_dimensional_pictures_keep_their_shape() -> None:
    images, _ = augment(torch.randn(3, 3, 28, 28, 1), None, Augmentation(blur=1.0), spacing_mm=None, seed=0, step=0)
    assert images.shape == (3, 3, 28, 28, 1)
    assert bool(torch.isfinite(images).all())


def test_share_leaves_the_other_cases_where_they_are() -> None:
    images = torch.randn(64, 1, 6, 6, 6)
    change = STILL.model_copy(update={"translate": 0.3, "share": 0.25})
    changed, _ = augment(images, None, change, spacing_mm=None, seed=0, step=0)
    moved = (changed != images).flatten(1).any(dim=1)
    assert 5 <= int(moved.sum()) <= 28


def test_blur_keeps_a_constant_image_constant() -> None:
    images = torch.full((16, 1, 8, 8, 8), 3.0)
    changed, _ = augment(images, None, STILL.model_copy(update={"blur": 1.5}), spacing_mm=None, seed=0, step=0)
    assert torch.allclose(changed, images, atol=1e-5)


def test_contrast_keeps_the_mean_and_brightness_moves_it() -> None:
    images = torch.randn(8, 1, 8, 8, 8)
    means = images.mean(dim=(1, 2, 3, 4))
    contrast, _ = augment(images, None, STILL.model_copy(update={"contrast": 0.5}), spacing_mm=None, seed=0, step=0)
    assert torch.allclose(contrast.mean(dim=(1, 2, 3, 4)), means, atol=1e-5)
    bright, _ = augment(images, None, STILL.model_copy(update={"brightness": 0.5}), spacing_mm=None, seed=0, step=0)
    assert float((bright.mean(dim=(1, 2, 3, 4)) - means).abs().max()) > 0.05


def test_mixing_blends_each_image_with_another_and_keeps_more_of_its_own() -> None:
    images = torch.eye(4).view(4, 4, 1, 1, 1)
    mixed, order, share = mix(images, 0.3, seed=1, step=2)
    assert 0.5 <= share <= 1
    assert sorted(order.tolist()) == [0, 1, 2, 3]
    assert torch.allclose(mixed, share * images + (1 - share) * images[order])
    again, _, _ = mix(images, 0.3, seed=1, step=2)
    assert torch.equal(mixed, again)
