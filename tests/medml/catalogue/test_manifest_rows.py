from __future__ import annotations

from pathlib import Path

import pytest

from medml.catalogue.config import IngestConfig
from medml.catalogue.manifest import headers_of
from medml.catalogue.tables import Table
from medml.catalogue.walk import find_scans
from medml.errors import Refusal


def test_rows_become_candidates_with_subject_class_and_columns(source, split) -> None:
    source.image("a.nii.gz")
    source.image("b.nii.gz", 1)
    text = "subject_id,image,label,site,age,Sex,notes\np1,a.nii.gz,lesion,north,97,male,x\np1,b.nii.gz,healthy,,,,\n"
    manifest = source.text("scans.csv", text)
    candidates, outcomes = split(list(find_scans(manifest)))
    a, b = candidates["a.nii.gz"], candidates["b.nii.gz"]
    assert a.columns == {"age": 90, "sex": "M", "site": "north"}
    assert (a.classes, b.classes) == ((1,), (0,))
    assert a.class_labels == {0: "healthy", 1: "lesion"}
    assert a.patient == b.patient == ("collection:scans", "p1")
    assert a.group != b.group
    assert [finding.message for finding in outcomes["scans.csv"].findings] == ["notes"]
    assert sum(item.files for item in (a, b, outcomes["scans.csv"])) == 3


def test_masks_by_their_own_column_or_as_the_label(source, split) -> None:
    for n, name in enumerate("ab"):
        source.image(f"{name}.nii.gz", n)
        source.mask(f"{name}_m.nii.gz")
    text = "patient_id\tpath\tmask\tlabel\n1\ta.nii.gz\ta_m.nii.gz\tx\n2\tb.nii.gz\t\tb_m.nii.gz\n"
    candidates, _ = split(list(find_scans(source.text("m.tsv", text), IngestConfig(labels={1: "organ", 2: "lesion"}))))
    assert [c.files for c in candidates.values()] == [2, 2]
    assert candidates["a.nii.gz"].classes == (0,)
    assert candidates["b.nii.gz"].classes is None
    assert candidates["b.nii.gz"].mask_labels == {1: "organ", 2: "lesion"}
    assert candidates["b.nii.gz"].read().mask is not None


def test_several_channels_of_one_row_are_one_case(source, split) -> None:
    for n in range(2):
        source.image(f"c{n}.nii.gz", n)
    candidates, _ = split(
        list(find_scans(source.text("m.csv", "SubjectID,Channel_0,Channel_1\ns,c0.nii.gz,c1.nii.gz\n")))
    )
    first, second = candidates.values()
    assert (first.channel, second.channel) == (0, 1)
    assert (first.channel_names, second.channel_names) == (("channel_0",), ("channel_1",))
    assert first.group == second.group


def test_bad_rows_are_refused_by_number_and_the_others_go_on(source, split) -> None:
    source.image("a.nii.gz")
    source.image("b.nii.gz", 1)
    rows = ["s,a.nii.gz,", "s,gone.nii.gz,", "s,,", "s,../x.nii.gz,", "s,a.nii.gz,", "s,b.nii.gz,gone.nii.gz"]
    found = list(find_scans(source.text("m.csv", "subject,image,mask\n" + "\n".join(rows) + "\n")))
    candidates, _ = split(found)
    assert list(candidates) == ["a.nii.gz"]
    told = [(item.code, item.reason.split(":")[0]) for item in found if not hasattr(item, "read")]
    assert told == [
        ("missing_file", "row 3"),
        ("missing_file", "row 4"),
        ("outside_source", "row 5"),
        ("listed_twice", "row 6"),
        ("missing_file", "row 7"),
        ("manifest", "read as a manifest of 6 rows"),
    ]


def test_a_path_outside_is_read_only_when_allowed(source, split, tmp_path: Path) -> None:
    source.image("a.nii.gz")
    inner = source.text("lists/m.csv", "subject,image\ns,../a.nii.gz\n")
    _, outcomes = split(list(find_scans(inner)))
    assert outcomes["../a.nii.gz"].code == "outside_source"
    candidates, _ = split(list(find_scans(inner, IngestConfig(allow_outside=True))))
    assert next(iter(candidates.values())).read().volume.voxels.shape == (1, 4, 5, 6)


def test_a_row_without_subject_is_a_patient_of_its_own_and_says_so(source, split) -> None:
    source.image("a.nii.gz")
    candidates, _ = split(list(find_scans(source.text("m.csv", "image\na.nii.gz\n"))))
    assert candidates["a.nii.gz"].patient == ("collection:m", "a.nii.gz")
    assert [finding.code for finding in candidates["a.nii.gz"].read().findings] == ["no_subject"]


def test_a_manifest_in_a_folder_is_found_and_other_files_are_read_too(source, split) -> None:
    source.image("a.nii.gz")
    source.image("other.nii.gz", 1)
    source.text("m.csv", "subject,image\ns1,a.nii.gz\n")
    found = list(find_scans(source.root))
    candidates, _ = split(found)
    assert candidates["a.nii.gz"].patient[1] == "s1"
    assert "other.nii.gz" in candidates
    assert sum(item.files for item in found) == 3


def test_a_table_without_images_is_refused(source) -> None:
    with pytest.raises(Refusal, match="no column of images; found subject, age"):
        headers_of(Table(("subject", "age")))
    found = list(find_scans(source.text("m.csv", "subject,age\n1,2\n")))
    assert [item.code for item in found] == ["bad_manifest"]


def test_named_channels_count_where_they_hold_files() -> None:
    row = {"image_t1": "a.nii", "image_width": "512"}
    assert headers_of(Table(("image_t1", "image_width"), [row])).images == (("image_t1", "t1"),)
