"""Which series of a study a model is for: rules in YAML, and the facts they look at."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, field_validator

from medml.config import Config
from medml.records.record import Record

Plane = Literal["axial", "sagittal", "coronal"]
Glob = Annotated[str, StringConstraints(max_length=64)]
Code = Annotated[str, StringConstraints(pattern=r"^[A-Z0-9_ ]{1,16}$")]
Between = tuple[Annotated[float, Field(ge=0)], Annotated[float, Field(ge=0)]]


class SeriesFacts(Record):
    """What rules look at; what is not known is empty or None. In memory only: descriptions may name a patient.

    Attributes
    ----------
    plane : str
        Which of the patient's planes the slices are closest to.
    pixel_mm : float or None
        The larger of the distances between rows and between columns.
    slice_mm : float or None
        Median distance between neighbouring slices.
    image_type : tuple of str
        ORIGINAL or DERIVED, PRIMARY or SECONDARY, and more (PS3.3 C.7.6.1.1.2).
    """

    modality: str = ""
    body_part: str = ""
    plane: Plane | Literal[""] = ""
    pixel_mm: float | None = None
    slice_mm: float | None = None
    slices: int | None = None
    description: str = ""
    protocol: str = ""
    image_type: tuple[str, ...] = ()
    manufacturer: str = ""
    kernel: str = ""
    contrast: bool | None = None


class SeriesRule(Config):
    """What a series must be; a key that is not given asks nothing, one that is asks a series to say it.

    Patterns are whole texts in which ``*`` stands for anything and ``?`` for one character, upper or lower case alike.

    Attributes
    ----------
    modality : tuple of str
        One of them, such as CT.
    body_part : tuple of str
        Patterns of BodyPartExamined, one of which fits; "" fits a series that does not say.
    plane : tuple of str
        axial, sagittal or coronal.
    pixel_mm, slice_mm, slices : (least, most)
        Size of pixels, distance of slices, number of slices.
    description, without : tuple of str
        Patterns of SeriesDescription or ProtocolName: one fits; none fits.
    image_type, without_type : tuple of str
        Values of ImageType: all are there; none is.
    manufacturer, kernel : tuple of str
        Patterns of Manufacturer and ConvolutionKernel, one of which fits.
    contrast : bool or None
        Whether a contrast agent was given.
    best : "all", "thinnest" or "most_slices"
        Where several series of a study fit: all of them, or the one with the thinnest or with the most slices.
    """

    modality: tuple[Code, ...] = ()
    body_part: tuple[Glob, ...] = ()
    plane: tuple[Plane, ...] = ()
    pixel_mm: Between | None = None
    slice_mm: Between | None = None
    slices: Between | None = None
    description: tuple[Glob, ...] = ()
    without: tuple[Glob, ...] = ()
    image_type: tuple[Code, ...] = ()
    without_type: tuple[Code, ...] = ()
    manufacturer: tuple[Glob, ...] = ()
    kernel: tuple[Glob, ...] = ()
    contrast: bool | None = None
    best: Literal["all", "thinnest", "most_slices"] = "all"

    @field_validator("pixel_mm", "slice_mm", "slices")
    @classmethod
    def _in_order(cls, bounds: Between | None) -> Between | None:
        if bounds is not None and bounds[0] > bounds[1]:
            raise ValueError(f"the least, {bounds[0]:g}, is more than the most, {bounds[1]:g}; turn them round")
        return bounds


class ModelChoice(Config):
    """A model and what it is for."""

    model: str = Field(min_length=1, max_length=128)
    rule: SeriesRule = SeriesRule()


class SelectionConfig(Config):
    """``configs/selection/NAME.yaml``: which models look at a source, and at what of it."""

    models: tuple[ModelChoice, ...] = Field(min_length=1)

    @field_validator("models")
    @classmethod
    def _named_once(cls, models: tuple[ModelChoice, ...]) -> tuple[ModelChoice, ...]:
        names = [choice.model for choice in models]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"{', '.join(twice)}: named twice; give each model one rule")
        return models
