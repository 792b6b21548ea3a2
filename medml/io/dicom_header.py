"""The header of one DICOM file: what grouping, geometry, decoding and de-identified columns need, no pixels."""

from __future__ import annotations

import math
import os
import re
import struct
import zlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import pydicom
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian

from medml.errors import Refusal
from medml.io.files import open_regular
from medml.records.scan import Column

MAX_INFLATED = 256 << 20
MAX_AGE = 90
PIXEL_TAG = 0x7FE00010
UNDEFINED = 0xFFFFFFFF

_TAGS = {
    "sop_class": 0x00080016,
    "sop_uid": 0x00080018,
    "study_uid": 0x0020000D,
    "series_uid": 0x0020000E,
    "frame_uid": 0x00200052,
    "patient_id": 0x00100020,
    "issuer": 0x00100021,
    "sex": 0x00100040,
    "age": 0x00101010,
    "birth_date": 0x00100030,
    "study_date": 0x00080020,
    "modality": 0x00080060,
    "manufacturer": 0x00080070,
    "model": 0x00081090,
    "body_part": 0x00180015,
    "view": 0x00185101,
    "rows": 0x00280010,
    "columns": 0x00280011,
    "position": 0x00200032,
    "orientation": 0x00200037,
    "pixel_spacing": 0x00280030,
    "imager_spacing": 0x00181164,
    "thickness": 0x00180050,
    "spacing_between": 0x00180088,
    "slope": 0x00281053,
    "intercept": 0x00281052,
    "image_type": 0x00080008,
    "instance": 0x00200013,
    "echo_time": 0x00180081,
    "echo_number": 0x00180086,
    "acquisition": 0x00200012,
    "temporal_position": 0x00200100,
    "trigger_time": 0x00181060,
    "b_value": 0x00189087,
    "frames": 0x00280008,
    "samples": 0x00280002,
    "photometric": 0x00280004,
    "planar": 0x00280006,
    "bits_allocated": 0x00280100,
    "bits_stored": 0x00280101,
    "high_bit": 0x00280102,
    "signed": 0x00280103,
    "modality_lut": 0x00283000,
    "burned_in": 0x00280301,
    "conversion_type": 0x00080064,
}
_TAG_LIST = sorted(_TAGS.values())
_CODE = re.compile(r"[A-Z0-9_ -]{1,16}")


@dataclass(frozen=True, slots=True, eq=False)
class Header:
    """What one DICOM file says about itself; absent or unreadable values are None or "". Never leaves the process.

    Attributes
    ----------
    path : Path
    size, changed : int
        Of the file: bytes, and modification time in ns.
    position, orientation : tuple of float
        ImagePositionPatient and ImageOrientationPatient, LPS mm.
    pixel_spacing : tuple of float
        PixelSpacing in mm: between rows, between columns.
    image_type : tuple of str
    frames : int
        NumberOfFrames; 1 if absent.
    pixel_offset : int
        Where the value of PixelData begins (in the inflated data set, if deflated); 0 if there is none.
    pixel_bytes : int or None
        Its declared length; None if encapsulated.
    pixel_present : int
        How many bytes the file holds from there on.
    """

    path: Path
    size: int
    changed: int
    transfer_syntax: str
    sop_class: str
    sop_uid: str
    study_uid: str
    series_uid: str
    frame_uid: str
    patient_id: str
    issuer: str
    sex: str
    age: int | None
    modality: str
    manufacturer: str
    model: str
    body_part: str
    view: str
    rows: int
    columns: int
    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    pixel_spacing: tuple[float, ...] | None
    imager_spacing: tuple[float, ...] | None
    thickness: float | None
    spacing_between: float | None
    slope: float | None
    intercept: float | None
    image_type: tuple[str, ...]
    instance: int | None
    echo_time: float | None
    echo_number: str
    acquisition: str
    temporal_position: str
    trigger_time: str
    b_value: float | None
    frames: int
    samples: int
    photometric: str
    planar: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool
    modality_lut: bool
    burned_in: str
    conversion_type: str
    pixel_offset: int
    pixel_bytes: int | None
    pixel_present: int


def read_header(path: Path) -> Header | None:
    """Read the header of a DICOM file, with or without preamble, by its content and not its name.

    Returns
    -------
    Header or None
        None if the file is not DICOM.

    Raises
    ------
    Refusal
        If the file looks like DICOM but cannot be parsed.
    """
    with open_regular(path) as file:
        if not _looks_like_dicom(file.read(144)):
            return None
        file.seek(0)
        status = os.fstat(file.fileno())
        try:
            data, syntax, body = _parse(file)
            elements = {name: data.get_item(tag) for name, tag in _TAGS.items()}
            where = _find_pixels(body)
        except Refusal:
            raise
        except Exception as error:
            # A parser fed with damaged bytes may raise anything; its words may quote the patient, so they stay here.
            raise Refusal(
                "damaged", f"the DICOM header cannot be parsed ({type(error).__name__}); copy it again"
            ) from None
    return _header(path, status, elements, syntax, where)


