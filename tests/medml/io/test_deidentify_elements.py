"""Raw elements and pixels at their edges: damage is named, nothing is read beyond its end."""

from __future__ import annotations

import os
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pydicom
import pytest
from dicom_phantoms import save_slice, set_pixels, slice_dataset
from pydicom.dataset import Dataset

from medml.errors import Refusal
from medml.io.confidentiality.dicom_file import clear, open_source, write_cleared
from medml.io.confidentiality.elements import Encoding, encode_item, encode_tree, encoded, items_of
from medml.io.confidentiality.engine import Engine
from medml.io.confidentiality.options import DeidentifyConfig
from medml.io.confidentiality.pixels import Pixels
from medml.io.confidentiality.values import Cleaner, has_form, known_words, moved_dates
from medml.io.files import Pseudonyms

EXPLICIT = Encoding(implicit=False, little=True)


def sequence(value: Any, vr: str = "SQ") -> Any:
    return SimpleNamespace(value=value, VR=vr, is_implicit_VR=False, is_little_endian=True)


def test_a_tree_is_encoded_as_pydicom_writes_it() -> None:
    inner = Dataset()
    inner.CodeValue, inner.CodeMeaning = "113100", "Basic"
    data = Dataset()
    data.PatientName, data.DeidentificationMethodCodeSequence = "Doe", [inner]
    buffer = pydicom.filebase.DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    pydicom.filewriter.write_dataset(buffer, data)
    ours = encode_tree(
        {
            0x00100010: ("PN", b"Doe"),
            0x00120064: ("SQ", {0x00080100: ("SH", b"113100"), 0x00080104: ("LO", b"Basic")}),
        },
        EXPLICIT,
    )
    assert ours == buffer.getvalue()


def test_items_come_back_whatever_their_length_says() -> None:
    element = encoded(0x00080100, "SH", b"1234", EXPLICIT)
    open_item = b"\xfe\xff\x00\xe0\xff\xff\xff\xff" + element + b"\xfe\xff\x0d\xe0" + bytes(4)
    end = b"\xfe\xff\xdd\xe0" + bytes(4)
    items = items_of(sequence(encode_item(element, EXPLICIT) + open_item + end + b"garbage."))
    assert items is not None
    assert [[part.value for part in item] for item in items] == [[b"1234"], [b"1234"]]
    assert items_of(sequence(b"text", "LO")) is None
    assert items_of(sequence(None)) == []


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (b"\x08\x00\x00\x01abcd", "does not consist of items"),
        (encode_item(b"abcd", EXPLICIT)[:-2], "ends before its length"),
    ],
)
def test_damaged_sequences_are_named(value: bytes, message: str) -> None:
    with pytest.raises(Refusal, match=message):
        items_of(sequence(value))


def test_a_value_too_long_for_its_vr_is_named() -> None:
    with pytest.raises(Refusal, match="a value of 65538 bytes where its VR allows 65535"):
        encoded(0x00100010, "PN", bytes(65537), EXPLICIT)


def test_pixels_that_end_early_are_named(tmp_path: Path) -> None:
    for keep in (None, 0xFFF):
        with (tmp_path / "out").open("wb") as target, pytest.raises(Refusal, match="the pixels end 4 bytes early"):
            Pixels(0x7FE00010, 0, 8, "OW", False, True, keep_bits=keep).copy(BytesIO(bytes(4)), target.fileno())


def test_an_output_is_never_overwritten_and_never_left_half(tmp_path: Path) -> None:
    data = slice_dataset(0)
    set_pixels(data, np.zeros((500, 500), np.uint16))
    source = save_slice(tmp_path / "a", data)
    engine = Engine(DeidentifyConfig(), Pseudonyms(tmp_path / "key"))
    with open_source(source) as opened:
        assert opened is not None
        cleared = clear(opened, engine)
        (tmp_path / "there").write_text("x")
        with pytest.raises(FileExistsError):
            write_cleared(cleared, opened, tmp_path / "there")
        os.truncate(source, source.stat().st_size - 8)
        with pytest.raises(Refusal, match="bytes early"):
            write_cleared(cleared, opened, tmp_path / "half")
    assert not (tmp_path / "half").exists()


def test_float_pixels_are_copied(tmp_path: Path) -> None:
    data = slice_dataset(0)
    data.SOPClassUID = "1.2.840.10008.5.1.4.1.1.30"
    del data.PixelData
    data.FloatPixelData, data.BitsAllocated = bytes(range(24)), 32
    with open_source(save_slice(tmp_path / "a", data)) as opened:
        assert opened is not None
        cleared = clear(opened, Engine(DeidentifyConfig(), Pseudonyms(tmp_path / "key")))
        write_cleared(cleared, opened, tmp_path / "out")
    assert pydicom.dcmread(tmp_path / "out").FloatPixelData == bytes(range(24))


def test_what_is_no_dicom_file_is_none(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a text")
    with open_source(tmp_path / "a") as opened:
        assert opened is None


def test_new_uids_are_valid_stable_and_keyed(tmp_path: Path) -> None:
    first, second = Cleaner(Pseudonyms(tmp_path / "a")), Cleaner(Pseudonyms(tmp_path / "b"))
    new = first.uids(b"1.2.3.4\0")
    assert pydicom.uid.UID(new.rstrip(b"\0").decode()).is_valid
    assert new.startswith(b"2.25.")
    assert len(new) <= 64
    assert len(new) % 2 == 0
    assert new == Cleaner(Pseudonyms(tmp_path / "a")).uids(b"1.2.3.4")
    assert new != second.uids(b"1.2.3.4")
    assert first.uids(b"1.2.3.4\\1.2.840.10008.1.2 ").split(b"\\")[1].strip(b"\0") == b"1.2.840.10008.1.2"


@pytest.mark.parametrize(
    ("vr", "value", "moved"),
    [
        ("DA", b"20240301", b"20240229"),
        ("DA", b"20240301\\20240302 ", b"20240229\\20240301"),
        ("DA", b"2024.03.01", b"20240229"),
        ("DT", b"20240301120000.5+0100", b"20240229120000.5+0100"),
        ("TM", b"235959", b"235959"),
        ("DT", b"2024", None),
        ("DA", b"20241399", None),
    ],
)
def test_dates_move_by_days(vr: str, value: bytes, moved: bytes | None) -> None:
    assert moved_dates(vr, value, 1) == moved


@pytest.mark.parametrize(
    ("vr", "value", "single", "good"),
    [
        ("DS", b"1.5\\-2e3 ", False, True),
        ("DS", b"Doe", True, False),
        ("IS", b"12 ", True, True),
        ("US", b"ab", True, True),
        ("US", b"abcd", True, False),
        ("FD", b"12345678", False, True),
        ("UI", b"1.2.3\0", True, True),
        ("UI", b"Doe", True, False),
        ("AS", b"061Y", True, True),
        ("LO", b"Doe", True, False),
    ],
)
def test_values_have_the_form_of_their_vr(vr: str, value: bytes, single: bool, good: bool) -> None:
    assert has_form(vr, value, single) is good


def test_known_words_of_makers_stay() -> None:
    assert known_words("SIEMENS MAGNETOM Skyra") == "SIEMENS MAGNETOM Skyra"
    assert known_words("Quetzalberg") == ""
    assert known_words("GE Quetzalberg MEDICAL") == "GE MEDICAL"
