"""DICOM SEG and SR of results: proved in world space by the objects' own headers, and by dicom3tools and dcmtk."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
from corpus.dicom import Stack
from corpus.enhanced import mosaic, write_enhanced
from corpus.phantom import AXIAL, Grid, even, make_grid, organ_mask
from corpus.source import Source
from highdicom.seg import segread
from pydicom.dataset import Dataset

from medml.catalogue.walk import find_scans
from medml.errors import Refusal
from medml.geometry import to_source
from medml.io.dicom_sources import read_sources
from medml.io.nifti import write_on_grid
from medml.io.seg_write import segmentation
from medml.io.sr_write import measurement_report
from medml.records.candidate import Candidate, Reading
from medml.records.labels import Author, LabelMeaning, Measure

LABELS = {
    1: LabelMeaning(name="liver", code="SCT:10200004", meaning="Liver", colour=(200, 30, 30)),
    2: LabelMeaning(name="lesion", category="SCT:49755003"),
    3: LabelMeaning(name="never found"),
}
AUTHOR = Author(name="demo", version="3", digest="ab" * 32)
SEG_UIDS, SR_UIDS = ("2.25.11", "2.25.12"), ("2.25.21", "2.25.22")
GRIDS = {
    "axial": AXIAL,
    "axial, falling": make_grid(step=-4.0),
    "feet first": make_grid((-1, 0, 0), (0, 1, 0)),
    "sagittal": make_grid((0, 1, 0), (0, 0, -1)),
    "coronal": make_grid((1, 0, 0), (0, 0, -1)),
    "coronal, reversed": make_grid((1, 0, 0), (0, 0, -1), step=-4.0),
    "oblique": make_grid((0.96, 0.28, 0), (-0.168, 0.576, -0.8)),
    "tilted gantry": make_grid(shear=(0.0, 1.2)),
}


def read_one(folder: Path) -> tuple[Candidate, Reading]:
    found = [item for item in find_scans(folder) if isinstance(item, Candidate)]
    assert len(found) == 1
    return found[0], found[0].read()


def seg_of(candidate: Candidate, reading: Reading, mask: np.ndarray, **options: Any) -> Dataset:
    sources = read_sources(candidate.locator)
    return segmentation(to_source(mask, reading.grid), sources, LABELS, AUTHOR, uids=SEG_UIDS, **options)


def make_ct(tmp_path: Path, grid: Grid = AXIAL) -> tuple[Candidate, Reading, np.ndarray]:
    Stack(Source(tmp_path / "src", "ct"), grid, change=even).write("ct")
    candidate, reading = read_one(tmp_path / "src")
    return candidate, reading, organ_mask(reading.volume.affine, reading.volume.voxels.shape[1:])


def labelled_points(data: Dataset, segment: int) -> set[tuple[int, ...]]:
    """RAS positions in tenths of a mm of a segment's voxels, by PS3.3 C.7.6.2.1.1 and nothing of ours."""
    points = set()
    shared = data.SharedFunctionalGroupsSequence[0]
    row, column = np.split(np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float), 2)
    down, across = (float(v) for v in shared.PixelMeasuresSequence[0].PixelSpacing)
    pixels = data.pixel_array.reshape(-1, data.Rows, data.Columns)
    for frame, group in zip(pixels, data.PerFrameFunctionalGroupsSequence, strict=True):
        binary = data.SegmentationType == "BINARY"
        if binary and group.SegmentIdentificationSequence[0].ReferencedSegmentNumber != segment:
            continue
        start = np.array(group.PlanePositionSequence[0].ImagePositionPatient, float)
        for r, c in np.argwhere(frame == (1 if binary else segment)):
            x, y, z = start + c * across * row + r * down * column
            points.add((round(-10 * x), round(-10 * y), round(10 * z)))
    return points


def nifti_points(path: Path, label: int) -> set[tuple[int, ...]]:
    image = nibabel.load(path)
    at = np.argwhere(np.asanyarray(image.dataobj) == label)
    places = nibabel.affines.apply_affine(image.affine, at)
    return {tuple(round(10 * v) for v in place) for place in places.tolist()}


@pytest.mark.parametrize("kind", ["binary", "labelmap"])
@pytest.mark.parametrize("name", list(GRIDS))
def test_a_segmentation_marks_the_same_places_as_the_nifti(tmp_path: Path, name: str, kind: Any) -> None:
    candidate, reading, mask = make_ct(tmp_path, GRIDS[name])
    seg_of(candidate, reading, mask, kind=kind).save_as(tmp_path / "seg.dcm")
    data = pydicom.dcmread(tmp_path / "seg.dcm")
    write_on_grid(tmp_path / "mask.nii.gz", mask, reading.grid)
    for label in (1, 2):
        points = labelled_points(data, label)
        assert len(points) > 20
        near = {(x + i, y + j, z + k) for x, y, z in points for i in (-1, 0, 1) for j in (-1, 0, 1) for k in (-1, 0, 1)}
        assert nifti_points(tmp_path / "mask.nii.gz", label) <= near  # 0.1 mm: a tenth of a mm may round either way
        assert len(points) == len(nifti_points(tmp_path / "mask.nii.gz", label))
    assert labelled_points(data, 3) == set()


