from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from annotation_phantoms import COLUMNS, OBLIQUE, ROWS, SLICES, ct, rtstruct, save_all, seg
from dicom_phantoms import ROOT, save_slice
from highdicom.legacy import LegacyConvertedEnhancedCTImage
from matplotlib.path import Path as Polygon
from pydicom.uid import RLELossless

from medml.catalogue.config import IngestConfig
from medml.catalogue.walk import find_scans
from medml.geometry import to_source
from medml.io.scans import read_mask, read_scan, verify_scan
from medml.metrics.overlap import dice
from medml.records.candidate import Candidate
from medml.records.scan import Annotation, Outcome


def drawn(*voxels: tuple[int, int, int], value: int = 1) -> np.ndarray:
    """Pixels (frame, row, column) with these (column, row, slice) set."""
    pixels = np.zeros((SLICES, ROWS, COLUMNS), dtype=np.uint8)
    for column, row, number in voxels:
        pixels[number, row, column] = value
    return pixels


def masks_of(desk, outcome: Outcome) -> list[tuple[Annotation, np.ndarray]]:
    """Return the masks of an outcome's scan on its source slices (column, row, slice)."""
    found = []
    for annotation in desk.catalogue.annotations(outcome.scan_ids):
        scan = read_scan(desk.home.scans, annotation.scan_id)
        mask = read_mask(desk.home.scans, annotation.scan_id, annotation.file).voxels[0]
        assert verify_scan(desk.home.scans, scan, [annotation]) == []
        found.append((annotation, to_source(mask, scan.source_grid)))
    return found


def by_code(report) -> dict[str, Outcome]:
    return {outcome.code: outcome for outcome in report.outcomes}


def voxels_of(mask: np.ndarray, value: int = 1) -> set[tuple[int, ...]]:
    return {tuple(int(n) for n in index) for index in np.argwhere(mask == value)}


@pytest.mark.parametrize("orientation", [(1, 0, 0, 0, 1, 0), OBLIQUE, (0, 1, 0, 0, 0, -1)])
def test_a_seg_beside_its_images_becomes_a_mask_on_their_grid(source, desk, orientation) -> None:
    images = ct(orientation)
    if orientation[0] == 0:  # sagittal: slices lie along x
        for index, image in enumerate(images):
            image.ImagePositionPatient = [-10.0 - 2.5 * index, -20.0, 30.0]
    save_all(source.root / "ct", images)
    seg(images, drawn((1, 2, 0), (5, 7, 3)), ["Left Kidney"]).save_as(source.root / "a_seg.dcm")
    report = desk.ingest(source.root)
    outcome = by_code(report)["annotation"]
    [(annotation, mask)] = masks_of(desk, outcome)
    assert voxels_of(mask) == {(1, 2, 0), (5, 7, 3)}
    assert (annotation.labels, annotation.codes) == ({0: "background", 1: "left_kidney"}, {1: "SCT:10200004"})
    assert (report.counts.files, report.counts.accepted, report.counts.labelled) == (5, 5, 1)


def test_annotations_may_come_later_and_reading_them_again_changes_nothing(source, desk, tmp_path) -> None:
    images = ct()
    save_all(source.root, images)
    desk.ingest(source.root)
    later = tmp_path / "later"
    save_slice(later / "rt.dcm", rtstruct(images, {"GTV": [(1, [(0.6, 0.6), (2.4, 0.6), (2.4, 2.4), (0.6, 2.4)])]}))
    first = by_code(desk.ingest(later))["annotation"]
    [(annotation, mask)] = masks_of(desk, first)
    assert voxels_of(mask) == {(1, 1, 1), (2, 1, 1), (1, 2, 1), (2, 2, 1)}
    assert annotation.labels == {0: "background", 1: "gtv"}
    assert by_code(desk.ingest(later))["known_annotation"].scan_ids == first.scan_ids
    assert len(desk.catalogue.annotations(first.scan_ids)) == 1


