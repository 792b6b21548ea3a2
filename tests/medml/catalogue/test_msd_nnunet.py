from __future__ import annotations

import json

import pytest

from medml.catalogue.config import IngestConfig
from medml.catalogue.dataset_json import read_description
from medml.catalogue.walk import find_scans, licence_of
from medml.errors import Refusal


def _msd(source, **more: object) -> None:
    content = {
        "modality": {"0": "MRI"},
        "labels": {"0": "background", "1": "left", "2": "right"},
        "licence": "CC-BY 4.0",
        "training": [{"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}],
        "test": ["./imagesTs/t.nii.gz"],
    }
    source.text("dataset.json", json.dumps({**content, **more}))


def test_msd_pairs_test_images_and_what_is_not_listed(source, split) -> None:
    _msd(source)
    for n, name in enumerate(("imagesTr/a", "imagesTs/t", "extra/images/b", "extra/images/d")):
        source.image(f"{name}.nii.gz", n)
    for name in ("labelsTr/a", "extra/labels/c", "extra/labels/d"):
        source.mask(f"{name}.nii.gz")
    candidates, outcomes = split(list(find_scans(source.root)))
    a, t, b = (candidates[f"{name}.nii.gz"] for name in ("imagesTr/a", "imagesTs/t", "extra/images/b"))
    assert (a.files, a.mask_labels, a.columns, a.modality) == (
        2,
        {0: "background", 1: "left", 2: "right"},
        {"split": "train"},
        "MR",
    )
    assert a.channel_names == ("MRI",)
    assert (t.files, t.mask_labels, t.columns) == (1, None, {"split": "test"})
    assert [finding.code for finding in b.read().findings] == ["image_without_label"]
    assert candidates["extra/images/d.nii.gz"].mask_labels == a.mask_labels
    assert outcomes["extra/labels/c.nii.gz"].code == "label_without_image"
    assert outcomes["dataset.json"].outcome == "ignored"
    assert licence_of(source.root, IngestConfig()) == "CC-BY 4.0"


def test_msd_components_are_named_channels_and_a_wrong_number_is_refused(source, split) -> None:
    _msd(source, modality={"0": "T1", "1": "T2"}, test=[])
    source.image("imagesTr/a.nii.gz", components=2)
    source.mask("labelsTr/a.nii.gz")
    candidates, _ = split(list(find_scans(source.root)))
    candidate = candidates["imagesTr/a.nii.gz"]
    assert candidate.channel_names == ("T1", "T2")
    assert candidate.read().volume.voxels.shape == (2, 4, 5, 6)
    source.image("imagesTr/a.nii.gz", components=3)
    with pytest.raises(Refusal, match="3 components, its source names 2 channels"):
        candidate.read()


def test_msd_listed_but_absent_outside_or_twice_is_refused_and_the_rest_goes_on(source, split) -> None:
    listed = ["imagesTr/a.nii.gz", "imagesTr/gone.nii.gz", "../../x.nii.gz", "imagesTr/a.nii.gz"]
    _msd(source, training=[{"image": name, "label": "labelsTr/none.nii.gz"} for name in listed], test=[])
    source.image("imagesTr/a.nii.gz")
    found = list(find_scans(source.root))
    candidates, _ = split(found)
    assert [finding.code for finding in candidates["imagesTr/a.nii.gz"].read().findings] == ["label_missing"]
    codes = [item.code for item in found if not hasattr(item, "read")]
    assert codes == ["metadata", "missing_file", "outside_source", "listed_twice"]
    assert sum(item.files for item in found) == 2


def test_nnunet_channels_labels_and_test(source, split) -> None:
    content = {
        "channel_names": {"0": "T1", "1": "FLAIR"},
        "labels": {"background": 0, "whole": [1, 2], "core": 2},
        "file_ending": ".nii.gz",
    }
    source.text("dataset.json", json.dumps(content))
    for n, name in enumerate(("Tr/a_0000", "Tr/a_0001", "Tr/b_0000", "Ts/c_0000", "Ts/c_0001")):
        source.image(f"images{name}.nii.gz", n)
    for name in ("Tr/a", "Tr/b", "Ts/c", "Tr/z"):
        source.mask(f"labels{name}.nii.gz")
    candidates, outcomes = split(list(find_scans(source.root)))
    first, second = candidates["imagesTr/a_0000.nii.gz"], candidates["imagesTr/a_0001.nii.gz"]
    assert (first.channel, first.channel_names, first.files) == (0, ("T1",), 2)
    assert (second.channel, second.channel_names, second.files) == (1, ("FLAIR",), 1)
    assert first.group == second.group
    assert first.patient == second.patient
    assert first.mask_labels == {0: "background", 1: "whole", 2: "core"}
    assert candidates["imagesTs/c_0000.nii.gz"].columns == {"split": "test"}
    assert candidates["imagesTs/c_0000.nii.gz"].files == 2
    assert (outcomes["imagesTr/b_0000.nii.gz"].code, outcomes["imagesTr/b_0000.nii.gz"].files) == ("missing_channel", 2)
    assert "found 1 channel files, dataset.json names 2 (T1, FLAIR)" in outcomes["imagesTr/b_0000.nii.gz"].reason
    assert outcomes["labelsTr/z.nii.gz"].code == "label_without_image"


def test_nnunet_channel_numbers_with_a_gap_are_refused(source, split) -> None:
    source.text(
        "dataset.json", json.dumps({"channel_names": {"0": "A", "1": "B"}, "file_ending": ".nii.gz", "labels": {}})
    )
    source.image("imagesTr/a_0000.nii.gz")
    source.image("imagesTr/a_0002.nii.gz", 1)
    _, outcomes = split(list(find_scans(source.root)))
    assert "numbered [0, 2], expected 0 to 1" in outcomes["imagesTr/a_0000.nii.gz"].reason


def test_nnunet_listed_cases(source, split) -> None:
    cases = {
        "a": {"images": ["x/a.nii.gz"], "label": "y/a.nii.gz"},
        "b": {"images": ["x/gone.nii.gz"], "label": "y/b.nii.gz"},
    }
    content = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "l": 1, "m": 2},
        "file_ending": ".nii.gz",
        "dataset": cases,
    }
    source.text("dataset.json", json.dumps(content))
    source.image("x/a.nii.gz")
    source.mask("y/a.nii.gz")
    candidates, outcomes = split(list(find_scans(source.root)))
    assert (candidates["x/a.nii.gz"].files, candidates["x/a.nii.gz"].modality) == (2, "CT")
    assert outcomes["b"].code == "missing_file"


