"""The engine against a slow, plain reading of the table: every attribute, at the top and nested, and every value."""

from __future__ import annotations

import csv
from importlib.resources import files
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.tag import Tag
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from medml.errors import Refusal
from medml.io.confidentiality.dicom_file import clear, open_source, write_cleared
from medml.io.confidentiality.engine import IDENTIFYING, Engine
from medml.io.confidentiality.options import DeidentifyConfig
from medml.io.confidentiality.tables import attribute_types, option_names
from medml.io.files import Pseudonyms

CT = "1.2.840.10008.5.1.4.1.1.2"
MR = "1.2.840.10008.5.1.4.1.1.4"
ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4.1"
SR = "1.2.840.10008.5.1.4.1.1.88.33"
STRUCTURES = "1.2.840.10008.5.1.4.1.1.481.3"
PRESENTATION = "1.2.840.10008.5.1.4.1.1.11.1"
SECRET = "ZAUBERBERG"
NAME = "ANDERSEN"
ROOT = "1.2.826.0.1.3680043.8.498.99"

VALUES: dict[str, Any] = {
    "AE": SECRET, "AS": "061Y", "AT": 0x00100010, "CS": SECRET, "DA": "20240517", "DS": "61.5", "DT": "20240517134522",
    "FD": 1.5, "FL": 1.5, "IS": "61", "LO": SECRET, "LT": SECRET, "OB": b"ZAUBERBERG", "OD": b"ZAUBERBERG123456",
    "OF": b"ZAUBERBERG12", "OL": b"ZAUBERBERG12", "OW": b"ZAUBERBERG", "PN": SECRET, "SH": SECRET, "SL": 1, "SS": 1,
    "ST": SECRET, "TM": "134522", "UC": SECRET, "UI": f"{ROOT}.5", "UL": 1, "UN": b"ZAUBERBERG", "UR": SECRET, "US": 1,
    "UT": SECRET,
}  # fmt: skip


def table() -> dict[int, dict[str, str]]:
    text = files("medml.io.confidentiality").joinpath("e1_1.csv").read_text(encoding="utf-8")
    rows = csv.DictReader(text.splitlines())
    return {int(row["tag"], 16): row for row in rows if row["tag"] != "PRIVATE" and "x" not in row["tag"]}


def expected_action(row: dict[str, str], options: tuple[str, ...], kind: int | None) -> str:
    """Read one row as PS3.15 says it, without the engine's code."""
    said = [row[name] for name in options if row[name]]
    if "C" in said:
        return "C"
    if "K" in said:
        return "K"
    if kind is None:
        return "X"
    choice = {
        "Z/D": {1: "D"}.get(kind, "Z"),
        "X/Z": {3: "X"}.get(kind, "Z"),
        "X/D": {3: "X"}.get(kind, "D"),
        "X/Z/D": {1: "D", 2: "Z", 3: "X"}[kind],
        "X/Z/U*": {3: "X"}.get(kind, "U"),
    }
    return choice.get(row["basic"], row["basic"])


def engine(tmp_path: Path, **options: Any) -> Engine:
    return Engine(DeidentifyConfig(**options), Pseudonyms(tmp_path / "key"))


def dataset(sop_class: str = CT, syntax: UID = ExplicitVRLittleEndian) -> Dataset:
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = syntax
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = sop_class
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = f"{ROOT}.1"
    data.StudyInstanceUID, data.SeriesInstanceUID = f"{ROOT}.2", f"{ROOT}.3"
    data.PatientID, data.PatientName, data.IssuerOfPatientID = "PID7", "Doe^Jane", "HOSP"
    return data


def run(tmp_path: Path, data: Dataset, **options: Any) -> Dataset:
    """Write, de-identify, and read again."""
    source, target = tmp_path / "in.dcm", tmp_path / "out.dcm"
    target.unlink(missing_ok=True)
    data.save_as(source, enforce_file_format=True)
    with open_source(source) as opened:
        assert opened is not None
        write_cleared(clear(opened, engine(tmp_path, **options)), opened, target)
    return pydicom.dcmread(target)


def done(tmp_path: Path, data: Dataset, **options: Any) -> dict[str, str]:
    """Return what the audit says was done, by path."""
    source = tmp_path / "in.dcm"
    data.save_as(source, enforce_file_format=True)
    with open_source(source) as opened:
        assert opened is not None
        cleared = clear(opened, engine(tmp_path, **options))
    return dict(line.rpartition(" ")[::2] for line in cleared.done)


