from __future__ import annotations

from collections.abc import Callable

import pytest

from medml.datasets.cases import age_band, case_digest, gather_cases
from medml.errors import ConfigError
from medml.records.scan import Annotation, Scan

MakeScan = Callable[..., Scan]
Annotate = Callable[..., Annotation]


def test_scan_with_a_mask_is_a_case_of_a_segmenter(make_scan: MakeScan, make_mask: Annotate) -> None:
    scan = make_scan("a", columns={"age": 61, "sex": "F"}, channel_names=("MRI",))
    gathered = gather_cases([scan], [make_mask(scan)], "segment")
    (case,) = gathered.cases
    assert (case.case_id, case.scans, case.patient) == (scan.scan_id, (scan.scan_id,), "p-a")
    assert (case.mask, case.classes, case.spacing_mm) == ("mask.nii.gz", None, (1.0, 1.0, 1.0))
    assert case.columns == {"age": 61, "sex": "F", "age_band": "60-79", "collection": "demo"}
    assert case.digest == case_digest([scan.content], make_mask(scan).content, None)
    assert gathered.labels == {0: "background", 1: "organ"}
    assert (gathered.channels, gathered.modality, gathered.geometry) == (("MRI",), "MR", "mm")


def test_classes_stay_with_a_segmenter_and_masks_with_a_classifier(
    make_scan: MakeScan, make_mask: Annotate, make_class: Annotate
) -> None:
    scans = [make_scan("a"), make_scan("b")]
    annotations = [make_mask(scans[0]), make_class(scans[0], 1), make_class(scans[1], 0)]
    (segmented,) = gather_cases(scans, annotations, "segment").cases
    assert segmented.classes == (1,)
    classified = gather_cases(scans, annotations, "classify")
    assert sorted((case.patient, case.mask) for case in classified.cases) == [("p-a", "mask.nii.gz"), ("p-b", None)]
    assert classified.labels == {0: "benign", 1: "malignant"}


def test_unlabelled_scan_is_omitted_and_counted(make_scan: MakeScan, make_mask: Annotate) -> None:
    a, b = make_scan("a"), make_scan("b")
    (omitted,) = gather_cases([a, b], [make_mask(a)], "segment").omitted
    assert (omitted.scan_id, omitted.code, omitted.reason) == (b.scan_id, "unlabelled", "its case has no mask")


def test_channels_of_a_group_become_one_case_in_order(make_scan: MakeScan, make_mask: Annotate) -> None:
    t2 = make_scan("t2", patient="p", group="g", channel=1, channel_names=("T2",))
    t1 = make_scan("t1", patient="p", group="g", channel=0, channel_names=("T1",), columns={"sex": "F"})
    gathered = gather_cases([t2, t1], [make_mask(t1)], "segment")
    (case,) = gathered.cases
    assert case.scans == (t1.scan_id, t2.scan_id)
    assert case.case_id == t1.scan_id
    assert gathered.channels == ("T1", "T2")


def test_components_of_one_file_are_channels(make_scan: MakeScan, make_class: Annotate) -> None:
    scans = [make_scan(name, channel_names=("R", "G", "B")) for name in "ab"]
    gathered = gather_cases(scans, [make_class(scans[0], 0), make_class(scans[1], 1)], "classify")
    assert gathered.channels == ("R", "G", "B")


def test_equal_channel_names_are_numbered(make_scan: MakeScan, make_mask: Annotate) -> None:
    scans = [make_scan(f"{n}", patient="p", group="g", channel=n) for n in range(2)]
    assert gather_cases(scans, [make_mask(scans[0])], "segment").channels == ("image_0", "image_1")


def test_case_with_a_missing_channel_is_omitted(make_scan: MakeScan, make_mask: Annotate) -> None:
    whole = [make_scan(f"a{n}", patient="p", group="g", channel=n) for n in range(2)]
    half = make_scan("b", channel=0)
    gathered = gather_cases([*whole, half], [make_mask(whole[0]), make_mask(half)], "segment")
    (omitted,) = gathered.omitted
    assert (omitted.scan_id, omitted.code) == (half.scan_id, "missing_channel")
    assert omitted.reason == "its case has no channel 1; cases of demo have 2 channels"


