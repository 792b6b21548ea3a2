"""Random changes move image and mask together, and follow from (seed, step)."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter1d
from torch.nn import functional

from medml.records.plan import Augmentation
from medml.transforms.augmentation import augment, mix
from medml.transforms.draws import Draws, spread
from medml.transforms.movement import affines, displacements, sample, sampling_grid
from medml.transforms.recolouring import bend, blur_matrix, coarse_matrix

STILL = Augmentation(rotate_deg=0, scale=0, translate=0, noise=0, contrast=0, brightness=0)

QUARTER = STILL.model_copy(update={"rotate_deg": 90.0})
ANGLE_ABOUT_K = 2
EVERYTHING = Augmentation(
    scale_each=0.1,
    shear=0.1,
    translate=0.1,
    elastic=1.0,
    flip_axes=(0, 1),
    share=0.7,
    noise_share=0.6,
    gamma=0.4,
    gamma_share=0.6,
    blur=1.5,
    blur_share=0.6,
    low_resolution=0.5,
    low_resolution_share=0.6,
)


def maps(
    count: int,
    shape: tuple[int, int, int],
    change: Augmentation,
    only: int | None = None,
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> torch.Tensor:
    """Return random maps; with ``only``, that number drawn as 1 and all others as 0."""
    numbers = spread(torch.rand(count, 17, generator=torch.Generator().manual_seed(0)))
    if only is not None:
        numbers = torch.zeros(count, 17)
        numbers[:, only] = 1.0
    return affines(numbers, shape, change, spacing_mm)


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
    turned = sample(bar, sampling_grid(maps(1, (9, 9, 9), QUARTER, ANGLE_ABOUT_K), (9, 9, 9)), mode="nearest")
    assert torch.equal(turned[0, 0, 4, :, 4], torch.ones(9))
    assert float(turned.sum()) == 9


@pytest.mark.parametrize("shape", [(5, 7, 1), (4, 6, 3)])
def test_the_grid_is_that_of_torch(shape: tuple[int, int, int]) -> None:
    matrices = torch.randn(3, 3, 4, generator=torch.Generator().manual_seed(0))
    theta = torch.cat([matrices[:, :, :3].flip(1, 2), matrices[:, :, 3:].flip(1)], dim=2)
    expected = functional.affine_grid(theta, [3, 1, *shape], align_corners=False)
    torch.testing.assert_close(sampling_grid(matrices, shape), expected)


def test_a_quarter_turn_moves_a_voxel_and_its_label_where_they_belong() -> None:
    image = torch.zeros(1, 1, 9, 9, 9)
    image[0, 0, 4 + 3, 4, 4 + 2] = 1  # 3 to the right and 2 up from the middle
    grid = sampling_grid(maps(1, (9, 9, 9), QUARTER, ANGLE_ABOUT_K), (9, 9, 9))
    moved, label = sample(image, grid, mode="bilinear"), sample(image, grid, mode="nearest")
    assert torch.nonzero(label[0, 0]).tolist() == [[4, 4 - 3, 4 + 2]]
    assert torch.allclose(moved, label, atol=1e-5)


def test_left_stays_left_without_flips() -> None:
    images = torch.zeros(32, 1, 16, 16, 16)
    images[:, :, 2:6, 6:10, 6:10] = 1
    change = STILL.model_copy(
        update={"rotate_deg": 30.0, "scale": 0.2, "shear": 0.1, "translate": 0.05, "elastic": 1.0}
    )
    changed, _ = augment(images, None, change, spacing_mm=None, seed=0, step=0)
    left, right = changed[:, :, :8].sum(dim=(1, 2, 3, 4)), changed[:, :, 8:].sum(dim=(1, 2, 3, 4))
    assert bool((left > 2 * right).all())
    mirrored, _ = augment(images, None, change.model_copy(update={"flip_axes": (0,)}), spacing_mm=None, seed=0, step=0)
    swapped = mirrored[:, :, 8:].sum(dim=(1, 2, 3, 4)) > mirrored[:, :, :8].sum(dim=(1, 2, 3, 4))
    assert 8 < int(swapped.sum()) < 24


def test_translation_is_a_share_of_the_extent_and_2d_stays_in_its_plane() -> None:
    matrices = maps(50, (10, 20, 1), STILL.model_copy(update={"translate": 0.1}))
    assert float(matrices[:, :2, 3].abs().max()) <= 0.2
    assert torch.equal(matrices[:, 2, 3], torch.zeros(50))
    assert torch.allclose(matrices[:, :, :3], torch.eye(3).expand(50, 3, 3))


def test_thick_slices_are_changed_in_their_plane_only() -> None:
    change = STILL.model_copy(update={"rotate_deg": 30.0, "scale": 0.2, "scale_each": 0.2, "shear": 0.2})
    matrices = maps(5, (64, 64, 10), change, spacing_mm=(0.5, 0.5, 5.0))
    assert torch.allclose(matrices[:, 2, :3], torch.tensor([0.0, 0.0, 1.0]).expand(5, 3))
    assert torch.allclose(matrices[:, :2, 2], torch.zeros(5, 2))
    assert not torch.allclose(matrices[:, 0, 1], torch.zeros(5))
    draws = Draws(0, 0, range(5))
    points, *_ = displacements(
        torch.ones(5), (64, 64, 10), STILL.model_copy(update={"elastic": 2.0}), (0.5, 0.5, 5.0), draws
    )
    assert float(points[..., :2].abs().min()) > 0
    assert float(points[..., 2].abs().max()) == 0


def test_rotation_keeps_lengths_in_millimetres_on_an_uneven_grid() -> None:
    matrix = maps(1, (40, 20, 10), STILL.model_copy(update={"rotate_deg": 30.0}), spacing_mm=(1.0, 1.0, 2.0))[0, :, :3]
    extent = torch.tensor([40.0, 20.0, 20.0])
    in_mm = torch.diag(extent) @ matrix @ torch.diag(1 / extent)
    assert torch.allclose(in_mm @ in_mm.T, torch.eye(3), atol=1e-5)


def test_scale_and_shear_are_the_numbers_drawn() -> None:
    numbers = torch.zeros(1, 17)
    numbers[0, 3], numbers[0, 5], numbers[0, 10] = 1.0, -1.0, 1.0
    change = STILL.model_copy(update={"scale": 0.25, "scale_each": 0.2, "shear": 0.1})
    linear = affines(numbers, (8, 8, 8), change, (1.0, 1.0, 1.0))[0, :, :3]
    expected = torch.tensor([[1.0, 0.1, 0], [0, 1, 0], [0, 0, 1]]) / torch.tensor([[1.25, 1.0, 1.25]])
    assert torch.allclose(linear, expected)


@pytest.mark.parametrize("shape", [(12, 10, 8), (12, 12, 1)])
def test_two_processes_see_what_one_sees(shape: tuple[int, int, int]) -> None:
    images = torch.randn(7, 2, *shape)
    masks = torch.randint(0, 3, (7, 1, *shape), dtype=torch.uint8)
    whole, moved = augment(images, masks, EVERYTHING, spacing_mm=None, seed=5, step=11)
    for rank in (0, 1):
        places = range(rank, 7, 2)
        part, labels = augment(
            images[rank::2], masks[rank::2], EVERYTHING, spacing_mm=None, seed=5, step=11, places=places
        )
        assert moved is not None
        assert labels is not None
        assert torch.allclose(part, whole[rank::2], atol=1e-5)
        assert torch.equal(labels, moved[rank::2])


def test_elastic_displacement_has_the_same_spread_everywhere_and_is_smooth() -> None:
    change = STILL.model_copy(update={"elastic": 1.0, "elastic_distance": 8.0})
    shape = (24, 24, 24)
    field = displacements(torch.ones(100), shape, change, (1.0, 1.0, 1.0), Draws(0, 0, range(100)))
    still = torch.eye(3, 4).expand(100, 3, 4)
    voxels = 12 * (sampling_grid(still, shape, field) - sampling_grid(still, shape))
    assert float(voxels.std(dim=0).mean()) == pytest.approx(1.0, rel=0.02)
    assert float(voxels.std(dim=0).min()) > 0.7
    assert float(voxels.diff(dim=1).abs().max()) < 1.0  # neighbours never pass each other by


def test_elastic_displacement_is_in_voxels_of_the_finest_axis() -> None:
    change = STILL.model_copy(update={"elastic": 1.0})
    points, *_ = displacements(torch.ones(400), (20, 20, 20), change, (1.0, 1.0, 2.0), Draws(0, 0, range(400)))
    spread_of = points.flatten(0, 3).std(dim=0)
    assert spread_of.tolist() == pytest.approx([2 / 20, 2 / 20, 2 / 40], rel=0.05)


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


def test_blur_is_a_gaussian_along_each_axis() -> None:
    line = np.random.default_rng(0).normal(size=40)
    found = blur_matrix(40, torch.tensor([1.5, 0.0]))
    expected = gaussian_filter1d(line, 1.5, mode="nearest", truncate=4.0)
    assert np.allclose(found[0].double().numpy() @ line, expected, atol=1e-5)
    assert torch.equal(found[1], torch.eye(40))


def test_a_coarser_scan_keeps_the_nearest_voxels_and_interpolates() -> None:
    found = coarse_matrix(8, torch.tensor([0.5, 1.0]))
    # Voxels 1, 3, 5, 7 stay; 1.5 coarse voxels lie between the middles of 8 and 4.
    assert (found[0] @ torch.arange(8.0)).tolist() == [1, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7]
    assert torch.equal(found[1], torch.eye(8))


def test_gamma_keeps_mean_spread_and_order() -> None:
    images = torch.randn(16, 1, 8, 8, 8)
    changed, _ = augment(
        images, None, STILL.model_copy(update={"gamma": 0.5, "gamma_share": 1.0}), spacing_mm=None, seed=0, step=0
    )
    assert not torch.allclose(changed, images, atol=0.05)
    assert torch.allclose(changed.mean(dim=(2, 3, 4)), images.mean(dim=(2, 3, 4)), atol=1e-4)
    assert torch.allclose(changed.std(dim=(2, 3, 4)), images.std(dim=(2, 3, 4)), rtol=1e-3)
    assert torch.equal(changed.flatten(1).argsort(dim=1)[:, ::64], images.flatten(1).argsort(dim=1)[:, ::64])


def test_gamma_bends_the_range_from_below_or_from_above() -> None:
    line = torch.tensor([0.0, 1, 2, 4]).view(1, 1, 4, 1, 1)
    below = bend(line, torch.tensor([[2.0]]), torch.tensor([False]))
    above = bend(line, torch.tensor([[2.0]]), torch.tensor([True]))
    assert below.flatten().tolist() == [0, 1 / 16, 1 / 4, 1]
    assert above.flatten().tolist() == [-1, -9 / 16, -1 / 4, 0]


@pytest.mark.parametrize(
    ("changes", "share"),
    [
        ({"noise": 0.3, "noise_share": 0.25}, 0.25),
        ({"contrast": 0.3, "contrast_share": 0.5}, 0.5),
        ({"brightness": 0.3, "brightness_share": 0.25}, 0.25),
        ({"gamma": 0.3, "gamma_share": 0.5}, 0.5),
        ({"blur": 1.0, "blur_share": 0.25}, 0.25),
        ({"low_resolution": 0.4, "low_resolution_share": 0.5}, 0.5),
    ],
)
def test_each_change_touches_its_share_of_the_cases(changes: dict[str, float], share: float) -> None:
    images = torch.randn(400, 1, 32, 6, 2)
    changed, _ = augment(images, None, STILL.model_copy(update=changes), spacing_mm=None, seed=0, step=0)
    touched = ((changed - images).abs() > 1e-4).flatten(1).any(dim=1).float().mean()
    assert float(touched) == pytest.approx(share, abs=0.08)
