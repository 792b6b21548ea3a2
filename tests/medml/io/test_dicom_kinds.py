"""Kinds of objects, and what a flat image says of the size of its pixels."""

from __future__ import annotations

from pathlib import Path

import pytest

from medml.io.dicom import Header
from medml.io.dicom_kinds import (
    flat_spacing,
    has_functional_groups,
    is_image,
    is_waveform,
    kind_findings,
    lacks_matrix,
    modality_of,
    object_name,
)

STORAGE = "1.2.840.10008.5.1.4.1.1."


def header(uid: str = "1.1", **tags: object) -> Header:
    known = {"rows": 2, "columns": 2, **tags}
    return Header(Path("a"), 1, 1, sop_class=STORAGE + uid, **known)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("uid", "name"),
    [
        ("77.1.6", "whole slide microscopy"),
        ("77.1.4.1", "video"),
        ("66.4", "segmentation, registration or raw data"),
        ("9.1.1", "waveform"),
        ("481.2", "radiotherapy dose"),
        ("77.1.4", ""),
        ("2", ""),
        ("20", ""),
    ],
)
def test_objects_are_known_by_their_class(uid: str, name: str) -> None:
    assert object_name(header(uid)) == name
    assert is_image(header(uid)) is not bool(name)


def test_an_image_has_rows_and_columns() -> None:
    assert not is_image(header(rows=0))
    assert lacks_matrix(header("2", rows=0))
    assert lacks_matrix(header("2.99", rows=0, pixel_offset=9))
    assert not lacks_matrix(header("88.11", rows=0))


def test_a_modality_is_a_defined_term_and_no_other_text() -> None:
    assert [modality_of(header(modality=text)) for text in ("CT", "mr", "DOE", "")] == ["CT", "MR", "OT", "OT"]


def test_signals_are_waveforms_and_voice_notes_are_not() -> None:
    assert is_waveform(header("9.1.1"))
    assert is_waveform(header("9.2.1"))
    assert not is_waveform(header("9.4.1"))
    assert not is_waveform(header("90.1"))


def test_enhanced_classes_have_functional_groups() -> None:
    assert has_functional_groups(header("4.1"))
    assert not has_functional_groups(header("4"))


def test_pixel_spacing_is_taken_as_it_is() -> None:
    assert flat_spacing(header(pixel_spacing=(0.2, 0.3))) == ((0.2, 0.3), ())


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        ({}, "no PixelSpacing"),
        ({"imager_spacing": (0.2, 0.2)}, "ImagerPixelSpacing alone"),
        ({"imager_spacing": (0.2, 0.2), "magnification": 0.5}, "ImagerPixelSpacing alone"),
        ({"imager_spacing": (0.2, 0.2), "pixel_spacing": (0.2, 0.2)}, "repeats ImagerPixelSpacing"),
        ({"pixel_spacing": (0.0, 0.2)}, "no PixelSpacing"),
    ],
)
def test_spacing_at_the_detector_is_not_the_patients(tags: dict[str, object], words: str) -> None:
    spacing, (finding,) = flat_spacing(header(modality="DX", **tags))
    assert spacing is None
    assert finding.code == "no_spacing"
    assert words in finding.message


def test_the_magnification_leads_from_the_detector_to_the_patient() -> None:
    spacing, (finding,) = flat_spacing(header(imager_spacing=(0.2, 0.4), magnification=1.25))
    assert spacing == pytest.approx((0.16, 0.32))
    assert (finding.code, finding.numbers) == ("estimated_spacing", {"magnification": 1.25})


def test_raw_and_lossy_images_are_said_to_be() -> None:
    findings = kind_findings([header(intent="FOR PROCESSING"), header(lossy=True), header()])
    assert [(finding.code, finding.numbers["images"]) for finding in findings] == [
        ("for_processing", 1.0),
        ("lossy_compression", 1.0),
    ]
    assert kind_findings([header(intent="FOR PRESENTATION")]) == ()
