"""Overlays: which way is up, which slice is shown, how wide a voxel is, what the colours say."""

import io

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread
from scipy.ndimage import find_objects, label

from medml.pages.overlays import (
    PICTURE,
    PLANES,
    _difference,
    _zoom_box,
    contact_sheet,
    cut_slice,
    label_colour,
    middle_of,
    overlay_png,
    window,
)

ODD = "odd $title\x1b[31m"
LABELS = {0: "background", 1: "organ", 2: "lesion"}


def pixels(png: bytes) -> np.ndarray:
    return imread(io.BytesIO(png), format="png")[..., :3]


def test_axial_shows_the_patients_left_on_the_right_and_anterior_up() -> None:
    volume = np.zeros((4, 5, 3))  # RAS: I to the right, J to the front, K to the head
    volume[0, 4, 1] = 1  # far left, far front
    shown = cut_slice(volume, PLANES[0], 1)
    assert shown.shape == (5, 4)
    assert np.argwhere(shown).tolist() == [[0, 3]]


def test_coronal_has_the_head_up_and_sagittal_the_front_on_the_left() -> None:
    volume = np.zeros((4, 5, 3))
    volume[3, 4, 2] = 1  # far right, far front, far up
    assert np.argwhere(cut_slice(volume, PLANES[1], 4)).tolist() == [[0, 0]]
    assert np.argwhere(cut_slice(volume, PLANES[2], 3)).tolist() == [[0, 0]]


def test_a_picture_is_upright() -> None:
    picture = np.zeros((4, 5, 1))  # I: column number, J: row number
    picture[3, 0, 0] = 1  # last column, first row
    shown = cut_slice(picture, PICTURE, 0)
    assert shown.shape == (5, 4)
    assert np.argwhere(shown).tolist() == [[0, 3]]


def test_colours_of_a_picture_keep_their_places() -> None:
    picture = np.zeros((3, 40, 20, 1), np.uint8)
    picture[0, :20] = 255  # the left half red
    picture[2, 20:] = 255  # the right half blue
    shown = pixels(overlay_png(picture, spacing_mm=None, labels={}))
    height, width = shown.shape[:2]
    assert shown[height // 2, width // 4] == pytest.approx([1, 0, 0], abs=0.02)
    assert shown[height // 2, 3 * width // 4] == pytest.approx([0, 0, 1], abs=0.02)


def test_slices_run_through_every_label_of_the_reference() -> None:
    reference = np.zeros((9, 9, 9), np.uint8)
    reference[1:6, 1:8, 1:8] = 1
    reference[4, 4, 6] = 2
    assert middle_of(reference, None, (9, 9, 9)) == (4, 4, 6)
    assert middle_of(np.zeros_like(reference), reference, (9, 9, 9)) == (4, 4, 6)
    assert middle_of(None, None, (9, 9, 5)) == (4, 4, 2)


def test_difference_colours_say_what_happened_to_each_voxel() -> None:
    mask, reference = np.array([[1, 0, 1, 2, 0]]), np.array([[1, 1, 0, 1, 0]])
    shown = _difference(np.zeros((1, 5, 3), np.float32), mask, reference)
    expected = [("#009E73", 0.4), ("#F0E442", 0.8), ("#D55E00", 0.8), ("#CC79A7", 0.8)]
    for place, (colour, opacity) in enumerate(expected):
        assert shown[0, place] == pytest.approx(np.array(to_rgb(colour)) * opacity, abs=1e-6)
    assert shown[0, 4].tolist() == [0, 0, 0]


def test_thick_slices_are_drawn_in_true_proportion() -> None:
    volume = np.zeros((24, 24, 6), np.float32)
    volume[8:16, 8:16, 2:4] = 100.0  # 8 x 8 x (2 x 4) mm: a square in every plane
    mask = (volume > 0).astype(np.uint8)
    shown = pixels(overlay_png(volume, mask, spacing_mm=(1.0, 1.0, 4.0), labels=LABELS))
    tinted = np.abs(shown - (0.55 + 0.45 * np.array(to_rgb(label_colour(1))))).max(axis=-1) < 0.03
    squares = find_objects(label(tinted)[0])
    assert len(squares) == 3
    for down, right in squares:
        assert (down.stop - down.start) / (right.stop - right.start) == pytest.approx(1.0, abs=0.05)


def test_small_structures_are_enlarged_large_ones_are_not() -> None:
    small, large = np.zeros((100, 100)), np.zeros((100, 100))
    small[40:50, 60:66] = 1
    large[10:90, 10:90] = 1
    box = _zoom_box(None, small)
    assert box is not None
    top, bottom, left, right = box
    assert top < 40
    assert bottom > 50
    assert left < 60
    assert right > 66
    assert bottom - top < 40
    assert _zoom_box(large, small) is None
    assert _zoom_box(np.zeros((9, 9)), None) is None


def test_ct_window_leaves_the_air_out() -> None:
    volume = np.full((1, 10, 10, 10), -1000.0)
    volume[0, 2:8, 2:8, 2:8] = np.linspace(-100, 200, 216).reshape(6, 6, 6)
    low, high = window(volume, modality="CT")
    assert low == pytest.approx(-97, abs=3)
    assert high == pytest.approx(198.5, abs=3)


def test_window_of_flat_broken_and_empty_images_has_a_width() -> None:
    assert window(np.full((1, 3, 3, 3), 7.0)) == (7.0, 8.0)
    assert window(np.full((1, 3, 3, 3), np.nan)) == (0.0, 1.0)
    mask_like = np.zeros((1, 3, 3, 3))
    mask_like[0, 1] = 1
    assert window(mask_like) == (0.0, 1.0)


@pytest.mark.parametrize("shape", [(12, 14, 10), (1, 12, 14, 10), (2, 12, 14, 10), (1, 12, 14, 1)])
@pytest.mark.parametrize("given", ["", "mask", "reference", "mask reference"])
def test_every_combination_gives_a_picture(shape: tuple[int, ...], given: str) -> None:
    image = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    organ = np.zeros(shape[-3:], np.uint8)
    organ[3:6, 4:9] = 1
    parts = dict.fromkeys(given.split(), organ)
    png = overlay_png(image, parts.get("mask"), parts.get("reference"), spacing_mm=None, labels=LABELS, title=ODD)
    assert png.startswith(b"\x89PNG")


def test_the_same_image_gives_the_same_bytes() -> None:
    image = np.random.default_rng(0).normal(size=(9, 9, 1)).astype(np.float32)
    assert overlay_png(image, spacing_mm=None, labels={}) == overlay_png(image, spacing_mm=None, labels={})


def test_empty_masks_and_unnamed_labels_are_drawn() -> None:
    image = np.zeros((6, 6, 6), np.float32)
    mask = np.zeros((6, 6, 6), np.uint8)
    assert overlay_png(image, mask, mask, spacing_mm=(1, 1, 1), labels=LABELS).startswith(b"\x89PNG")
    mask[2, 2, 2] = 9
    assert overlay_png(image, mask, spacing_mm=(1, 1, 1), labels=LABELS).startswith(b"\x89PNG")


def test_contact_sheet_holds_one_picture_per_image() -> None:
    images = [np.random.default_rng(n).normal(size=(8, 8, 4)) for n in range(7)]
    three = pixels(contact_sheet(images[:3], ["a", "b", "c"], columns=3))
    seven = pixels(contact_sheet(images, list("abcdefg"), columns=3, title="Seven"))
    assert three.shape[1] == seven.shape[1]
    assert seven.shape[0] > 2.8 * three.shape[0]
    assert contact_sheet([], []).startswith(b"\x89PNG")
