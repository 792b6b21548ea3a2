from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from annotation_phantoms import COLUMNS, OBLIQUE, ROWS, SLICES, ct, seg, slices_of
from dicom_phantoms import ROOT
from highdicom import PixelMeasuresSequence, PlaneOrientationSequence, PlanePositionSequence
from pydicom.uid import ComputedRadiographyImageStorage

from medml.errors import GeometryError, Refusal
from medml.io.dicom_seg import read_references, read_segments
from medml.io.structures import SourceSlices, Structure


def drawn(*voxels: tuple[int, int, int]) -> np.ndarray:
    """Pixels (frame, row, column) with these (column, row, slice) set."""
    pixels = np.zeros((SLICES, ROWS, COLUMNS), dtype=np.uint8)
    for column, row, number in voxels:
        pixels[number, row, column] = 1
    return pixels


def voxels_of(structure: Structure) -> set[tuple[int, ...]]:
    return {tuple(int(n) for n in index) for index in np.argwhere(structure.inside) + structure.start}


def save(tmp_path: Path, data) -> Path:
    path = tmp_path / "seg.dcm"
    data.save_as(path)
    return path


def test_a_binary_segment_lies_on_the_voxels_it_was_drawn_on(tmp_path: Path) -> None:
    images = ct(OBLIQUE)
    path = save(tmp_path, seg(images, drawn((1, 2, 0), (5, 7, 3)), ["Left Kidney"]))
    structures, findings = read_segments(path, slices_of(images))
    assert [(s.number, s.name, s.code) for s in structures] == [(1, "left_kidney", "SCT:10200004")]
    assert voxels_of(structures[0]) == {(1, 2, 0), (5, 7, 3)}
    assert findings == ()


def test_frames_in_another_order_and_frames_left_out_change_nothing(tmp_path: Path) -> None:
    images = ct()
    pixels = drawn((1, 2, 0), (5, 7, 2))[::-1]
    path = save(tmp_path, seg(images[::-1], pixels, ["a"]))
    assert read_segments(path, slices_of(images))[0][0].inside.sum() == 2
    assert voxels_of(read_segments(path, slices_of(images))[0][0]) == {(1, 2, 0), (5, 7, 2)}


def test_a_fractional_segment_is_cut_at_the_threshold_with_a_finding(tmp_path: Path) -> None:
    images = ct()
    pixels = np.zeros((SLICES, ROWS, COLUMNS), dtype=np.float32)
    pixels[1, 2, 3], pixels[1, 2, 4], pixels[1, 2, 5] = 0.3, 0.7, 1.0
    path = save(tmp_path, seg(images, pixels, ["a"], kind="FRACTIONAL", max_fractional_value=200))
    structures, findings = read_segments(path, slices_of(images))
    assert voxels_of(structures[0]) == {(4, 2, 1), (5, 2, 1)}
    assert [(f.code, f.numbers) for f in findings] == [("fractional_segments", {"threshold": 0.5, "between": 2.0})]
    lower, _ = read_segments(path, slices_of(images), threshold=0.2)
    assert voxels_of(lower[0]) == {(3, 2, 1), (4, 2, 1), (5, 2, 1)}


def test_a_labelmap_gives_each_value_its_segment_and_padding_is_background(tmp_path: Path) -> None:
    images = ct()
    pixels = drawn((1, 1, 1))
    pixels[2, 3, 4] = 2
    data = seg(images, pixels, ["a", "b"], kind="LABELMAP")
    structures, _ = read_segments(save(tmp_path, data), slices_of(images))
    assert [voxels_of(s) for s in structures] == [{(1, 1, 1)}, {(4, 3, 2)}]
    data.PixelPaddingValue = 2
    structures, _ = read_segments(save(tmp_path, data), slices_of(images))
    assert [s.inside.sum() for s in structures] == [1, 0]


def test_a_value_that_no_segment_declares_is_refused(tmp_path: Path) -> None:
    images = ct()
    data = seg(images, drawn((1, 1, 1)) * 2, ["a", "b"], kind="LABELMAP")
    data.SegmentSequence = [item for item in data.SegmentSequence if item.SegmentNumber != 2]
    with pytest.raises(Refusal, match=r"the pixels hold the segments \[2\], the object declares \[0, 1\]"):
        read_segments(save(tmp_path, data), slices_of(images))


def test_overlapping_segments_keep_all_their_voxels(tmp_path: Path) -> None:
    images = ct()
    both = np.stack([drawn((1, 1, 1), (2, 1, 1)), drawn((2, 1, 1), (3, 1, 1))], axis=-1)
    structures, _ = read_segments(save(tmp_path, seg(images, both, ["a", "b"])), slices_of(images))
    assert [voxels_of(s) for s in structures] == [{(1, 1, 1), (2, 1, 1)}, {(2, 1, 1), (3, 1, 1)}]


def resampled(images, pixels: np.ndarray, direction, spacing, positions, thickness: float = 2.5):
    return seg(
        images,
        pixels,
        ["a"],
        pixel_measures=PixelMeasuresSequence(pixel_spacing=spacing, slice_thickness=thickness),
        plane_orientation=PlaneOrientationSequence("PATIENT", direction),
        plane_positions=[PlanePositionSequence("PATIENT", position) for position in positions],
    )


