"""How headers are encoded, damaged and lied about; what may leave them."""

from __future__ import annotations

import os
import struct
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_objects import item, pet_dataset
from dicom_phantoms import headers_of, save_slice, set_pixels, slice_dataset, tagged, write_series
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian, JPEGLSLossless, RLELossless

from medml.errors import Refusal
from medml.io import dicom, dicom_parse
from medml.io.dicom import Header, columns_of, read_header, read_headers, read_series
from medml.io.dicom_values import identifier_of, unsigned_of


def header_of(path: Path) -> Header:
    header = read_header(path)
    assert header is not None
    return header


def saved(folder: Path, data: Dataset) -> Header:
    return header_of(save_slice(folder / "a.dcm", data))


def body_of(data: Dataset, *, implicit: bool, little: bool = True) -> bytes:
    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = implicit, little
    write_dataset(buffer, data)
    return bytes(buffer.getvalue())


def split(path: Path) -> tuple[bytes, bytes]:
    """Return preamble with file meta, and data set."""
    whole = path.read_bytes()
    end = 144 + int.from_bytes(whole[140:144], "little")
    return whole[:end], whole[end:]


def same(one: Header, other: Header) -> bool:
    names = (
        "sop_uid",
        "position",
        "orientation",
        "pixel_spacing",
        "rows",
        "columns",
        "slope",
        "intercept",
        "patient_id",
    )
    return all(getattr(one, name) == getattr(other, name) for name in names)


def test_a_data_set_that_is_not_encoded_as_declared_is_read_as_it_is(tmp_path: Path) -> None:
    data = slice_dataset(0)
    right = saved(tmp_path, data)
    meta, _ = split(tmp_path / "a.dcm")
    (tmp_path / "a.dcm").write_bytes(meta + body_of(data, implicit=True))
    wrong = header_of(tmp_path / "a.dcm")
    assert same(right, wrong)
    volume, _, _ = read_series([wrong])
    assert volume.voxels.max() == 1021 - 1024


def test_an_explicit_data_set_declared_implicit_is_read_as_it_is(tmp_path: Path) -> None:
    data = slice_dataset(0)
    right = saved(tmp_path, data)
    data.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    save_slice(tmp_path / "b.dcm", data)
    meta, _ = split(tmp_path / "b.dcm")
    (tmp_path / "b.dcm").write_bytes(meta + body_of(data, implicit=False))
    assert same(right, header_of(tmp_path / "b.dcm"))


def test_another_byte_order_than_declared_is_refused(tmp_path: Path) -> None:
    data = slice_dataset(0)
    saved(tmp_path, data)
    meta, body = split(tmp_path / "a.dcm")
    (tmp_path / "a.dcm").write_bytes(meta + body_of(data, implicit=False, little=False))
    with pytest.raises(Refusal, match="the transfer syntax says little endian, the data set is not"):
        read_header(tmp_path / "a.dcm")
    data.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    save_slice(tmp_path / "b.dcm", data)
    (tmp_path / "b.dcm").write_bytes(split(tmp_path / "b.dcm")[0] + body)
    with pytest.raises(Refusal, match="the transfer syntax says big endian, the data set is not"):
        read_header(tmp_path / "b.dcm")


@pytest.mark.parametrize("little", [True, False])
def test_a_bare_data_set_tells_its_encoding_itself(tmp_path: Path, little: bool) -> None:
    data = slice_dataset(0)
    right = saved(tmp_path, data)
    (tmp_path / "bare").write_bytes(body_of(data, implicit=False, little=little))
    bare = header_of(tmp_path / "bare")
    assert same(right, bare)
    assert bare.transfer_syntax == (dicom_parse.EXPLICIT if little else dicom_parse.BIG_ENDIAN)


def test_encapsulated_pixels_under_a_plain_syntax_are_refused(tmp_path: Path) -> None:
    data = slice_dataset(0)
    data.compress(RLELossless, generate_instance_uid=False)
    path = save_slice(tmp_path / "a", data)
    plain, packed = b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.5\0"
    path.write_bytes(path.read_bytes().replace(packed, plain))
    with pytest.raises(Refusal, match="says plain pixels, the file holds encapsulated ones"):
        read_header(path)


def test_plain_pixels_under_a_compressed_syntax_are_refused(tmp_path: Path) -> None:
    path = save_slice(tmp_path / "a", slice_dataset(0))
    path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.5\0"))
    with pytest.raises(Refusal, match="says compressed pixels, the file holds plain ones"):
        read_header(path)


