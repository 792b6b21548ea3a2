"""What a label means to others: a code, a category, a colour."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from medml.records.record import Record

Rgb = tuple[
    Annotated[int, Field(ge=0, le=255)], Annotated[int, Field(ge=0, le=255)], Annotated[int, Field(ge=0, le=255)]
]


class LabelMeaning(Record):
    """One label of a model, as a PACS is told of it.

    Attributes
    ----------
    name : str
        The label's name; that of the plan where it is empty.
    code, meaning : str
        Scheme and value, such as ``SCT:10200004``, and what the scheme calls it; empty if nobody gave one.
    category : str
        Scheme and value of the property category (CID 7150); empty for an anatomical structure.
    colour : tuple of int or None
        Red, green, blue, 0 to 255.
    """

    name: str = ""
    code: str = Field("", pattern=r"^$|^[A-Z0-9_]{2,16}:[A-Za-z0-9._-]{1,16}$")
    meaning: str = Field("", max_length=64)
    category: str = Field("", pattern=r"^$|^[A-Z0-9_]{2,16}:[A-Za-z0-9._-]{1,16}$")
    colour: Rgb | None = None


class Author(Record):
    """The model that says what a derived DICOM object holds.

    Attributes
    ----------
    name, version : str
        Of the registered model.
    digest : str
        sha256 of its package.
    """

    name: str
    version: str
    digest: str


class Measure(Record):
    """One number about one label, for a structured report.

    Attributes
    ----------
    kind : "volume", "mean" or "probability"
        In mL, in HU, or from 0 to 1.
    """

    label: int
    kind: str = Field(pattern="^(volume|mean|probability)$")
    value: float
