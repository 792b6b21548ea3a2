"""DICOM SEG objects (binary, fractional, labelmap) onto the slices of their source series.

Each frame is placed by its own position and orientation, so neither the order of frames, nor frames left out, nor the
direction of their rows and slices matters. Its pixels must fall on voxel centres of the source; nothing is resampled.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence as DicomSequence

from medml.errors import GeometryError, Refusal
from medml.io.limits import MASK_LIMITS
from medml.io.structures import References, SourceSlices, Structure, clean_name, identity_words, structure_of, warn
from medml.records.scan import Finding

SEGMENTATION = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
# A tenth of a voxel, as `geometry.same_grid`.
TOLERANCE = 0.1


@dataclass(frozen=True, slots=True, eq=False)
class _Frame:
    """One frame of a SEG.

    Attributes
    ----------
    segment : int
        ReferencedSegmentNumber; 0 in a labelmap, whose pixels say it.
    steps : ndarray of shape (3, 2) or None
        From pixel to pixel along a row and down a column, LPS mm.
    images : tuple of (str, tuple of int)
        SOP instance UIDs and frames (from 0) of its source images.
    """

    segment: int
    position: np.ndarray | None
    steps: np.ndarray | None
    images: tuple[tuple[str, tuple[int, ...]], ...]


def read_references(path: Path) -> References:
    """Return what a SEG says it was drawn on; no pixels are read."""
    data = pydicom.dcmread(path, stop_before_pixels=True)
    series, images = _referenced_series(data)
    studies = [str(data.get("StudyInstanceUID", ""))]
    for study in _items(data, "StudiesContainingOtherReferencedInstancesSequence"):
        studies.append(str(study.get("StudyInstanceUID", "")))
        more_series, more_images = _referenced_series(study)
        series, images = series + more_series, images | more_images
    for frame in _frames(data):
        images |= {uid for uid, _ in frame.images}
    frame_uid = str(data.get("FrameOfReferenceUID", ""))
    return References("dicom_seg", tuple(dict.fromkeys(studies)), tuple(series), frozenset(images), frame_uid)


def read_segments(
    path: Path, slices: SourceSlices, *, threshold: float = 0.5, elsewhere: frozenset[str] = frozenset()
) -> tuple[list[Structure], tuple[Finding, ...]]:
    """Return the segments of a SEG as voxels of its source slices.

    Parameters
    ----------
    threshold : float
        Of a fractional SEG, the share of MaximumFractionalValue from which a pixel belongs to the segment.
    elsewhere : set of str
        SOP instance UIDs of other scans made of the same series; frames drawn on those are passed over.

    Raises
    ------
    GeometryError
        ``grid_mismatch`` if a pixel that is set does not fall on a voxel centre of the source, within a tenth of one.
    Refusal
        If an image that a frame names is not there, the object is damaged, over a cap, or of an unknown kind.
    """
    from highdicom.seg import segread

    data = pydicom.dcmread(path, stop_before_pixels=True)
    _check(data, path)
    frames = list(_frames(data))
    _check_images(frames, slices, elsewhere)
    kind = str(data.get("SegmentationType", ""))
    declared = {int(item.SegmentNumber): item for item in _items(data, "SegmentSequence")}
    whole = float(data.get("MaximumFractionalValue", 1) or 1) if kind == "FRACTIONAL" else 1.0
    padding = data.get("PixelPaddingValue") if kind == "LABELMAP" else None
    object_ = segread(path, lazy_frame_retrieval=True)
    found: dict[int, list[np.ndarray]] = defaultdict(list)
    between = 0
    for number, frame in enumerate(frames, start=1):
        if frame.images and all(uid in elsewhere for uid, _ in frame.images):
            continue
        pixels = np.asarray(object_.get_stored_frame(number))
        if kind == "LABELMAP":
            values = [int(v) for v in np.unique(pixels) if v and v != padding]
            parts = {value: pixels == value for value in values}
        else:
            parts = {frame.segment: pixels >= threshold * whole if whole > 1 else pixels > 0}
            between += int(((pixels > 0) & (pixels < whole)).sum()) if whole > 1 else 0
        for value, part in parts.items():
            if part.any():
                found[value].append(_placed(part, frame, slices))
    return _structures(data, declared, found, slices.shape), _findings(kind, threshold, between)


def _structures(
    data: Dataset,
    declared: Mapping[int, Dataset],
    found: dict[int, list[np.ndarray]],
    shape: tuple[int, int, int],
) -> list[Structure]:
    unknown = sorted(set(found) - set(declared))
    if unknown:
        raise Refusal(
            "unknown_label", f"the pixels hold the segments {unknown[:8]}, the object declares {sorted(declared)[:8]}"
        )
    identity = identity_words(data)
    structures = []
    for number, item in sorted(declared.items()):
        if number == 0:
            continue
        kinds = _items(item, "SegmentedPropertyTypeCodeSequence")
        meaning = str(kinds[0].get("CodeMeaning", "")) if kinds else ""
        fallback = clean_name(meaning, identity, f"segment_{number}")
        name = clean_name(str(item.get("SegmentLabel", "")), identity, fallback)
        code = _code(kinds[0]) if kinds else ""
        structures.append(structure_of(number, name, found.pop(number, []), shape, code))
    return structures


def _findings(kind: str, threshold: float, between: int) -> tuple[Finding, ...]:
    if kind != "FRACTIONAL":
        return ()
    message = f"fractional segments were cut at {threshold:g} of their maximum; {between} pixels lay between 0 and 1"
    advice = "set fractional_threshold in the ingest configuration for another cut"
    return (warn("fractional_segments", message, advice, threshold=threshold, between=between),)


def _check(data: Dataset, path: Path) -> None:
    if str(data.get("SegmentationType", "")) not in ("BINARY", "FRACTIONAL", "LABELMAP"):
        raise Refusal("unsupported_segmentation", "SegmentationType is not BINARY, FRACTIONAL or LABELMAP")
    shape = (int(data.get("Columns", 0)), int(data.get("Rows", 0)), int(data.get("NumberOfFrames", 0) or 0))
    if min(shape) < 1 or shape[2] != len(_items(data, "PerFrameFunctionalGroupsSequence")):
        described = len(_items(data, "PerFrameFunctionalGroupsSequence"))
        raise Refusal(
            "damaged",
            f"{shape[2]} frames of {shape[0]} x {shape[1]} pixels, {described} of them described; export again",
        )
    packed = 8 if int(data.get("BitsAllocated", 8)) == 1 else 1
    if shape[2] > MASK_LIMITS.axis * 16:
        raise Refusal("too_large", f"{shape[2]} frames, expected at most {MASK_LIMITS.axis * 16}")
    MASK_LIMITS.check(shape[:2], max(1, int(data.get("BitsAllocated", 8)) // 8), path.stat().st_size * packed)


def _check_images(frames: list[_Frame], slices: SourceSlices, elsewhere: frozenset[str]) -> None:
    """Refuse frames drawn on images that are not there, before their pixels are looked at."""
    named = {uid for frame in frames for uid, _ in frame.images}
    absent = named - slices.instances - elsewhere
    if absent:
        raise Refusal(
            "dangling_reference",
            f"{len(absent)} of the {len(named)} images it was drawn on are not among the {len(slices.sop_uids)} of the "
            "series; ingest the whole series",
        )


def _placed(part: np.ndarray, frame: _Frame, slices: SourceSlices) -> np.ndarray:
    """Return the voxels of the pixels that are set, as flat indices."""
    rows, columns = np.nonzero(part)
    start, steps = _on_source(part.shape, frame, slices)
    index = start[:, None] + steps @ np.stack([columns, rows])
    outside = ((index < 0) | (index >= np.array(slices.shape)[:, None])).any(axis=0)
    if outside.any():
        raise GeometryError(
            "grid_mismatch",
            f"{int(outside.sum())} of {rows.size} pixels of a frame lie outside the source series of "
            f"{slices.shape[0]} x {slices.shape[1]} x {slices.shape[2]} voxels; they were drawn on another image",
        )
    flat = np.ravel_multi_index((index[0], index[1], index[2]), slices.shape)
    return np.asarray(flat, dtype=np.int32 if np.prod(slices.shape) < 2**31 else np.int64)


def _on_source(shape: tuple[int, ...], frame: _Frame, slices: SourceSlices) -> tuple[np.ndarray, np.ndarray]:
    """Return the voxel of a frame's first pixel, and the whole steps (3, 2) to its neighbours."""
    named = _named_slice(frame, slices)
    if frame.position is None or frame.steps is None or slices.affine is None or slices.origins is None:
        if named is None or shape != (slices.shape[1], slices.shape[0]):
            raise GeometryError("grid_mismatch", "a frame has neither a position nor a source image of its own matrix")
        return np.array([0, 0, named]), np.array([[1, 0], [0, 1], [0, 0]])
    inverse = np.linalg.inv(slices.affine[:3, :3])
    exact = inverse @ frame.steps
    steps = np.rint(exact).astype(int)
    reach = np.array([shape[1] - 1, shape[0] - 1])
    regular = np.array_equal(np.abs(steps).sum(axis=0), [1, 1]) and np.abs(steps).sum(axis=1).max() == 1
    if not regular or (np.abs(exact - steps) * reach).max() > TOLERANCE:
        raise GeometryError(
            "grid_mismatch",
            "the pixels of a frame have another size or direction than the voxels of the source series; expected the "
            "same within a tenth of a voxel, draw or resample it on this series",
        )
    start = _first_voxel(frame.position, inverse, steps, slices.affine, slices.origins)
    whole = np.rint(start).astype(int)
    apart = np.abs(start - whole).max()
    if apart > TOLERANCE:
        raise GeometryError(
            "grid_mismatch",
            f"a frame lies {apart:.2f} voxels from the nearest voxels of the source series, expected at most "
            f"{TOLERANCE:g}; draw or resample it on this series",
        )
    if named is not None and not steps[2].any() and whole[2] != named:
        raise GeometryError(
            "grid_mismatch",
            f"a frame names slice {named} of the source series but lies on slice {whole[2]}; "
            "the object contradicts itself",
        )
    return whole, steps


