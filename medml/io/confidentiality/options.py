"""Which options of PS3.15 Annex E a de-identification applies, and what they make of an action of the table."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from medml.config import Config
from medml.io.confidentiality.tables import Rule, option_names

# CID 7050: the codes that DeidentificationMethodCodeSequence may hold.
BASIC_CODE = ("113100", "Basic Application Confidentiality Profile")
OPTION_CODES = {
    "clean_graphics": ("113103", "Clean Graphics Option"),
    "clean_structured_content": ("113104", "Clean Structured Content Option"),
    "clean_descriptors": ("113105", "Clean Descriptors Option"),
    "retain_longitudinal_full_dates": ("113106", "Retain Longitudinal Temporal Information Full Dates Option"),
    "retain_longitudinal_modified_dates": ("113107", "Retain Longitudinal Temporal Information Modified Dates Option"),
    "retain_patient_characteristics": ("113108", "Retain Patient Characteristics Option"),
    "retain_device": ("113109", "Retain Device Identity Option"),
    "retain_uids": ("113110", "Retain UIDs Option"),
    "retain_safe_private": ("113111", "Retain Safe Private Option"),
    "retain_institution": ("113112", "Retain Institution Identity Option"),
}


class DeidentifyConfig(Config):
    """Options of PS3.15 Annex E by name; without any, the Basic Profile.

    Attributes
    ----------
    retain_safe_private : bool
        Keep the few numeric private attributes of `tables.SAFE_PRIVATE`.
    retain_uids : bool
        Keep UIDs as they are. They lead back to the archive, so this is for use inside a hospital.
    retain_device, retain_institution : bool
        Keep what names the scanner, or the hospital.
    retain_patient_characteristics : bool
        Keep sex, age (at most 90), size, weight and the like.
    retain_longitudinal_full_dates : bool
        Keep dates and times.
    retain_longitudinal_modified_dates : bool
        Keep dates moved back by one number of days per patient; times of day stay, so intervals hold.
    clean_descriptors : bool
        Keep descriptions as far as their words are in the vocabulary.
    clean_structured_content : bool
        Keep the content tree of reports, cleaned item by item by table E.3.4-1.
    clean_graphics : bool
        Keep graphic annotations, their texts cleaned. Overlay planes and curves go all the same.
    allowed_words : tuple of str
        Words that cleaned texts may keep beside the vocabulary, e.g. the name of a scanner.
    """

    retain_safe_private: bool = False
    retain_uids: bool = False
    retain_device: bool = False
    retain_institution: bool = False
    retain_patient_characteristics: bool = False
    retain_longitudinal_full_dates: bool = False
    retain_longitudinal_modified_dates: bool = False
    clean_descriptors: bool = False
    clean_structured_content: bool = False
    clean_graphics: bool = False
    allowed_words: tuple[str, ...] = Field(default=(), max_length=10_000)

    @model_validator(mode="after")
    def _one_kind_of_dates(self) -> Self:
        if self.retain_longitudinal_full_dates and self.retain_longitudinal_modified_dates:
            raise ValueError(
                "retain_longitudinal_full_dates and retain_longitudinal_modified_dates are both true, expected one"
            )
        return self

    @property
    def options(self) -> tuple[str, ...]:
        """The options that are on."""
        return tuple(name for name in option_names() if getattr(self, name))

    @property
    def dates(self) -> str:
        """The value of LongitudinalTemporalInformationModified (PS3.3 C.12.1.1.1)."""
        if self.retain_longitudinal_full_dates:
            return "UNMODIFIED"
        return "MODIFIED" if self.retain_longitudinal_modified_dates else "REMOVED"


def resolve(rule: Rule, options: tuple[str, ...], kind: int | None) -> str:
    """Return the one action for an attribute: D, Z, X, U, K or C (PS3.15 Annex E, table E.1-1a).

    Cleaning wins over keeping where two options speak. Without an option, an attribute that the IOD does not have
    goes. A choice is settled by the type that the IOD gives the attribute: 1 takes the dummy, 2 the empty value, 3
    goes; references (``X/Z/U*``) keep their items with new UIDs for type 1 and 2.

    Parameters
    ----------
    kind : int or None
        Type 1, 2 or 3; None if the IOD does not have the attribute.
    """
    said = {rule.options[name] for name in options if name in rule.options}
    if said:
        return "C" if "C" in said else "K"
    if kind is None:
        return "X"
    choices = rule.basic.replace("U*", "U").split("/")
    if len(choices) == 1:
        return choices[0]
    if kind == 3:
        return choices[0]
    if "U" in choices:
        return "U"
    if kind == 1:
        return "D" if "D" in choices else "Z"
    return "Z" if "Z" in choices else "D"
