"""Who is in the images: secrets wherever they hide, who is one patient, and pixels that may show a name."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from typing import Any

import numpy as np
from corpus.dicom import CLASSES, Stack, put, save
from corpus.phantom import only_changed, to_byte
from corpus.source import Expected, Source, accepted, case, case_of, either, refused
from PIL import Image, PngImagePlugin
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items


@case("names in elements that are kept as codes: body part, view, modality, laterality")
def names_in_codes(source: Source) -> Expected:
    stack = Stack(source)
    stack.set(BodyPartExamined="QUETZALBERG", ViewPosition="WILHELMINA", Laterality="R", PatientSex="F").write()
    return accepted(stack.truth)


@case("a name where the modality should be")
def name_as_modality(source: Source) -> Expected:
    stack = Stack(source).set(Modality="QUETZALBERG")
    stack.write()
    return either(stack.truth)


@case("names of files and folders")
def names_of_files(source: Source) -> Expected:
    stack = Stack(source)
    stack.write("OrdnerSecret34/DateinameSecret12 Ordner", names=[f"DateinameSecret12.{n}" for n in range(12)])
    return accepted(stack.truth)


@case("names in file names of a refused series: only reports that are 0600 may tell them")
def names_of_refused_files(source: Source) -> Expected:
    stack = Stack(source).drop(5)
    stack.write("OrdnerSecret34", names=[f"DateinameSecret12.{n}" for n in range(11)])
    return refused("missing_slice", truth=only_changed(stack.truth, values=None))


@case("names deep in sequences, public and private, and in an unknown group")
def deep_names(source: Source) -> Expected:
    stack = Stack(source)
    for data in stack:
        inner = Dataset()
        inner.PatientName, inner.PatientID = "Quetzalberg^Wilhelmina", "PX-7741-ZULU"
        block = inner.private_block(0x0099, "geheimprivat8812", create=True)
        block.add_new(1, "PN", "Quetzalberg^Wilhelmina")
        for name in (
            "ReferencedStudySequence",
            "ProcedureCodeSequence",
            "AnatomicRegionSequence",
            "ContributingEquipmentSequence",
        ):
            outer = Dataset()
            setattr(outer, name, Items([inner]))
            inner = outer
        data.PerformedProtocolCodeSequence = Items([inner])
        data.add_new(0x00990010, "LO", "geheimprivat8812")
        data.add_new(0x00991001, "UN", b"Quetzalberg^Wilhelmina")
    stack.write()
    return accepted(stack.truth)


@case("ages over 89 and dates: capped, and gone")
def ages(source: Source) -> Expected:
    stack = Stack(source).set(PatientAge=None)
    stack.write()
    return accepted(only_changed(stack.truth, columns={"age": 90, "sex": "F"}))


@case("blanks around an id: one patient")
def blanks_in_ids(source: Source) -> Expected:
    truths = []
    for number, text in enumerate(("PX-7741-ZULU", " PX-7741-ZULU", "PX-7741-ZULU  "), 1):
        stack = Stack(source, study=number, series=number, change=lambda v, n=number: v + n)
        stack.set(PatientID=text).write(f"{number}")
        truths.append(stack.truth)
    return accepted(*truths, patients=1)


@case("one id at two hospitals: two patients")
def two_issuers(source: Source) -> Expected:
    truths = []
    for number, issuer in enumerate(("Klinikum Zwiebelfeld", "Klinikum Anderswo"), 1):
        stack = Stack(source, study=number, series=number, change=lambda v, n=number: v + n)
        stack.set(IssuerOfPatientID=issuer).write(f"{number}")
        truths.append(stack.truth)
    return accepted(*truths, patients=2)


@case("no PatientID in two studies: never taken for one patient")
def no_patient_id(source: Source) -> Expected:
    truths = []
    for number in (1, 2):
        stack = Stack(source, study=number, series=number, change=lambda v, n=number: v + n)
        stack.set(PatientID="").write(f"{number}")
        truths.append(stack.truth)
    return accepted(*truths, patients=2, findings="no_patient_id")


@case("two patients in one study UID, a series each")
def two_patients_one_study(source: Source) -> Expected:
    one, other = Stack(source, series=1), Stack(source, series=2, patient=1, change=lambda v: v + 1)
    one.write("one")
    other.write("two")
    return Expected(scans=(), maybe=(one.truth, other.truth), refused=("?.*",), check=_two_or_none)


def _two_or_none(home: object, report: object, kept: list) -> list[str]:
    patients = {scan.facts["patient"] for scan in kept}
    return ["two patients became one"] if len(kept) == 2 and len(patients) != 2 else []


def _flat(source: Source, uid: str, modality: str, **tags: Any) -> Stack:
    stack = Stack(source, modality="MR", change=to_byte)
    data = stack.slices[6]
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "FrameOfReferenceUID"):
        delattr(data, name)
    put(data, stack.pixels(6).astype(np.uint8))
    data.SOPClassUID, data.Modality = uid, modality
    stack.slices = [data]
    return stack.set(**tags)


RISKS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "secondary capture": (CLASSES["SC"], "OT", {}),
    "secondary capture that says it is clean": (CLASSES["SC"], "CT", {"BurnedInAnnotation": "NO"}),
    "multi-frame true colour secondary capture": ("1.2.840.10008.5.1.4.1.1.7.4", "OT", {}),
    "ultrasound": (CLASSES["US"], "US", {}),
    "retired ultrasound": ("1.2.840.10008.5.1.4.1.1.6", "US", {}),
    "burned in annotation": (CLASSES["CR"], "CR", {"BurnedInAnnotation": "YES"}),
    "burned in annotation, lower case with blanks": (CLASSES["CR"], "CR", {"BurnedInAnnotation": "yes "}),
    "scanned film": (CLASSES["CR"], "CR", {"ConversionType": "DF"}),
    "work station": (CLASSES["CR"], "CR", {"ConversionType": "WSD"}),
    "video": (CLASSES["CR"], "CR", {"ConversionType": "DV"}),
}


def _risk(uid: str, modality: str, tags: dict[str, Any]) -> object:
    def build(source: Source) -> Expected:
        _flat(source, uid, modality, **tags).write()
        return refused("burned_in_annotation|secondary_capture|.*quarantine.*|.*capture.*|ultrasound|.*conversion.*")

    return build


for _name, _facts in RISKS.items():
    case_of("identities", _name, f"may show a name: {_name}", _risk(*_facts))  # type: ignore[arg-type]


@case("a CT with BurnedInAnnotation YES in one slice")
def burned_in_once(source: Source) -> Expected:
    stack = Stack(source)
    stack[7].BurnedInAnnotation = "YES"
    stack.write()
    return refused("burned_in_annotation|missing_slice", truth=stack.truth)


@case("derived, secondary: a reformat, accepted with a warning")
def derived(source: Source) -> Expected:
    stack = Stack(source).set(ImageType=["DERIVED", "SECONDARY", "MPR"])
    stack.write()
    return accepted(stack.truth, findings="derived.*")


@case("BurnedInAnnotation NO on a CT")
def burned_in_no(source: Source) -> Expected:
    stack = Stack(source).set(BurnedInAnnotation="NO", RecognizableVisualFeatures="YES")
    stack.write()
    return accepted(stack.truth)


@case("a PNG with names in its text chunks, compressed too, and after its end")
def png(source: Source) -> Expected:
    facts = PngImagePlugin.PngInfo()
    facts.add_text("Author", "Quetzalberg PNGSECRET4096")
    facts.add_text("Comment", "PNGSECRET4096 " * 40, zip=True)
    facts.add_itxt("Title", "Wilhelmina Quetzalberg")
    pixels = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", pnginfo=facts)
    source.bytes("DateinameSecret12.png", buffer.getvalue() + b"TRAILINGSECRET90")
    return Expected(check=_picture(pixels), free=True)


@case("a JPEG with EXIF, GPS, comment and a thumbnail")
def jpeg(source: Source) -> Expected:
    pixels = np.full((16, 24), 90, dtype=np.uint8)
    pixels[4:9, 3:15] = 200
    exif = Image.Exif()
    exif[0x010E], exif[0x013B], exif[0x9286] = "Quetzalberg PNGSECRET4096", "Papperlapapp", "kommentar-geheim-4417"
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95, exif=exif, comment=b"PNGSECRET4096")
    source.bytes("DateinameSecret12.jpg", buffer.getvalue())
    return Expected(check=_picture(pixels, tolerance=16), free=True)


@case("a picture turned by its EXIF orientation")
def jpeg_turned(source: Source) -> Expected:
    pixels = np.full((16, 24), 60, dtype=np.uint8)
    pixels[2:7, 3:15] = 200
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95, exif=exif)
    source.bytes("a.jpg", buffer.getvalue())
    # Orientation 6: the stored row is the right edge; a viewer turns it a quarter clockwise.
    return Expected(check=_picture(np.rot90(pixels, -1), tolerance=20, other=pixels), free=True)


@case("a PNG bomb: 60,000 x 60,000 pixels")
def png_bomb(source: Source) -> Expected:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">2I5B", 60000, 60000, 8, 0, 0, 0, 0)
    data = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(100000))) + chunk(b"IEND", b"")
    )
    source.bytes("a.png", data)
    return refused("too_large|compression_bomb|.*damaged.*|.*")


def _picture(pixels: np.ndarray, *, tolerance: float = 0.5, other: np.ndarray | None = None) -> object:
    """Check one picture: its column number runs along I, its row number along J."""

    def check(home: object, report: Any, kept: list) -> list[str]:
        if len(kept) != 1:
            return [f"{len(kept)} pictures, expected 1"]
        found = kept[0].voxels[:, :, 0, 0].T.astype(float)
        for wanted in (pixels, *(() if other is None else (other,))):
            if found.shape == wanted.shape and np.abs(found - wanted).max() <= tolerance:
                return []
        return [f"the picture of {found.shape} differs from the one stored"]

    return check


@case("a secondary capture beside a CT: the CT comes in, the picture does not")
def capture_beside_ct(source: Source) -> Expected:
    stack = Stack(source)
    stack.write()
    save(source.path("sc.dcm"), _flat(source, CLASSES["SC"], "OT", SeriesInstanceUID=source.uid(1, 44)).slices[0])
    return accepted(stack.truth, refused="secondary_capture")


@case("two patients under one series UID")
def two_patients_one_uid(source: Source) -> Expected:
    good = Stack(source, study=5, series=5)
    good.write("good")
    stack = Stack(source)
    for data in stack.slices[6:]:
        data.PatientID, data.PatientName = "PX-9953-KILO", "Brontelius^Ottokar"
    stack.write("mixed")
    return accepted(good.truth, refused="uid_conflict", patients=1)


@case("two patients with equal study, series and instance UIDs (an anonymiser's fault)")
def two_patients_equal_uids(source: Source) -> Expected:
    good = Stack(source, study=5, series=5)
    good.write("good")
    Stack(source).write("one")
    Stack(source, patient=1, change=lambda v: v + 1).write("two")
    return accepted(good.truth, refused="uid_conflict|conflicting_duplicates", patients=1)


@case("one study spread over folders, one series each")
def study_over_folders(source: Source) -> Expected:
    truths = []
    for number in (1, 2):
        stack = Stack(source, series=number, change=lambda v, n=number: v + n)
        stack.write(f"folder {number}")
        truths.append(stack.truth)
    return accepted(*truths, patients=1, check=_one_study)


def _one_study(home: object, report: object, kept: list) -> list[str]:
    studies = {scan.facts["study"] for scan in kept}
    return [] if len(studies) == 1 else [f"{len(studies)} studies, expected one"]