def test_overlapping_segments_become_several_masks_or_are_refused(source, desk) -> None:
    images = ct()
    save_all(source.root / "ct", images)
    both = np.stack([drawn((1, 1, 1), (2, 1, 1)), drawn((2, 1, 1), (3, 1, 1))], axis=-1)
    seg(images, both, ["a", "b"]).save_as(source.root / "s.dcm")
    refused = by_code(desk.ingest(source.root, config=IngestConfig(overlaps="refuse")))["overlapping_segments"]
    assert (refused.outcome, refused.files) == ("refused", 1)
    outcome = by_code(desk.ingest(source.root))["annotation"]
    assert [f.code for f in outcome.findings] == ["overlapping_segments"]
    assert by_code(desk.ingest(source.root))["known_annotation"].findings == outcome.findings
    found = {tuple(a.labels.values())[1]: mask for a, mask in masks_of(desk, outcome)}
    assert voxels_of(found["a"]) == {(1, 1, 1), (2, 1, 1)}
    assert voxels_of(found["b"], 2) == {(2, 1, 1), (3, 1, 1)}


def test_configured_labels_harmonise_segments_by_name(source, desk) -> None:
    images = ct()
    save_all(source.root / "ct", images)
    pixels = drawn((1, 1, 1)) + drawn((3, 3, 3), value=2)
    seg(images, pixels, ["Spleen", "Liver"], kind="LABELMAP").save_as(source.root / "s.dcm")
    outcome = by_code(desk.ingest(source.root, config=IngestConfig(labels={7: "liver"})))["annotation"]
    [(annotation, mask)] = masks_of(desk, outcome)
    assert annotation.labels == {0: "background", 7: "liver"}
    assert (voxels_of(mask, 7), int((mask > 0).sum())) == ({(3, 3, 3)}, 1)


def test_dangling_references_are_refused_with_counts_and_without_uids(source, desk) -> None:
    images = ct()
    seg(images, drawn((1, 1, 1)), ["a"]).save_as(source.root / "s.dcm")
    outcome = by_code(desk.ingest(source.root))["dangling_reference"]
    assert outcome.outcome == "refused"
    assert "none of the 1 series and 4 images" in outcome.reason
    assert ROOT not in outcome.model_dump_json()


def test_a_seg_on_another_grid_is_refused(source, desk) -> None:
    images = ct()
    save_all(source.root / "ct", images)
    data = seg(images, drawn((1, 1, 1)), ["a"])
    data.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing = [0.25, 0.375]
    data.save_as(source.root / "s.dcm")
    outcome = by_code(desk.ingest(source.root))["grid_mismatch"]
    assert outcome.outcome == "refused"
    assert desk.catalogue.annotations(scan.scan_id for scan in desk.catalogue.scans()) == []


def test_masks_of_a_tilted_series_are_sheared_as_its_images_are(source, desk) -> None:
    """Each slice 1 mm (two rows) further along y than the one before: voxel (1, 2) of slice k lies at row 2 + 2 k."""
    images = ct()
    for index, image in enumerate(images):
        image.ImagePositionPatient = [-10.0, -20.0 + 1.0 * index, 30.0 + 2.5 * index]
    save_all(source.root / "ct", images)
    seg(images, drawn(*[(1, 2, n) for n in range(4)]), ["a"]).save_as(source.root / "s.dcm")
    outcome = by_code(desk.ingest(source.root))["annotation"]
    scan = read_scan(desk.home.scans, outcome.scan_ids[0])
    assert scan.source_grid.repair is not None
    [(annotation, mask)] = masks_of(desk, outcome)
    assert voxels_of(mask) == {(1, 2, n) for n in range(4)}
    stored = read_mask(desk.home.scans, scan.scan_id, annotation.file)
    world = np.argwhere(stored.voxels[0]) @ stored.affine[:3, :3].T + stored.affine[:3, 3]
    expected = [[9.25, 19.0 - 1.0 * n, 30.0 + 2.5 * n] for n in range(4)]
    np.testing.assert_allclose(world[np.argsort(world[:, 2])], expected, atol=0.01)


def test_an_annotation_of_another_patient_is_found_out(source, desk) -> None:
    images = ct()
    save_all(source.root / "ct", images)
    data = seg(images, drawn((1, 1, 1)), ["a"])
    data.PatientID = "PID8"
    data.save_as(source.root / "s.dcm")
    assert [f.code for f in by_code(desk.ingest(source.root))["annotation"].findings] == ["patient_differs"]