def test_a_segmentation_belongs_to_its_source_and_says_who_made_it(tmp_path: Path) -> None:
    candidate, reading, mask = make_ct(tmp_path)
    data = seg_of(candidate, reading, mask)
    image = pydicom.dcmread(candidate.locator["files"][0], stop_before_pixels=True)
    for keyword in ("PatientID", "PatientName", "StudyInstanceUID", "FrameOfReferenceUID", "AccessionNumber"):
        assert data.get(keyword) == image.get(keyword)
    assert (data.SeriesInstanceUID, data.SOPInstanceUID) == SEG_UIDS
    assert data.SeriesInstanceUID != image.SeriesInstanceUID
    first, second, third = data.SegmentSequence
    assert [item.SegmentLabel for item in data.SegmentSequence] == ["liver", "lesion", "never found"]
    assert first.SegmentedPropertyTypeCodeSequence[0].CodeValue == "10200004"
    assert second.SegmentedPropertyTypeCodeSequence[0].CodingSchemeDesignator == "99MEDML"
    assert second.SegmentedPropertyCategoryCodeSequence[0].CodeValue == "49755003"
    assert first.SegmentAlgorithmType == "AUTOMATIC"
    assert first.SegmentAlgorithmName == "demo"
    assert len({tuple(item.RecommendedDisplayCIELabValue) for item in (first, second, third)}) == 3
    referenced = {item.ReferencedSOPInstanceUID for item in data.ReferencedSeriesSequence[0].ReferencedInstanceSequence}
    assert referenced == set(candidate.locator["sop_uids"])


def test_label_values_with_gaps_become_segments_without(tmp_path: Path) -> None:
    candidate, reading, mask = make_ct(tmp_path)
    labels = {5: LABELS[1], 9: LABELS[2]}
    values = np.array([0, 5, 9], dtype=np.uint8)[mask]
    sources = read_sources(candidate.locator)
    data = segmentation(to_source(values, reading.grid), sources, labels, AUTHOR, uids=SEG_UIDS)
    plain = seg_of(candidate, reading, mask)
    assert [labelled_points(data, n) for n in (1, 2)] == [labelled_points(plain, n) for n in (1, 2)]


def test_a_label_map_reads_back_pixel_by_pixel(tmp_path: Path) -> None:
    candidate, reading, mask = make_ct(tmp_path)
    seg_of(candidate, reading, mask, kind="labelmap").save_as(tmp_path / "seg.dcm")
    back = segread(tmp_path / "seg.dcm").get_pixels_by_source_instance(
        list(candidate.locator["sop_uids"]), combine_segments=True, assert_missing_frames_are_empty=True
    )
    assert np.array_equal(back, to_source(mask, reading.grid).transpose(2, 1, 0))


def test_an_empty_mask_is_a_result_too(tmp_path: Path) -> None:
    candidate, reading, mask = make_ct(tmp_path)
    data = seg_of(candidate, reading, np.zeros_like(mask))
    assert [labelled_points(data, n) for n in (1, 2, 3)] == [set(), set(), set()]


def test_a_multi_frame_source_is_referred_to_frame_by_frame(tmp_path: Path) -> None:
    stack = Stack(Source(tmp_path / "src", "mr"), AXIAL, modality="MR")
    write_enhanced([stack])
    candidate, reading = read_one(tmp_path / "src")
    mask = organ_mask(reading.volume.affine, reading.volume.voxels.shape[1:])
    data = seg_of(candidate, reading, mask)
    write_on_grid(tmp_path / "mask.nii.gz", mask, reading.grid)
    for label in (1, 2):
        assert len(labelled_points(data, label)) == len(nifti_points(tmp_path / "mask.nii.gz", label)) > 20


def test_a_source_that_went_or_changed_is_refused(tmp_path: Path) -> None:
    candidate, *_ = make_ct(tmp_path)
    path = Path(candidate.locator["files"][3])
    data = pydicom.dcmread(path)
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = "2.25.5"
    data.save_as(path)
    with pytest.raises(Refusal, match="1 of 12 source images are not those that were read"):
        read_sources(candidate.locator)
    path.write_bytes(b"not DICOM")
    with pytest.raises(Refusal, match="cannot be read as DICOM any more"):
        read_sources(candidate.locator)
    path.unlink()
    with pytest.raises(Refusal, match="not where it was read"):
        read_sources(candidate.locator)
    with pytest.raises(Refusal, match="did not come from DICOM"):
        read_sources({"kind": "nifti"})


