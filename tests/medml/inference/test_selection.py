"""Rules pick the series of a study that a model is for; what they pass over is named with its reason."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from corpus.dicom import Stack
from corpus.phantom import make_grid
from corpus.source import Source

from medml.catalogue.walk import find_scans
from medml.config import validate
from medml.errors import ConfigError
from medml.inference.selection import facts_of, select, why_not
from medml.records.candidate import Candidate
from medml.records.scan import Outcome
from medml.records.selection import SelectionConfig, SeriesFacts, SeriesRule

FACTS = SeriesFacts(
    modality="CT",
    body_part="ABDOMEN",
    plane="axial",
    pixel_mm=0.8,
    slice_mm=2.5,
    slices=80,
    description="Portal Venous  2.5",
    protocol="Abdomen Routine",
    image_type=("ORIGINAL", "PRIMARY", "AXIAL"),
    manufacturer="ACME",
    kernel="STANDARD",
    contrast=True,
)


@pytest.mark.parametrize(
    "rule",
    [
        {},
        {"modality": ["MR", "CT"]},
        {"body_part": ["*ABD*"]},
        {"plane": ["axial"], "pixel_mm": [0.8, 0.8], "slice_mm": [0, 3], "slices": [80, 80]},
        {"description": ["portal venous ?.?"], "without": ["*scout*"]},
        {"description": ["*routine"]},
        {"image_type": ["PRIMARY", "ORIGINAL"], "without_type": ["LOCALIZER"]},
        {"manufacturer": ["ac*"], "kernel": ["standard"], "contrast": True},
    ],
)
def test_a_series_that_is_all_a_rule_asks_fits(rule: dict[str, Any]) -> None:
    assert why_not(FACTS, validate(rule, SeriesRule, name="rule")) == ""


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        ({"modality": ["MR", "PT"]}, "its modality is CT, expected MR or PT"),
        ({"body_part": ["CHEST", ""]}, "its body part fits none of the 2 patterns"),
        ({"plane": ["coronal"]}, "its plane is axial, expected coronal"),
        ({"pixel_mm": [0.1, 0.5]}, "its pixel size in mm is 0.8, expected 0.1 to 0.5"),
        ({"slice_mm": [0, 2]}, "its slice distance in mm is 2.5, expected 0 to 2"),
        ({"slices": [100, 200]}, "its number of slices is 80, expected 100 to 200"),
        ({"description": ["portal"]}, "its description fits none of the 1 patterns"),
        ({"without": ["*VENOUS*"]}, "its description fits the pattern '*VENOUS*', which is left out"),
        ({"image_type": ["DERIVED", "PRIMARY"]}, "its ImageType lacks DERIVED"),
        ({"without_type": ["AXIAL"]}, "its ImageType has AXIAL, which is left out"),
        ({"manufacturer": ["Other*"]}, "its manufacturer fits none of the 1 patterns"),
        ({"kernel": ["B*"]}, "its kernel fits none of the 1 patterns"),
        ({"contrast": False}, "its contrast is True, expected False"),
    ],
)
def test_a_series_that_is_not_is_passed_over_with_the_reason(rule: dict[str, Any], reason: str) -> None:
    assert why_not(FACTS, validate(rule, SeriesRule, name="rule")) == reason


def test_what_a_series_does_not_say_does_not_fit_what_is_asked() -> None:
    empty = SeriesFacts()
    assert why_not(empty, SeriesRule()) == ""
    assert why_not(empty, SeriesRule(body_part=("",))) == ""
    assert why_not(empty, SeriesRule(slices=(1, 9))) == "its number of slices is not known, expected 1 to 9"
    assert why_not(empty, SeriesRule(modality=("CT",))) == "its modality is not known, expected CT"
    assert why_not(empty, SeriesRule(contrast=True)) == "its contrast is not known, expected True"


def test_no_text_takes_long_to_compare() -> None:
    facts = FACTS.model_copy(update={"description": "a" * 100_000})
    begun = time.process_time()
    assert why_not(facts, SeriesRule(description=("*a" * 31 + "b",)))
    assert time.process_time() - begun < 0.5


def test_facts_come_from_dicom_headers(tmp_path: Path) -> None:
    for name, grid in (("axial", None), ("sagittal", make_grid((0, 1, 0), (0, 0, -1)))):
        source = Source(tmp_path / name, name)
        (Stack(source) if grid is None else Stack(source, grid)).write("s")
    for name, plane in (("axial", "axial"), ("sagittal", "sagittal")):
        (candidate,) = [item for item in find_scans(tmp_path / name) if isinstance(item, Candidate)]
        facts = facts_of(candidate)
        assert (facts.modality, facts.plane, facts.image_type[:2]) == ("CT", plane, ("ORIGINAL", "PRIMARY"))
        volume = candidate.read().volume
        sizes = sorted(np.linalg.norm(volume.affine[:3, :3], axis=0).tolist())
        assert facts.slices in volume.voxels.shape
        assert facts.pixel_mm is not None
        assert facts.slice_mm is not None
        assert {round(facts.pixel_mm, 3), round(facts.slice_mm, 3)} <= {round(size, 3) for size in sizes}


def test_facts_of_nifti_come_from_its_header(tmp_path: Path) -> None:
    affine = np.array([[0, 0, 3.0, 0], [-0.7, 0, 0, 0], [0, 0.9, 0, 0], [0, 0, 0, 1]])  # slices along x
    nib.save(nib.Nifti1Image(np.zeros((6, 5, 4), np.int16), affine), tmp_path / "a.nii.gz")
    (tmp_path / "b.nii.gz").write_bytes(b"no image")
    candidates = {item.source: item for item in find_scans(tmp_path) if isinstance(item, Candidate)}
    facts = facts_of(candidates["a.nii.gz"])
    assert (facts.plane, facts.slices) == ("sagittal", 4)
    assert facts.pixel_mm == pytest.approx(0.9)
    assert facts.slice_mm == pytest.approx(3.0)
    if "b.nii.gz" in candidates:
        assert facts_of(candidates["b.nii.gz"]).slices is None


def candidate(source: str, study: str = "1", **facts: Any) -> Candidate:
    def read() -> Any:
        raise AssertionError("selection reads no voxels")

    return Candidate(
        source=source,
        files=1,
        identity=source,
        stamp=source,
        read=read,
        patient=("", "p"),
        study=study,
        group=source,
        series=FACTS.model_copy(update=facts),
    )


def chosen(rule: dict[str, Any], *items: Candidate | Outcome) -> dict[str, str]:
    """Return each source with its code; empty for one that is picked."""
    found = select(items, validate(rule, SeriesRule, name="rule"))
    return {item.source: "" if isinstance(item, Candidate) else item.code for item in found}


def test_of_each_study_the_best_series_is_picked() -> None:
    series = [
        candidate("thick", slice_mm=5.0, slices=300),
        candidate("thin", slice_mm=1.0, slices=40),
        candidate("thin, longer", slice_mm=1.0001, slices=90),
        candidate("thinnest, other kind", slice_mm=0.5, modality="PT"),
        candidate("other study", study="2", slice_mm=7.0),
    ]
    fits = {"modality": ["CT"]}
    other = "not_selected"
    expected = {"thick": other, "thin": other, "thin, longer": "", "thinnest, other kind": other, "other study": ""}
    assert chosen({**fits, "best": "thinnest"}, *series) == expected
    most = {"thick": "", "thin": other, "thin, longer": other, "thinnest, other kind": other, "other study": ""}
    assert chosen({**fits, "best": "most_slices"}, *series) == most
    assert chosen({**fits, "best": "most_slices"}, *reversed(series)) == most
    assert list(chosen(fits, *series).values()).count("") == 4
    equal = chosen({"best": "thinnest"}, candidate("b"), replace(candidate("a"), channel=0))
    assert equal == {"a": "", "b": other}


def test_scouts_are_passed_over_and_other_refusals_stand() -> None:
    scout = Outcome(source="s", outcome="refused", code="localizer", reason="a scout view, no volume")
    broken = Outcome(source="b", outcome="refused", code="missing_slice", reason="…")
    note = Outcome(source="n", outcome="ignored", code="not_an_image")
    assert chosen({}, scout, broken, note) == {"s": "not_selected", "b": "missing_slice", "n": "not_an_image"}


def test_rules_that_cannot_be_meant_are_refused() -> None:
    with pytest.raises(ConfigError, match="the least, 5, is more than the most, 1; turn them round"):
        validate({"slices": [5, 1]}, SeriesRule, name="rule")
    with pytest.raises(ConfigError, match="liver: named twice; give each model one rule"):
        validate({"models": [{"model": "liver"}, {"model": "liver"}]}, SelectionConfig, name="selection")