def test_coronal_frames_of_the_same_voxels_are_placed_exactly(tmp_path: Path) -> None:
    """One frame at row 3: its columns run along x in steps of 0.75 mm, its rows up along z in steps of 2.5 mm."""
    images = ct()
    pixels = np.zeros((1, SLICES, COLUMNS), dtype=np.uint8)
    pixels[0, 1, 4] = 1
    data = resampled(images, pixels, [1, 0, 0, 0, 0, 1], [2.5, 0.75], [[-10.0, -18.5, 30.0]], 0.5)
    structures, _ = read_segments(save(tmp_path, data), slices_of(images))
    assert voxels_of(structures[0]) == {(4, 3, 1)}


@pytest.mark.parametrize(
    ("direction", "spacing", "position", "words"),
    [
        ([1, 0, 0, 0, 1, 0], [0.25, 0.75], [-10.0, -20.0, 30.0], "another size or direction"),
        ([0.96, 0.28, 0, -0.28, 0.96, 0], [0.5, 0.75], [-10.0, -20.0, 30.0], "another size or direction"),
        ([1, 0, 0, 0, 1, 0], [0.5, 0.75], [-10.0, -20.0, 31.0], r"lies 0\.40 voxels from the nearest"),
        ([1, 0, 0, 0, 1, 0], [0.5, 0.75], [-9.75, -20.0, 30.0], r"lies 0\.33 voxels from the nearest"),
        ([1, 0, 0, 0, 1, 0], [0.5, 0.75], [-10.0, -20.0, 50.0], "1 of 1 pixels of a frame lie outside"),
    ],
)
def test_frames_off_the_source_grid_are_refused(tmp_path: Path, direction, spacing, position, words) -> None:
    images = ct()
    data = resampled(images, drawn((1, 1, 0))[:1], direction, spacing, [position])
    for frame in data.PerFrameFunctionalGroupsSequence:
        frame.DerivationImageSequence = []
    with pytest.raises(GeometryError, match=words) as refusal:
        read_segments(save(tmp_path, data), slices_of(images))
    assert refusal.value.code == "grid_mismatch"


def test_a_frame_that_contradicts_its_reference_is_refused(tmp_path: Path) -> None:
    images = ct()
    data = seg(images, drawn((1, 1, 1)), ["a"])
    frame = data.PerFrameFunctionalGroupsSequence[0]
    frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID = images[2].SOPInstanceUID
    with pytest.raises(GeometryError, match="names slice 2 of the source series but lies on slice 1"):
        read_segments(save(tmp_path, data), slices_of(images))


def test_images_that_are_not_there_are_counted_and_not_named(tmp_path: Path) -> None:
    images = ct()
    path = save(tmp_path, seg(images, drawn((1, 1, 0), (1, 1, 3)), ["a"]))
    with pytest.raises(Refusal, match="1 of the 2 images it was drawn on are not among the 3") as refusal:
        read_segments(path, slices_of(images[:3]))
    assert refusal.value.code == "dangling_reference"
    assert ROOT not in str(refusal.value)


def test_frames_on_another_scan_of_the_series_are_passed_over(tmp_path: Path) -> None:
    images = ct()
    path = save(tmp_path, seg(images, drawn((1, 1, 0), (1, 1, 3)), ["a"]))
    elsewhere = frozenset({str(images[3].SOPInstanceUID)})
    structures, _ = read_segments(path, slices_of(images[:3]), elsewhere=elsewhere)
    assert structures[0].inside.sum() == 1


def test_a_frame_without_geometry_lies_on_its_one_source_image(tmp_path: Path) -> None:
    images = ct(count=1)
    flat = SourceSlices((COLUMNS, ROWS, 1), (str(images[0].SOPInstanceUID),), (0,), None, None)
    for name in ("FrameOfReferenceUID", "ImagePositionPatient", "ImageOrientationPatient"):
        delattr(images[0], name)
    images[0].SOPClassUID = ComputedRadiographyImageStorage
    data = seg(images, drawn((1, 2, 0))[:1], ["a"])
    structures, _ = read_segments(save(tmp_path, data), flat)
    assert voxels_of(structures[0]) == {(1, 2, 0)}
    with pytest.raises(GeometryError, match="neither a position nor a source image of its own matrix"):
        read_segments(save(tmp_path, data), replace(flat, shape=(COLUMNS, ROWS + 1, 1)))


def test_damaged_and_unknown_objects_are_refused(tmp_path: Path) -> None:
    images = ct()
    data = seg(images, drawn((1, 1, 2)), ["a"])
    data.NumberOfFrames = 7
    with pytest.raises(Refusal, match="7 frames of 6 x 8 pixels, 1 of them described"):
        read_segments(save(tmp_path, data), slices_of(images))
    data.SegmentationType = "SURFACE"
    with pytest.raises(Refusal, match="SegmentationType is not"):
        read_segments(save(tmp_path, data), slices_of(images))


def test_declared_frames_are_capped_before_they_are_read(tmp_path: Path) -> None:
    images = ct()
    data = seg(images, drawn((1, 1, 2)), ["a"])
    data.Rows = data.Columns = 60000
    with pytest.raises(Refusal, match="expected at most"):
        read_segments(save(tmp_path, data), slices_of(images))


def test_references_hold_study_series_and_images(tmp_path: Path) -> None:
    images = ct()
    references = read_references(save(tmp_path, seg(images, drawn((1, 1, 1)), ["a"])))
    assert (references.kind, references.series, references.studies) == ("dicom_seg", (f"{ROOT}.2",), (f"{ROOT}.1",))
    assert str(images[1].SOPInstanceUID) in references.images
