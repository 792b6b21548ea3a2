"""From the header of one file to one header per frame: functional groups, nuclear medicine, mosaics, cine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import numpy as np
from pydicom.dataelem import RawDataElement, convert_raw_data_element
from pydicom.dataset import Dataset

from medml.errors import Refusal
from medml.io import dicom_mosaic
from medml.io.dicom_header import Header, element_bytes, values_of
from medml.io.dicom_kinds import NUCLEAR, has_functional_groups, is_image, lacks_matrix
from medml.io.dicom_parse import MAX_ITEMS, PLAIN, guarded, parse_elements
from medml.io.dicom_values import double_of, doubles_of, exactly, long_of, text_of, unsigned_of, upper_of, words_of
from medml.io.files import open_regular
from medml.io.suv import Pet

MAX_FRAMES = 20_000
Cine = Literal["refuse", "frames"]

_SHARED, _PER_FRAME = 0x52009229, 0x52009230
_DETECTORS, _SLICE_VECTOR, _FRAME_POINTER = 0x00540022, 0x00540080, 0x00280009
_CORRECTED_TO = 0x00189701
# The functional groups that are read (PS3.3 C.7.6.16.2); any other, private ones too, is passed over.
_GROUPS = frozenset(
    {
        0x00209113,  # plane position
        0x00209116,  # plane orientation
        0x00289110,  # pixel measures
        0x00289145,  # pixel value transformation
        0x00209111,  # frame content
        0x00189226,  # MR image frame type
        0x00189329,  # CT image frame type
        0x00189751,  # PET frame type
        0x00189114,  # MR echo
        0x00189112,  # MR timing
        0x00189115,  # MR modifier
        0x00189117,  # MR diffusion
        0x00189118,  # cardiac synchronisation
        0x00189314,  # CT reconstruction
        0x00189325,  # CT x-ray details
        0x00209170,  # attributes of a converted classic image that are shared
        0x00209171,  # and those of each frame
    }
)
_DIRECTIONS = 0x00189076
_VOLUMES = ("CT", "MR", "PT")
_NAMES = frozenset(
    """position orientation pixel_spacing thickness spacing_between slope intercept echo_time echo_number acquisition
    temporal_position trigger_time inversion_time repetition_time flip_angle component stack_id in_stack kvp kernel
    instance image_type""".split()  # noqa: SIM905 (a list of twenty quoted names reads worse)
)


def expand(header: Header, cine: Cine = "refuse") -> tuple[Header, ...]:
    """Return one header per frame of a multi-frame image or slice of a mosaic; ``(header,)`` for all others.

    Parameters
    ----------
    header : Header
        As `read_header` gave it.
    cine : "refuse" or "frames"
        What becomes of frames that nothing places in the patient (ultrasound, fluoroscopy, captured screens): they
        stay one header, which `medml.io.dicom.check_values` refuses, or each becomes a flat image of its own.

    Raises
    ------
    Refusal
        If frames and their descriptions do not match or are too many, or an image has no rows or columns.
    """
    if lacks_matrix(header):
        raise Refusal(
            "damaged_header", "an image without Rows or Columns; its header is damaged or cut off, copy it again"
        )
    if header.expanded or not is_image(header):
        return (header,)
    if "MOSAIC" in header.image_type and header.frames == 1:
        return guarded(lambda: dicom_mosaic.tiles_of(header, _elements(header, dicom_mosaic.TAGS)))
    if header.frames == 1 and not has_functional_groups(header):
        return (header,)
    _check_frames(header)
    return guarded(lambda: _frames(header, cine))


def _check_frames(header: Header) -> None:
    """Refuse counts that the file cannot hold, before anything is made for each frame."""
    if header.frames > MAX_FRAMES:
        raise Refusal("too_many_frames", f"{header.frames} frames in one file, expected at most {MAX_FRAMES}")
    if not header.pixel_offset:
        raise Refusal("no_pixels", f"{header.frames} frames without PixelData; export the file with its images")
    if header.transfer_syntax not in PLAIN:
        needed = header.frames  # a compressed frame takes a byte at least
    else:
        needed = header.frames * header.rows * header.columns * header.samples * header.bits_allocated // 8
        needed = needed * 2 // 3 if "422" in header.photometric else needed
    if needed > header.pixel_present:
        raise Refusal(
            "truncated",
            f"{header.frames} frames of {header.columns} x {header.rows} need {needed} bytes of pixels, the file holds "
            f"{header.pixel_present}; copy it again",
        )


def _frames(header: Header, cine: Cine) -> tuple[Header, ...]:
    elements = _elements(header, (_SHARED, _PER_FRAME, _DETECTORS, _SLICE_VECTOR, _FRAME_POINTER, _CORRECTED_TO))
    if _PER_FRAME in elements:
        described = _described(header, elements)
        if header.modality in _VOLUMES or any(frame.position for frame in described):
            return described
    elif header.sop_class == NUCLEAR and _is_reconstruction(header):
        return _nuclear(header, elements)
    elif header.modality in _VOLUMES or has_functional_groups(header):
        raise Refusal(
            "frame_count", f"{header.frames} frames without functional groups; where they lie is unknown, export again"
        )
    if header.frames > 1 and cine == "refuse":
        return (header,)
    return tuple(replace(header, frame=index, expanded=True, instance=index + 1) for index in range(header.frames))


def _described(header: Header, elements: Mapping[int, Any]) -> tuple[Header, ...]:
    """Return a header per frame of an enhanced image: what is shared, overridden by what is the frame's own."""
    shared = items_of(elements.get(_SHARED))
    frames = items_of(elements[_PER_FRAME])
    if len(frames) != header.frames or len(shared) > 1:
        raise Refusal(
            "frame_count",
            f"{header.frames} frames, but {len(frames)} of them are described ({len(shared)} shared descriptions, "
            "expected at most one); export the file again",
        )
    known: dict[tuple[int, bytes], dict[str, Any]] = {}
    common = _group_values(shared[0], known) if shared else {}
    corrected_to = text_of(element_bytes(elements.get(_CORRECTED_TO)))
    made = []
    for index, item in enumerate(frames):
        values = {**common, **_group_values(item, known)}
        pet = _enhanced_pet(header, values.pop("units", ""), corrected_to)
        made.append(replace(header, frame=index, expanded=True, pet=pet, **{"instance": index + 1, **values}))
    return tuple(made)


