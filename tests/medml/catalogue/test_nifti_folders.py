from __future__ import annotations

from medml.catalogue.config import IngestConfig
from medml.catalogue.nifti_folder import patients_of
from medml.catalogue.walk import find_scans


def test_one_file_is_a_source(source, split) -> None:
    candidates, _ = split(list(find_scans(source.image("a.nii.gz"))))
    assert candidates["a.nii.gz"].identity == "a/a.nii.gz"
    assert candidates["a.nii.gz"].locator["image"] == str(source.root / "a.nii.gz")


def test_images_masks_and_the_rest_are_all_accounted_for(source, split) -> None:
    source.image("images/a.nii.gz")
    source.mask("masks/a.nii.gz")
    source.mask("masks/b.nii.gz")
    source.text("notes.txt", "x")
    source.text("old.mgz", "x")
    source.text("all.zip", "x")
    found = list(find_scans(source.root))
    candidates, outcomes = split(found)
    assert candidates["images/a.nii.gz"].files == 2
    codes = {name: outcome.code for name, outcome in outcomes.items()}
    assert codes["masks/b.nii.gz"] == "label_without_image"
    assert (codes["old.mgz"], codes["all.zip"]) == ("unsupported_format", "archive")
    assert sum(item.files for item in found) == 6


def test_a_metaimage_in_two_files_is_one_scan_of_two_files_and_pairs_with_its_mask(source, split) -> None:
    head = (
        "ObjectType = Image\nNDims = 3\nDimSize = 1 1 2\nElementType = MET_UCHAR\nTransformMatrix = 1 0 0 0 1 0 0 0 1\n"
    )
    source.text("images/a.mhd", f"{head}ElementDataFile = a.raw\n")
    source.text("images/a.raw", "ab")
    source.text("masks/a.mha", f"{head}ElementDataFile = LOCAL\n\0\1")
    candidates, _ = split(list(find_scans(source.root)))
    assert list(candidates) == ["images/a.mhd"]
    assert candidates["images/a.mhd"].files == 3
    reading = candidates["images/a.mhd"].read()
    assert reading.volume.voxels.ravel().tolist() == [97, 98]
    assert reading.mask.ravel().tolist() == [0, 1]


def test_channel_suffixes_group_files_unless_switched_off(source, split) -> None:
    for n, name in enumerate(("a_0000", "a_0001", "b_0000", "b_0001")):
        source.image(f"{name}.nii.gz", n)
    candidates, _ = split(list(find_scans(source.root)))
    assert candidates["a_0001.nii.gz"].channel == 1
    assert candidates["a_0000.nii.gz"].group == candidates["a_0001.nii.gz"].group
    assert candidates["a_0000.nii.gz"].patient == candidates["a_0001.nii.gz"].patient
    candidates, _ = split(list(find_scans(source.root, IngestConfig(channels="none"))))
    assert candidates["a_0001.nii.gz"].channel == 0


def test_bids_subjects_take_their_facts_from_the_participants(source, split) -> None:
    source.image("sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz")
    source.mask("derivatives/me/sub-01/ses-1/anat/sub-01_ses-1_dseg.nii.gz")
    source.image("sub-02/anat/sub-02_T1w.nii.gz", 1)
    source.text("participants.tsv", "participant_id\tage\tsex\nsub-01\t34\tF\nsub-02\t92\tM\n")
    candidates, outcomes = split(list(find_scans(source.root)))
    first = candidates["sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz"]
    assert first.patient == ("collection:source", "sub-01")
    assert first.columns == {"age": 34, "sex": "F"}
    assert first.files == 2
    assert candidates["sub-02/anat/sub-02_T1w.nii.gz"].columns["age"] == 90
    assert outcomes["participants.tsv"].code == "metadata"


def test_a_folder_of_few_images_is_a_patient() -> None:
    assert patients_of(["p1/t1.nii", "p1/t2.nii", "p2/t1.nii"]) == {
        "p1/t1.nii": "p1",
        "p1/t2.nii": "p1",
        "p2/t1.nii": "p2",
    }
    assert patients_of(["images/a.nii", "images/b.nii"]) == {"images/a.nii": "a", "images/b.nii": "b"}


def test_analyze_pairs_count_as_two_files(source, split) -> None:
    source.text("a.hdr", "x")
    source.text("a.img", "x")
    candidates, _ = split(list(find_scans(source.root)))
    assert candidates["a.hdr"].files == 2