def _first_voxel(
    position: np.ndarray, inverse: np.ndarray, steps: np.ndarray, affine: np.ndarray, origins: np.ndarray
) -> np.ndarray:
    """Return the voxel (fractional) at a position; on a frame along the slices, by the nearest slice's own origin."""
    if steps[2].any():
        return np.asarray(inverse @ (position - affine[:3, 3]))
    offsets = (position - origins) @ inverse.T
    nearest = int(np.abs(offsets[:, 2]).argmin())
    return np.asarray(offsets[nearest] + [0, 0, nearest])


def _named_slice(frame: _Frame, slices: SourceSlices) -> int | None:
    """Return the slice that a frame names as its only source; None if it names none or several."""
    if len(frame.images) != 1:
        return None
    uid, numbers = frame.images[0]
    found = [n for n in slices.slices_of(uid) if not numbers or slices.frames[n] in numbers]
    return found[0] if len(found) == 1 else None


def _frames(data: Dataset) -> Iterator[_Frame]:
    shared = next(iter(_items(data, "SharedFunctionalGroupsSequence")), Dataset())
    for own in _items(data, "PerFrameFunctionalGroupsSequence"):
        position = _group(own, shared, "PlanePositionSequence").get("ImagePositionPatient")
        direction = _group(own, shared, "PlaneOrientationSequence").get("ImageOrientationPatient")
        spacing = _group(own, shared, "PixelMeasuresSequence").get("PixelSpacing")
        segment = _group(own, shared, "SegmentIdentificationSequence").get("ReferencedSegmentNumber", 0)
        images = [
            (str(image.get("ReferencedSOPInstanceUID", "")), _numbers(image.get("ReferencedFrameNumber")))
            for derived in _items(own, "DerivationImageSequence") or _items(shared, "DerivationImageSequence")
            for image in _items(derived, "SourceImageSequence")
        ]
        yield _Frame(
            segment=int(segment),
            position=None if position is None else np.array(position, dtype=float),
            steps=_steps(direction, spacing),
            images=tuple(images),
        )


