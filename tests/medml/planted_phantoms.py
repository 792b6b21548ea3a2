"""A CT series with a name wherever a DICOM file can hold one, and the search for it in many encodings."""

from __future__ import annotations

import base64
import codecs
import gzip
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import pydicom
from dicom_phantoms import ROOT, save_slice, slice_dataset
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from medml.io.confidentiality.tables import attribute_types

SECRET = "Quetzalberg"
_STEERING = (0x00080005, 0x00080008, 0x00080060, 0x00280004, 0x00280301, 0x00080064)
_SEQUENCES = (
    "AnatomicRegionSequence", "ContributingEquipmentSequence", "ProcedureCodeSequence", "ReferencedImageSequence",
    "RequestAttributesSequence", "SourceImageSequence",
)  # fmt: skip


def text_tags() -> Iterator[tuple[int, str]]:
    """Every attribute of text that a CT image may have at the top."""
    types = attribute_types("1.2.840.10008.5.1.4.1.1.2")
    assert types is not None
    for tag in types[0]:
        vr = dictionary_VR(tag).split(" ")[0]
        if vr in ("AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT") and tag not in _STEERING:
            yield tag, vr


def planted(index: int) -> Dataset:
    """A slice with the name in every text, nested, private, in overlays, curves and icons, and in odd places."""
    data = slice_dataset(index)
    for tag, vr in text_tags():
        data[tag] = pydicom.DataElement(tag, vr, SECRET.upper() if vr == "CS" else SECRET)
    data.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL", SECRET.upper()]
    data.PatientID, data.PatientName = f"{SECRET}-{7}", f"{SECRET}^Wilhelmina"
    nested = Dataset()
    for tag, vr in text_tags():
        nested[tag] = pydicom.DataElement(tag, vr, SECRET.upper() if vr == "CS" else SECRET)
    nested.add_new(0x00110010, "LO", SECRET)
    nested.add_new(0x00111001, "LO", SECRET)
    for keyword in _SEQUENCES:
        sequence = tag_for_keyword(keyword)
        assert sequence is not None
        data[sequence] = pydicom.DataElement(sequence, "SQ", Sequence([nested]))
    data.add_new(0x00290010, "LO", f"{SECRET} HEADER")
    data.add_new(0x00291010, "OB", SECRET.encode() + b"\0")
    data.add_new(0x60000010, "US", 3)
    data.add_new(0x60000100, "US", 1)
    data.add_new(0x60003000, "OW", SECRET.encode() + b"\0")
    data.add_new(0x50003000, "OW", SECRET.encode() + b"\0")
    data.add_new(0xFFFCFFFC, "OB", SECRET.encode() + b"\0")
    data.add_new(0x7FE10010, "LO", SECRET)
    return data


def write_planted(folder: Path) -> None:
    """Write four slices under telling names, with a preamble and trailing bytes that tell as well."""
    for index in range(4):
        path = save_slice(folder / f"{SECRET}_folder" / f"{SECRET}_{index}.dcm", planted(index))
        data = bytearray(path.read_bytes())
        data[: len(SECRET)] = SECRET.encode()
        path.write_bytes(bytes(data) + SECRET.encode())


def forms_found(data: bytes) -> list[str]:
    """Return in which encodings the name, or the root of the UIDs, stands in some bytes."""
    lower = data.lower()
    return [name for name, form in _forms().items() if form in (data if name.startswith("base64") else lower)]


def files_that_tell(root: Path, *, skip: tuple[str, ...]) -> list[str]:
    """Return the files below a folder whose name or content, inflated, has the name in any encoding."""
    told = []
    for path in sorted(root.rglob("*")):
        relative = path.relative_to(root)
        if relative.parts[0] in skip or not path.is_file():
            continue
        for data in (str(relative).encode(), *_inflated(path.read_bytes())):
            told += [f"{relative}: {name}" for name in forms_found(data)]
    return told


def _inflated(data: bytes) -> Iterator[bytes]:
    yield data
    if data[:2] == b"\x1f\x8b":
        yield gzip.decompress(data)
    for coded in re.findall(rb"base64,([A-Za-z0-9+/=]{64,})", data):
        yield base64.b64decode(coded)


def _forms() -> dict[str, bytes]:
    raw = SECRET.lower().encode()
    forms = {
        "utf-8": raw,
        "utf-16-le": raw.decode().encode("utf-16-le"),
        "utf-16-be": raw.decode().encode("utf-16-be"),
        "hex": raw.hex().encode(),
        "hex of the name as written": SECRET.encode().hex().encode(),
        "reversed": raw[::-1],
        "rot13": codecs.encode(raw.decode(), "rot13").encode(),
        "percent": "".join(f"%{byte:02x}" for byte in raw).encode(),
        "entities": "".join(f"&#{byte};" for byte in raw).encode(),
        "json escapes": "".join(f"\\u{byte:04x}" for byte in raw).encode(),
        "md5": hashlib.md5(SECRET.encode()).hexdigest().encode(),
        "sha256": hashlib.sha256(SECRET.encode()).hexdigest().encode(),
        "sha256 of the id": hashlib.sha256(f"{SECRET}-7".encode()).hexdigest().encode(),
        "uid root": ROOT.encode(),
    }
    for shift in range(3):
        coded = base64.b64encode(bytes(shift) + SECRET.encode())
        forms[f"base64, shift {shift}"] = coded[(shift * 8 + 5) // 6 : (shift + len(SECRET)) * 8 // 6]
    return forms
