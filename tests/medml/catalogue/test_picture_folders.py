from __future__ import annotations

import numpy as np

from medml.catalogue.class_labels import class_order
from medml.catalogue.config import IngestConfig
from medml.catalogue.pictures import class_folders
from medml.catalogue.walk import find_scans


def _four(source, *, splits: bool = True) -> list[str]:
    parts = ("train", "valid") if splits else ("images",)
    names = [f"{part}/{name}/{n}.png" for part in parts for name in ("0_normal", "1_ill") for n in range(2)]
    for seed, name in enumerate(names):
        source.picture(name, seed)
    return names


def test_class_and_split_come_from_the_folders(source, split) -> None:
    _four(source)
    candidates, _ = split(list(find_scans(source.root)))
    found = candidates["valid/1_ill/0.png"]
    assert (found.classes, found.class_labels) == ((1,), {0: "0_normal", 1: "1_ill"})
    assert found.columns == {"split": "val"}
    assert found.read().volume.geometry == "none"
    assert len({candidate.patient for candidate in candidates.values()}) == 8


def test_metadata_is_joined_by_path_or_name(source, split) -> None:
    names = _four(source)
    rows = "".join(f"{name},7,{50 + n},F,PA,secret\n" for n, name in enumerate(names))
    source.text("meta.csv", f"file,patient_id,age,sex,view,finding\n{rows}")
    candidates, outcomes = split(list(find_scans(source.root)))
    assert {candidate.patient for candidate in candidates.values()} == {("collection:source", "7")}
    assert candidates[names[3]].columns == {"age": 53, "sex": "F", "view": "PA", "split": "train"}
    assert outcomes["meta.csv"].code == "metadata"
    assert [finding.message for finding in outcomes["meta.csv"].findings] == ["finding"]


def test_a_picture_without_row_is_its_own_patient_and_says_so(source, split) -> None:
    names = _four(source)
    rows = "".join(f"{name},7\n" for name in names[1:])
    source.text("meta.csv", f"file,patient_id\n{rows}")
    candidates, _ = split(list(find_scans(source.root)))
    assert candidates[names[0]].patient[1] == names[0]
    assert [finding.code for finding in candidates[names[0]].read().findings] == ["no_metadata"]


def test_classes_come_from_the_table_where_folders_say_nothing(source, split) -> None:
    for n in range(4):
        source.picture(f"images/{n}.png", n)
    source.text("labels.csv", "image_id,diagnosis\n0,10\n1,9\n2,10\n3,\n")
    candidates, _ = split(list(find_scans(source.root)))
    assert candidates["images/0.png"].class_labels == {0: "9", 1: "10"}
    assert [candidates[f"images/{n}.png"].classes for n in range(4)] == [(1,), (0,), (1,), None]


def test_masks_in_a_folder_beside_are_paired(source, split) -> None:
    pixels = np.zeros((4, 6), dtype=np.uint8)
    pixels[0, 0] = 1
    source.picture("images/a.png")
    source.pixels("masks/a.png", pixels)
    source.pixels("masks/b.png", pixels)
    candidates, outcomes = split(list(find_scans(source.root)))
    assert candidates["images/a.png"].read().mask.sum() == 1
    assert outcomes["masks/b.png"].code == "label_without_image"


def test_pictures_can_be_left_out_and_are_flagged_beside_scans(source, split) -> None:
    source.picture("screen.png")
    source.image("a.nii.gz")
    candidates, _ = split(list(find_scans(source.root)))
    assert [finding.code for finding in candidates["screen.png"].read().findings] == ["picture_beside_scans"]
    _, outcomes = split(list(find_scans(source.root, IngestConfig(pictures="ignore"))))
    assert outcomes["screen.png"].outcome == "ignored"


def test_rows_that_disagree_about_a_file_are_told(source, split) -> None:
    names = _four(source)
    source.text("meta.csv", f"file,age\n{names[0]},40\n{names[0]},41\n{names[1]},50\n")
    candidates, outcomes = split(list(find_scans(source.root)))
    assert candidates[names[0]].columns["age"] == 40
    assert [finding.code for finding in outcomes["meta.csv"].findings] == ["rows_repeated"]


def test_class_folders_need_two_names_and_enough_images() -> None:
    assert class_folders(["x/1.png", "x/2.png"], max_classes=9) == {}
    assert class_folders(["a/1.png", "b/2.png"], max_classes=9) == {}
    many = [f"set/{name}/images/{n}.png" for name in ("ill", "well") for n in range(3)]
    assert set(class_folders(many, max_classes=9).values()) == {"ill", "well"}
    assert class_folders(many, max_classes=1) == {}


def test_the_class_is_the_level_with_the_fewest_names() -> None:
    names = [f"{name}/p{name}{n}/{k}.png" for name in ("ill", "well") for n in range(3) for k in range(2)]
    assert set(class_folders(names, max_classes=9).values()) == {"ill", "well"}


def test_numbers_come_in_their_order_before_texts() -> None:
    assert sorted(["b", "10", "9", "a"], key=class_order) == ["9", "10", "a", "b"]
