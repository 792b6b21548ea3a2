from __future__ import annotations

import pytest

from medml.catalogue.roles import assign, channel_groups


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("imagesTr/a.nii.gz", "labelsTr/a.nii.gz"),
        ("images/a.nii", "masks/a.nii.gz"),
        ("case1/image.nii.gz", "case1/mask.nii.gz"),
        ("case1/ct.nii.gz", "case1/segmentation.nii.gz"),
        ("volume-3.nii", "segmentation-3.nii"),
        ("img/img0007.nii.gz", "label/label0007.nii.gz"),
        ("a.nii.gz", "a_seg.nii.gz"),
        ("a_0000.nii.gz", "labels/a.nii.gz"),
        ("p1/images/t1.nii", "p1/labels/t1.nii"),
        ("sub-01/anat/sub-01_T1w.nii.gz", "sub-01/anat/sub-01_dseg.nii.gz"),
        ("sub-01/anat/sub-01_T1w.nii.gz", "derivatives/tool/sub-01/anat/sub-01_desc-manual_dseg.nii.gz"),
        ("study/sub-01/anat/sub-01_T1w.nii.gz", "study/derivatives/tool/sub-01/anat/sub-01_dseg.nii.gz"),
        ("rawdata/sub-01/anat/sub-01_T1w.nii.gz", "derivatives/tool/sub-01/anat/sub-01_dseg.nii.gz"),
        ("p_t1.nii", "p_seg.nii"),
        ("images/a.png", "lesion_masks/a.png"),
    ],
)
def test_a_label_map_finds_its_image(image: str, mask: str) -> None:
    roles = assign([image, mask])
    assert roles.images == {image: mask}
    assert roles.orphans == []


def test_a_label_map_without_image_is_an_orphan_and_an_image_may_stand_alone() -> None:
    roles = assign(["x/images/a.nii.gz", "x/labels/b.nii.gz"])
    assert roles.images == {"x/images/a.nii.gz": None}
    assert roles.orphans == ["x/labels/b.nii.gz"]


def test_two_bids_datasets_with_one_subject_name_stay_apart() -> None:
    image, mask = "{}/sub-01/anat/sub-01_T1w.nii.gz", "{}/derivatives/tool/sub-01/anat/sub-01_dseg.nii.gz"
    roles = assign([image.format("a"), image.format("b"), mask.format("b")])
    assert roles.images == {image.format("a"): None, image.format("b"): mask.format("b")}


def test_label_folders_of_other_parents_are_not_mixed() -> None:
    roles = assign(["x/images/a.nii", "x/labels/a.nii", "y/images/a.nii"])
    assert roles.images == {"x/images/a.nii": "x/labels/a.nii", "y/images/a.nii": None}


def test_a_class_named_with_a_label_word_is_no_label_folder() -> None:
    roles = assign(["with_mask/a.png", "without_mask/b.png"])
    assert set(roles.images) == {"with_mask/a.png", "without_mask/b.png"}


def test_several_images_a_label_could_mean_leave_it_an_orphan() -> None:
    roles = assign(["p_t1.nii", "p_t2.nii", "p_seg.nii"])
    assert roles.orphans == ["p_seg.nii"]


def test_channels_are_told_from_case_numbers() -> None:
    two = channel_groups(["a_0000.nii", "a_0001.nii", "b_0000.nii", "b_0001.nii"])
    assert two["b_0001.nii"] == ("b", 1, 2)
    assert channel_groups(["scan_0000.nii", "scan_0001.nii", "scan_0002.nii"]) == {}
    assert channel_groups(["scan_0004.nii", "scan_0007.nii"]) == {}
    assert channel_groups(["a_0000.nii", "a_0001.nii"], labelled=["a"])["a_0001.nii"] == ("a", 1, 2)