def filled(tag: int) -> pydicom.DataElement:
    """Return an attribute with a telling value, of the dictionary's VR."""
    vr = pydicom.datadict.dictionary_VR(tag).split(" or ")[0]
    if vr == "SQ":
        item = Dataset()
        item.PatientName, item.ReferencedSOPInstanceUID = SECRET, f"{ROOT}.6"
        return pydicom.DataElement(tag, vr, Sequence([item]))
    return pydicom.DataElement(tag, vr, NAME if tag in IDENTIFYING and isinstance(VALUES[vr], str) else VALUES[vr])


def check(before: pydicom.DataElement, after: pydicom.DataElement | None, action: str, where: str) -> None:
    """Assert that an attribute was treated as the action says."""
    if action == "X":
        assert after is None, where
        return
    assert after is not None or action == "C", where
    if after is None:
        return
    if action == "Z":
        assert after.tag == Tag(0x00100020) or not after.value, where
        return
    text = str(after.value)
    assert not {SECRET, NAME} & set(text.split()) or action == "K", where
    assert f"{ROOT}." not in text or action == "K", where
    if action == "D":
        assert after.value not in (None, "", b""), where
        assert after.value != before.value, where
    if action == "U" and after.VR == "UI":
        assert text.startswith("2.25."), where
        assert len(text) <= 64, where
    if action == "K" and before.VR != "SQ":
        assert after.value == before.value, where


CHOICES = [
    {},
    {"retain_device": True, "retain_institution": True},
    {"retain_longitudinal_modified_dates": True, "retain_patient_characteristics": True},
    {"retain_longitudinal_full_dates": True, "retain_uids": True},
    {"clean_structured_content": True, "clean_graphics": True, "clean_descriptors": True},
]


@pytest.mark.parametrize("options", CHOICES, ids=lambda options: "+".join(options) or "basic")
@pytest.mark.parametrize("sop_class", [CT, ENHANCED_MR, SR, STRUCTURES, PRESENTATION])
def test_every_attribute_of_the_table_is_treated_as_it_says(
    tmp_path: Path, sop_class: str, options: dict[str, bool]
) -> None:
    data = dataset(sop_class)
    rows = table()
    types = attribute_types(sop_class)
    assert types is not None
    tags = [tag for tag in rows if pydicom.datadict.dictionary_has_tag(tag) and 0x00080000 < tag < 0xFFFA0000]
    for tag in tags:
        if tag not in data:
            data[tag] = filled(tag)
    before = {tag: data[tag] for tag in tags}
    after = run(tmp_path, data, **options)
    names = tuple(name for name in option_names() if options.get(name))
    for tag in tags:
        action = expected_action(rows[tag], names, types[0].get(tag))
        check(before[tag], after.get(tag), action, f"{before[tag].keyword} {action}")


@pytest.mark.parametrize("parent", ["ContributingEquipmentSequence", "SourceImageSequence", "ReferencedImageSequence"])
def test_every_attribute_is_treated_so_in_items_too(tmp_path: Path, parent: str) -> None:
    data, rows = dataset(MR), table()
    types = attribute_types(MR)
    assert types is not None
    sequence = pydicom.datadict.tag_for_keyword(parent)
    assert sequence is not None
    tags = [tag for tag in rows if pydicom.datadict.dictionary_has_tag(tag) and 0x00080000 < tag < 0xFFFA0000]
    item = Dataset()
    for tag in tags:
        item[tag] = filled(tag)
    outer = Dataset()
    outer[sequence] = pydicom.DataElement(sequence, "SQ", Sequence([item]))
    data.update(outer)
    kinds = types.get(sequence, {})
    wanted = {tag: expected_action(rows[tag], (), kinds.get(tag)) for tag in tags}
    found = done(tmp_path, data)
    if parent == "ContributingEquipmentSequence":
        assert {found[f"{parent}.{item[tag].keyword}"] for tag in tags if wanted[tag] == "X"} == {"X"}
        assert found[f"{parent}.InstitutionName"] == wanted[0x00080080]
    after = run(tmp_path, data)
    if parent not in after:
        assert found[parent] == "X"
        return
    for tag in tags:
        check(item[tag], after[parent].value[0].get(tag), wanted[tag], f"{parent}.{item[tag].keyword}")


