"""How files are written: transfer syntaxes, headers, folders, and objects that are no images."""

from __future__ import annotations

import base64
import json
import struct
from pathlib import Path

import numpy as np
from corpus import codecs
from corpus.dicom import Stack, encoded, put, save, store
from corpus.phantom import make_grid, only_changed, to_byte, with_points
from corpus.source import Expected, Source, accepted, case, case_of, either, refused
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import write_dataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

# OpenJPEG's encoder wants 32 pixels a side.
LARGE = make_grid(spacing=(1.2, 1.3), shape=(40, 36, 12))


@case("explicit little endian")
def explicit_little(source: Source) -> Expected:
    stack = Stack(source)
    stack.write()
    return accepted(stack.truth, patients=1)


@case("implicit little endian")
def implicit_little(source: Source) -> Expected:
    stack = Stack(source)
    for data in stack:
        data.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    stack.write()
    return accepted(stack.truth)


@case("explicit big endian")
def explicit_big(source: Source) -> Expected:
    stack = Stack(source)
    for data in stack:
        data.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
        data.PixelData = np.frombuffer(data.PixelData, "<u2").astype(">u2").tobytes()
        data["PixelData"].VR = "OW"
    stack.write()
    return accepted(stack.truth)


@case("explicit big endian, eight bits in OB")
def explicit_big_bytes(source: Source) -> Expected:
    stack = Stack(source, modality="MR", change=to_byte)
    for data in stack:
        _bytes(data)
        data.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    stack.write()
    return accepted(stack.truth)


@case("deflated")
def deflated(source: Source) -> Expected:
    stack = Stack(source)
    for data in stack:
        data.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    stack.write()
    return accepted(stack.truth)


@case("no preamble, no file meta, implicit little endian (ACR-NEMA style)")
def no_preamble_implicit(source: Source) -> Expected:
    stack = Stack(source)
    for index, data in enumerate(stack):
        source.bytes(f"{index:02d}", _bare(data, implicit=True))
    return accepted(stack.truth)


@case("no preamble, no file meta, explicit little endian")
def no_preamble_explicit(source: Source) -> Expected:
    stack = Stack(source)
    for index, data in enumerate(stack):
        source.bytes(f"{index:02d}.dcm", _bare(data, implicit=False))
    return accepted(stack.truth)


@case("file meta without a preamble")
def meta_without_preamble(source: Source) -> Expected:
    stack = Stack(source)
    for index, data in enumerate(stack):
        source.bytes(f"{index:02d}.dcm", encoded(data)[132:])
    return accepted(stack.truth)


@case("a preamble that makes the file a TIFF too")
def preamble_of_tiff(source: Source) -> Expected:
    stack = Stack(source)
    for index, data in enumerate(stack):
        source.bytes(f"{index:02d}", b"II*\0\x10\0\0\0PREAMBLESECRET33".ljust(128, b"\1") + encoded(data)[128:])
    return accepted(stack.truth)


LOSSLESS = {
    "RLE": codecs.RLE,
    "JPEG lossless": codecs.JPEG_LOSSLESS,
    "JPEG lossless SV1": codecs.JPEG_LOSSLESS_SV1,
    "JPEG-LS": codecs.JPEG_LS,
    "JPEG 2000 lossless": codecs.JPEG_2000_LOSSLESS,
}


def _lossless(syntax: str, sign: bool) -> object:
    def build(source: Source) -> Expected:
        stack = Stack(source, LARGE)
        for index, data in enumerate(stack):
            if sign:
                store(data, stack.pixels(index), signed=True)
            else:
                store(data, stack.pixels(index), intercept=-1024, stored=12)
        codecs.compress(stack, syntax).write()
        return accepted(stack.truth)

    return build


for _name, _syntax in LOSSLESS.items():
    case_of("reading", _name, f"{_name}, 12 bits", _lossless(_syntax, False))  # type: ignore[arg-type]
for _name in ("RLE", "JPEG-LS", "JPEG 2000 lossless"):
    case_of("reading", f"{_name} signed", f"{_name}, signed 16 bits", _lossless(LOSSLESS[_name], True))  # type: ignore[arg-type]


@case("HTJ2K lossless: twelve frames coded once by OpenJPH (imagecodecs 2026.3.6), as no encoder is at hand")
def htj2k(source: Source) -> Expected:
    stack = Stack(source)
    coded = json.loads((Path(__file__).parent / "htj2k.json").read_text())
    for data, frame in zip(stack, coded, strict=True):
        codecs.encapsulated(data, [base64.b64decode(frame)], "1.2.840.10008.1.2.4.201")
    stack.write()
    return accepted(stack.truth)


