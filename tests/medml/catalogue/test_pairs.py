from __future__ import annotations

import numpy as np
import pytest

from medml.catalogue.pairs import labels_of, read_pair
from medml.errors import Refusal


def test_image_and_mask_come_on_one_grid(source) -> None:
    reading = read_pair(source.image("a.nii.gz"), source.mask("m.nii.gz"), labels={0: "background", 1: "a", 2: "b"})
    assert reading.volume.voxels.shape == (1, 4, 5, 6)
    assert reading.mask.shape == (4, 5, 6)
    assert np.unique(reading.mask).tolist() == [0, 1, 2]


def test_another_shape_is_refused_with_both_numbers(source) -> None:
    with pytest.raises(Refusal, match=r"4x5x7 voxels, image 4x5x6 voxels") as caught:
        read_pair(source.image("a.nii.gz"), source.mask("m.nii.gz", shape=(4, 5, 7)))
    assert caught.value.code == "grid_mismatch"


def test_another_spacing_is_refused_with_both_numbers(source) -> None:
    with pytest.raises(Refusal, match=r"of 1x1x1 mm, image 4x5x6 voxels of 2x2x2 mm, corners up to 7\.07 mm apart"):
        read_pair(source.image("a.nii.gz", spacing=2.0), source.mask("m.nii.gz"))


def test_undeclared_values_are_refused_by_name(source) -> None:
    with pytest.raises(Refusal, match=r"values \[7\], the source declares \[0, 1\]") as caught:
        read_pair(source.image("a.nii.gz"), source.mask("m.nii.gz", (1, 7)), labels={0: "background", 1: "a"})
    assert caught.value.code == "unknown_label"


def test_values_between_whole_numbers_are_refused(source) -> None:
    soft = np.full((1, 4, 5, 6), 0.5, dtype=np.float32)
    with pytest.raises(Refusal, match="whole number"):
        read_pair(source.image("a.nii.gz"), source.nifti("m.nii.gz", soft))


def test_a_component_count_other_than_named_is_refused(source) -> None:
    with pytest.raises(Refusal, match="2 components, its source names 3 channels"):
        read_pair(source.image("a.nii.gz", components=2), components=3)


def test_a_mask_of_0_and_255_is_one_of_0_and_1(source) -> None:
    pixels = np.zeros((4, 6), dtype=np.uint8)
    pixels[1, 2] = 255
    reading = read_pair(source.picture("a.png"), source.pixels("m.png", pixels))
    assert reading.mask[2, 1, 0] == 1
    assert reading.mask.sum() == 1


def test_a_label_picture_over_255_is_refused(source) -> None:
    deep = np.full((4, 6), 300, dtype=np.uint16)
    with pytest.raises(Refusal, match="up to 300"):
        read_pair(source.picture("a.png"), source.pixels("m.png", deep))


def test_names_of_values_are_declared_or_numbered() -> None:
    mask = np.array([[[0, 3]]], dtype=np.uint8)
    assert labels_of(mask, None) == {0: "background", 3: "label_3"}
    assert labels_of(mask, {3: "tumour", 4: "cyst"}) == {0: "background", 3: "tumour", 4: "cyst"}