def deep(levels: int, innermost: Dataset) -> Dataset:
    """Nest a data set in sequences that an IOD lets nest without end."""
    data = innermost
    for _ in range(levels):
        outer = Dataset()
        outer.RelationshipType, outer.ValueType = "CONTAINS", "CONTAINER"
        outer.ContentSequence = Sequence([data])
        data = outer
    return data


def item(kind: str, code: str, **values: Any) -> Dataset:
    content, concept = Dataset(), Dataset()
    concept.CodeValue, concept.CodingSchemeDesignator, concept.CodeMeaning = code, "DCM", "Finding"
    content.RelationshipType, content.ValueType = "CONTAINS", kind
    content.ConceptNameCodeSequence = Sequence([concept])
    for keyword, value in values.items():
        setattr(content, keyword, value)
    return content


def test_a_report_is_replaced_whole_or_cleaned_item_by_item(tmp_path: Path) -> None:
    data = dataset(SR)
    data.ContentSequence = Sequence(
        [
            item("TEXT", "121071", TextValue=f"Liver lesion seen by {SECRET}"),
            item("PNAME", "121008", PersonName=SECRET),
            item("UIDREF", "121191", UID=f"{ROOT}.8"),
            item("NUM", "121206"),
            deep(5, item("TEXT", "121071", TextValue=SECRET)),
        ]
    )
    whole = run(tmp_path, data)
    assert [(entry.ValueType, entry.TextValue) for entry in whole.ContentSequence] == [("TEXT", "REMOVED")]
    cleaned = run(tmp_path, data, clean_structured_content=True, clean_descriptors=True)
    kinds = [entry.ValueType for entry in cleaned.ContentSequence]
    assert kinds == ["TEXT", "PNAME", "UIDREF", "NUM", "CONTAINER"]
    assert cleaned.ContentSequence[1].PersonName == "REMOVED"
    assert cleaned.ContentSequence[0].TextValue == "Liver lesion seen by"
    assert SECRET not in str(cleaned)
    assert f"{ROOT}." not in str(cleaned)


def test_references_between_objects_stay_whole(tmp_path: Path) -> None:
    first, second = dataset(MR), dataset(STRUCTURES)
    second.SOPInstanceUID = f"{ROOT}.7"
    frame, study, series, contour = Dataset(), Dataset(), Dataset(), Dataset()
    contour.ReferencedSOPClassUID, contour.ReferencedSOPInstanceUID = MR, first.SOPInstanceUID
    series.SeriesInstanceUID, series.ContourImageSequence = first.SeriesInstanceUID, Sequence([contour])
    study.ReferencedSOPClassUID = "1.2.840.10008.3.1.2.3.1"
    study.ReferencedSOPInstanceUID, study.RTReferencedSeriesSequence = first.StudyInstanceUID, Sequence([series])
    frame.FrameOfReferenceUID, frame.RTReferencedStudySequence = f"{ROOT}.9", Sequence([study])
    first.FrameOfReferenceUID = f"{ROOT}.9"
    second.ReferencedFrameOfReferenceSequence = Sequence([frame])
    image, drawn = run(tmp_path, first), run(tmp_path, second)
    reference = drawn.ReferencedFrameOfReferenceSequence[0]
    inner = reference.RTReferencedStudySequence[0].RTReferencedSeriesSequence[0]
    assert reference.FrameOfReferenceUID == image.FrameOfReferenceUID
    assert reference.RTReferencedStudySequence[0].ReferencedSOPInstanceUID == image.StudyInstanceUID
    assert inner.SeriesInstanceUID == image.SeriesInstanceUID
    assert inner.ContourImageSequence[0].ReferencedSOPInstanceUID == image.SOPInstanceUID
    assert inner.ContourImageSequence[0].ReferencedSOPClassUID == MR
    assert image.SOPInstanceUID != f"{ROOT}.1"
    assert image.file_meta.MediaStorageSOPInstanceUID == image.SOPInstanceUID


def test_registered_uids_are_untouched_and_others_are_not(tmp_path: Path) -> None:
    data = dataset(MR)
    data.FrameOfReferenceUID = "1.2.840.10008.1.4.1.1"  # Talairach brain atlas
    data.SynchronizationFrameOfReferenceUID = f"{ROOT}.11"
    after = run(tmp_path, data)
    assert after.FrameOfReferenceUID == "1.2.840.10008.1.4.1.1"
    assert "SynchronizationFrameOfReferenceUID" not in after or after.SynchronizationFrameOfReferenceUID[:5] == "2.25."


