from __future__ import annotations

import json

from dicom_phantoms import ROOT, tagged, write_series

from medml.catalogue.config import IngestConfig
from medml.io.scans import read_annotations


def study(source, patient: str, number: int, *, issuer: str = "HOSP") -> None:
    uid = f"{ROOT}.9.{number}"
    edit = tagged(
        PatientID=patient, IssuerOfPatientID=issuer, StudyInstanceUID=f"{ROOT}.8.{number}", SeriesInstanceUID=uid
    )

    def numbered(data, index) -> None:
        edit(data, index)
        data.SOPInstanceUID = f"{uid}.{index}"

    write_series(source.root / f"s{number}", edit=numbered)


def classes(desk) -> dict[str, list[str]]:
    """Return how many scans hold which classes."""
    found: dict[str, list[str]] = {}
    for annotation in desk.catalogue.annotations(scan.scan_id for scan in desk.catalogue.scans()):
        held = "+".join(annotation.labels[value] for value in annotation.classes)
        found.setdefault(held, []).append(annotation.scan_id)
    return found


def outcomes(report, code: str):
    return [outcome for outcome in report.outcomes if outcome.code == code]


def test_classes_by_patient_reach_every_scan_of_the_patient(source, desk) -> None:
    study(source, "A", 1)
    study(source, "A", 2)
    study(source, "B", 3)
    source.text("labels.csv", "PatientID,label\nA,benign\nB,malignant\nZ,benign\n")
    report = desk.ingest(source.root)
    assert {name: len(scans) for name, scans in classes(desk).items()} == {"benign": 2, "malignant": 1}
    [outcome] = outcomes(report, "class_table")
    assert (outcome.outcome, outcome.files) == ("accepted", 1)
    [finding] = outcome.findings
    assert (finding.code, finding.message) == ("rows_unmatched", "1 of 3 rows name nothing that is there: rows 4")
    assert (report.counts.labelled, report.counts.refused) == (3, 0)
    scan = desk.catalogue.scans()[0]
    assert read_annotations(desk.home.scans, scan.scan_id) == tuple(desk.catalogue.annotations([scan.scan_id]))


def test_a_row_speaks_of_the_smallest_thing_it_names_and_later_ingests_know_earlier_scans(source, desk) -> None:
    study(source, "A", 1)
    study(source, "A", 2)
    desk.ingest(source.root)
    head = "PatientID,StudyInstanceUID,SeriesInstanceUID,label_a,label_b\n"
    rows = f"A,{ROOT}.8.1,,1,1\nA,{ROOT}.8.2,{ROOT}.9.2,0,0\n"
    table = source.root.parent / "later.csv"
    table.write_text(head + rows)
    desk.ingest(table)
    assert {name: len(scans) for name, scans in classes(desk).items()} == {"a+b": 1, "": 1}
    assert all(a.multi_label for a in desk.catalogue.annotations(s.scan_id for s in desk.catalogue.scans()))


def test_rows_that_contradict_each_other_are_refused_by_number(source, desk) -> None:
    study(source, "A", 1)
    study(source, "B", 2)
    source.text("labels.csv", "patient,label\nA,benign\nA,malignant\nB,benign\n")
    report = desk.ingest(source.root)
    [conflict] = outcomes(report, "conflicting_labels")
    assert (conflict.outcome, conflict.files) == ("refused", 0)
    assert conflict.reason.startswith("row 3: says something else about a scan than row 2")
    assert {name: len(scans) for name, scans in classes(desk).items()} == {"benign": 1}


def test_a_table_that_matches_nothing_is_refused_and_free_text_is_no_class(source, desk) -> None:
    study(source, "A", 1)
    source.text("labels.csv", "patient,label\nX,benign\nY,malignant\n")
    source.text("notes.csv", "patient,label\nA,seen on 20200102\n")
    report = desk.ingest(source.root)
    assert outcomes(report, "no_row_matched")[0].reason.startswith("none of its 2 rows")
    assert [outcome.source for outcome in outcomes(report, "table")] == ["notes.csv"]
    assert classes(desk) == {}


def test_reading_a_table_again_changes_nothing_and_tells_no_identity(source, desk) -> None:
    study(source, "SECRETPID", 1, issuer="")
    source.text("labels.csv", "patient,label\nSECRETPID,benign\n")
    desk.ingest(source.root)
    first = desk.catalogue.annotations(scan.scan_id for scan in desk.catalogue.scans())
    desk.ingest(source.root)
    assert desk.catalogue.annotations(scan.scan_id for scan in desk.catalogue.scans()) == first
    scan_id = first[0].scan_id
    text = (desk.home.scan_folder(scan_id) / "annotations.json").read_text()
    assert len(json.loads(text)) == 1
    assert "SECRETPID" not in text


def test_nifti_files_take_classes_by_file_patient_and_visit(source, desk) -> None:
    for name in ("sub-1/ses-a/sub-1_ses-a_T1w", "sub-1/ses-b/sub-1_ses-b_T1w", "sub-2/ses-a/sub-2_ses-a_T1w"):
        source.image(f"{name}.nii.gz", sum(map(ord, name)))
    source.text("visits.csv", "participant_id,label\nsub-1_ses-a,x|y\nsub-1_ses-b,x\nsub-2,y\nsub-3,x\n")
    report = desk.ingest(source.root, config=IngestConfig(collection="c"))
    assert {name: len(scans) for name, scans in classes(desk).items()} == {"x+y": 1, "x": 1, "y": 1}
    [table] = outcomes(report, "metadata")
    assert [(f.code, f.message) for f in table.findings] == [
        ("rows_unmatched", "1 of 4 rows name nothing that is there: rows 5")
    ]


def test_files_of_which_rows_say_different_things_get_no_class(source, desk) -> None:
    source.image("a.nii.gz", 1)
    source.image("b.nii.gz", 2)
    source.text("t.csv", "patient,label\na,x\na,y\nb,y\n")
    report = desk.ingest(source.root)
    assert {name: len(scans) for name, scans in classes(desk).items()} == {"y": 1}
    assert outcomes(report, "conflicting_labels")[0].reason.startswith("rows 2 and 3 name the same key")