def test_encapsulated_pixels_without_a_syntax_are_refused(tmp_path: Path) -> None:
    data = slice_dataset(0)
    data.compress(RLELossless, generate_instance_uid=False)
    path = save_slice(tmp_path / "a", data)
    path.write_bytes(split(path)[1])
    with pytest.raises(Refusal, match="says nothing, so plain pixels, the file holds encapsulated ones"):
        read_header(path)


def test_a_file_cut_within_its_header_is_refused(tmp_path: Path) -> None:
    path = save_slice(tmp_path / "a", slice_dataset(0))
    whole = path.read_bytes()
    at = whole.index(b"\x20\x00\x32\x00DS")
    path.write_bytes(whole[: at + 14])
    with pytest.raises(Refusal, match="the file ends within an element of its header"):
        read_header(path)


def test_an_icon_before_the_pixels_is_not_taken_for_them(tmp_path: Path) -> None:
    icon = Dataset()
    set_pixels(icon, np.full((9, 9), 7, np.uint16))
    data = slice_dataset(0)
    for undefined in (False, True):
        data.IconImageSequence = Items([icon])
        data["IconImageSequence"].is_undefined_length = undefined
        header = saved(tmp_path, data)
        assert (header.rows, header.pixel_bytes) == (3, 12)
        assert (tmp_path / "a.dcm").read_bytes()[header.pixel_offset :] == data.PixelData


def test_many_marks_of_pixels_within_values_are_not_taken_for_them(tmp_path: Path) -> None:
    data = slice_dataset(0)
    data.private_block(0x0029, "MAKER", create=True).add_new(1, "OB", b"\xe0\x7f\x10\x00OW\0\0\4\0\0\0" * 9)
    header = saved(tmp_path, data)
    assert (header.rows, header.pixel_bytes) == (3, 12)
    assert (tmp_path / "a.dcm").read_bytes()[header.pixel_offset :] == data.PixelData


@pytest.mark.parametrize("size", [20_000, 300_000, 3_000_000])
def test_long_private_values_before_the_pixels_are_skipped(tmp_path: Path, size: int) -> None:
    data = slice_dataset(0)
    data.private_block(0x0019, "MAKER", create=True).add_new(1, "OB", bytes(size))
    header = saved(tmp_path, data)
    assert (header.rows, header.pixel_bytes) == (3, 12)


def test_pixels_that_begin_too_late_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dicom_parse, "WINDOWS", (512, 1024))
    monkeypatch.setattr(dicom_parse, "MAX_HEADER", 1024)
    data = slice_dataset(0)
    data.private_block(0x0019, "MAKER", create=True).add_new(1, "OB", bytes(2000))
    with pytest.raises(Refusal, match="no pixels begin in the first 1024 bytes"):
        saved(tmp_path, data)


def test_the_group_length_of_the_file_meta_may_be_wrong(tmp_path: Path) -> None:
    path = save_slice(tmp_path / "a", slice_dataset(0))
    right = header_of(path)
    whole = bytearray(path.read_bytes())
    whole[140:144] = struct.pack("<I", 7)
    path.write_bytes(bytes(whole))
    assert same(right, header_of(path))


@pytest.mark.parametrize(
    ("charset", "name"), [("ISO_IR 100", "latin-1"), ("ISO_IR 192", "utf-8"), ("ISO_IR 144", "iso8859-5")]
)
def test_one_patient_id_is_one_in_every_character_set(tmp_path: Path, charset: str, name: str) -> None:
    wanted = "Ж7" if name == "iso8859-5" else "Ö7"
    path = save_slice(tmp_path / "a", tagged_slice(SpecificCharacterSet=charset, PatientID="OLD"))
    path.write_bytes(replaced(path.read_bytes(), 0x00100020, wanted.encode(name)))
    assert header_of(path).patient_id == wanted


def test_an_id_with_a_combining_accent_is_the_same_as_one_without() -> None:
    assert identifier_of("O\u0308".encode(), b"ISO_IR 192") == identifier_of(b"\xd6", b"ISO_IR 100") == "Ö"
    assert identifier_of(b"\xd6", b"NO SUCH SET") == "Ö"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b" 1.5 \\ 2.50", (1.5, 2.5)),
        (b"1,5\\2,5", None),
        (b"1.5\\", None),
        (b"1.5", None),
        (b"1_0\\2", None),
        (b"nan\\1", None),
        (b"1e400\\1", None),
        (b"", None),
    ],
)
def test_decimal_strings_are_read_or_not_but_never_guessed(
    tmp_path: Path, value: bytes, expected: tuple[float, ...] | None
) -> None:
    path = save_slice(tmp_path / "a", slice_dataset(0))
    path.write_bytes(replaced(path.read_bytes(), 0x00280030, value))
    assert header_of(path).pixel_spacing == expected