@case("JPEG baseline, eight bits, lossy")
def jpeg_baseline(source: Source) -> Expected:
    stack = Stack(source, modality="MR", change=to_byte)
    for data in stack:
        _bytes(data)
        data.LossyImageCompression = "01"
    codecs.compress(stack, codecs.JPEG_BASELINE).write()
    return accepted(only_changed(stack.truth, tolerance=7))


@case("JPEG extended, twelve bits, lossy: read, or refused for want of a decoder")
def jpeg_extended(source: Source) -> Expected:
    stack = Stack(source)
    for index, data in enumerate(stack):
        store(data, stack.pixels(index), intercept=-1024, stored=12)
    codecs.compress(stack, codecs.JPEG_EXTENDED).write()
    return either(only_changed(stack.truth, tolerance=60))


@case("JPEG-LS near-lossless")
def jpeg_ls_near(source: Source) -> Expected:
    stack = codecs.compress(Stack(source), codecs.JPEG_LS_NEAR)
    stack.write()
    return accepted(only_changed(stack.truth, tolerance=2.01))


@case("JPEG 2000, lossy")
def jpeg_2000(source: Source) -> Expected:
    stack = codecs.compress(Stack(source, LARGE), codecs.JPEG_2000)
    stack.write()
    return accepted(only_changed(stack.truth, tolerance=60))


@case("compressed frames in fragments, without offset table")
def fragments(source: Source) -> Expected:
    stack = codecs.compress(Stack(source, LARGE), codecs.JPEG_2000_LOSSLESS)
    from pydicom.encaps import generate_frames

    for data in stack:
        frames = list(generate_frames(data.PixelData, number_of_frames=1))
        codecs.encapsulated(data, frames, codecs.JPEG_2000_LOSSLESS, fragments=3, offsets=False)
    stack.write()
    return accepted(stack.truth)


@case("slices of one series in two transfer syntaxes")
def two_syntaxes(source: Source) -> Expected:
    stack = Stack(source)
    stack.slices = [codecs.compress_one(d, codecs.RLE) if n % 2 else d for n, d in enumerate(stack.slices)]
    stack.write()
    return accepted(stack.truth)


@case("a private transfer syntax without decoder")
def private_syntax(source: Source) -> Expected:
    stack = codecs.compress(Stack(source), codecs.RLE)
    for path in stack.write():
        path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2.5\0", b"1.2.840.113619.5.2\0\0"))
    return refused("no_decoder|unsupported.*|undecodable|damaged.*", truth=stack.truth)


@case("MPEG-2 video")
def video(source: Source) -> Expected:
    stack = Stack(source, modality="XC")
    data = stack.slices[0]
    put(data, to_byte(stack.pixels(0)))
    data.NumberOfFrames = 3
    codecs.encapsulated(data, [b"\0\0\1\xb3" + bytes(400)], "1.2.840.10008.1.2.4.100")
    stack.slices = [data]
    stack.write()
    return refused(
        "no_decoder|unsupported.*|.*multi.*frame.*|missing_geometry|.*capture|burned.*|cine_frames", truth=()
    )


@case("file meta says explicit, the data set is implicit")
def syntax_lies(source: Source) -> Expected:
    stack = Stack(source)
    for index, data in enumerate(stack):
        good = encoded(data)
        body = good.index(b"\x08\x00\x08\x00CS")
        source.bytes(f"{index:02d}", good[:body] + _bare(data, implicit=True))
    return either(stack.truth)


@case("trailing padding and bytes after the pixels")
def trailing_padding(source: Source) -> Expected:
    stack = Stack(source)
    for data in stack:
        data.add_new(0xFFFCFFFC, "OB", b"TRAILINGSECRET90".ljust(64, b"\0"))
    for path in stack.write():
        path.write_bytes(path.read_bytes() + b"TRAILINGSECRET90")
    return accepted(stack.truth)


@case("group length elements")
def group_lengths(source: Source) -> Expected:
    stack = Stack(source)
    for path, data in zip(stack.write(), stack, strict=True):
        raw = encoded(data)
        at = raw.index(b"\x08\x00\x08\x00CS")
        path.write_bytes(raw[:at] + b"\x08\x00\x00\x00UL\x04\x00" + struct.pack("<I", 500) + raw[at:])
    return accepted(stack.truth)


@case("sequences of undefined length, nested, before the pixels; an icon with pixels of its own")
def nested_sequences(source: Source) -> Expected:
    stack = Stack(source)
    for data in stack:
        icon = Dataset()
        put(icon, np.frombuffer(b"ICONSECRET6161".ljust(64, b"\7"), np.uint8).reshape(8, 8))
        icon.PixelSpacing = [9, 9]
        icon.ImagePositionPatient = [1, 2, 3]
        data.IconImageSequence = Items([icon])
        data["IconImageSequence"].is_undefined_length = True
        outer = Dataset()
        outer.ImagePositionPatient, outer.RescaleSlope, outer.RescaleIntercept = [7, 8, 9], 5, 5
        outer.Rows = 3
        data.SourceImageSequence = Items([outer])
        data["SourceImageSequence"].is_undefined_length = True
    stack.write()
    return accepted(stack.truth)