def test_case_with_a_doubled_channel_is_omitted(make_scan: MakeScan, make_mask: Annotate) -> None:
    whole = [make_scan(f"a{n}", patient="p", group="g", channel=n) for n in range(2)]
    doubled = [make_scan(f"b{n}", patient="q", group="h", channel=max(0, n - 1)) for n in range(3)]
    gathered = gather_cases([*whole, *doubled], [make_mask(whole[0]), make_mask(doubled[0])], "segment")
    assert [item.code for item in gathered.omitted] == ["duplicate_channel"] * 3


def test_series_of_a_study_without_channels_are_cases_of_their_own(make_scan: MakeScan, make_mask: Annotate) -> None:
    scans = [make_scan(name, patient="p", group="study") for name in "abc"]
    gathered = gather_cases(scans, [make_mask(scans[0]), make_mask(scans[1])], "segment")
    assert {case.case_id for case in gathered.cases} == {scans[0].scan_id, scans[1].scan_id}
    assert [item.scan_id for item in gathered.omitted] == [scans[2].scan_id]


def test_annotations_that_contradict_each_other_leave_the_scan_out(make_scan: MakeScan, make_class: Annotate) -> None:
    scans = [make_scan(name) for name in "abc"]
    agreed = [make_class(scans[0], 1), make_class(scans[0], 1, origin="reader 2"), make_class(scans[1], 0)]
    contradicting = [make_class(scans[2], 0), make_class(scans[2], 1, origin="reader 2")]
    (omitted,) = gather_cases(scans, agreed + contradicting, "classify").omitted
    assert (omitted.scan_id, omitted.code) == (scans[2].scan_id, "several_labels")
    assert "(csv, reader 2)" in omitted.reason


def test_labels_inside_a_collection_add_up(make_scan: MakeScan, make_mask: Annotate) -> None:
    a, b = make_scan("a"), make_scan("b")
    masks = [make_mask(a), make_mask(b, labels={0: "background", 2: "lesion"})]
    assert gather_cases([a, b], masks, "segment").labels == {0: "background", 1: "organ", 2: "lesion"}


def test_one_value_with_two_names_is_refused(make_scan: MakeScan, make_mask: Annotate) -> None:
    a, b = make_scan("a"), make_scan("b")
    with pytest.raises(ConfigError, match="collection demo: label 1 is called both 'organ' and 'lesion'"):
        gather_cases([a, b], [make_mask(a), make_mask(b, labels={0: "background", 1: "lesion"})], "segment")


def test_collections_with_different_labels_are_refused(make_scan: MakeScan, make_mask: Annotate) -> None:
    a, b = make_scan("a"), make_scan("b", collection="other")
    masks = [make_mask(a), make_mask(b, labels={0: "background", 1: "organ", 2: "lesion"})]
    with pytest.raises(ConfigError, match=r"different labels .demo: 0 background, 1 organ; other: .* 2 lesion"):
        gather_cases([a, b], masks, "segment")


def test_different_numbers_of_channels_are_refused(make_scan: MakeScan, make_mask: Annotate) -> None:
    a, b = make_scan("a"), make_scan("b", channel_names=("R", "G", "B"))
    with pytest.raises(ConfigError, match="found 1 with 1, 1 with 3, expected one number"):
        gather_cases([a, b], [make_mask(a), make_mask(b)], "segment")


def test_channels_in_another_order_are_refused(make_scan: MakeScan, make_mask: Annotate) -> None:
    a, b = make_scan("a", channel_names=("T1", "T2")), make_scan("b", channel_names=("T2", "T1"))
    with pytest.raises(ConfigError, match="found 1 with T1, T2; 1 with T2, T1"):
        gather_cases([a, b], [make_mask(a), make_mask(b)], "segment")


def test_name_of_a_single_channel_does_not_matter(make_scan: MakeScan, make_mask: Annotate) -> None:
    scans = [make_scan("a", channel_names=("MRI",)), make_scan("b", channel_names=("MRI",)), make_scan("c")]
    assert gather_cases(scans, map(make_mask, scans), "segment").channels == ("MRI",)


