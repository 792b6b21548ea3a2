"""Findings about masks: each on a volume of 20 x 20 x 10 voxels of 2 mm with a body in the middle of zero."""

from __future__ import annotations

import numpy as np

from medml.catalogue.quality import assess
from medml.records.scan import Finding, Volume

LABELS = {0: "background", 1: "organ", 2: "lesion"}


def image() -> Volume:
    voxels = np.zeros((1, 20, 20, 10), np.float32)
    voxels[0, 4:16, 4:16, :] = np.random.default_rng(0).normal(500, 20, (12, 12, 10))
    return Volume(voxels, np.diag([2.0, 2.0, 2.0, 1.0]))


def empty() -> np.ndarray:
    return np.zeros((20, 20, 10), np.uint8)


def block(value: int = 1) -> np.ndarray:
    """A block of 6 x 6 x 4 = 144 voxels inside the body."""
    mask = empty()
    mask[6:12, 6:12, 3:7] = value
    return mask


def found(mask: np.ndarray, labels: dict[int, str] | None = None) -> dict[str, Finding]:
    return {item.code: item for item in assess(image(), masks={"mask.nii.gz": mask}, labels=labels).findings}


def test_a_good_mask_shows_nothing() -> None:
    assert found(block()) == {}
    assert found(block(), {0: "background", 1: "organ"}) == {}


def test_an_empty_mask_is_told() -> None:
    assert "none of 4000 voxels" in found(empty())["mask_empty"].message


def test_labels_are_compared_with_those_declared() -> None:
    items = found(block(3), LABELS)
    assert items["undeclared_label"].numbers == {"values": 1, "declared": 2}
    assert "2 values are declared and not in the mask: 1, 2" in items["absent_label"].message


def test_labels_outside_the_body_are_measured() -> None:
    mask = block()
    mask[0:2, 0:2, 3:7] = 1  # 16 of 160 voxels in the corner, far from the body
    item = found(mask)["mask_outside_body"]
    assert item.numbers["outside_share"] == 0.1
    around = empty()
    around[3:17, 3:17, 2:8] = 1  # one voxel around the body: a loose outline
    assert "mask_outside_body" not in found(around)


def test_labels_on_cleared_background_within_the_bodys_box_are_seen() -> None:
    volume = image()
    volume.voxels[0, 6:12, 6:12, 3:7] = 0
    items = assess(volume, masks={"mask.nii.gz": block()}).findings
    assert [(item.code, item.numbers["background_share"]) for item in items] == [("mask_outside_body", 1.0)]


def test_specks_and_strays_are_counted() -> None:
    mask = block()
    mask[14, 14, 3] = 1  # one voxel, 2 voxels from the block
    items = found(mask)
    assert items["tiny_components"].numbers == {"count": 1}
    assert "far_components" not in items
    far = empty()
    far[4:8, 4:8, 0:8] = 1  # 128 voxels, 16 mm long
    far[15, 15, 8] = 1  # one voxel, 7 x 7 voxels or 19.8 mm away
    assert found(far)["far_components"].numbers == {"count": 1}


def test_voxels_that_touch_by_a_corner_are_one_component() -> None:
    mask = block()
    mask[12, 12, 7] = 1
    assert "tiny_components" not in found(mask)


def test_two_large_parts_are_no_specks() -> None:
    mask = block()
    mask[13:16, 13:16, 3:7] = 1
    assert found(mask) == {}


def test_a_label_at_the_border_and_a_label_of_one_slice() -> None:
    mask = empty()
    mask[6:12, 6:12, 0] = 1
    mask[6:12, 6:12, 4:7] = 2
    items = found(mask, LABELS)
    assert items.keys() == {"label_at_border", "thin_label"}
    assert "1 labels are one voxel thick (label 1)" in items["thin_label"].message
    assert items["label_at_border"].severity == "info"


def test_a_flat_picture_has_neither_thin_labels_nor_borders() -> None:
    picture = Volume(np.random.default_rng(0).integers(0, 255, (1, 30, 30, 1)).astype(np.uint8), np.eye(4), "none")
    mask = np.zeros((30, 30, 1), np.uint8)
    mask[0:10, 5:15] = 1
    assert assess(picture, masks={"mask.nii.gz": mask}).findings == ()