CHARSETS = {"ISO_IR 100": "Ærøskjøbing^Ólafur", "ISO_IR 192": "Ærøskjøbing^Жанна", "ISO 2022 IR 87": "Quetzalberg^太郎"}


def _charset(charset: str, name: str) -> object:
    def build(source: Source) -> Expected:
        stack = Stack(source)
        for data in stack:
            data.SpecificCharacterSet = ["", charset] if "2022" in charset else charset
            data.PatientName = name
        stack.write()
        return accepted(stack.truth, patients=1)

    return build


for _name, _text in CHARSETS.items():
    case_of("reading", f"charset {_name}", f"names in {_name}", _charset(_name, _text))  # type: ignore[arg-type]


@case("three series in one folder")
def series_in_one_folder(source: Source) -> Expected:
    truths = []
    for number in (1, 2, 3):
        stack = Stack(source, make_grid(step=3.0 + number), series=number, change=lambda v, n=number: v + n)
        stack.write()
        truths.append(stack.truth)
    return accepted(*truths, patients=1)


@case("one series scattered over nested folders")
def series_over_folders(source: Source) -> Expected:
    stack = Stack(source)
    stack.write(names=[f"OrdnerSecret34/{n % 3}/{n % 2}/DateinameSecret12_{n}.dcm" for n in range(12)])
    return accepted(stack.truth)


@case("a PACS export: DICOMDIR, viewer, readme, hidden files beside the images")
def pacs_export(source: Source) -> Expected:
    stack = Stack(source)
    stack.write("DICOM/ST000/SE000")
    source.bytes("README.TXT", b"Quetzalberg")
    source.bytes("VIEWER/viewer.exe", b"MZ" + bytes(300))
    source.bytes("VIEWER/index.html", b"<html>Quetzalberg</html>")
    source.bytes("DICOM/ST000/SE000/._12345", bytes(50))
    source.bytes("Thumbs.db", b"\xd0\xcf\x11\xe0" + bytes(100))
    listing = Dataset()
    listing.file_meta = FileMetaDataset()
    listing.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    listing.SOPClassUID, listing.SOPInstanceUID = "1.2.840.10008.1.3.10", source.uid(4)
    listing.FileSetID = "QUETZALBERG"
    save(source.path("DICOMDIR"), listing)
    return accepted(stack.truth, ignored=("not_an_image", "hidden", ".*"))


@case("an implicit file with an unknown VR and a VR of UN for known tags")
def unknown_vr(source: Source) -> Expected:
    stack = Stack(source)
    for data in stack:
        data.add_new(0x00091001, "UN", b"geheimprivat8812")
    for path, data in zip(stack.write(), stack, strict=True):
        raw = encoded(data)
        at = raw.index(b"\x20\x00\x32\x00DS")
        (length,) = struct.unpack("<H", raw[at + 6 : at + 8])
        path.write_bytes(raw[: at + 4] + b"UN\0\0" + struct.pack("<I", length) + raw[at + 8 :])
    return accepted(stack.truth)


FREE_TEXTS = (
    "ContrastBolusAgent",
    "AdmissionID",
    "OperatorsName",
    "PerformedProcedureStepDescription",
    "RequestingPhysician",
    "PatientMotherBirthName",
    "AdditionalPatientHistory",
    "Occupation",
    "DetectorID",
    "AcquisitionDeviceProcessingDescription",
    "FilterType",
    "ConvolutionKernel",
)


@case("a name in free texts that are no part of the patient module")
def secrets_everywhere(source: Source) -> Expected:
    stack = Stack(source)
    for data in stack:
        for name in FREE_TEXTS:
            setattr(data, name, "Quetzalberg")
    stack.write()
    return accepted(stack.truth)


@case("pixel data in 32 bits")
def bits_32(source: Source) -> Expected:
    stack = Stack(source)
    for index, data in enumerate(stack):
        store(data, stack.pixels(index), intercept=-1024, bits=32)
    stack.write()
    return either(with_points(stack.truth, lambda v: v))


def _bytes(data: Dataset) -> None:
    """Turn a 16-bit slice that holds small values into an 8-bit one."""
    put(data, np.frombuffer(data.PixelData, "<u2").reshape(data.Rows, data.Columns).astype(np.uint8))


def _bare(data: Dataset, *, implicit: bool) -> bytes:
    """Return the elements alone, without preamble and file meta."""
    from pydicom.filebase import DicomBytesIO

    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = implicit, True
    write_dataset(buffer, data)
    return bytes(buffer.getvalue())
