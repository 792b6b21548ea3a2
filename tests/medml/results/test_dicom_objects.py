"""What a department's PACS gets of one result."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from corpus.dicom import Stack
from corpus.phantom import even, organ_mask
from corpus.source import Source

from medml.catalogue.walk import find_scans
from medml.io.files import content_digest
from medml.records.batch import Job, Prediction
from medml.records.candidate import Candidate
from medml.records.labels import Author, LabelMeaning
from medml.records.plan import Plan
from medml.results.dicom_objects import DicomResults, label_meanings, measures_of, write_dicom
from medml.results.outputs import write_outputs

PlanMaker = Callable[..., Plan]
LIVER = LabelMeaning(code="SCT:10200004", meaning="Liver")


def name_uid(text: str) -> str:
    return f"2.25.{sum(ord(letter) * 257**n for n, letter in enumerate(text)) % 10**30}"


RESULTS = DicomResults(Author(name="demo", version="3", digest="ab" * 32), name_uid)


@pytest.fixture
def job(tmp_path: Path) -> Job:
    Stack(Source(tmp_path / "src", "ct"), change=even).write("ct")
    found = next(item for item in find_scans(tmp_path / "src") if isinstance(item, Candidate))
    reading = found.read()
    return Job("ab12", "ct", reading, content_digest(reading.volume), found.locator)


def segmented(job: Job) -> Prediction:
    volume = job.reading.volume
    return Prediction(mask=organ_mask(volume.affine, volume.voxels.shape[1:]), uncertainty=0.1)


def plan_of(make_plan: PlanMaker) -> Plan:
    return make_plan(modality="CT", labels={0: "background", 1: "liver", 2: "lesion"}, meanings={1: LIVER})


def test_a_scan_from_dicom_gets_a_segmentation_and_a_report(tmp_path: Path, job: Job, make_plan: PlanMaker) -> None:
    written = write_outputs(tmp_path, job, segmented(job), plan_of(make_plan), previews=False, dicom=RESULTS)
    assert sorted(written.outputs) == ["dicom/ab12.seg.dcm", "dicom/ab12.sr.dcm", "masks/ab12.nii.gz"]
    assert written.reason == ""
    assert (tmp_path / "dicom" / "ab12.seg.dcm").stat().st_mode & 0o777 == 0o600  # it names the patient
    seg = pydicom.dcmread(tmp_path / "dicom" / "ab12.seg.dcm")
    report = pydicom.dcmread(tmp_path / "dicom" / "ab12.sr.dcm")
    source = pydicom.dcmread(job.locator["files"][0], stop_before_pixels=True)
    assert seg.StudyInstanceUID == report.StudyInstanceUID == source.StudyInstanceUID
    assert seg.SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0].CodeValue == "10200004"
    assert [item.SegmentLabel for item in seg.SegmentSequence] == ["liver", "lesion"]
    assert seg.SOPInstanceUID in str(report)


CLEARED = (
    "PatientID PatientName PatientBirthDate PatientSex StudyID StudyDate StudyTime AccessionNumber "
    "ReferringPhysicianName Manufacturer SeriesNumber InstanceNumber BodyPartExamined"
)


def test_a_source_without_the_attributes_that_may_be_empty_gets_them_empty(
    tmp_path: Path, job: Job, make_plan: PlanMaker
) -> None:
    for path in map(Path, job.locator["files"]):
        data = pydicom.dcmread(path)
        for keyword in CLEARED.split():
            if keyword in data:
                delattr(data, keyword)
        data.save_as(path)
    results = DicomResults(RESULTS.author, name_uid, captures=2)
    written = write_outputs(tmp_path, job, segmented(job), plan_of(make_plan), previews=False, dicom=results)
    assert written.reason == ""
    objects = [pydicom.dcmread(tmp_path / name) for name in written.outputs if name.endswith(".dcm")]
    assert {data.Modality for data in objects} == {"SEG", "SR", "OT"}
    assert all(data.PatientBirthDate == "" == data.PatientID for data in objects)


def test_a_source_without_a_frame_of_reference_gets_a_mask_and_the_reason(
    tmp_path: Path, job: Job, make_plan: PlanMaker
) -> None:
    for path in map(Path, job.locator["files"]):
        data = pydicom.dcmread(path)
        del data.FrameOfReferenceUID
        data.save_as(path)
    written = write_outputs(tmp_path, job, segmented(job), plan_of(make_plan), previews=False, dicom=RESULTS)
    assert sorted(written.outputs) == ["masks/ab12.nii.gz"]
    assert "names no frame of reference" in written.reason


def test_the_same_result_keeps_its_uids_and_another_gets_new_ones(
    tmp_path: Path, job: Job, make_plan: PlanMaker
) -> None:
    plan, found = plan_of(make_plan), segmented(job)

    def uids(results: DicomResults) -> list[str]:
        paths, _ = write_dicom(tmp_path, job, found, plan, results)
        return [str(pydicom.dcmread(path).SOPInstanceUID) for path in paths]

    first = uids(RESULTS)
    assert uids(RESULTS) == first
    other = DicomResults(Author(name="demo", version="4", digest="cd" * 32), name_uid)
    assert not set(uids(other)) & set(first)
    seg, report = uids(DicomResults(RESULTS.author, name_uid, accepted_by="Curie^Marie"))
    assert seg == first[0]
    assert report != first[1]


def test_volumes_are_in_ml_and_means_in_hu_only_for_ct(job: Job, make_plan: PlanMaker) -> None:
    found = segmented(job)
    assert found.mask is not None
    measures = {(m.label, m.kind): m.value for m in measures_of(job, found, plan_of(make_plan))}
    count = int((found.mask == 1).sum())
    assert measures[1, "volume"] == round(count * 2.0 * 2.5 * 4.0 / 1000, 4)
    assert measures[1, "mean"] == round(float(job.reading.volume.voxels[0][found.mask == 1].mean()), 2)
    mr = plan_of(make_plan).model_copy(update={"modality": "MR"})
    assert {m.kind for m in measures_of(job, found, mr)} == {"volume"}
    nothing = Prediction(mask=np.zeros_like(found.mask))
    assert [(m.label, m.kind, m.value) for m in measures_of(job, nothing, plan_of(make_plan))] == [
        (1, "volume", 0.0),
        (2, "volume", 0.0),
    ]


def test_no_uid_of_the_study_reaches_a_log(
    tmp_path: Path, job: Job, make_plan: PlanMaker, caplog: pytest.LogCaptureFixture
) -> None:
    source = pydicom.dcmread(job.locator["files"][0], stop_before_pixels=True)
    with caplog.at_level(logging.DEBUG):
        write_dicom(tmp_path, job, segmented(job), plan_of(make_plan), RESULTS)
    assert source.StudyInstanceUID not in caplog.text
    assert source.SOPInstanceUID not in caplog.text


def test_a_classifier_reports_probabilities_and_no_segmentation(tmp_path: Path, job: Job, make_plan: PlanMaker) -> None:
    plan = make_plan(task="classify", labels={0: "benign", 1: "malignant"}, patch=None, size=(24, 20, 12))
    assert sorted(label_meanings(plan)) == [0, 1]
    paths, reason = write_dicom(tmp_path, job, Prediction(probabilities=np.array([0.75, 0.25])), plan, RESULTS)
    assert ([path.name for path in paths], reason) == (["ab12.sr.dcm"], "")
    assert "0.25" in str(pydicom.dcmread(paths[0]).ContentSequence)


def test_without_its_source_a_result_is_a_nifti_with_the_reason(tmp_path: Path, job: Job, make_plan: PlanMaker) -> None:
    Path(job.locator["files"][0]).unlink()
    written = write_outputs(tmp_path, job, segmented(job), plan_of(make_plan), previews=False, dicom=RESULTS)
    assert list(written.outputs) == ["masks/ab12.nii.gz"]
    assert written.status == "done"
    assert written.reason.startswith("no DICOM objects: a source file is not where it was read")


def test_a_nifti_source_gets_no_dicom_and_no_complaint(tmp_path: Path, job: Job, make_plan: PlanMaker) -> None:
    plain = Job(job.scan_id, job.source, job.reading, job.input_digest, {"kind": "nifti", "image": "x"})
    assert write_dicom(tmp_path, plain, segmented(job), plan_of(make_plan), RESULTS) == ((), "")


def test_of_several_channels_the_first_is_the_source(tmp_path: Path, job: Job, make_plan: PlanMaker) -> None:
    joined = Job(job.scan_id, job.source, job.reading, job.input_digest, {"channels": [job.locator, {"kind": "dicom"}]})
    paths, reason = write_dicom(tmp_path, joined, segmented(job), plan_of(make_plan), RESULTS)
    assert (len(paths), reason) == (2, "")
