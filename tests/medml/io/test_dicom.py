"""DICOM headers and series."""

from __future__ import annotations

import gzip
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_phantoms import headers_of, pixels_of, save_slice, set_pixels, slice_dataset, tagged, write_series
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset, write_file_meta_info
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from medml.errors import GeometryError, Refusal
from medml.geometry import to_source, world_points
from medml.io import dicom, dicom_parse, dicom_pixels
from medml.io.dicom import columns_of, read_header, read_series


def one(folder: Path, **tags: Any) -> dicom.Header:
    (header,) = headers_of(write_series(folder, 1, edit=tagged(**tags)))
    return header


def test_a_header_tells_what_the_file_says(tmp_path: Path) -> None:
    header = one(tmp_path)
    assert (header.rows, header.columns, header.modality) == (3, 2, "CT")
    assert header.position == (-10.0, -20.0, 30.0)
    assert header.pixel_spacing == (0.5, 0.75)
    assert (header.patient_id, header.issuer) == ("PID7", "HOSP")
    assert header.image_type == ("ORIGINAL", "PRIMARY", "AXIAL")
    assert (header.slope, header.intercept) == (1.0, -1024.0)
    assert (header.pixel_bytes, header.pixel_present) == (12, 12)


def test_columns_hold_no_identity(tmp_path: Path) -> None:
    assert columns_of(one(tmp_path)) == {
        "sex": "F",
        "age": 61,
        "scanner": "ACME Scan 9",
        "slice_thickness": 5.0,
    }
    header = one(tmp_path / "b", BodyPartExamined="CHEST", ViewPosition="PA", PatientSex="X")
    assert columns_of(header) == {
        "age": 61,
        "scanner": "ACME Scan 9",
        "slice_thickness": 5.0,
        "body_part": "CHEST",
        "view": "PA",
    }


@pytest.mark.parametrize(
    ("age", "birth", "years"),
    [("061Y", "", 61), ("095Y", "", 90), ("018M", "", 1), ("010W", "", 0), ("", "19500302", 73), ("", "bad", None)],
)
def test_age_is_in_whole_years_up_to_ninety(tmp_path: Path, age: str, birth: str, years: int | None) -> None:
    assert one(tmp_path, PatientAge=age, PatientBirthDate=birth, StudyDate="20240301").age == years


def test_a_file_without_preamble_is_read(tmp_path: Path) -> None:
    path = write_series(tmp_path, 1)[0]
    whole = path.read_bytes()
    path.write_bytes(whole[132:])
    with_meta = read_header(path)
    length = int.from_bytes(whole[140:144], "little")
    path.write_bytes(whole[144 + length :])
    bare = read_header(path)
    assert with_meta is not None
    assert bare is not None
    assert with_meta.sop_uid == bare.sop_uid
    volume, grid, _ = read_series([bare])
    assert to_source(volume.voxels, grid)[0, 0, 0, 0] == 1000 - 1024


def test_what_is_not_dicom_is_none(tmp_path: Path) -> None:
    for name, content in (("a", b""), ("b", b"hello" * 100), ("c", gzip.compress(b"x" * 300)), ("d", b"\x08\x00" * 80)):
        (tmp_path / name).write_bytes(content)
        assert read_header(tmp_path / name) is None


def test_a_damaged_header_is_refused_without_its_words(tmp_path: Path) -> None:
    path = write_series(tmp_path, 1)[0]
    whole = path.read_bytes()
    end = 144 + int.from_bytes(whole[140:144], "little")
    sequence = b"\x08\x00\x40\x11SQ\x00\x00\xff\xff\xff\xff" + b"PID7" * 9
    path.write_bytes(whole[:end] + sequence + whole[end:])
    with pytest.raises(Refusal, match="the DICOM header cannot be parsed") as refusal:
        read_header(path)
    assert "PID7" not in str(refusal.value)