def test_dates_move_by_one_number_of_days_per_patient_and_times_stay(tmp_path: Path) -> None:
    data = dataset()
    data.StudyDate, data.AcquisitionDate, data.StudyTime = "20240301", "20240229", "134522.771"
    data.AcquisitionDateTime, data.PatientBirthDate = "20240229134522.771+0100", "19310724"
    after = run(tmp_path, data, retain_longitudinal_modified_dates=True)
    days = Pseudonyms(tmp_path / "key").days("HOSP", "PID7")
    moved = pydicom.valuerep.DA("20240301") - __import__("datetime").timedelta(days)
    assert after.StudyDate == moved.strftime("%Y%m%d")
    assert pydicom.valuerep.DA(after.StudyDate) - pydicom.valuerep.DA(after.AcquisitionDate) == __import__(
        "datetime"
    ).timedelta(1)
    assert after.AcquisitionDateTime == f"{after.AcquisitionDate}134522.771+0100"
    assert after.StudyTime == "134522.771"
    assert not after.PatientBirthDate
    assert after.LongitudinalTemporalInformationModified == "MODIFIED"
    data.StudyDate = "2024030"
    assert not run(tmp_path, data, retain_longitudinal_modified_dates=True).StudyDate


@pytest.mark.parametrize(("age", "kept"), [("061Y", "061Y"), ("089Y", "089Y"), ("093Y", "090Y"), ("011M", "011M")])
def test_ages_are_kept_up_to_ninety(tmp_path: Path, age: str, kept: str) -> None:
    data = dataset()
    data.PatientAge, data.PatientSex = age, "F"
    after = run(tmp_path, data, retain_patient_characteristics=True)
    assert (after.PatientAge, after.PatientSex) == (kept, "F")
    assert "PatientAge" not in run(tmp_path, data)


def test_what_was_done_is_recorded_with_codes(tmp_path: Path) -> None:
    after = run(tmp_path, dataset(), clean_descriptors=True, retain_device=True)
    assert after.PatientIdentityRemoved == "YES"
    assert [code.CodeValue for code in after.DeidentificationMethodCodeSequence] == ["113100", "113109", "113105"]
    assert {code.CodingSchemeDesignator for code in after.DeidentificationMethodCodeSequence} == {"DCM"}
    assert after.LongitudinalTemporalInformationModified == "REMOVED"
    assert after.PatientID == Pseudonyms(tmp_path / "key").patient("HOSP", "PID7")


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("T1 MPRAGE sag", "T1 MPRAGE sag"),
        ("CT Abdomen for Zauberberg, Anna", "CT Abdomen for"),
        ("Jane's liver", "s liver"),
        ("dti b1000 ep2d_zauber", "dti b1000 ep2d"),
        ("+49 351 5550142", None),
        ("24.07.1931", None),
        ("born 24 07 31", None),
        ("Ærøskjøbing", None),
        ("Flair 5.0 mm", "Flair 5.0 mm"),
    ],
)
def test_descriptions_keep_known_words_only(tmp_path: Path, text: str, kept: str | None) -> None:
    data = dataset()
    data.SpecificCharacterSet = "ISO_IR 100"
    data.SeriesDescription = text
    assert run(tmp_path, data, clean_descriptors=True).get("SeriesDescription") == kept
    assert "SeriesDescription" not in run(tmp_path, data)


def test_values_that_no_table_lists_are_kept_as_far_as_they_say_nothing(tmp_path: Path) -> None:
    data = dataset()
    data.Manufacturer, data.ManufacturerModelName = "SIEMENS", "SOMATOM Force"
    data.BodyPartExamined, data.KVP, data.ConvolutionKernel = "ABDOMEN", "120", "B31f"
    data.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL", SECRET]
    after = run(tmp_path, data)
    assert (after.Manufacturer, after.ManufacturerModelName) == ("SIEMENS", "SOMATOM Force")
    assert (after.BodyPartExamined, after.KVP, after.ConvolutionKernel) == ("ABDOMEN", 120, "B31f")
    assert list(after.ImageType) == ["ORIGINAL", "PRIMARY", "AXIAL", ""]
    data.Manufacturer, data.BodyPartExamined = SECRET, "DOE"
    after = run(tmp_path, data)
    assert not after.Manufacturer
    assert not after.get("BodyPartExamined")