def _group_values(item: Dataset, known: dict[tuple[int, bytes], dict[str, Any]]) -> dict[str, Any]:
    """Return the fields of `Header` that the functional groups of one item give.

    Most groups say the same for every frame: ``known`` keeps what their bytes mean, so each is parsed once.
    """
    values: dict[str, Any] = {}
    for tag in sorted(item.keys()):
        if int(tag) not in _GROUPS:
            continue
        element = item.get_item(tag)
        key = int(tag), element_bytes(element)
        found = known.get(key) if key[1] else None
        if found is None:
            found = _values_of_group(element)
            known[key] = found
        values |= found
    return values


def _values_of_group(element: Any) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for group in items_of(element):
        raw = _raw(group)
        # A damaged value (None) counts: the shared or older one in its place would be a guess.
        values |= {name: value for name, value in values_of(raw).items() if name in _NAMES and value not in ("", ())}
        values |= _binary_values(raw)
    return values


def _binary_values(raw: Mapping[int, Any]) -> dict[str, Any]:
    """Return what functional groups hold under tags, or in representations, of their own."""
    values: dict[str, Any] = {}
    for name, tag, convert in _BINARY:
        element = raw.get(tag)
        if element is not None and element_bytes(element):
            values[name] = convert(element_bytes(element), element.is_little_endian)
    for item in items_of(raw.get(_DIRECTIONS)):
        element = _raw(item).get(0x00189089)
        if element is not None:
            values["diffusion"] = doubles_of(element_bytes(element), element.is_little_endian)
    return values


def _as_text(convert: Any, value: bytes, little: bool) -> str:
    number = convert(value, little)
    return "" if number is None else f"{number:g}"


def _single(value: bytes, little: bool) -> float | None:
    return float(np.frombuffer(value[:4], "<f4" if little else ">f4")[0]) if len(value) >= 4 else None


def _whole_text(value: bytes, little: bool) -> str:
    return _as_text(unsigned_of, value, little)