def test_a_frame_without_a_size_is_refused(tmp_path: Path) -> None:
    path = compressed(tmp_path, JPEGLSLossless)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"\xff\xd8\xff\xf7", b"\xff\xd8\xff\x00"))
    with pytest.raises(Refusal, match="a compressed frame has no readable size"):
        read_series(headers_of([path]))


def test_every_voxel_keeps_its_place_and_becomes_hounsfield_units(tmp_path: Path) -> None:
    volume, grid, findings = read_series(headers_of(write_series(tmp_path)))
    assert volume.voxels.shape == (1, 2, 3, 4)
    assert volume.voxels.dtype == np.int16
    assert findings == ()
    assert grid.shape == (2, 3, 4)
    # Column 1, row 2, slice 3: LPS (-10 + 0.75, -20 + 2 x 0.5, 30 + 15), so RAS (9.25, 19, 45).
    index = np.argwhere(volume.voxels[0] == 1000 + 300 + 20 + 1 - 1024)
    assert np.allclose(world_points(volume.affine, index), [[9.25, 19.0, 45.0]])
    assert to_source(volume.voxels, grid)[0, 1, 2, 3] == 1321 - 1024


def test_an_oblique_series_keeps_its_affine(tmp_path: Path) -> None:
    row, column = np.array([0.8, 0.6, 0.0]), np.array([0.0, 0.0, -1.0])
    normal = np.cross(row, column)

    def edit(data: Dataset, index: int) -> None:
        data.ImageOrientationPatient = [*row, *column]
        data.ImagePositionPatient = [*(np.array([5.0, 6.0, 7.0]) + 2.5 * index * normal).round(6)]

    volume, grid, _ = read_series(headers_of(write_series(tmp_path, edit=edit)))
    place = np.argwhere(volume.voxels[0] == 1000 + 200 + 10 + 1 - 1024)
    lps = np.array([5.0, 6.0, 7.0]) + row * 0.75 + column * 0.5 + 5.0 * normal
    assert np.allclose(world_points(volume.affine, place), [lps * [-1, -1, 1]], atol=1e-6)
    assert np.linalg.det(volume.affine[:3, :3]) > 0
    assert to_source(volume.voxels, grid)[0, 1, 1, 2] == 1211 - 1024


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless])
def test_compressed_slices_decode_to_the_same_values(tmp_path: Path, syntax: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 4000, (32, 32)).astype(np.uint16)

    def edit(data: Dataset, index: int) -> None:
        set_pixels(data, pixels + index)
        data.compress(syntax, pixels + index, generate_instance_uid=False)

    volume, grid, _ = read_series(headers_of(write_series(tmp_path, 2, edit=edit)))
    assert np.array_equal(to_source(volume.voxels, grid)[0, :, :, 1].T, pixels.astype(int) + 1 - 1024)


def test_implicit_big_endian_and_deflated_files_give_the_same_values(tmp_path: Path) -> None:
    for syntax in (ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian):
        data = slice_dataset(0)
        if syntax == ExplicitVRBigEndian:
            data.PixelData = pixels_of(0).byteswap().tobytes()
        buffer = DicomBytesIO()
        buffer.is_implicit_VR, buffer.is_little_endian = syntax.is_implicit_VR, syntax.is_little_endian
        write_dataset(buffer, data)
        body = buffer.getvalue()
        if syntax == DeflatedExplicitVRLittleEndian:
            packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
            body = packer.compress(body) + packer.flush()
        meta = DicomBytesIO()
        data.file_meta.TransferSyntaxUID = syntax
        data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID
        data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
        write_file_meta_info(meta, data.file_meta)
        path = tmp_path / syntax
        path.write_bytes(bytes(128) + b"DICM" + meta.getvalue() + body)
        volume, grid, _ = read_series(headers_of([path]))
        assert np.array_equal(to_source(volume.voxels, grid)[0, :, :, 0].T, pixels_of(0).astype(int) - 1024), syntax


def test_a_deflate_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dicom_parse, "MAX_INFLATED", 1000)
    data = slice_dataset(0)
    data.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    data.ImageComments = "x" * 5000
    with pytest.raises(Refusal, match="the deflated data set is over 1000 bytes"):
        read_header(save_slice(tmp_path / "a", data))