@pytest.mark.parametrize("value", [b"1,5", b"1\\2", b"x"])
def test_a_damaged_rescale_is_not_taken_for_none(tmp_path: Path, value: bytes) -> None:
    path = save_slice(tmp_path / "a", slice_dataset(0))
    whole = path.read_bytes()
    path.write_bytes(replaced(whole, 0x00281053, value))
    with pytest.raises(Refusal, match="RescaleSlope or RescaleIntercept is no number"):
        read_header(path)
    path.write_bytes(replaced(whole, 0x00281053, b""))
    assert header_of(path).slope is None


def test_values_of_unknown_sign_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="PixelRepresentation is missing or damaged"):
        saved(tmp_path, tagged_slice(PixelRepresentation=None))


def test_an_element_that_stands_twice_is_refused(tmp_path: Path) -> None:
    path = save_slice(tmp_path / "a", slice_dataset(0))
    whole = path.read_bytes()
    at = whole.index(b"\x28\x00\x10\x00US")
    path.write_bytes(whole[:at] + whole[at : at + 10] + whole[at:])
    with pytest.raises(Refusal, match="an element stands in the header twice"):
        read_header(path)


@pytest.mark.parametrize(("extra", "sound"), [(1, True), (3, True), (5, False), (12, False)])
def test_more_pixels_than_declared_are_refused_but_for_padding(tmp_path: Path, extra: int, sound: bool) -> None:
    data = slice_dataset(0)
    data.PixelData = data.PixelData + bytes(extra)
    header = saved(tmp_path, data)
    if sound:
        assert read_series([header])[0].voxels.max() == 1021 - 1024
        return
    with pytest.raises(Refusal, match=r"1 frame\(s\) of 2 x 3 need 12 bytes, PixelData has \d+ more") as refusal:
        read_series([header])
    assert refusal.value.code == "surplus_pixels"


def test_odd_and_empty_values_do_no_harm(tmp_path: Path) -> None:
    path = save_slice(tmp_path / "a", slice_dataset(0))
    whole = replaced(path.read_bytes(), 0x00080070, b"ODD")
    path.write_bytes(replaced(whole, 0x00200013, b""))
    header = header_of(path)
    assert (header.manufacturer, header.instance, header.rows) == ("ODD", None, 3)
    assert unsigned_of(b"\x01") == 0


def replaced(whole: bytes, tag: int, value: bytes) -> bytes:
    """Give a short explicit element of the data set another value, odd lengths included."""
    at = whole.index(struct.pack("<HH", tag >> 16, tag & 0xFFFF), 200)
    (length,) = struct.unpack("<H", whole[at + 6 : at + 8])
    return whole[: at + 6] + struct.pack("<H", len(value)) + value + whole[at + 8 + length :]


def tagged_slice(**tags: Any) -> Dataset:
    data = slice_dataset(0)
    tagged(**tags)(data, 0)
    return data


@pytest.mark.parametrize(
    ("group", "creator", "element", "vr", "value", "expected"),
    [
        (0x0019, "SIEMENS MR HEADER", 0x0C, "IS", "1000", 1000.0),
        (0x0019, "SOMEBODY ELSE", 0x0C, "IS", "1000", None),
        (0x0043, "GEMS_PARM_01", 0x39, "IS", ["1000000800", "8", "0", "0"], 800.0),
        (0x2001, "Philips Imaging DD 001", 0x03, "FL", 0.0, 0.0),
        (0x2001, "Philips Imaging DD 001", 0x03, "FL", 1500.0, 1500.0),
        (0x0065, "Image Private Header", 0x09, "FD", 600.0, 600.0),
        (0x0065, "Image Private Header", 0x09, "UN", struct.pack("<d", 600.0), 600.0),
    ],
)
def test_b_values_of_the_makers_are_read_under_their_name_only(
    tmp_path: Path, group: int, creator: str, element: int, vr: str, value: Any, expected: float | None
) -> None:
    data = slice_dataset(0)
    data.private_block(group, creator, create=True).add_new(element, vr, value)
    assert saved(tmp_path, data).b_value == expected


