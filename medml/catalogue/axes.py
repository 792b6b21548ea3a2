"""The attributes by which the images of one series may belong to different volumes: echo, time, orientation and so on.

An `Axis` says for each image which value it has. Values are told apart with the tolerance that their tag needs, and
come in an order that does not depend on the order of the files.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from medml.catalogue.positions import DIRECTION, SPACING_SHARE
from medml.io.dicom import Header
from medml.io.dicom_kinds import modality_of
from medml.io.dicom_pixels import printable

Values = list["Value"]
Hashed = TypeVar("Hashed", bound=Hashable)

# Words of ImageType (PS3.3 C.7.6.1.1.2, C.8.13.3.1.1 and the vendors' own) that say what the pixels show.
_COMPONENTS = {
    "M": "magnitude",
    "MAGNITUDE": "magnitude",
    "P": "phase",
    "PHASE": "phase",
    "PHASE MAP": "phase",
    "VELOCITY": "velocity",
    "VELOCITY MAP": "velocity",
    "R": "real",
    "REAL": "real",
    "I": "imaginary",
    "IMAGINARY": "imaginary",
    "W": "water",
    "WATER": "water",
    "F": "fat",
    "FAT": "fat",
    "IP": "in_phase",
    "IN_PHASE": "in_phase",
    "OP": "out_of_phase",
    "OUT_PHASE": "out_of_phase",
    "OPP_PHASE": "out_of_phase",
    "FF": "fat_fraction",
    "FAT_FRACTION": "fat_fraction",
    "ADC": "adc",
    "FA": "fractional_anisotropy",
    "TRACEW": "trace",
    "TRACE": "trace",
    "SUB": "subtraction",
    "T1 MAP": "t1_map",
    "T2 MAP": "t2_map",
    "T2_STAR MAP": "t2_star_map",
    "R2_STAR MAP": "r2_star_map",
    "B0 MAP": "b0_map",
    "B1 MAP": "b1_map",
}
_PREFIXES = {"M_": "magnitude", "P_": "phase", "R_": "real", "I_": "imaginary"}


@dataclass(frozen=True, slots=True)
class Value:
    """The value of one image on an axis; equal ``text`` means the same volume.

    Attributes
    ----------
    order : tuple of float
        Where the value stands among the others.
    text : str
        Stable: part of what makes a scan this scan.
    name : str
        Fit for a channel's name; empty to number the values.
    """

    order: tuple[float, ...]
    text: str
    name: str = ""


@dataclass(frozen=True, slots=True)
class Axis:
    """One way in which images of a series may differ.

    Attributes
    ----------
    policy : str
        Key of `Policies`.
    code : str
        Of refusals and findings.
    noun : str
        For sentences: "echo time".
    prefix : str
        Of the names of its values: "echo" gives echo1, echo2.
    values : callable
        One `Value` per header.
    loose : bool
        Whether its values may cover different positions (acquisitions, stacks).
    shown : bool
        Whether its values are numbers or codes fit for an error's text.
    constant : bool
        Whether a sound volume has one value of it, though some scanners number slices by it.
    """

    policy: str
    code: str
    noun: str
    prefix: str
    values: Callable[[Sequence[Header]], Values]
    loose: bool = False
    shown: bool = False
    constant: bool = False


def text_axis(read: Callable[[Header], str], *, named: bool = False) -> Callable[[Sequence[Header]], Values]:
    """Return a reader of values that are equal or not, as texts; numbers among them are ordered as such."""

    def make(texts: set[str]) -> dict[str, Value]:
        ordered = sorted(texts, key=_number_first)
        return {text: Value((float(place),), text, text if named else "") for place, text in enumerate(ordered)}

    return _reader(read, make)


def number_axis(
    read: Callable[[Header], float | None],
    share: float = 0.01,
    least: float = 0.005,
    name: str = "",
    *,
    absent_is_same: bool = False,
) -> Callable[[Sequence[Header]], Values]:
    """Return a reader of numbers; those within ``share`` or ``least`` of the one before are one value.

    With ``absent_is_same`` images without a number have the value of the others, if these have one only.
    """

    def make(numbers: set[float | None]) -> dict[float | None, Value]:
        made: dict[float | None, Value] = {None: Value((-math.inf,), "none", f"{name}_unknown" if name else "")}
        first = last = -math.inf
        for number in sorted(number for number in numbers if number is not None):
            if last == -math.inf or number - last > max(least, share * abs(last)):
                first = number
            made[number] = Value((first,), f"{first:g}", f"{name}{first:g}" if name else "")
            last = number
        others = {value.text: value for number, value in made.items() if number is not None}
        if absent_is_same and len(others) == 1:
            made[None] = next(iter(others.values()))
        return made

    return _reader(read, make)


def _vector_axis(
    read: Callable[[Header], tuple[float, ...] | None], tolerance: float, *, relative: bool = False
) -> Callable[[Sequence[Header]], Values]:
    """Return a reader of vectors; one within the tolerance of a value's first one, in each number, has that value."""

    def make(vectors: set[tuple[float, ...] | None]) -> dict[tuple[float, ...] | None, Value]:
        known = sorted(vector for vector in vectors if vector is not None)
        room = tolerance * min((abs(number) for vector in known for number in vector), default=1.0)
        made: dict[tuple[float, ...] | None, Value] = {None: Value((-math.inf,), "none")}
        firsts: list[tuple[float, ...]] = []
        for vector in known:
            near = (f for f in firsts if _apart(f, vector) <= (room if relative else tolerance))
            first = next(near, vector)
            if first is vector:
                firsts.append(vector)
            made[vector] = Value(first, ",".join(f"{round(number, 5) + 0.0:g}" for number in first))
        return made

    return _reader(read, make)