def test_an_option_keeps_no_echo_of_the_patients_name(tmp_path: Path) -> None:
    data = dataset()
    data.StationName, data.InstitutionName = "CT-ROOM-DOE", "Zwiebelfeld"
    after = run(tmp_path, data, retain_device=True, retain_institution=True)
    assert "DOE" not in str(after.get("StationName", ""))
    assert after.InstitutionName == "Zwiebelfeld"


def test_no_text_hides_in_a_number_or_under_another_vr(tmp_path: Path) -> None:
    data = dataset()
    data.add_new(0x00180050, "LO", SECRET)  # SliceThickness
    data.add_new(0x00280010, "LT", SECRET)  # Rows
    after = run(tmp_path, data)
    assert SECRET.encode() not in (tmp_path / "out.dcm").read_bytes()
    assert not after.get("SliceThickness")


def test_private_overlays_curves_and_unknown_attributes_go(tmp_path: Path) -> None:
    data = dataset()
    data.add_new(0x00090010, "LO", f"{SECRET} 1.0")
    data.add_new(0x00091001, "LO", SECRET)
    data.add_new(0x60000010, "US", 4)
    data.add_new(0x60003000, "OW", b"ZAUBERBERG")
    data.add_new(0x60000022, "LO", SECRET)
    data.add_new(0x50003000, "OW", b"ZAUBERBERG")
    data.add_new(0x00081FFE, "LO", SECRET)
    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = MR, f"{ROOT}.6"
    reference.add_new(0x00110010, "LO", SECRET)
    reference.add_new(0x00111001, "UT", SECRET)
    data.ReferencedImageSequence = Sequence([reference])
    icon = Dataset()
    icon.PixelData = b"ZAUBERBERG"
    icon["PixelData"].VR = "OB"
    data.IconImageSequence = Sequence([icon])
    after = run(tmp_path, data, clean_graphics=True)
    assert SECRET.encode() not in (tmp_path / "out.dcm").read_bytes()
    assert not [element for element in after.iterall() if element.tag.is_private]
    assert not [tag for tag in after if tag.tag.group >> 8 in (0x50, 0x60)]


def private_tags(data: Dataset) -> list[int]:
    return [int(element.tag) for element in data if element.tag.is_private]


def test_safe_private_numbers_are_kept_on_request_only(tmp_path: Path) -> None:
    data = dataset(MR)
    data.add_new(0x00191010, "LO", "not a creator")
    data.add_new(0x00190010, "LO", "SIEMENS MR HEADER")
    data.add_new(0x0019100C, "IS", "1000")
    data.add_new(0x00191008, "CS", SECRET)
    after = run(tmp_path, data, retain_safe_private=True)
    assert after[0x0019100C].value == 1000
    assert private_tags(after) == [0x00190010, 0x0019100C]
    assert not private_tags(run(tmp_path, data))
    data[0x0019100C].value = "12"
    data[0x00190010].value = SECRET
    assert not private_tags(run(tmp_path, data, retain_safe_private=True))


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_every_encoding_gives_the_same_result(tmp_path: Path, syntax: UID) -> None:
    data = dataset(MR, syntax)
    data.StudyDescription, data.EchoTime, data.Rows, data.Columns = SECRET, 30.5, 4, 3
    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = MR, f"{ROOT}.6"
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "T-A0100", "SRT", "Brain"
    data.AnatomicRegionSequence = Sequence([code])
    after = run(tmp_path, data)
    assert after.file_meta.TransferSyntaxUID == syntax
    assert (after.EchoTime, after.Rows, after.Columns) == (30.5, 4, 3)
    region = after.AnatomicRegionSequence[0]
    assert (region.CodeValue, region.CodingSchemeDesignator, region.CodeMeaning) == ("T-A0100", "SRT", "Brain")


def test_sequences_nested_too_deeply_are_refused(tmp_path: Path) -> None:
    data = dataset(SR)
    data.ContentSequence = Sequence([deep(30, item("TEXT", "121071", TextValue="x"))])
    with pytest.raises(Refusal, match="nested over 24 deep"):
        run(tmp_path, data, clean_structured_content=True)


def test_missing_uids_are_refused(tmp_path: Path) -> None:
    data = dataset()
    del data.StudyInstanceUID, data.SeriesInstanceUID
    with pytest.raises(Refusal, match="2 of the study, series and SOP instance UIDs are missing"):
        run(tmp_path, data)