def test_each_slice_has_its_own_rescale(tmp_path: Path) -> None:
    def edit(data: Dataset, index: int) -> None:
        data.RescaleSlope, data.RescaleIntercept = 0.5 * (index + 1), index

    volume, grid, _ = read_series(headers_of(write_series(tmp_path, 2, edit=edit)))
    assert volume.voxels.dtype == np.float32
    assert to_source(volume.voxels, grid)[0, 0, 0].tolist() == [500.0, 1101.0]


def test_ct_without_rescale_is_told(tmp_path: Path) -> None:
    _, _, findings = read_series([one(tmp_path, RescaleIntercept=None, RescaleSlope=None)])
    assert [finding.code for finding in findings] == ["no_rescale"]


def test_unused_high_bits_are_cleared_and_signs_extended(tmp_path: Path) -> None:
    stored = np.array([[0xF001, 0x0FFF]], np.uint16)
    for signed, expected in ((0, [1, 4095]), (1, [1, -1])):
        data = slice_dataset(0)
        set_pixels(data, stored)
        data.BitsStored, data.HighBit, data.PixelRepresentation, data.RescaleIntercept = 12, 11, signed, 0
        volume, grid, _ = read_series(headers_of([save_slice(tmp_path / str(signed), data)]))
        assert to_source(volume.voxels, grid)[0, :, 0, 0].tolist() == expected


@pytest.mark.parametrize(("modality", "expected"), [("DX", [4095, 0]), ("CT", [0, 4095])])
def test_monochrome1_is_turned_round_unless_values_have_a_unit(
    tmp_path: Path, modality: str, expected: list[int]
) -> None:
    data = slice_dataset(0)
    data.Modality = modality
    set_pixels(data, np.array([[0, 4095]], np.uint16), "MONOCHROME1")
    data.BitsStored, data.HighBit, data.RescaleIntercept = 12, 11, 0
    volume, grid, _ = read_series(headers_of([save_slice(tmp_path / "a", data)]))
    assert to_source(volume.voxels, grid)[0, :, 0, 0].tolist() == expected


def test_a_radiograph_without_spacing_has_no_geometry(tmp_path: Path) -> None:
    tags = dict.fromkeys(("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"))
    volume, grid, _ = read_series([one(tmp_path, Modality="DX", RescaleIntercept=0, **tags)])
    assert volume.geometry == "none"
    assert volume.voxels.shape == (1, 2, 3, 1)
    assert volume.voxels[0, 1, 2, 0] == 1021
    assert grid.shape == (2, 3, 1)
    tags.pop("PixelSpacing")
    volume, _, _ = read_series([one(tmp_path / "b", Modality="DX", RescaleIntercept=0, **tags)])
    assert volume.geometry == "mm"
    assert np.allclose(np.diag(volume.affine), [0.75, 0.5, 1, 1])


def test_a_colour_picture_has_three_components(tmp_path: Path) -> None:
    pixels = np.arange(18, dtype=np.uint8).reshape(3, 2, 3)
    data = slice_dataset(0)
    set_pixels(data, pixels, "RGB")
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "RescaleSlope", "RescaleIntercept"):
        delattr(data, name)
    data.Modality = "XC"
    volume, _, _ = read_series(headers_of([save_slice(tmp_path / "a", data)]))
    assert volume.voxels.shape == (3, 2, 3, 1)
    assert volume.voxels[:, 1, 2, 0].tolist() == pixels[2, 1].tolist()


def test_truncated_pixels_are_refused_with_both_sizes(tmp_path: Path) -> None:
    path = write_series(tmp_path, 1)[0]
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(Refusal, match="needs 12 bytes of pixels, its file holds 10"):
        read_series(headers_of([path]))