def test_the_standard_b_value_wins_over_a_private_one(tmp_path: Path) -> None:
    data = slice_dataset(0)
    data.DiffusionBValue, data.DiffusionGradientOrientation = 50.0, [0.0, 0.0, 1.0]
    data.private_block(0x0019, "SIEMENS MR HEADER", create=True).add_new(0x0C, "IS", "1000")
    header = saved(tmp_path, data)
    assert (header.b_value, header.diffusion) == (50.0, (0.0, 0.0, 1.0))


def test_pet_tags_are_read_from_both_kinds_of_sequence(tmp_path: Path) -> None:
    for undefined in (False, True):
        data = pet_dataset()
        data["RadiopharmaceuticalInformationSequence"].is_undefined_length = undefined
        pet = saved(tmp_path, data).pet
        assert pet is not None
        assert (pet.units, pet.dose, pet.half_life, pet.injected) == ("BQML", 350e6, 6586.2, "100000.0")
        assert (pet.series, pet.acquired, pet.weight) == ("20240131114946.2", "20240131115000", 70.0)
    assert saved(tmp_path, slice_dataset(0)).pet is None


def test_columns_let_codes_pass_and_no_free_text(tmp_path: Path) -> None:
    data = tagged_slice(
        KVP="120", ConvolutionKernel="Br40d", ContrastBolusAgent="Omnipaque Jane Doe", ImageLaterality="L",
        MagneticFieldStrength="3", BodyPartExamined="L-SPINE", ViewPosition="MLO",
        PresentationIntentType="FOR PROCESSING",
    )  # fmt: skip
    columns = columns_of(saved(tmp_path, data))
    assert columns == {
        **{"sex": "F", "age": 61, "scanner": "ACME Scan 9", "slice_thickness": 5.0, "kvp": 120.0, "kernel": "BR40D"},
        **{"contrast": "yes", "laterality": "L", "field_strength": 3.0, "body_part": "LSPINE", "view": "MLO"},
        "purpose": "for processing",
    }
    secret = tagged_slice(
        ConvolutionKernel="DOE", BodyPartExamined="JANE DOE", ViewPosition="DOE", ImageLaterality="DOE",
        ManufacturerModelName="Doe^Jane 1234567", SliceThickness=None, KVP="-1", PatientSex="DOE", PatientAge=None,
    )  # fmt: skip
    assert columns_of(saved(tmp_path, secret)) == {}


def test_headers_are_read_in_order_with_their_refusals(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "s", 3)
    (tmp_path / "notes.txt").write_text("hello")
    os.mkfifo(tmp_path / "pipe")
    asked = [paths[0], tmp_path / "notes.txt", paths[1], tmp_path / "pipe", paths[2]]
    names, found = zip(*read_headers(asked), strict=True)
    assert list(names) == asked
    assert found[1] is None
    assert isinstance(found[3], Refusal)
    assert found[3].code == "not_a_regular_file"
    assert [header.instance for frames in found[::2] for header in frames] == [1, 2, 3]


def test_processes_read_the_same_headers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dicom, "CHUNK_FILES", 2)
    monkeypatch.setattr(dicom, "CHUNKS_AHEAD", 2)
    paths = [*write_series(tmp_path / "s", 9), tmp_path / "gone"]
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        found = dict(read_headers(paths, executor=pool))
    assert list(found) == paths
    assert isinstance(found[paths[-1]], Refusal)
    for path, frames in list(found.items())[:-1]:
        assert not isinstance(frames, Refusal)
        assert same((frames or ())[0], header_of(path))


def test_syntaxes_of_compressed_files_are_kept(tmp_path: Path) -> None:
    (header,) = headers_of(write_series(tmp_path, 1, edit=compress))
    assert (header.transfer_syntax, header.pixel_bytes) == (str(JPEGLSLossless), None)


def compress(data: Dataset, index: int) -> None:
    data.Rows = data.Columns = 16
    data.PixelData = bytes(512)
    data.compress(JPEGLSLossless, generate_instance_uid=False)


def test_a_sequence_of_no_items_is_none(tmp_path: Path) -> None:
    data = pet_dataset(RadiopharmaceuticalInformationSequence=Items([]))
    data.ReferencedImageSequence = item(ReferencedSOPInstanceUID="1.2")
    pet = saved(tmp_path, data).pet
    assert pet is not None
    assert pet.dose is None
