"""Multi-frame files and mosaics become one header per image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_objects import cine_dataset, enhanced_dataset, item, mosaic_dataset, nuclear_dataset, set_frames
from dicom_phantoms import pixels_of, save_slice, slice_dataset, tagged
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import UID, EnhancedPETImageStorage, ExplicitVRBigEndian, ImplicitVRLittleEndian

from medml.errors import Refusal
from medml.geometry import to_source, world_points
from medml.io import dicom_frames, dicom_parse
from medml.io.dicom import Header, read_frames, read_series
from medml.io.suv import suvbw_factor

WHOLE_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"


def frames_of(folder: Path, data: Dataset, **options: Any) -> tuple[Header, ...]:
    found = read_frames(save_slice(folder / "a.dcm", data), **options)
    assert found is not None
    return found


def test_a_classic_file_is_its_only_image(tmp_path: Path) -> None:
    (header,) = frames_of(tmp_path, slice_dataset(0))
    assert (header.frame, header.frames, header.expanded) == (0, 1, False)


def test_each_frame_has_its_place_and_what_is_shared(tmp_path: Path) -> None:
    headers = frames_of(tmp_path, enhanced_dataset())
    assert [header.frame for header in headers] == [0, 1, 2, 3]
    assert [header.position for header in headers] == [(-10.0, -20.0, 30.0 + 5 * n) for n in range(4)]
    assert {header.orientation for header in headers} == {(1.0, 0.0, 0.0, 0.0, 1.0, 0.0)}
    assert {(header.pixel_spacing, header.thickness) for header in headers} == {((0.5, 0.75), 5.0)}
    assert {(header.slope, header.intercept) for header in headers} == {(2.0, -7.0)}
    assert [(header.stack_id, header.in_stack) for header in headers] == [("1", n) for n in (1, 2, 3, 4)]
    assert all(header.expanded and header.frames == 4 for header in headers)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_functional_groups_are_read_in_every_encoding(tmp_path: Path, syntax: UID) -> None:
    data = enhanced_dataset(edit=lambda group, n: setattr(group, "MREchoSequence", item(EffectiveEchoTime=7.5)))
    data.file_meta.TransferSyntaxUID = syntax
    if syntax == ExplicitVRBigEndian:
        data.PixelData = np.frombuffer(data.PixelData, "<u2").astype(">u2").tobytes()
    headers = frames_of(tmp_path, data)
    assert [(header.position or ())[2] for header in headers] == [30.0, 35.0, 40.0, 45.0]
    assert {(header.echo_time, header.acquisition) for header in headers} == {(7.5, "1")}
    volume, grid, _ = read_series(headers)
    assert to_source(volume.voxels, grid)[0, 1, 2, 3] == 2 * 1321 - 7


def test_voxels_of_frames_stand_where_their_groups_say(tmp_path: Path) -> None:
    headers = frames_of(tmp_path, enhanced_dataset())
    volume, _, _ = read_series(headers)
    index = np.argwhere(volume.voxels[0] == 2 * (1000 + 300 + 20 + 1) - 7)
    assert np.allclose(world_points(volume.affine, index), [[9.25, 19.0, 45.0]])


def test_what_a_frame_says_wins_over_what_is_shared(tmp_path: Path) -> None:
    def edit(group: Dataset, n: int) -> None:
        group.PixelValueTransformationSequence = item(RescaleSlope=n + 1, RescaleIntercept=0, RescaleType="US")

    assert [header.slope for header in frames_of(tmp_path, enhanced_dataset(edit=edit))] == [1.0, 2.0, 3.0, 4.0]


def test_a_damaged_position_is_not_replaced_by_another(tmp_path: Path) -> None:
    def edit(group: Dataset, n: int) -> None:
        if n == 2:
            group.PlanePositionSequence[0].ImagePositionPatient = [1, 2]

    data = enhanced_dataset(edit=edit)
    data.ImagePositionPatient = [9, 9, 9]
    assert frames_of(tmp_path, data)[2].position is None


def test_echo_time_phase_and_diffusion_of_frames_are_read(tmp_path: Path) -> None:
    def edit(group: Dataset, n: int) -> None:
        group.MREchoSequence = item(EffectiveEchoTime=2.5 * (n + 1))
        group.FrameContentSequence[0].TemporalPositionIndex = n + 1
        group.FrameContentSequence[0].FrameAcquisitionDateTime = f"2024013110000{n}.5"
        group.CardiacSynchronizationSequence = item(
            NominalPercentageOfCardiacPhase=25.0, NominalCardiacTriggerDelayTime=80.0 * n
        )
        group.MRModifierSequence = item(InversionTimes=[900.0])
        group.MRTimingAndRelatedParametersSequence = item(RepetitionTime=2000, FlipAngle=90)
        diffusion = item(DiffusionBValue=1000.0 * n, DiffusionDirectionality="DIRECTIONAL")
        diffusion[0].DiffusionGradientDirectionSequence = item(DiffusionGradientOrientation=[0.0, 0.6, 0.8])
        group.MRDiffusionSequence = diffusion
        group.MRImageFrameTypeSequence = item(
            FrameType=["ORIGINAL", "PRIMARY", "M_SE", "NONE"], ComplexImageComponent="MAGNITUDE"
        )

    header = frames_of(tmp_path, enhanced_dataset(edit=edit))[1]
    assert (header.echo_time, header.temporal_position, header.acquired) == (5.0, "2", "20240131100001.5")
    assert (header.phase, header.trigger_time, header.inversion_time) == ("25", "80", 900.0)
    assert (header.repetition_time, header.flip_angle, header.component) == (2000.0, 90.0, "MAGNITUDE")
    assert (header.b_value, header.diffusion) == (1000.0, (0.0, 0.6, 0.8))
    assert header.image_type == ("ORIGINAL", "PRIMARY", "M_SE", "NONE")


def test_attributes_that_a_conversion_moved_away_are_found(tmp_path: Path) -> None:
    def edit(group: Dataset, n: int) -> None:
        group.UnassignedPerFrameConvertedAttributesSequence = item(InstanceNumber=41 + n, EchoNumbers=2)

    headers = frames_of(tmp_path, enhanced_dataset(edit=edit))
    assert [(header.instance, header.echo_number) for header in headers] == [(41 + n, "2") for n in range(4)]


def test_enhanced_pet_tells_its_unit_and_the_moment_of_its_decay_correction(tmp_path: Path) -> None:
    data = enhanced_dataset()
    data.SOPClassUID, data.Modality = EnhancedPETImageStorage, "PT"
    data.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence[0].RescaleType = "BQML"
    data.DecayCorrectionDateTime = "20240131114000"
    data.RadiopharmaceuticalInformationSequence = item(
        RadiopharmaceuticalStartDateTime="20240131100000", RadionuclideTotalDose=350e6, RadionuclideHalfLife=6000
    )
    data.PatientWeight = 70
    headers = frames_of(tmp_path, data)
    # 70 kg / 350 MBq, doubled by one half-life of 6000 s.
    assert suvbw_factor([header.pet for header in headers if header.pet]) == pytest.approx(4e-4)


def test_private_groups_are_passed_over(tmp_path: Path) -> None:
    def edit(group: Dataset, n: int) -> None:
        block = group.private_block(0x2005, "Philips MR Imaging DD 005", create=True)
        block.add_new(0x0F, "SQ", item(ImagePositionPatient=[0, 0, 0], RescaleSlope=99))

    header = frames_of(tmp_path, enhanced_dataset(edit=edit))[3]
    assert (header.position, header.slope) == ((-10.0, -20.0, 45.0), 2.0)


@pytest.mark.parametrize(
    ("groups", "words"), [(3, "4 frames, but 3 of them are described"), (5, "4 frames, but 5 of them are described")]
)
def test_more_or_fewer_descriptions_than_frames_are_refused(tmp_path: Path, groups: int, words: str) -> None:
    data = enhanced_dataset(5)
    data.PerFrameFunctionalGroupsSequence = Items(list(data.PerFrameFunctionalGroupsSequence)[:groups])
    data.NumberOfFrames = 4
    with pytest.raises(Refusal, match=words) as refusal:
        frames_of(tmp_path, data)
    assert refusal.value.code == "frame_count"


def test_enhanced_images_without_groups_are_refused(tmp_path: Path) -> None:
    data = enhanced_dataset()
    del data.PerFrameFunctionalGroupsSequence
    with pytest.raises(Refusal, match="4 frames without functional groups"):
        frames_of(tmp_path, data)


@pytest.mark.parametrize("count", [5, 20_000])
def test_frames_that_the_file_cannot_hold_are_refused_before_they_are_made(tmp_path: Path, count: int) -> None:
    data = enhanced_dataset()
    data.NumberOfFrames = count
    with pytest.raises(Refusal, match=f"{count} frames of 2 x 3 need {12 * count} bytes of pixels, the file holds 48"):
        frames_of(tmp_path, data)


def test_too_many_frames_are_refused(tmp_path: Path) -> None:
    data = enhanced_dataset()
    data.NumberOfFrames = 2_000_000_000
    with pytest.raises(Refusal, match="2000000000 frames in one file, expected at most 20000"):
        frames_of(tmp_path, data)


def test_frames_without_pixels_are_refused(tmp_path: Path) -> None:
    data = enhanced_dataset()
    del data.PixelData
    with pytest.raises(Refusal, match="4 frames without PixelData"):
        frames_of(tmp_path, data)


def test_a_number_of_frames_that_is_none_is_refused(tmp_path: Path) -> None:
    path = save_slice(tmp_path / "a", enhanced_dataset(12))
    path.write_bytes(path.read_bytes().replace(b"\x28\x00\x08\x00IS\x02\x0012", b"\x28\x00\x08\x00IS\x02\x00x2"))
    with pytest.raises(Refusal, match="NumberOfFrames is no count"):
        read_frames(path)


def test_sequences_of_too_many_items_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dicom_frames, "MAX_ITEMS", 10)
    with pytest.raises(Refusal, match="a sequence holds 12 items, expected at most 10"):
        frames_of(tmp_path, enhanced_dataset())


def test_headers_of_too_many_items_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dicom_parse, "MAX_ITEMS", 10)
    monkeypatch.setattr(dicom_parse, "WINDOWS", (dicom_parse.MAX_HEADER,))
    with pytest.raises(Refusal, match="the header holds 16 items, expected at most 10"):
        frames_of(tmp_path, enhanced_dataset())


def test_a_film_stays_one_header_that_cannot_be_read(tmp_path: Path) -> None:
    (header,) = frames_of(tmp_path, cine_dataset())
    with pytest.raises(Refusal, match="3 frames in one file that nothing places in the patient: a film"):
        read_series([header])


def test_a_film_may_be_taken_as_flat_images(tmp_path: Path) -> None:
    headers = frames_of(tmp_path, cine_dataset(), cine="frames")
    volume, _, _ = read_series([headers[2]])
    assert (volume.geometry, volume.voxels.shape) == ("none", (1, 2, 3, 1))
    assert volume.voxels[0, 1, 2, 0] == 1000 + 200 + 20 + 1 - 1024


@pytest.mark.parametrize("missing", ["Rows", "PixelData and matrix"])
def test_an_image_without_a_matrix_is_refused_and_not_ignored(tmp_path: Path, missing: str) -> None:
    data = slice_dataset(0)
    del data.Rows
    if missing != "Rows":
        del data.Columns, data.PixelData
    with pytest.raises(Refusal, match="an image without Rows or Columns") as refusal:
        frames_of(tmp_path, data)
    assert refusal.value.code == "damaged_header"


def test_objects_that_are_no_images_are_left_alone(tmp_path: Path) -> None:
    data = cine_dataset()
    data.SOPClassUID = WHOLE_SLIDE
    assert len(frames_of(tmp_path, data)) == 1


@pytest.mark.parametrize("spacing", [-4.0, 4.0])
def test_nuclear_slices_lie_where_the_sign_of_their_spacing_says(tmp_path: Path, spacing: float) -> None:
    headers = frames_of(tmp_path, nuclear_dataset(spacing))
    assert [(header.position or ())[2] for header in headers] == [30 + n * spacing for n in (2, 3, 0, 1)]
    assert {header.spacing_between for header in headers} == {4.0}


@pytest.mark.parametrize(
    ("tags", "code"),
    [
        ({"SliceVector": [1, 2, 3]}, "frame_count"),
        ({"FrameIncrementPointer": [0x00540070, 0x00540080]}, "frame_count"),
        ({"DetectorInformationSequence": None}, "missing_geometry"),
        ({"SpacingBetweenSlices": None}, "missing_geometry"),
    ],
)
def test_nuclear_volumes_that_are_not_told_are_refused(tmp_path: Path, tags: dict[str, Any], code: str) -> None:
    data = nuclear_dataset()
    tagged(**tags)(data, 0)
    with pytest.raises(Refusal) as refusal:
        frames_of(tmp_path, data)
    assert refusal.value.code == code


@pytest.mark.parametrize("normal", [-1.0, 1.0])
def test_a_mosaic_becomes_slices_along_the_makers_normal(tmp_path: Path, normal: float) -> None:
    headers = frames_of(tmp_path, mosaic_dataset(normal=normal))
    assert [header.tile for header in headers] == [(0, 0, 6, 4), (0, 2, 6, 4), (3, 0, 6, 4)]
    assert {(header.rows, header.columns) for header in headers} == {(3, 2)}
    # Half of (4 - 2) columns of 0.75 mm and of (6 - 3) rows of 0.5 mm further in than the picture's corner.
    assert [header.position for header in headers] == [(-9.25, -19.25, 30 + 4 * n * normal) for n in range(3)]
    ordered = sorted(headers, key=lambda header: (header.position or ())[2])
    volume, grid, _ = read_series(ordered)
    stored = to_source(volume.voxels, grid)[0]
    slices = [pixels_of(n).T for n in ((2, 1, 0) if normal < 0 else (0, 1, 2))]
    assert np.array_equal(stored, np.stack(slices, axis=-1))


def test_another_number_of_slices_in_the_makers_other_element_is_refused(tmp_path: Path) -> None:
    data = mosaic_dataset()
    data.private_block(0x0019, "SIEMENS MR HEADER", create=True).add_new(0x0A, "US", 4)
    with pytest.raises(Refusal, match=r"2 number\(s\) of slices are told, expected one"):
        frames_of(tmp_path, data)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: data.__delitem__(0x00291010), r"no number\(s\) of slices are told"),
        (lambda data: delattr(data, "SpacingBetweenSlices"), "SpacingBetweenSlices is missing"),
        (lambda data: delattr(data, "PixelSpacing"), "or PixelSpacing is missing"),
        (lambda data: setattr(data, "ImageOrientationPatient", [0, 1, 0, 0, 0, 1]), "not that of the picture"),
        (lambda data: set_frames_to(data, (5, 4)), "4 x 5 pixels do not hold 2 x 2 tiles"),
        (lambda data: number_alone(data), "the normal of its slices is not told"),
    ],
)
def test_mosaics_that_are_not_told_apart_are_refused(tmp_path: Path, change: Any, words: str) -> None:
    data = mosaic_dataset()
    change(data)
    with pytest.raises(Refusal, match=words) as refusal:
        frames_of(tmp_path, data)
    assert refusal.value.code == "mosaic"


def set_frames_to(data: Dataset, shape: tuple[int, int]) -> None:
    set_frames(data, [np.zeros(shape, np.uint16)])


def number_alone(data: Dataset) -> None:
    del data[0x00291010]
    data.private_block(0x0019, "SIEMENS MR HEADER", create=True).add_new(0x0A, "US", 3)
