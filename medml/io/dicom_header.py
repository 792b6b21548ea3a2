"""The header of one DICOM file: what grouping, geometry, decoding and de-identified columns need, no pixels."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydicom.dataelem import RawDataElement, convert_raw_data_element

from medml.errors import Refusal
from medml.io.dicom_parse import Elements, guarded, parse_elements
from medml.io.dicom_private import PRIVATE_TAGS, b_value_of, diffusion_of, ge_scan_start, philips_factors
from medml.io.dicom_values import (
    age_of,
    double_of,
    doubles_of,
    exactly,
    first_of,
    identifier_of,
    long_of,
    only_of,
    text_of,
    unsigned_of,
    upper_of,
    whole_of,
    words_of,
)
from medml.io.files import open_regular
from medml.io.suv import Pet

_Converter = Callable[[bytes, bool], Any]

# Field of `Header` to tag and converter; what has no such converter is made in `_header`.
_FIELDS: dict[str, tuple[int, _Converter]] = {
    "sop_class": (0x00080016, text_of),
    "sop_uid": (0x00080018, text_of),
    "study_uid": (0x0020000D, text_of),
    "series_uid": (0x0020000E, text_of),
    "frame_uid": (0x00200052, text_of),
    "sex": (0x00100040, text_of),
    "modality": (0x00080060, text_of),
    "manufacturer": (0x00080070, text_of),
    "model": (0x00081090, text_of),
    "body_part": (0x00180015, text_of),
    "view": (0x00185101, text_of),
    "laterality": (0x00200062, upper_of),
    "rows": (0x00280010, unsigned_of),
    "columns": (0x00280011, unsigned_of),
    "position": (0x00200032, partial(exactly, 3)),
    "orientation": (0x00200037, partial(exactly, 6)),
    "pixel_spacing": (0x00280030, partial(exactly, 2)),
    "imager_spacing": (0x00181164, partial(exactly, 2)),
    "magnification": (0x00181114, first_of),
    "thickness": (0x00180050, first_of),
    "spacing_between": (0x00180088, first_of),
    "slope": (0x00281053, only_of),
    "intercept": (0x00281052, only_of),
    "image_type": (0x00080008, words_of),
    "instance": (0x00200013, whole_of),
    "echo_time": (0x00180081, first_of),
    "echo_number": (0x00180086, text_of),
    "description": (0x0008103E, text_of),
    "protocol": (0x00181030, text_of),
    "series_number": (0x00200011, text_of),
    "acquisition": (0x00200012, text_of),
    "temporal_position": (0x00200100, text_of),
    "trigger_time": (0x00181060, text_of),
    "samples": (0x00280002, unsigned_of),
    "photometric": (0x00280004, upper_of),
    "planar": (0x00280006, unsigned_of),
    "bits_allocated": (0x00280100, unsigned_of),
    "bits_stored": (0x00280101, unsigned_of),
    "high_bit": (0x00280102, unsigned_of),
    "burned_in": (0x00280301, upper_of),
    "conversion_type": (0x00080064, upper_of),
    "padding": (0x00280120, unsigned_of),
    "padding_limit": (0x00280121, unsigned_of),
    "inversion_time": (0x00180082, first_of),
    "repetition_time": (0x00180080, first_of),
    "flip_angle": (0x00181314, first_of),
    "component": (0x00089208, upper_of),
    "stack_id": (0x00209056, text_of),
    "in_stack": (0x00209057, long_of),
    "field_strength": (0x00180087, first_of),
    "kvp": (0x00180060, first_of),
    "kernel": (0x00181210, text_of),
    "intent": (0x00080068, upper_of),
}
_OTHERS = {
    "charset": 0x00080005,
    "patient_id": 0x00100020,
    "issuer": 0x00100021,
    "age": 0x00101010,
    "birth_date": 0x00100030,
    "study_date": 0x00080020,
    "frames": 0x00280008,
    "signed": 0x00280103,
    "modality_lut": 0x00283000,
    "lossy": 0x00282110,
    "b_value": 0x00189087,
    "diffusion": 0x00189089,
    "temporal_index": 0x00209128,
    "acquired": 0x0008002A,
    "acquisition_date": 0x00080022,
    "acquisition_time": 0x00080032,
    "series_laterality": 0x00200060,
    "contrast": 0x00180010,
    "series_date": 0x00080021,
    "series_time": 0x00080031,
    "units": 0x00541001,
    "suv_type": 0x00541006,
    "decay_correction": 0x00541102,
    "weight": 0x00101030,
    "tracer": 0x00540016,
    "reference_time": 0x00541300,
    "duration": 0x00181242,
}
_BY_TAG = {tag: (name, convert) for name, (tag, convert) in _FIELDS.items()}
_TAGS = [*_BY_TAG, *_OTHERS.values(), *PRIVATE_TAGS]


@dataclass(frozen=True, slots=True, eq=False)
class Header:
    """What one DICOM file says about one image; absent or unreadable values are None or "". Never leaves the machine.

    Attributes
    ----------
    path : Path
    size, changed : int
        Of the file: bytes, and modification time in ns.
    position, orientation : tuple of float
        ImagePositionPatient and ImageOrientationPatient, LPS mm.
    pixel_spacing : tuple of float
        PixelSpacing in mm: between rows, between columns.
    image_type : tuple of str
    frames : int
        NumberOfFrames; 1 if absent.
    pixel_offset : int
        Where the value of PixelData begins (in the inflated data set, if deflated); 0 if there is none.
    pixel_bytes : int or None
        Its declared length; None if encapsulated.
    pixel_present : int
        How many bytes the file holds from there on.
    pixel_keyword : str
        PixelData, FloatPixelData or DoubleFloatPixelData; empty if there is none.
    padding, padding_limit : int or None
        PixelPaddingValue and its range limit, as unsigned numbers whatever sign the pixels have.
    frame : int
        Which frame of its file this is, from 0; pixel offset and bytes are those of the whole file, as is ``frames``.
    expanded : bool
        Whether it came from `medml.io.dicom_frames.expand`; a header with ``frames`` over 1 that did not is no image.
    tile : tuple of int or None
        Where a mosaic's picture holds the slice: top row, left column, rows and columns of the whole picture;
        ``rows`` and ``columns`` are then those of the slice.
    inversion_time, repetition_time, flip_angle : float or None
        ms, ms, degrees.
    component : str
        Of a complex MR image: MAGNITUDE, PHASE, REAL, IMAGINARY or MIXED.
    diffusion : tuple of float or None
        Direction of the diffusion gradient.
    stack_id, in_stack
        Of an enhanced image: which stack, and the place in it.
    phase : str
        Which phase of a cycle: the nominal percentage of it, or TemporalPositionIndex.
    acquired : str
        Date and time, digits only (``20240131…``); tells acquisitions apart in memory, never stored.
    lossy : bool
        LossyImageCompression 01.
    magnification : float or None
        EstimatedRadiographicMagnificationFactor.
    intent : str
        PresentationIntentType: FOR PROCESSING or FOR PRESENTATION.
    pet : Pet or None
        What SUV is computed from; None but for PET.
    """

    path: Path
    size: int
    changed: int
    transfer_syntax: str = ""
    sop_class: str = ""
    sop_uid: str = ""
    study_uid: str = ""
    series_uid: str = ""
    frame_uid: str = ""
    patient_id: str = ""
    issuer: str = ""
    sex: str = ""
    age: int | None = None
    modality: str = ""
    manufacturer: str = ""
    model: str = ""
    body_part: str = ""
    view: str = ""
    laterality: str = ""
    rows: int = 0
    columns: int = 0
    position: tuple[float, ...] | None = None
    orientation: tuple[float, ...] | None = None
    pixel_spacing: tuple[float, ...] | None = None
    imager_spacing: tuple[float, ...] | None = None
    magnification: float | None = None
    thickness: float | None = None
    spacing_between: float | None = None
    slope: float | None = None
    intercept: float | None = None
    image_type: tuple[str, ...] = ()
    instance: int | None = None
    echo_time: float | None = None
    echo_number: str = ""
    description: str = ""
    protocol: str = ""
    series_number: str = ""
    acquisition: str = ""
    temporal_position: str = ""
    trigger_time: str = ""
    b_value: float | None = None
    frames: int = 1
    samples: int = 1
    photometric: str = ""
    planar: int = 0
    bits_allocated: int = 0
    bits_stored: int = 0
    high_bit: int = 0
    signed: bool = False
    modality_lut: bool = False
    burned_in: str = ""
    conversion_type: str = ""
    pixel_offset: int = 0
    pixel_bytes: int | None = None
    pixel_present: int = 0
    pixel_keyword: str = ""
    padding: int | None = None
    padding_limit: int | None = None
    frame: int = 0
    expanded: bool = False
    tile: tuple[int, int, int, int] | None = None
    inversion_time: float | None = None
    repetition_time: float | None = None
    flip_angle: float | None = None
    component: str = ""
    diffusion: tuple[float, ...] | None = None
    stack_id: str = ""
    in_stack: int | None = None
    phase: str = ""
    acquired: str = ""
    lossy: bool = False
    field_strength: float | None = None
    kvp: float | None = None
    kernel: str = ""
    contrast: bool = False
    intent: str = ""
    pet: Pet | None = None

    @property
    def key(self) -> tuple[str, int, tuple[int, ...]]:
        """What one image is known by: SOP instance UID, frame, and tile of a mosaic."""
        return self.sop_uid, self.frame, self.tile or ()


def read_header(path: Path) -> Header | None:
    """Read the header of a DICOM file, with or without preamble, by its content and not its name.

    Returns
    -------
    Header or None
        None if the file is not DICOM.

    Raises
    ------
    Refusal
        If the file looks like DICOM but cannot be parsed, is cut off, or contradicts itself.
    """
    with open_regular(path) as file:
        status = os.fstat(file.fileno())
        elements = guarded(lambda: parse_elements(file, _TAGS))
    if elements is None:
        return None
    return guarded(lambda: _header(path, status, elements))


def values_of(elements: Mapping[int, Any]) -> dict[str, Any]:
    """Return the fields of `Header` that ``elements`` give one by one; of a functional group, for instance."""
    values: dict[str, Any] = {}
    for tag, element in elements.items():
        field = _BY_TAG.get(tag)
        if field is not None and isinstance(element.value, bytes):
            values[field[0]] = field[1](element.value, element.is_little_endian)
    return values


def _header(path: Path, status: os.stat_result, elements: Elements) -> Header:
    by_tag, little = elements.by_tag, elements.little
    values = values_of(by_tag)
    others = {name: element_bytes(by_tag[tag]) for name, tag in _OTHERS.items() if tag in by_tag}

    def raw(name: str) -> bytes:
        return others.get(name, b"")

    _require_sign(elements, values)
    charset, b_value = raw("charset"), double_of(raw("b_value"), little)
    values["samples"] = values.get("samples") or 1
    values["bits_stored"] = values.get("bits_stored") or values.get("bits_allocated", 0)
    values["laterality"] = values.get("laterality") or upper_of(raw("series_laterality"))
    if not values.get("temporal_position") and raw("temporal_index"):
        values["temporal_position"] = str(long_of(raw("temporal_index"), little))
    return Header(
        path=path,
        size=status.st_size,
        changed=status.st_mtime_ns,
        transfer_syntax=elements.transfer_syntax,
        patient_id=identifier_of(raw("patient_id"), charset),
        issuer=identifier_of(raw("issuer"), charset),
        age=age_of(text_of(raw("age")), text_of(raw("birth_date")), text_of(raw("study_date"))),
        frames=_frames(raw("frames")),
        signed=unsigned_of(raw("signed"), little) == 1,
        modality_lut="modality_lut" in others,
        b_value=b_value if b_value is not None else b_value_of(by_tag),
        diffusion=doubles_of(raw("diffusion"), little) or diffusion_of(by_tag),
        acquired=text_of(raw("acquired") or raw("acquisition_date") + raw("acquisition_time")),
        lossy=text_of(raw("lossy")) == "01",
        contrast=bool(text_of(raw("contrast"))),
        pixel_offset=elements.pixel_offset,
        pixel_bytes=elements.pixel_bytes,
        pixel_present=elements.pixel_present,
        pixel_keyword=elements.pixel_keyword,
        pet=_pet(by_tag, raw) if values.get("modality") == "PT" else None,
        **values,
    )


def element_bytes(element: Any) -> bytes:
    """Return the bytes of a raw element's value; none if there is no element, or it is a parsed sequence."""
    value = getattr(element, "value", None)
    return value if isinstance(value, bytes) else b""


