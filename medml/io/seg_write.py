"""Masks as DICOM SEG, on the slices of their source."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

import highdicom as hd
import numpy as np
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from medml.errors import Refusal
from medml.io.dicom_sources import SourceImages
from medml.records.labels import Author, LabelMeaning

PRIVATE_SCHEME = "99MEDML"
SERIES_NUMBER = 9001
MANUFACTURER = "medml"
# The category of a label that nobody gave one.
STRUCTURE = Code("123037004", "SCT", "Anatomical Structure")
# Okabe and Ito's colours, told apart by the colour-blind (https://jfly.uni-koeln.de/color/, 2008).
COLOURS = ((0, 114, 178), (230, 159, 0), (0, 158, 115), (204, 121, 167), (86, 180, 233), (213, 94, 0), (240, 228, 66))


def segmentation(
    mask: np.ndarray,
    sources: SourceImages,
    labels: Mapping[int, LabelMeaning],
    author: Author,
    *,
    uids: tuple[str, str],
    kind: Literal["binary", "labelmap"] = "binary",
    corrected: bool = False,
) -> Dataset:
    """Return a SEG in the study and frame of reference of its source.

    Parameters
    ----------
    mask : ndarray of shape (columns, rows, slices), uint8
        On the source's own slices, in their order, as `geometry.to_source` gives it.
    labels : mapping
        Label value to meaning, without background. A segment is written for each, found or not.
    uids : tuple of str
        SeriesInstanceUID and SOPInstanceUID; the same content should get the same ones.
    corrected : bool
        Whether a person corrected what the model drew: the segments are called semi-automatic then.

    Raises
    ------
    Refusal
        ``no_frame_of_reference`` or ``no_positions`` if the source does not say where it lies in the patient.
    """
    image = sources.images[0]
    count = len(sources.frames)
    if mask.shape[2] != count:
        raise ValueError(f"the mask has {mask.shape[2]} slices, expected {count} as the source")
    if not image.get("FrameOfReferenceUID"):
        raise Refusal("no_frame_of_reference", "the source names no frame of reference, which a SEG must lie in")
    numbers = sorted(labels)
    # Segments are counted from 1 without gaps, whatever the label values are.
    segment_of = np.zeros(256, dtype=np.uint8)
    segment_of[numbers] = np.arange(1, len(numbers) + 1)
    # A label map has no other place for its segments' numbers than its pixels, so both kinds count alike.
    frames = np.ascontiguousarray(segment_of[mask].transpose(2, 1, 0))
    data = hd.seg.Segmentation(
        source_images=list(sources.images),
        pixel_array=frames,
        segmentation_type=hd.seg.SegmentationTypeValues[kind.upper()],
        segment_descriptions=[
            _segment(n, labels[value], author, uids[1], corrected) for n, value in enumerate(numbers, start=1)
        ],
        series_instance_uid=uids[0],
        series_number=SERIES_NUMBER,
        sop_instance_uid=uids[1],
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=author.name[:64],
        software_versions=author.version,
        device_serial_number=author.digest[:16],
        content_label="SEGMENTATION",
        content_description=f"{author.name} {author.version}"[:64],
        content_creator_name="medml^",
        transfer_syntax_uid=ExplicitVRLittleEndian,
        omit_empty_frames=bool(frames.any()),
        **_places(sources),
    )
    word = "corrected, research" if corrected else "research"
    data.SeriesDescription = f"{f'{author.name} {author.version}'[: 61 - len(word)]} ({word})"
    return data


def label_code(meaning: LabelMeaning) -> Code:
    """Return the code of a label; one of our own scheme where nobody gave one."""
    if meaning.code:
        scheme, _, value = meaning.code.partition(":")
        return Code(value, scheme, (meaning.meaning or meaning.name)[:64])
    value = re.sub(r"[^A-Za-z0-9_]", "_", meaning.name).upper()[:16]
    return Code(value or "LABEL", PRIVATE_SCHEME, meaning.name[:64])


def colour_of(number: int, meaning: LabelMeaning) -> tuple[int, int, int]:
    """Return the label's colour, or one by its number that differs from its neighbours'."""
    return meaning.colour or COLOURS[(number - 1) % len(COLOURS)]


def _segment(
    number: int, meaning: LabelMeaning, author: Author, sop_uid: str, corrected: bool
) -> hd.seg.SegmentDescription:
    category = STRUCTURE
    if meaning.category:
        scheme, _, value = meaning.category.partition(":")
        category = Code(value, scheme, CATEGORIES.get(meaning.category, value))
    algorithm = hd.AlgorithmIdentificationSequence(
        name=author.name[:64], version=author.version, family=codes.DCM.ArtificialIntelligence
    )
    kinds = hd.seg.SegmentAlgorithmTypeValues
    return hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=meaning.name[:64],
        segmented_property_category=category,
        segmented_property_type=label_code(meaning),
        algorithm_type=kinds.SEMIAUTOMATIC if corrected else kinds.AUTOMATIC,
        algorithm_identification=algorithm,
        tracking_uid=generate_uid(entropy_srcs=[sop_uid, str(number)]),
        tracking_id=meaning.name[:64],
        display_color=hd.color.CIELabColor.from_rgb(*colour_of(number, meaning)),
    )


# CID 7150, Segmentation Property Categories (PS3.16).
CATEGORIES = {
    "SCT:85756007": "Tissue",
    "SCT:123037004": "Anatomical Structure",
    "SCT:260787004": "Physical object",
    "SCT:49755003": "Morphologically Altered Structure",
    "SCT:91720002": "Body Substance",
    "SCT:4147007": "Mass",
    "SCT:246464006": "Function",
    "SCT:309825002": "Spatial and Relational Concept",
}


def _places(sources: SourceImages) -> dict[str, Any]:
    """Return where slices lie, for a multi-frame source, whose frames may be some of many and in any order."""
    image = sources.images[0]
    if not sources.multi_frame:
        if len(sources.images) != len(sources.frames):
            raise Refusal("no_positions", "the source's slices are tiles of one picture; no SEG can refer to them")
        lost = sum("ImagePositionPatient" not in item for item in sources.images)
        if lost:
            raise Refusal("no_positions", f"{lost} of {len(sources.images)} source images do not say where they lie")
        return {"pixel_measures": _measures(image)}
    groups = image.get("PerFrameFunctionalGroupsSequence")
    if not groups:
        raise Refusal("no_positions", "the source's frames do not say where each lies; no SEG can refer to them")
    shared = image.SharedFunctionalGroupsSequence[0]

    def of(frame: int, name: str) -> Dataset:
        group = groups[frame]
        found = group[name] if name in group else shared[name]
        item: Dataset = found.value[0]
        return item

    first = sources.frames[0]
    positions = [of(frame, "PlanePositionSequence").ImagePositionPatient for frame in sources.frames]
    measures = of(first, "PixelMeasuresSequence")
    return {
        "plane_positions": [hd.PlanePositionSequence("PATIENT", position) for position in positions],
        "plane_orientation": hd.PlaneOrientationSequence(
            "PATIENT", of(first, "PlaneOrientationSequence").ImageOrientationPatient
        ),
        "pixel_measures": _measures(measures),
    }


def _measures(item: Dataset) -> hd.PixelMeasuresSequence:
    spacing = item.get("SpacingBetweenSlices")
    thickness = item.get("SliceThickness") or spacing or 1.0
    return hd.PixelMeasuresSequence(
        pixel_spacing=item.PixelSpacing,
        slice_thickness=float(thickness),
        spacing_between_slices=None if spacing is None else abs(float(spacing)),
    )