_BINARY: tuple[tuple[str, int, Any], ...] = (
    ("image_type", 0x00089007, words_of),
    ("acquired", 0x00189074, lambda value, little: text_of(value)),
    ("acquisition", 0x00209156, _whole_text),
    ("temporal_position", 0x00209128, partial(_as_text, long_of)),
    ("echo_time", 0x00189082, double_of),
    ("inversion_time", 0x00189079, double_of),
    ("b_value", 0x00189087, double_of),
    ("trigger_time", 0x00209153, partial(_as_text, double_of)),
    ("units", 0x00281054, upper_of),
    ("units", 0x00541001, upper_of),
    ("phase", 0x00209241, partial(_as_text, _single)),
)


def _enhanced_pet(header: Header, units: str, corrected_to: str) -> Pet | None:
    """Return what a frame says for SUV, in the words of classic PET: its values are corrected to one moment."""
    pet = header.pet
    if pet is None:
        return None
    if not pet.units and units in ("BQML", "GML", "CNTS"):
        pet = replace(pet, units=units)
    if corrected_to:
        pet = replace(pet, decay_correction="START", series=corrected_to, acquired=corrected_to)
    return pet


def _is_reconstruction(header: Header) -> bool:
    return any(word in ("RECON TOMO", "RECON GATED TOMO") for word in header.image_type)


def _nuclear(header: Header, elements: Mapping[int, Any]) -> tuple[Header, ...]:
    """Place the slices of a nuclear reconstruction: the sign of their spacing is a direction (PS3.3 C.8.4.15)."""
    pointers = _longs(elements.get(_FRAME_POINTER))
    vector = elements.get(_SLICE_VECTOR)
    raw = element_bytes(vector)
    slices = np.frombuffer(raw, "<u2" if vector is None or vector.is_little_endian else ">u2").tolist()
    detectors = [_raw(item) for item in items_of(elements.get(_DETECTORS))]
    position = exactly(3, element_bytes(detectors[0].get(0x00200032))) if detectors else None
    orientation = exactly(6, element_bytes(detectors[0].get(0x00200037))) if detectors else None
    position, orientation = position or header.position, orientation or header.orientation
    if pointers != [0x00540080] or len(slices) != header.frames or len(detectors) > 1:
        raise Refusal(
            "frame_count",
            f"{header.frames} reconstructed frames, {len(slices)} of them with a slice number, expected all; where "
            "more than slices vary (gates, energy windows), export them one by one",
        )
    if position is None or orientation is None or not header.spacing_between:
        raise Refusal("missing_geometry", "a nuclear reconstruction without position, orientation or slice spacing")
    step = header.spacing_between * np.cross(orientation[:3], orientation[3:])
    return tuple(
        replace(
            header,
            frame=index,
            expanded=True,
            position=tuple(float(value) for value in np.array(position) + (number - 1) * step),
            orientation=orientation,
            spacing_between=abs(header.spacing_between),
            in_stack=number,
        )
        for index, number in enumerate(slices)
    )


def _elements(header: Header, tags: Sequence[int]) -> dict[int, Any]:
    with open_regular(header.path) as file:
        found = parse_elements(file, tags)
    return {} if found is None else found.by_tag


def items_of(element: Any) -> list[Dataset]:
    """Return the items of a sequence; parsed here if pydicom has not, after a look at how many there are."""
    if element is None:
        return []
    if isinstance(element, RawDataElement):
        value = element_bytes(element)
        count = value.count(b"\xfe\xff\x00\xe0" if element.is_little_endian else b"\xff\xfe\xe0\x00")
        if count > MAX_ITEMS:
            raise Refusal("too_many_items", f"a sequence holds {count} items, expected at most {MAX_ITEMS}")
        element = convert_raw_data_element(element._replace(VR="SQ"))
    return list(element.value or ())


def _raw(item: Dataset) -> dict[int, Any]:
    """Return the elements of an item as they are, values in bytes."""
    return {int(tag): item.get_item(tag) for tag in sorted(item.keys())}


def _longs(element: Any) -> list[int]:
    """Return the tags that FrameIncrementPointer (AT) lists."""
    value = element_bytes(element)
    parts = np.frombuffer(value[: len(value) // 4 * 4], "<u2" if element is None or element.is_little_endian else ">u2")
    return [int(group) << 16 | int(number) for group, number in parts.reshape(-1, 2)]