def test_a_file_that_changed_since_is_refused(tmp_path: Path) -> None:
    paths = write_series(tmp_path, 1)
    headers = headers_of(paths)
    os.utime(paths[0], (1, 1))
    with pytest.raises(Refusal, match="changed between reading its header and its pixels"):
        read_series(headers)


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({"NumberOfFrames": 3}, "3 frames in one file"),
        ({"RescaleSlope": 0}, "RescaleSlope is 0"),
        ({"PixelData": None}, "has no PixelData"),
        ({"BitsAllocated": 1}, "1 bits a pixel|of 1 bits"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "index a palette, but the file has none"),
        ({"Rows": 5000, "Columns": 60000}, "expected at most 16384 voxels an axis"),
        ({"Rows": 0}, "at least one voxel an axis"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "the cosine 1.000"),
    ],
)
def test_what_cannot_be_read_is_refused(tmp_path: Path, tags: dict[str, Any], message: str) -> None:
    with pytest.raises(Refusal, match=message):
        read_series([one(tmp_path, **tags)])


def test_a_lookup_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="modality lookup table"):
        read_series([one(tmp_path, ModalityLUTSequence=[Dataset()])])


def test_slices_of_different_types_are_refused(tmp_path: Path) -> None:
    def edit(data: Dataset, index: int) -> None:
        data.PixelRepresentation = index

    with pytest.raises(Refusal, match="one slice stores pixels as signed 16-bit MONOCHROME2, another as unsigned"):
        read_series(headers_of(write_series(tmp_path, 2, edit=edit)))


def test_the_affine_needs_its_tags(tmp_path: Path) -> None:
    with pytest.raises(GeometryError, match="position or pixel spacing is missing"):
        dicom.affine_of([one(tmp_path, ImagePositionPatient=None)])
    with pytest.raises(GeometryError, match="ImageOrientationPatient is missing"):
        dicom.slice_normal(one(tmp_path / "b", ImageOrientationPatient=None))


def test_a_syntax_without_decoder_is_named(tmp_path: Path) -> None:
    def edit(data: Dataset, index: int) -> None:
        data.compress(RLELossless, generate_instance_uid=False)
        data.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.103"

    headers = headers_of(write_series(tmp_path, 1, edit=edit))
    with pytest.raises(Refusal, match=r"no decoder for the transfer syntax .*1\.2\.840\.10008\.1\.2\.4\.103"):
        read_series(headers)
    assert "unknown" in dicom_pixels.decoder_missing("no uid")


def compressed(folder: Path, syntax: str) -> Path:
    pixels = np.random.default_rng(0).integers(0, 4000, (32, 32)).astype(np.uint16)

    def edit(data: Dataset, index: int) -> None:
        set_pixels(data, pixels)
        data.compress(syntax, pixels, generate_instance_uid=False)

    return write_series(folder, 1, edit=edit)[0]


@pytest.mark.parametrize("syntax", [JPEGLSLossless, JPEG2000Lossless])
def test_a_frame_larger_than_its_header_is_refused_before_it_is_decoded(tmp_path: Path, syntax: str) -> None:
    path = compressed(tmp_path, syntax)
    data = path.read_bytes()
    size = (32).to_bytes(2 if syntax == JPEGLSLossless else 4, "big") * 2
    at = data.rindex(b"\xff\xf7" if syntax == JPEGLSLossless else b"\xff\x51")
    at = data.index(size, at)
    path.write_bytes(data[: at + len(size) - 2] + b"\x7f\xff" + data[at + len(size) :])
    with pytest.raises(
        Refusal, match=r"a compressed frame has \(rows, columns, samples\) .*, its header says \(32, 32, 1\)"
    ):
        read_series(headers_of([path]))


def test_a_frame_that_does_not_decode_is_refused(tmp_path: Path) -> None:
    path = compressed(tmp_path, RLELossless)
    data = bytearray(path.read_bytes())
    at = data.rindex(b"\xfe\xff\x00\xe0") + 8
    data[at + 8 : at + 12] = (5).to_bytes(4, "little")  # the second segment begins inside the segment table
    path.write_bytes(data)
    with pytest.raises(Refusal, match="a frame does not decode"):
        read_series(headers_of([path]))