def _reader(
    read: Callable[[Header], Hashed], make: Callable[[set[Hashed]], Mapping[Hashed, Value]]
) -> Callable[[Sequence[Header]], Values]:
    """Return a reader that makes a value of each different thing once; most series have one of each."""

    def values(headers: Sequence[Header]) -> Values:
        found = [read(header) for header in headers]
        made = make(set(found))
        return [made[item] for item in found]

    return values


def _apart(first: Sequence[float], second: Sequence[float]) -> float:
    return max(abs(a - b) for a, b in zip(first, second, strict=False))


def _echoes(headers: Sequence[Header]) -> Values:
    """Return echo times; numbers of echoes where no image gives a time."""
    if any(header.echo_time is not None for header in headers):
        return number_axis(lambda header: header.echo_time)(headers)
    return text_axis(lambda header: printable(header.echo_number))(headers)


def component_of(header: Header) -> str:
    """Return what the pixels show: ComplexImageComponent, else words of ImageType; empty if nothing is said."""
    words = [header.component, *header.image_type[2:]]
    for word in words:
        found = _COMPONENTS.get(word) or _PREFIXES.get(word[:2])
        if found:
            return found
    return ""


SEVERAL = "several_volumes"

SEVERAL = "several_volumes"


def _code(read: Callable[[Header], str]) -> Callable[[Sequence[Header]], Values]:
    """Return a reader of a header's own words, fit for the private key of a part."""

    def make(texts: set[str]) -> dict[str, Value]:
        ordered = sorted(texts, key=_number_first)
        return {text: Value((float(place),), printable(text)) for place, text in enumerate(ordered)}

    return _reader(read, make)


# What one volume has only one of.
ALWAYS = (
    Axis("mixed_modality", "mixed_modality", "modality", "modality", _code(modality_of), shown=True),
    Axis(
        "mixed_frame_of_reference",
        "mixed_frame_of_reference",
        "frame of reference",
        "frame",
        text_axis(lambda h: h.frame_uid),
    ),
    Axis(
        "mixed_matrix",
        "mixed_matrix",
        "matrix",
        "matrix",
        text_axis(lambda h: f"{h.columns} x {h.rows}{' colour' if h.samples > 1 else ''}"),
        shown=True,
    ),
    Axis(
        "mixed_orientation",
        "mixed_orientation",
        "orientation",
        "orientation",
        _vector_axis(lambda h: h.orientation, DIRECTION),
        shown=True,
    ),
    Axis(
        "mixed_spacing",
        "mixed_spacing",
        "pixel spacing",
        "spacing",
        _vector_axis(lambda h: h.pixel_spacing, SPACING_SHARE, relative=True),
        shown=True,
    ),
    Axis(
        "mixed_spacing",
        "mixed_spacing",
        "slice thickness",
        "thickness",
        number_axis(lambda h: h.thickness, 0.1, 0.01, absent_is_same=True),
        shown=True,
    ),
    Axis("image_types", SEVERAL, "image type", "type", text_axis(component_of, named=True), shown=True),
    Axis("echoes", SEVERAL, "echo time", "echo", _echoes, shown=True),
    Axis("b_values", SEVERAL, "b-value", "b", number_axis(lambda h: h.b_value, 0.02, 2.0, "b"), shown=True),
    Axis(
        "contrasts",
        SEVERAL,
        "inversion time",
        "inversion",
        number_axis(lambda h: h.inversion_time, absent_is_same=True),
        shown=True,
    ),
    Axis(
        "contrasts", SEVERAL, "flip angle", "flip", number_axis(lambda h: h.flip_angle, absent_is_same=True), shown=True
    ),
    Axis("contrasts", SEVERAL, "convolution kernel", "kernel", _code(lambda h: h.kernel)),
    Axis(
        "contrasts", SEVERAL, "tube voltage", "voltage", number_axis(lambda h: h.kvp, absent_is_same=True), shown=True
    ),
)
# What may vary within one volume too: it counts where several images stand at one position, or where the parts are
# regular and the whole is not. What is ``constant`` counts wherever each value has several slices.
REPEATED = (
    Axis("stacks", SEVERAL, "stack", "stack", _code(lambda h: h.stack_id), loose=True, constant=True),
    Axis(
        "acquisitions", SEVERAL, "series number", "series", _code(lambda h: h.series_number), loose=True, constant=True
    ),
    Axis("image_types", SEVERAL, "image type", "type", _code(lambda h: "_".join(h.image_type))),
    Axis("echoes", SEVERAL, "echo number", "echo", _code(lambda h: h.echo_number), constant=True),
    Axis("contrasts", SEVERAL, "repetition time", "repetition", number_axis(lambda h: h.repetition_time), shown=True),
    Axis(
        "b_values", SEVERAL, "gradient direction", "direction", _vector_axis(lambda h: h.diffusion, 0.01), constant=True
    ),
    Axis("time_points", SEVERAL, "temporal position", "time", _code(lambda h: h.temporal_position), constant=True),
    Axis("phases", SEVERAL, "phase of the cycle", "cycle", _code(lambda h: h.phase), constant=True),
    Axis("phases", SEVERAL, "trigger time", "cycle", _code(lambda h: h.trigger_time)),
    Axis("acquisitions", SEVERAL, "acquisition number", "acquisition", _code(lambda h: h.acquisition), loose=True),
    Axis("time_points", SEVERAL, "acquisition time", "time", _code(lambda h: h.acquired)),
)


def _number_first(text: str) -> tuple[bool, float, str]:
    try:
        return False, float(text), text
    except ValueError:
        return True, 0.0, text
