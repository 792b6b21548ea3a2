"""Fingerprints: one picture however it was flipped, turned, rescaled or compressed; other pictures are others."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from medml.metrics.likeness import LEAF, SAME, alike, correlation, fingerprint


def picture(seed: int, size: tuple[int, ...] = (64, 48, 1)) -> np.ndarray:
    """Smooth structure of many sizes, as in anatomy, in 8 bits."""
    generator = np.random.default_rng(seed)
    axes = np.meshgrid(*[np.linspace(0, 1, n) for n in size], indexing="ij")
    total = np.zeros(size)
    for _ in range(60):
        middle, width = generator.uniform(0, 1, 3), generator.uniform(0.03, 0.3)
        reach = sum((axis - at) ** 2 for axis, at, n in zip(axes, middle, size, strict=True) if n > 1)
        total += generator.normal() * np.exp(-reach / width**2)
    return np.rint(255 * (total - total.min()) / np.ptp(total)).astype(np.uint8)


def as_jpeg(image: np.ndarray, quality: int = 50) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(image[..., 0]).save(buffer, format="JPEG", quality=quality)
    return np.asarray(Image.open(buffer))[..., np.newaxis]


def resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(Image.fromarray(image[..., 0]).resize(size))[..., np.newaxis]


@pytest.mark.parametrize(
    ("name", "copy"),
    [
        ("as it is", lambda image: image),
        ("rescaled to HU", lambda image: image.astype(np.int16) * 3 - 1024),
        ("inverted", lambda image: 255 - image),
        ("flipped", lambda image: image[::-1]),
        ("turned", lambda image: np.rot90(image)),
        ("transposed", lambda image: image.swapaxes(0, 1)),
        ("half the size", lambda image: resized(image, (24, 32))),
        ("twice the size", lambda image: resized(image, (96, 128))),
        ("compressed", as_jpeg),
        ("noisy", lambda image: image + np.random.default_rng(9).normal(0, 5, image.shape)),
    ],
)
def test_copies_of_a_picture_are_alike(name: str, copy) -> None:
    image = picture(1)
    assert correlation(fingerprint(image), fingerprint(copy(image))) > SAME


@pytest.mark.parametrize(("axis", "order"), [(0, (0, 1, 2)), (1, (2, 1, 0)), (2, (1, 2, 0))])
def test_a_volume_flipped_and_turned_is_the_same_picture(axis: int, order: tuple[int, int, int]) -> None:
    image = picture(2, (30, 24, 20))
    assert correlation(fingerprint(image), fingerprint(np.flip(image, axis).transpose(order))) > 0.999


def test_different_pictures_are_far_apart() -> None:
    found = [fingerprint(picture(seed)) for seed in range(12)]
    pairs = [correlation(found[a], found[b]) for a in range(12) for b in range(a)]
    assert max(pairs) < 0.9


def test_the_same_anatomy_with_other_details_is_another_picture() -> None:
    common, sizes = picture(3, (40, 40, 40)).astype(float), (40, 40, 40)
    one, other = (fingerprint(0.8 * common + 0.2 * picture(seed, sizes)) for seed in (4, 5))
    assert correlation(one, other) < SAME


def test_a_fingerprint_is_short_and_a_flat_image_has_none() -> None:
    assert len(fingerprint(picture(1))) < 200
    assert len(fingerprint(picture(2, (30, 24, 20)))) < 1300
    assert fingerprint(np.full((8, 8, 8), 7)) == ""
    assert correlation("", fingerprint(picture(1))) == 0.0
    assert correlation(fingerprint(picture(1)), fingerprint(picture(2, (30, 24, 20)))) == 0.0


def test_groups_hold_copies_only_whatever_the_order() -> None:
    first, second, volume = picture(1), picture(2), picture(3, (30, 24, 20))
    found = [fingerprint(image) for image in (first, second, first[::-1], volume, as_jpeg(second), volume[:, ::-1])]
    assert alike(["", *found, ""]) == [(1, 3), (2, 5), (4, 6)]
    assert alike(found[::-1]) == [(0, 2), (1, 4), (3, 5)]


def test_many_equal_fingerprints_are_one_group_at_once() -> None:
    text = fingerprint(picture(1))
    assert alike([text] * 5000) == [tuple(range(5000))]


def test_what_is_sought_for_a_few_is_their_whole_group_and_no_other() -> None:
    # 0 and 1 are copies, 2 is alike to 0; 5 and 6 are another picture; 3 and 4 stand alone.
    first, second = picture(1), picture(2)
    images = [first, first, as_jpeg(first), picture(3), picture(4), second, second[::-1]]
    prints = [fingerprint(image) for image in images]
    assert alike(prints) == [(0, 1, 2), (5, 6)]
    assert alike(prints, wanted={1}) == [(0, 1, 2)]
    assert alike(prints, wanted={3, 6}) == [(5, 6)]
    assert alike(prints, wanted=()) == []


def test_copies_among_more_than_one_neighbourhood_are_found() -> None:
    generator = np.random.default_rng(0)
    images = [generator.integers(0, 255, (16, 16, 1)) for _ in range(LEAF + 50)]
    prints = [fingerprint(image) for image in [*images, images[7].transpose(1, 0, 2), images[300][:, ::-1]]]
    assert alike(prints) == [(7, LEAF + 50), (300, LEAF + 51)]