def _require_sign(elements: Elements, values: Mapping[str, Any]) -> None:
    """Refuse pixels of more than a byte that do not say whether they have a sign: a guess would move all values."""
    wide = elements.pixel_offset and values.get("rows") and values.get("bits_allocated", 0) > 8
    if (
        wide
        and len(element_bytes(elements.by_tag.get(_OTHERS["signed"]))) != 2
        and elements.pixel_keyword == "PixelData"
    ):
        raise Refusal(
            "damaged_header", "PixelRepresentation is missing or damaged; whether the values have a sign is unknown"
        )


def _frames(value: bytes) -> int:
    text = text_of(value)
    count = (whole_of(value) if "\\" not in text else None) if text else 1
    if count is None or count < 0:
        raise Refusal("damaged_header", "NumberOfFrames is no count; export the file again")
    return count or 1


def _pet(by_tag: Mapping[int, Any], raw: Callable[[str], bytes]) -> Pet:
    tracer = _first_item(by_tag.get(_OTHERS["tracer"]))
    suv, bqml = philips_factors(by_tag)
    return Pet(
        units=upper_of(raw("units")),
        suv_type=upper_of(raw("suv_type")),
        decay_correction=upper_of(raw("decay_correction")),
        weight=first_of(raw("weight")),
        dose=first_of(element_bytes(tracer.get(0x00181074))),
        half_life=first_of(element_bytes(tracer.get(0x00181075))),
        injected=text_of(element_bytes(tracer.get(0x00181078))) or text_of(element_bytes(tracer.get(0x00181072))),
        series=text_of(raw("series_date")) + text_of(raw("series_time")),
        acquired=text_of(raw("acquisition_date")) + text_of(raw("acquisition_time")),
        ge_scan=ge_scan_start(by_tag),
        reference_time=first_of(raw("reference_time")),
        duration=first_of(raw("duration")),
        philips_suv=suv,
        philips_bqml=bqml,
    )


def _first_item(element: Any) -> dict[int, Any]:
    """Return the elements of the first item of a sequence; empty if there is none."""
    if isinstance(element, RawDataElement):
        element = convert_raw_data_element(element._replace(VR="SQ"))
    items = list(element.value or ()) if element is not None else []
    return {int(tag): items[0].get_item(tag) for tag in sorted(items[0].keys())} if items else {}
