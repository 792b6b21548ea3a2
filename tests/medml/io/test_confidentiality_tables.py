"""The tables of PS3.15 and PS3.3 as data: whole, in agreement with others, and resolved as the standard says."""

from __future__ import annotations

import gzip
import re

import pytest
from dicomanonymizer.dicom_anonymization_databases import dicomfields_2026c as others
from pydicom._private_dict import private_dictionaries
from pydicom.datadict import dictionary_has_tag, dictionary_VR, keyword_for_tag
from pydicom.sr._concepts_dict import concepts

from medml.config import validate
from medml.errors import ConfigError, Refusal
from medml.io.confidentiality import build
from medml.io.confidentiality.options import BASIC_CODE, OPTION_CODES, DeidentifyConfig, resolve
from medml.io.confidentiality.plan import make_plan
from medml.io.confidentiality.tables import (
    SAFE_PRIVATE,
    Rule,
    attribute_rules,
    attribute_types,
    content_rules,
    option_names,
    vocabulary,
)

CT, MR, SR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.88.33"
THEIRS = {
    "D": others.D_TAGS,
    "Z": others.Z_TAGS,
    "X": others.X_TAGS,
    "U": others.U_TAGS,
    "Z/D": others.Z_D_TAGS,
    "X/Z": others.X_Z_TAGS,
    "X/D": others.X_D_TAGS,
    "X/Z/D": others.X_Z_D_TAGS,
    "X/Z/U*": others.X_Z_U_STAR_TAGS,
}
# Edition 2026d adds one attribute; it is removed here already.
LATER = {0x3004007F}


def test_every_basic_action_agrees_with_dicom_anonymizer_2026c() -> None:
    theirs = {tag[0] << 16 | tag[1]: action for action, tags in THEIRS.items() for tag in tags if len(tag) == 2}
    ours = {tag: rule.basic for tag, rule in attribute_rules().items() if tag not in LATER}
    assert len(ours) == 652
    assert ours == theirs


def test_the_table_names_attributes_as_pydicom_does() -> None:
    known = {tag: rule for tag, rule in attribute_rules().items() if dictionary_has_tag(tag)}
    assert len(known) == 627
    assert all(rule.keyword == keyword_for_tag(tag) for tag, rule in known.items())
    assert all(rule.vr == dictionary_VR(tag) for tag, rule in known.items())
    new = [rule for tag, rule in attribute_rules().items() if tag not in known]
    assert {rule.basic for rule in new} == {"X"}  # too new for the dictionary; all are removed


def test_actions_are_those_of_the_standard() -> None:
    rules = [*attribute_rules().values(), *content_rules().values()]
    assert {rule.basic for rule in rules} == set(THEIRS)
    assert {action for rule in rules for action in rule.options.values()} == {"K", "C"}
    assert len(content_rules()) == 214


# From the printed table, read by a person.
@pytest.mark.parametrize(
    ("tag", "basic", "options"),
    [
        (0x00100010, "Z", {}),
        (0x00100020, "Z/D", {}),
        (0x00101010, "X", {"retain_patient_characteristics": "K"}),
        (0x0008103E, "X", {"clean_descriptors": "C"}),
        (
            0x00080020,
            "Z",
            {"retain_longitudinal_full_dates": "K", "retain_longitudinal_modified_dates": "C"},
        ),
        (0x00080080, "X/Z/D", {"retain_institution": "K"}),
        (0x00081010, "X/Z/D", {"retain_device": "K"}),
        (0x00080018, "U", {"retain_uids": "K"}),
        (0x0040A730, "D", {"clean_structured_content": "C"}),
        (0x00700001, "D", {"clean_graphics": "C"}),
    ],
)
def test_rows_that_matter_most(tag: int, basic: str, options: dict[str, str]) -> None:
    assert (attribute_rules()[tag].basic, attribute_rules()[tag].options) == (basic, options)