def test_ct_is_not_mixed_with_others(make_scan: MakeScan, make_mask: Annotate) -> None:
    a, b = make_scan("a", modality="CT"), make_scan("b")
    with pytest.raises(ConfigError, match=r"CT is mixed with other modalities \(1 CT, 1 MR\)"):
        gather_cases([a, b], [make_mask(a), make_mask(b)], "segment")


def test_kinds_of_radiographs_may_be_mixed(make_scan: MakeScan, make_mask: Annotate) -> None:
    scans = [make_scan("a", modality="CR"), make_scan("b", modality="DX"), make_scan("c", modality="DX")]
    assert gather_cases(scans, map(make_mask, scans), "segment").modality == "DX"


def test_one_case_without_spacing_leaves_the_dataset_without(make_scan: MakeScan, make_mask: Annotate) -> None:
    scans = [make_scan("a"), make_scan("b", geometry="none", spacing_mm=None)]
    assert gather_cases(scans, map(make_mask, scans), "segment").geometry == "none"


def test_single_label_and_multi_label_are_not_mixed(make_scan: MakeScan, make_class: Annotate) -> None:
    a, b = make_scan("a"), make_scan("b")
    with pytest.raises(ConfigError, match="exactly one class and others any number"):
        gather_cases([a, b], [make_class(a, 0), make_class(b, 0, 1, multi_label=True)], "classify")


def test_multi_label_case_may_have_no_class_at_all(make_scan: MakeScan, make_class: Annotate) -> None:
    scans = [make_scan(name) for name in "ab"]
    classes = [make_class(scans[0], multi_label=True), make_class(scans[1], 1, 0, multi_label=True)]
    gathered = gather_cases(scans, classes, "classify")
    assert gathered.multi_label
    assert {case.classes for case in gathered.cases} == {(), (0, 1)}


def test_class_without_a_name_is_refused(make_scan: MakeScan, make_class: Annotate) -> None:
    a, b = make_scan("a"), make_scan("b")
    with pytest.raises(ConfigError, match="cases have the class 7, which has no name"):
        gather_cases([a, b], [make_class(a, 7), make_class(b, 0)], "classify")


def test_one_class_alone_is_refused(make_scan: MakeScan, make_class: Annotate) -> None:
    a, b = make_scan("a"), make_scan("b")
    with pytest.raises(ConfigError, match=r"all 2 cases have the class 'malignant'; .* at least two classes"):
        gather_cases([a, b], [make_class(a, 1), make_class(b, 1)], "classify")


def test_selection_without_labels_is_refused_with_counts(make_scan: MakeScan) -> None:
    with pytest.raises(ConfigError, match=r"none of the 2 scans .* to segment \(2 unlabelled\); cases need a mask"):
        gather_cases([make_scan("a"), make_scan("b")], [], "segment")


@pytest.mark.parametrize(
    ("age", "band"),
    [
        (0, "<40"),
        (39.9, "<40"),
        (40, "40-59"),
        ("59", "40-59"),
        (60, "60-79"),
        (80, "80+"),
        (104, "80+"),
        (None, None),
        ("old", None),
        (-1, None),
        (float("nan"), None),
    ],
)
def test_age_bands(age: float | str | None, band: str | None) -> None:
    assert age_band(age) == band


def test_of_several_masks_the_chosen_one_counts(make_scan, make_mask) -> None:
    scan = make_scan("a")
    masks = [
        make_mask(scan, origin="dicom_seg-1", content="1", labels={0: "background", 1: "liver"}),
        make_mask(scan, origin="rtstruct-2", content="2", labels={0: "background", 1: "spleen"}),
    ]
    with pytest.raises(ConfigError, match="1 several_labels"):
        gather_cases([scan], masks, "segment")
    assert gather_cases([scan], masks, "segment", chosen="rtstruct").labels[1] == "spleen"
    assert gather_cases([scan], masks, "segment", chosen="liver").labels[1] == "liver"