def test_a_source_that_lies_nowhere_gets_no_segmentation(tmp_path: Path) -> None:
    candidate, reading, mask = make_ct(tmp_path)
    sources = read_sources(candidate.locator)
    labels = to_source(mask, reading.grid)
    with pytest.raises(ValueError, match="the mask has 11 slices, expected 12 as the source"):
        segmentation(labels[:, :, 1:], sources, LABELS, AUTHOR, uids=SEG_UIDS)
    del sources.images[4].ImagePositionPatient
    with pytest.raises(Refusal, match="1 of 12 source images do not say where they lie"):
        segmentation(labels, sources, LABELS, AUTHOR, uids=SEG_UIDS)
    del sources.images[0].FrameOfReferenceUID
    with pytest.raises(Refusal, match="names no frame of reference"):
        segmentation(labels, sources, LABELS, AUTHOR, uids=SEG_UIDS)


def test_a_mosaic_says_that_its_tiles_lie_nowhere(tmp_path: Path) -> None:
    source = Source(tmp_path / "src", "mr")
    data = mosaic(Stack(source, AXIAL, modality="MR"))
    data.save_as(source.path("m.dcm"), enforce_file_format=True)
    candidate, reading = read_one(tmp_path / "src")
    mask = np.zeros(reading.volume.voxels.shape[1:], np.uint8)
    with pytest.raises(Refusal, match="slices are tiles of one picture"):
        seg_of(candidate, reading, mask)


MEASURES = [
    Measure(label=1, kind="volume", value=12.5),
    Measure(label=1, kind="mean", value=55.25),
    Measure(label=2, kind="volume", value=0.0),
]


def report_of(candidate: Candidate, segments: Dataset | None, **options: Any) -> Dataset:
    measures = MEASURES if segments is not None else [Measure(label=1, kind="probability", value=0.25)]
    sources = read_sources(candidate.locator)
    return measurement_report(
        measures, sources, LABELS, AUTHOR, uids=SR_UIDS, device_uid="2.25.9", segments=segments, **options
    )


def numbers_of(item: Dataset) -> list[tuple[str, float, str]]:
    """Every NUM below an item: what, value, unit."""
    found = []
    for child in item.get("ContentSequence", []):
        if child.ValueType == "NUM":
            measured = child.MeasuredValueSequence[0]
            unit = measured.MeasurementUnitsCodeSequence[0].CodeValue
            found.append((child.ConceptNameCodeSequence[0].CodeMeaning, float(measured.NumericValue), unit))
        found += numbers_of(child)
    return found


def test_a_report_holds_each_number_with_its_unit_and_segment(tmp_path: Path) -> None:
    candidate, reading, mask = make_ct(tmp_path)
    segments = seg_of(candidate, reading, mask)
    data = report_of(candidate, segments)
    assert numbers_of(data) == [
        ("Volume", 12.5, "mL"),
        ("Attenuation Coefficient", 55.25, "[hnsf'U]"),
        ("Volume", 0.0, "mL"),
    ]
    assert (data.VerificationFlag, data.PreliminaryFlag) == ("UNVERIFIED", "PRELIMINARY")
    text = str(data)
    assert segments.SOPInstanceUID in text
    assert data.StudyInstanceUID == segments.StudyInstanceUID
    assert numbers_of(report_of(candidate, None)) == [("Probability of the class", 0.25, "1")]


def test_a_person_who_accepted_is_named_in_the_report(tmp_path: Path) -> None:
    candidate, reading, mask = make_ct(tmp_path)
    data = report_of(candidate, seg_of(candidate, reading, mask), accepted_by="Curie^Marie")
    assert (data.VerificationFlag, data.PreliminaryFlag) == ("VERIFIED", "FINAL")
    assert data.VerifyingObserverSequence[0].VerifyingObserverName == "Curie^Marie"


def test_the_same_result_gets_the_same_tracking_ids(tmp_path: Path) -> None:
    candidate, reading, mask = make_ct(tmp_path)
    one, two = seg_of(candidate, reading, mask), seg_of(candidate, reading, mask)
    assert [s.TrackingUID for s in one.SegmentSequence] == [s.TrackingUID for s in two.SegmentSequence]
    assert numbers_of(report_of(candidate, one)) == numbers_of(report_of(candidate, two))
    first, second = (str(report_of(candidate, None).ContentSequence) for _ in range(2))
    assert first == second


@pytest.mark.system
@pytest.mark.parametrize("name", ["axial", "oblique", "tilted gantry"])
def test_dicom3tools_find_no_error_and_dcmtk_prints_the_report(tmp_path: Path, name: str) -> None:
    if shutil.which("dciodvfy") is None or shutil.which("dsrdump") is None:
        pytest.skip("dicom3tools or dcmtk is not installed; make system installs them")
    candidate, reading, mask = make_ct(tmp_path, GRIDS[name])
    segments = seg_of(candidate, reading, mask)
    objects = {"seg": segments, "sr": report_of(candidate, segments), "probability": report_of(candidate, None)}
    for file, data in objects.items():
        data.save_as(tmp_path / f"{file}.dcm")
        done = subprocess.run(["dciodvfy", tmp_path / f"{file}.dcm"], capture_output=True, text=True, check=False)
        assert [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")] == []
    printed = subprocess.run(["dsrdump", tmp_path / "sr.dcm"], capture_output=True, text=True, check=True).stdout
    assert '"Volume")="12.5" (mL,UCUM,"milliliter")' in printed