@pytest.mark.parametrize(
    ("basic", "by_type"),
    [
        ("X", "XXXX"),
        ("Z", "ZZZX"),
        ("D", "DDDX"),
        ("U", "UUUX"),
        ("Z/D", "DZZX"),
        ("X/Z", "ZZXX"),
        ("X/D", "DDXX"),
        ("X/Z/D", "DZXX"),
        ("X/Z/U*", "UUXX"),
    ],
)
def test_a_choice_is_settled_by_the_type_in_the_iod(basic: str, by_type: str) -> None:
    rule = Rule("Any", "LO", basic, {})
    assert "".join(resolve(rule, (), kind) for kind in (1, 2, 3, None)) == by_type


def test_options_win_over_the_basic_action_and_cleaning_over_keeping() -> None:
    rule = Rule("DateOfLastCalibration", "DA", "X", {"retain_device": "K", "retain_longitudinal_modified_dates": "C"})
    assert resolve(rule, ("retain_device",), None) == "K"
    assert resolve(rule, ("retain_device", "retain_longitudinal_modified_dates"), 3) == "C"
    assert resolve(rule, ("clean_graphics",), 3) == "X"


def test_every_option_is_a_column_with_its_code() -> None:
    assert set(option_names()) == set(OPTION_CODES) == set(DeidentifyConfig.model_fields) - {"allowed_words"}
    known = {
        code: meaning
        for entries in concepts["DCM"].values()
        for code, (meaning, groups) in entries.items()
        if 7050 in groups
    }
    assert {value: known[value] for value, _ in (BASIC_CODE, *OPTION_CODES.values())} == dict(
        (BASIC_CODE, *OPTION_CODES.values())
    )


def test_dates_are_kept_or_moved_not_both() -> None:
    both = {"retain_longitudinal_full_dates": True, "retain_longitudinal_modified_dates": True}
    with pytest.raises(ConfigError, match="are both true, expected one"):
        validate(both, DeidentifyConfig, name="test")


def test_types_come_from_the_iod() -> None:
    ct, mr = attribute_types(CT), attribute_types(MR)
    assert ct is not None
    assert mr is not None
    assert (ct[0][0x00100010], ct[0][0x00280010], ct[0][0x00081030]) == (2, 1, 3)
    assert 0x00180081 in mr[0]  # EchoTime
    assert 0x00180081 not in ct[0]
    assert ct[0x00081140][0x00081155] == 1  # ReferencedSOPInstanceUID in ReferencedImageSequence
    assert attribute_types("1.2.3") is None
    retired = attribute_types("1.2.840.10008.5.1.4.1.1.6")
    assert retired == attribute_types("1.2.840.10008.5.1.4.1.1.6.1")


@pytest.mark.parametrize(
    ("sop_class", "message"),
    [
        ("", "no SOPClassUID"),
        ("1.2.3.4", "private or unknown SOP class"),
        ("1.2.840.10008.1.3.10", "DICOMDIR"),
    ],
)
def test_a_class_of_which_nobody_knows_the_attributes_is_refused(sop_class: str, message: str) -> None:
    with pytest.raises(Refusal, match=re.escape(message)):
        make_plan(sop_class, ())


def test_safe_private_attributes_are_numbers_that_pydicom_knows() -> None:
    for creator, attributes in SAFE_PRIVATE.items():
        for tag, vr in attributes.items():
            name = f"{tag >> 16:04X}xx{tag & 0xFF:02X}"
            assert private_dictionaries[creator][name][0] == vr
            assert vr in ("DS", "FD", "FL", "IS", "US")


def test_the_vocabulary_has_techniques_and_no_names() -> None:
    words = vocabulary()
    assert {"axial", "flair", "siemens", "abdomen", "imagepositionpatient"} <= words
    assert not words & {"smith", "jones", "wilson", "mueller", "parkinson", "maria", "hodgkin"}


def test_the_data_are_what_the_installed_packages_give() -> None:
    assert (build.HERE / "words.txt").read_text(encoding="utf-8") == build.build_words()
    assert gzip.decompress((build.HERE / "iods.json.gz").read_bytes()) == gzip.decompress(build.build_iods())