def test_older_nnunet_lists_cases_without_channel_suffix(source, split) -> None:
    _msd(source, modality={"0": "T1", "1": "T2"}, test=[])
    source.image("imagesTr/a_0000.nii.gz")
    source.image("imagesTr/a_0001.nii.gz", 1)
    source.mask("labelsTr/a.nii.gz")
    candidates, _ = split(list(find_scans(source.root)))
    assert [c.channel_names for c in candidates.values()] == [("T1",), ("T2",)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not JSON"),
        ("[]", "not an object"),
        ("{}", "neither `training`"),
        ('{"training": [], "modality": {"a": "b"}}', "keys of its channels"),
        ('{"training": [], "labels": {"a": "b"}}', "labels are not names"),
        ('{"training": [], "labels": {"300": "b"}}', "from 300 to 300"),
        ('{"training": [3]}', "names no image"),
        ('{"file_ending": ".nii", "dataset": {"a": 3}}', "names no images"),
    ],
)
def test_a_bad_dataset_json_is_refused(source, text: str, words: str) -> None:
    with pytest.raises(Refusal, match=words):
        read_description(source.text("dataset.json", text), max_bytes=1000)
    source.image("a.nii.gz")
    found = list(find_scans(source.root))
    assert found[0].code == "bad_dataset_json"
    assert found[1].source == "a.nii.gz"


def test_a_dataset_json_over_the_cap_is_refused(source) -> None:
    with pytest.raises(Refusal, match="at most 1 are read"):
        read_description(source.text("dataset.json", "{}"), max_bytes=1)