def _steps(direction: Any, spacing: Any) -> np.ndarray | None:
    if direction is None or spacing is None:
        return None
    row, column = np.array(direction, dtype=float).reshape(2, 3)
    between_rows, between_columns = np.array(spacing, dtype=float)
    return np.stack([row * between_columns, column * between_rows], axis=1)


def _group(own: Dataset, shared: Dataset, name: str) -> Dataset:
    return next(iter(_items(own, name) or _items(shared, name)), Dataset())


def _items(data: Dataset, name: str) -> DicomSequence | list[Dataset]:
    return data.get(name) or []


def _numbers(value: Any) -> tuple[int, ...]:
    """Return frame numbers, from 0."""
    if value is None or value == "":
        return ()
    several = value if isinstance(value, list | MultiValue) else [value]
    return tuple(int(number) - 1 for number in several)


def _referenced_series(data: Dataset) -> tuple[list[str], set[str]]:
    series = [str(item.get("SeriesInstanceUID", "")) for item in _items(data, "ReferencedSeriesSequence")]
    images = {
        str(image.get("ReferencedSOPInstanceUID", ""))
        for item in _items(data, "ReferencedSeriesSequence")
        for image in _items(item, "ReferencedInstanceSequence")
    }
    return series, images


def _code(item: Dataset) -> str:
    """Return scheme and value of a code; only what looks like one."""
    scheme, value = str(item.get("CodingSchemeDesignator", "")), str(item.get("CodeValue", ""))
    known = scheme in ("SCT", "SRT", "SNM3", "99SDM", "DCM", "FMA", "RADLEX", "NCIt", "UMLS")
    return f"{scheme}:{value}" if known and value and value.replace("-", "").isalnum() and len(value) <= 18 else ""