def test_a_damaged_annotation_costs_itself_only(source, desk) -> None:
    images = ct()
    save_all(source.root / "ct", images)
    data = seg(images, drawn((1, 1, 1)), ["a"])
    data.save_as(source.root / "s.dcm")
    whole = (source.root / "s.dcm").read_bytes()
    (source.root / "s.dcm").write_bytes(whole[: len(whole) // 2])
    report = desk.ingest(source.root)
    assert report.counts.scans == 1
    assert (report.counts.refused, report.counts.accepted) == (1, 4)


def nrrd(path: Path) -> np.ndarray:
    """Return the voxels of an attached gzip NRRD of shorts; enough for the references."""
    content = path.read_bytes()
    head, _, body = content.partition(b"\n\n")
    fields = dict(line.split(": ", 1) for line in head.decode().splitlines() if ": " in line)
    sizes = [int(size) for size in fields["sizes"].split()]
    return np.frombuffer(gzip.decompress(body), dtype="<i2").reshape(sizes[::-1]).T


@pytest.mark.parametrize(
    ("images", "annotation", "references"),
    [
        ("23x38x3/image", "23x38x3/seg/label.seg", ["23x38x3/nrrd/label.nrrd"]),
        ("24x38x3/image", "24x38x3/seg/label.seg", ["24x38x3/nrrd/label.nrrd"]),
        ("24x38x3/image", "sparse-labelmap-noppv.dcm", ["sparse_labelmap_noppv_seg.nrrd"]),
        ("24x38x3/image", "sparse-labelmap-ppv5.dcm", ["sparse_labelmap_ppv5_seg.nrrd"]),
        ("ct-3slice", "liver.dcm", ["liver_seg.nrrd"]),
        ("ct-3slice", "partial_overlaps.dcm", [f"partial_overlaps-{n}.nrrd" for n in (1, 2, 3)]),
    ],
)
def test_real_segmentations_equal_their_references(real_data, desk, images, annotation, references) -> None:
    folder = real_data / "dicom_seg_rtstruct" / "dcmqi" / "data" / "segmentations"
    desk.ingest(folder / images)
    found = masks_of(desk, by_code(desk.ingest(folder / annotation))["annotation"])
    assert len(found) == len(references)
    masks = {tuple(np.unique(mask)): mask for _, mask in found}
    for name in references:
        reference = nrrd(folder / name)
        # PixelPaddingValue 5 fills the frame that the sparse labelmap leaves out: no label, so background here.
        reference = np.where(reference == 5, 0, reference) if "ppv5" in name else reference
        np.testing.assert_array_equal(masks[tuple(np.unique(reference))], reference)


def test_real_structure_sets_are_filled_or_refused_by_name(real_data, desk) -> None:
    report = desk.ingest(real_data / "dicom_seg_rtstruct" / "rt_utils" / "tests" / "mock_data")
    codes = {Path(outcome.source).name: outcome.code for outcome in report.outcomes}
    assert codes["rt.dcm"] == "annotation"
    assert codes["invalid_reference_rt.dcm"] == codes["non_existent_reference_rt.dcm"] == "dangling_reference"
    [(annotation, mask)] = masks_of(desk, by_code(report)["annotation"])
    assert annotation.labels == {0: "background", 1: "roi_1"}
    # A square from -51 to -27 mm, and in it a hole: another library fills the same pixel centres.
    square, hole = (
        [(-51, -51), (-51, -27), (-27, -27), (-27, -51)],
        [(-47, -46), (-46, -47), (-32, -47), (-32, -32), (-46, -32), (-47, -32)],
    )
    columns, rows = np.meshgrid(*[-125 + 0.488281 * np.arange(512)] * 2, indexing="ij")
    centres = np.stack([columns.ravel(), rows.ravel()], axis=1)
    inside = [Polygon(points).contains_points(centres).reshape(512, 512) for points in (square, hole)]
    assert dice(mask[:, :, 0] > 0, inside[0] & ~inside[1]) == 1.0
    assert not mask[:, :, 1].any()


def test_a_seg_on_frames_of_a_multi_frame_image_lies_on_its_slices(source, desk) -> None:
    enhanced = LegacyConvertedEnhancedCTImage(
        legacy_datasets=ct()[::-1],
        series_instance_uid=f"{ROOT}.40",
        series_number=40,
        sop_instance_uid=f"{ROOT}.40.1",
        instance_number=1,
    )
    enhanced.save_as(source.root / "mf.dcm")
    pixels = np.zeros((SLICES, ROWS, COLUMNS), dtype=np.uint8)
    pixels[0, 2, 1] = pixels[3, 7, 5] = 1
    first = enhanced.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0].ImagePositionPatient[2]
    seg([enhanced], pixels, ["a"]).save_as(source.root / "s.dcm")
    outcome = by_code(desk.ingest(source.root))["annotation"]
    [(_, mask)] = masks_of(desk, outcome)
    ends = (0, 3) if first == 30.0 else (3, 0)
    assert voxels_of(mask) == {(1, 2, ends[0]), (5, 7, ends[1])}


def test_a_compressed_seg_is_read(source, desk) -> None:
    images = ct()
    save_all(source.root / "ct", images)
    pixels = drawn((1, 1, 1)).astype(np.float32)
    data = seg(images, pixels, ["a"], kind="FRACTIONAL", transfer_syntax_uid=RLELossless)
    data.save_as(source.root / "s.dcm")
    [(_, mask)] = masks_of(desk, by_code(desk.ingest(source.root))["annotation"])
    assert voxels_of(mask) == {(1, 1, 1)}


def test_a_series_that_became_several_scans_gives_each_its_frames(source, desk) -> None:
    """Two echoes under one series UID; the SEG is drawn on slice 1 of the first and slice 2 of the second."""
    images = []
    for echo in (1, 2):
        for index, image in enumerate(ct()):
            image.SOPClassUID, image.Modality = "1.2.840.10008.5.1.4.1.1.4", "MR"
            image.EchoTime, image.EchoNumbers, image.InstanceNumber = 10.0 * echo, echo, 4 * echo + index
            image.SOPInstanceUID = f"{ROOT}.4.{echo}.{index}"
            image.RescaleIntercept = 0
            images.append(image)
    save_all(source.root / "mr", images)
    pixels = np.zeros((8, ROWS, COLUMNS), dtype=np.uint8)
    pixels[1, 2, 3] = pixels[6, 4, 5] = 1
    chosen = [images[1], images[6]]
    seg(chosen, pixels[[1, 6]], ["a"]).save_as(source.root / "s.dcm")
    report = desk.ingest(source.root)
    outcome = by_code(report)["annotation"]
    assert len(outcome.scan_ids) == 2
    found = sorted(sorted(voxels_of(mask)) for _, mask in masks_of(desk, outcome))
    assert found == [[(3, 2, 1)], [(5, 4, 2)]]


def test_names_that_tell_who_the_patient_is_are_withheld(source, desk) -> None:
    images = ct()
    save_all(source.root / "ct", images)
    save_slice(
        source.root / "rt.dcm", rtstruct(images, {"Jane Doe liver": [(1, [(0.6, 0.6), (2.4, 0.6), (2.4, 2.4)])]})
    )
    [(annotation, _)] = masks_of(desk, by_code(desk.ingest(source.root))["annotation"])
    assert annotation.labels == {0: "background", 1: "region_1"}
    for path in desk.home.scans.rglob("*.json"):
        assert b"doe" not in path.read_bytes().lower()
        assert ROOT.encode() not in path.read_bytes()


def test_for_inference_annotations_are_no_scans(source) -> None:
    images = ct()
    save_all(source.root / "ct", images)
    seg(images, drawn((1, 1, 1)), ["a"]).save_as(source.root / "s.dcm")
    found = {item.source: item for item in find_scans(source.root)}
    assert isinstance(found["s.dcm"], Outcome)
    assert (found["s.dcm"].outcome, found["s.dcm"].code) == ("ignored", "not_an_image")
    assert isinstance(found["ct"], Candidate)