def open_body(file: BinaryIO) -> BinaryIO:
    """Return the stream that pixel offsets count in: the file, or its inflated data set if it is deflated.

    Raises
    ------
    Refusal
        If the inflated data set is over 256 MB.
    """
    if not _is_deflated(file):
        file.seek(0)
        return file
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    data = inflater.decompress(file.read(), MAX_INFLATED + 1)
    if len(data) > MAX_INFLATED:
        raise Refusal("compression_bomb", f"the deflated data set is over {MAX_INFLATED} bytes; store it uncompressed")
    return BytesIO(data)


def columns_of(header: Header) -> dict[str, Column]:
    """Return the allow-listed facts that may leave the clinical side: sex, age (capped at 90), scanner, view, part."""
    scanner = " ".join(f"{header.manufacturer} {header.model}".split())
    facts: dict[str, Column] = {
        "sex": header.sex if header.sex in ("M", "F", "O") else None,
        "age": header.age,
        "scanner": re.sub(r"[^A-Za-z0-9 ._/+()-]", "", scanner)[:64] or None,
        "view": header.view if _CODE.fullmatch(header.view) else None,
        "body_part": header.body_part if _CODE.fullmatch(header.body_part) else None,
    }
    return {name: value for name, value in facts.items() if value is not None}


def _looks_like_dicom(head: bytes) -> bool:
    """Say whether a file begins with a preamble, or with a data element of group 2 or 8 (PS3.10 section 7.1)."""
    if head[128:132] == b"DICM":
        return True
    if len(head) < 16 or head[:2] not in (b"\x02\x00", b"\x08\x00", b"\x00\x08") or head[2:4] > b"\xff\x00":
        return False
    explicit = head[4:6] in (b"UL", b"UI", b"CS", b"OB", b"SH", b"LO", b"DA", b"TM")
    return explicit or (head[:2] == b"\x08\x00" and 0 < struct.unpack("<I", head[4:8])[0] <= 128)


def _parse(file: BinaryIO) -> tuple[Dataset, str, BinaryIO]:
    """Return the wanted elements, the transfer syntax, and the stream standing where the pixels begin."""
    body = open_body(file)
    if body is not file:
        data = read_dataset(body, False, True, stop_when=_at_pixels, specific_tags=_TAG_LIST)
        return data, str(DeflatedExplicitVRLittleEndian), body
    data = pydicom.dcmread(file, force=True, stop_before_pixels=True, specific_tags=_TAG_LIST)
    meta = getattr(data, "file_meta", None)
    syntax = str(meta.get("TransferSyntaxUID", "")) if meta is not None else ""
    if not syntax:
        implicit, little = data.original_encoding
        syntax = "1.2.840.10008.1.2" if implicit else f"1.2.840.10008.1.2.{1 if little else 2}"
    return data, syntax, file


def _is_deflated(file: BinaryIO) -> bool:
    """Say whether the transfer syntax is the deflated one; if so, ``file`` stands after its file meta (PS3.10 7.1)."""
    file.seek(0)
    head = file.read(4096)
    uid = str(DeflatedExplicitVRLittleEndian).encode()
    length_element = head[132:140] == b"\x02\x00\x00\x00UL\x04\x00"
    if head[128:132] != b"DICM" or not length_element or uid not in head:
        return False
    end = 144 + int.from_bytes(head[140:144], "little")
    at = head.find(b"\x02\x00\x10\x00UI", 144, end)
    if at < 0 or head[at + 8 : at + 8 + len(uid)] != uid:
        return False
    file.seek(end)
    return True


def _at_pixels(tag: int, vr: str | None, length: int) -> bool:
    return tag in (PIXEL_TAG, 0x7FE00008, 0x7FE00009)


def _find_pixels(body: BinaryIO) -> tuple[int, int | None, int]:
    """Return offset, declared length and bytes present of PixelData, whose element begins where ``body`` stands."""
    start = body.tell()
    head = body.read(12)
    end = body.seek(0, 2)
    for order in "<>":
        if len(head) == 12 and struct.unpack(order + "HH", head[:4]) == (0x7FE0, 0x0010):
            explicit = head[4:6] in (b"OW", b"OB", b"UN")
            offset = start + (12 if explicit else 8)
            (length,) = struct.unpack(order + "I", head[8:12] if explicit else head[4:8])
            return offset, None if length == UNDEFINED else length, end - offset
    return 0, None, 0


