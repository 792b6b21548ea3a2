"""The proof that a series is one regular grid."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_phantoms import ROOT, headers_of, pixels_of, save_slice, set_pixels, slice_dataset, tagged, write_series
from pydicom.dataset import Dataset
from pydicom.uid import RLELossless

from medml.catalogue import series
from medml.catalogue.parts import ProvedSeries, RefusedSeries
from medml.catalogue.policies import DEFAULT, Policies
from medml.catalogue.series import group_series, patient_of, prove_series
from medml.errors import GeometryError, Refusal
from medml.io.dicom import Header
from medml.io.dicom_kinds import is_image

STORAGE = "1.2.840.10008.5.1.4.1.1."


def slices(folder: Path, count: int = 4, **options: Any) -> list[Header]:
    return headers_of(write_series(folder, count, **options))


def prove(headers: Sequence[Header], policies: Policies = DEFAULT) -> ProvedSeries:
    """Return the one scan that a series becomes, or raise why it becomes none."""
    (part,) = prove_series(headers, policies)
    if isinstance(part, RefusedSeries):
        raise part.refusal
    return part


def refusing(name: str) -> Policies:
    return Policies.model_validate({name: "refuse"})


def at(*positions: float) -> Any:
    """Return an edit that puts the slices at these heights in mm."""

    def edit(data: Dataset, index: int) -> None:
        data.ImagePositionPatient = [-10.0, -20.0, positions[index]]

    return edit


def test_slices_are_ordered_by_position_along_the_normal_whatever_their_names(tmp_path: Path) -> None:
    proved = prove(slices(tmp_path)[::-1])
    assert [header.instance for header in proved.headers] == [1, 2, 3, 4]
    assert len(proved.members) == 4
    assert proved.findings == ()


def test_the_normal_and_not_the_table_gives_the_order(tmp_path: Path) -> None:
    def edit(data: Dataset, index: int) -> None:
        data.ImageOrientationPatient = [1, 0, 0, 0, -1, 0]

    proved = prove(slices(tmp_path, edit=edit))
    assert [header.instance for header in proved.headers] == [4, 3, 2, 1]


def test_rounded_positions_pass(tmp_path: Path) -> None:
    assert len(prove(slices(tmp_path, edit=at(0.0, 0.63, 1.25, 1.88))).headers) == 4


@pytest.mark.parametrize(
    ("heights", "code", "message"),
    [
        ((0, 5, 10, 20), "missing_slice", r"after 10\.00 mm is 10\.00 mm away, expected 5\.00 mm: 1 of 5 slices are"),
        ((0, 5, 10, 25), "missing_slice", r"is 15\.00 mm away, expected 5\.00 mm: 2 of 6 slices are missing"),
        (
            (0, 5, 12, 17),
            "variable_spacing",
            r"after 5\.00 mm is 7\.00 mm away, expected 5\.00 mm; distances run from 5",
        ),
        ((0, 5, 10, 15.2), "variable_spacing", r"is 5\.20 mm away, expected 5\.00 mm"),
        (
            (0, 5, 5, 10),
            "duplicate_positions",
            r"1 of 4 slices stand where another one does, first at 5\.00 mm \(instance",
        ),
    ],
)
def test_irregular_slices_are_refused_with_both_numbers(
    tmp_path: Path, heights: tuple[float, ...], code: str, message: str
) -> None:
    with pytest.raises(GeometryError, match=message) as refusal:
        prove(slices(tmp_path, edit=at(*heights)))
    assert refusal.value.code == code


def test_a_slow_drift_is_refused(tmp_path: Path) -> None:
    heights = [round(5 * n + 0.0025 * n * (n - 20), 4) for n in range(21)]  # 0.25 mm off in the middle
    with pytest.raises(GeometryError, match=r"lies 0\.\d+ mm from the regular grid, expected at most"):
        prove(slices(tmp_path, 21, edit=at(*heights)))


def test_a_tilted_gantry_is_refused_with_its_angle(tmp_path: Path) -> None:
    def edit(data: Dataset, index: int) -> None:
        data.ImagePositionPatient = [-10.0, -20.0 + index, 5.0 * index]

    with pytest.raises(GeometryError, match=r"sideways by 3\.00 mm over 15\.00 mm \(11\.31 degrees") as refusal:
        prove(slices(tmp_path, edit=edit), refusing("gantry_tilt"))
    assert refusal.value.code == "gantry_tilt"


def test_a_sideways_jump_is_refused(tmp_path: Path) -> None:
    def edit(data: Dataset, index: int) -> None:
        data.ImagePositionPatient = [-10.0 + 3 * (index == 2), -20.0, 5.0 * index]

    with pytest.raises(GeometryError, match=r"the slice at 10\.00 mm lies 3\.00 mm from the regular grid"):
        prove(slices(tmp_path, edit=edit))


@pytest.mark.parametrize(
    ("name", "values", "code", "message"),
    [
        (
            "ImageOrientationPatient",
            ([1, 0, 0, 0, 1, 0], [1, 0, 0, 0, 0.8, 0.6]),
            "mixed_orientation",
            r"2 values of the orientation in 4 files \(1,0,0,0,1,0 in 2",
        ),
        ("PixelSpacing", ([0.5, 0.75], [0.5, 0.8]), "mixed_spacing", r"0\.5,0\.75 in 2, 0\.5,0\.8 in 2"),
        ("FrameOfReferenceUID", ("1.2", "1.3"), "mixed_frame_of_reference", "2 values of the frame of reference"),
        ("Modality", ("CT", "MR"), "mixed_modality", "CT in 2, MR in 2"),
    ],
)
def test_mixtures_are_refused(tmp_path: Path, name: str, values: tuple[Any, Any], code: str, message: str) -> None:
    def edit(data: Dataset, index: int) -> None:
        setattr(data, name, values[index // 2])

    with pytest.raises(GeometryError, match=message) as refusal:
        prove(slices(tmp_path, edit=edit), refusing(code))
    assert refusal.value.code == code


def test_a_mixed_matrix_is_refused(tmp_path: Path) -> None:
    def edit(data: Dataset, index: int) -> None:
        if index == 3:
            set_pixels(data, np.zeros((4, 4), np.uint16))

    with pytest.raises(GeometryError, match="2 x 3 in 3, 4 x 4 in 1"):
        prove(slices(tmp_path, edit=edit), refusing("mixed_matrix"))


@pytest.mark.parametrize("name", ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"])
def test_missing_geometry_is_refused(tmp_path: Path, name: str) -> None:
    def edit(data: Dataset, index: int) -> None:
        if index == 1:
            delattr(data, name)

    with pytest.raises(GeometryError, match=f"{name} is missing or damaged in 1 of 4 slices"):
        prove(slices(tmp_path, edit=edit))


def test_a_spacing_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GeometryError, match="PixelSpacing is 0 mm, expected more than 0"):
        prove(slices(tmp_path, edit=tagged(PixelSpacing=[0, 1])))


def test_every_second_slice_missing_is_noticed(tmp_path: Path) -> None:
    def edit(data: Dataset, index: int) -> None:
        data.SpacingBetweenSlices = 2.5
        data.InstanceNumber = 1 + 2 * index

    with pytest.raises(GeometryError, match=r"5\.00 mm apart and their numbers 2, expected 2\.50 mm and 1"):
        prove(slices(tmp_path, edit=edit))
    headers = slices(tmp_path / "b", edit=tagged(SpacingBetweenSlices=2.5))
    assert [finding.code for finding in prove(headers).findings] == ["spacing_disagrees"]


def test_numbers_that_skip_are_told(tmp_path: Path) -> None:
    def edit(data: Dataset, index: int) -> None:
        data.SliceThickness, data.InstanceNumber = 4, 10 - 3 * index

    (finding,) = prove(slices(tmp_path, edit=edit)).findings
    assert (finding.code, finding.numbers) == ("numbers_skipped", {"step": 3.0})


def test_a_thickness_says_that_every_second_slice_is_missing(tmp_path: Path) -> None:
    def edit(data: Dataset, index: int) -> None:
        data.SliceThickness, data.InstanceNumber = 2.5, 1 + 2 * index

    with pytest.raises(GeometryError, match="only one of every 2 slices is here"):
        prove(slices(tmp_path, edit=edit))


def test_exact_copies_are_taken_once(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "a")
    paths.append(Path(shutil.copy(paths[1], tmp_path / "copy")))
    proved = prove(headers_of(paths))
    assert (len(proved.headers), len(proved.members)) == (4, 5)
    assert [(f.code, f.numbers["copies"]) for f in proved.findings] == [("duplicate_files", 1.0)]


def test_one_uid_with_different_content_is_refused(tmp_path: Path) -> None:
    def edit(data: Dataset, index: int) -> None:
        data.SOPInstanceUID = f"{ROOT}.4.1"

    with pytest.raises(Refusal, match="2 files have one SOP instance UID but different content"):
        prove(slices(tmp_path, 2, edit=edit))


def test_a_single_slice_has_its_thickness(tmp_path: Path) -> None:
    assert prove(slices(tmp_path / "a", 1)).findings == ()
    headers = slices(tmp_path / "b", 1, edit=tagged(SliceThickness=None))
    assert [finding.code for finding in prove(headers).findings] == ["no_thickness"]


def test_a_single_ct_slice_without_position_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GeometryError, match="ImagePositionPatient is missing or damaged in 1 of 1"):
        prove(slices(tmp_path, 1, edit=tagged(ImagePositionPatient=None)))


@pytest.mark.parametrize(
    ("tags", "code", "message"),
    [
        (
            {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]},
            "localizer",
            "4 of 4 files are of the image type LOCALIZER",
        ),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "MOSAIC"]}, "mosaic", "slices tiled into one picture"),
        ({"BurnedInAnnotation": "YES"}, "burned_in_annotation", "marked as showing text"),
        ({"SOPClassUID": STORAGE + "7"}, "secondary_capture", "a secondary capture"),
        ({"SOPClassUID": STORAGE + "7.2"}, "secondary_capture", "a secondary capture"),
        ({"ConversionType": "WSD"}, "secondary_capture", "a secondary capture"),
        ({"SOPClassUID": STORAGE + "6.1"}, "burned_in_annotation", "ultrasound, which often shows"),
        ({"NumberOfFrames": 9}, "multiframe_cine", "9 frames in one file"),
        ({"StudyInstanceUID": ""}, "missing_uid", "4 of 4 files lack the study, series or SOP"),
        ({"SOPClassUID": STORAGE + "88.33"}, "not_an_image", "4 files: structured report, no image"),
        ({"SOPClassUID": STORAGE + "481.3"}, "not_an_image", "radiotherapy structure set"),
        ({"SOPClassUID": STORAGE + "66.4"}, "not_an_image", "segmentation"),
        ({"SOPClassUID": STORAGE + "11.1"}, "not_an_image", "presentation state"),
        ({"Rows": None}, "not_an_image", "object without rows and columns"),
        ({"PixelData": None}, "no_pixels", "has no PixelData"),
    ],
)
def test_what_is_no_usable_image_is_refused(tmp_path: Path, tags: dict[str, Any], code: str, message: str) -> None:
    with pytest.raises(Refusal, match=message) as refusal:
        prove(slices(tmp_path, edit=tagged(**tags)))
    assert refusal.value.code == code


@pytest.mark.parametrize("name", ["RescaleSlope", "RescaleIntercept"])
def test_a_rescale_in_some_slices_only_is_refused(tmp_path: Path, name: str) -> None:
    def edit(data: Dataset, index: int) -> None:
        if index == 2:
            delattr(data, name)

    with pytest.raises(Refusal, match=f"{name} is missing in 1 of 4 slices, expected in all or none") as refusal:
        prove(slices(tmp_path, edit=edit))
    assert refusal.value.code == "mixed_rescale"


def test_derived_images_pass_with_a_warning(tmp_path: Path) -> None:
    proved = prove(slices(tmp_path, edit=tagged(ImageType=["DERIVED", "SECONDARY"])))
    assert [(f.code, f.severity) for f in proved.findings] == [("derived_image", "warning")]


def test_ultrasound_that_says_it_shows_no_text_passes(tmp_path: Path) -> None:
    (header,) = slices(tmp_path, 1, edit=flat(SOPClassUID=STORAGE + "6.1", Modality="US", BurnedInAnnotation="NO"))
    assert [finding.code for finding in prove([header]).findings] == ["no_spacing"]


def flat(**tags: Any) -> Any:
    gone = dict.fromkeys(("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"))
    return tagged(**gone, **{"Modality": "DX", **tags})


def test_radiographs_of_one_series_stand_alone(tmp_path: Path) -> None:
    groups = group_series(slices(tmp_path, 2, edit=flat()))
    assert [len(group) for group in groups] == [1, 1]
    assert [len(prove(group).headers) for group in groups] == [1, 1]


def test_colour_slices_are_refused(tmp_path: Path) -> None:
    def edit(data: Dataset, index: int) -> None:
        set_pixels(data, np.zeros((3, 2, 3), np.uint8), "RGB")
        data.BurnedInAnnotation = "NO"

    with pytest.raises(Refusal, match="4 files in colour"):
        prove(slices(tmp_path, edit=edit))


def test_series_are_told_apart_and_reports_stand_aside(tmp_path: Path) -> None:
    first = slices(tmp_path / "a")
    second = slices(tmp_path / "b", 2, edit=tagged(SeriesInstanceUID=f"{ROOT}.9"))
    report = slices(tmp_path / "c", 1, edit=tagged(SOPClassUID=STORAGE + "88.11"))
    lost = slices(tmp_path / "d", 1, edit=tagged(SeriesInstanceUID=""))
    groups = group_series([*first, *second, *report, *lost])
    assert [len(group) for group in groups] == [4, 2, 1, 1]
    assert [is_image(group[0]) for group in groups] == [True, True, False, True]


def test_one_series_uid_for_two_patients_is_refused(tmp_path: Path) -> None:
    headers = slices(tmp_path / "a", 2) + slices(tmp_path / "b", 2, edit=tagged(PatientID="OTHER"))
    (group,) = group_series(headers)
    with pytest.raises(Refusal, match="4 files share one series UID but name 2 patients") as refusal:
        prove(group)
    assert "OTHER" not in str(refusal.value)


def test_blanks_do_not_make_another_patient(tmp_path: Path) -> None:
    def edit(data: Dataset, index: int) -> None:
        data.PatientID = "PID7" + " " * index

    assert len(prove(slices(tmp_path, edit=edit)).headers) == 4


def test_without_a_patient_id_the_study_is_the_patient(tmp_path: Path) -> None:
    headers = slices(tmp_path, edit=tagged(PatientID=""))
    assert patient_of(headers[0]) == ("study", f"{ROOT}.1")
    assert [finding.code for finding in prove(headers).findings] == ["no_patient_id"]


def test_too_many_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(series, "MAX_FILES", 3)
    with pytest.raises(Refusal, match="4 files in one series, expected at most 3"):
        prove(slices(tmp_path))


def test_a_syntax_without_decoder_is_refused_before_reading(tmp_path: Path) -> None:
    def edit(data: Dataset, index: int) -> None:
        data.compress(RLELossless, pixels_of(index), generate_instance_uid=False)
        data.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.103"

    with pytest.raises(Refusal, match="no decoder for the transfer syntax"):
        prove(slices(tmp_path, edit=edit))


def test_a_truncated_slice_is_refused(tmp_path: Path) -> None:
    path = save_slice(tmp_path / "a", slice_dataset(0))
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(Refusal, match="needs 12 bytes of pixels, its file holds 8"):
        prove(headers_of([path]))