def _header(
    path: Path, status: os.stat_result, raw: dict[str, Any], syntax: str, where: tuple[int, int | None, int]
) -> Header:
    text = {name: _text(element) for name, element in raw.items() if name not in ("modality_lut",)}
    numbers = {
        name: _numbers(text[name])
        for name in ("position", "orientation", "pixel_spacing", "imager_spacing", "thickness", "spacing_between")
    }
    return Header(
        path=path,
        size=status.st_size,
        changed=status.st_mtime_ns,
        transfer_syntax=syntax,
        sop_class=text["sop_class"],
        sop_uid=text["sop_uid"],
        study_uid=text["study_uid"],
        series_uid=text["series_uid"],
        frame_uid=text["frame_uid"],
        patient_id=text["patient_id"],
        issuer=text["issuer"],
        sex=text["sex"],
        age=_age(text["age"], text["birth_date"], text["study_date"]),
        modality=text["modality"],
        manufacturer=text["manufacturer"],
        model=text["model"],
        body_part=text["body_part"],
        view=text["view"],
        rows=_unsigned(raw["rows"]),
        columns=_unsigned(raw["columns"]),
        position=_exactly(numbers["position"], 3),
        orientation=_exactly(numbers["orientation"], 6),
        pixel_spacing=_exactly(numbers["pixel_spacing"], 2),
        imager_spacing=_exactly(numbers["imager_spacing"], 2),
        thickness=_first(numbers["thickness"]),
        spacing_between=_first(numbers["spacing_between"]),
        slope=_first(_numbers(text["slope"])),
        intercept=_first(_numbers(text["intercept"])),
        image_type=tuple(part.strip().upper() for part in text["image_type"].split("\\") if part.strip()),
        instance=_whole(text["instance"]),
        echo_time=_first(_numbers(text["echo_time"])),
        echo_number=text["echo_number"],
        acquisition=text["acquisition"],
        temporal_position=text["temporal_position"],
        trigger_time=text["trigger_time"],
        b_value=_double(raw["b_value"]),
        frames=_whole(text["frames"]) or 1,
        samples=_unsigned(raw["samples"]) or 1,
        photometric=text["photometric"].upper(),
        planar=_unsigned(raw["planar"]),
        bits_allocated=_unsigned(raw["bits_allocated"]),
        bits_stored=_unsigned(raw["bits_stored"]) or _unsigned(raw["bits_allocated"]),
        high_bit=_unsigned(raw["high_bit"]),
        signed=_unsigned(raw["signed"]) == 1,
        modality_lut=raw["modality_lut"] is not None,
        burned_in=text["burned_in"].upper(),
        conversion_type=text["conversion_type"].upper(),
        pixel_offset=where[0],
        pixel_bytes=where[1],
        pixel_present=where[2],
    )


def _bytes(element: Any) -> bytes:
    value = getattr(element, "value", None)
    return value if isinstance(value, bytes) else b""


def _text(element: Any) -> str:
    """Return a text value stripped of blanks; the values compared as text are ASCII or an opaque patient id."""
    value = _bytes(element)
    try:
        return value.decode("utf-8").strip(" \0\t\r\n")
    except UnicodeDecodeError:
        return value.decode("latin-1").strip(" \0\t\r\n")


def _numbers(text: str) -> tuple[float, ...] | None:
    try:
        values = tuple(float(part) for part in text.split("\\")) if text else ()
    except ValueError:
        return None
    return values if values and all(math.isfinite(value) for value in values) else None


def _exactly(values: tuple[float, ...] | None, count: int) -> tuple[float, ...] | None:
    return values if values is not None and len(values) == count else None


def _first(values: tuple[float, ...] | None) -> float | None:
    return values[0] if values else None


def _whole(text: str) -> int | None:
    first = text.partition("\\")[0].strip()
    return int(first) if re.fullmatch(r"[+-]?\d{1,10}", first) else None


def _unsigned(element: Any) -> int:
    value = _bytes(element)
    return int.from_bytes(value[:2], "little" if element.is_little_endian else "big") if len(value) >= 2 else 0


def _double(element: Any) -> float | None:
    value = _bytes(element)
    if len(value) != 8:
        return _first(_numbers(_text(element)))
    (number,) = struct.unpack("<d" if element.is_little_endian else ">d", value)
    return float(number) if math.isfinite(number) else None


def _age(age: str, birth: str, study: str) -> int | None:
    """Return whole years, at most 90: from PatientAge (``045Y``), else from the two dates."""
    parts = re.fullmatch(r"(\d{1,3})([DWMY])", age.upper())
    if parts:
        years = int(parts[1]) // {"D": 365, "W": 52, "M": 12, "Y": 1}[parts[2]]
        return min(years, MAX_AGE)
    if not (re.fullmatch(r"\d{8}", birth) and re.fullmatch(r"\d{8}", study)) or study < birth:
        return None
    return min((int(study) - int(birth)) // 10000, MAX_AGE)
