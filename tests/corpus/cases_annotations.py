"""Label maps and classes: DICOM SEG, RTSTRUCT, NIfTI beside images, nnU-Net, MSD, BIDS, tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import highdicom as hd
import numpy as np
from corpus.dicom import Stack, plant, save
from corpus.phantom import even, make_grid, only_changed, organ_mask
from corpus.source import Expected, Source, accepted, case, case_of, refused
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian

SEG = hd.seg.SegmentationTypeValues


def _segmentation(
    stack: Stack, pixels: np.ndarray, kind: Any = SEG.BINARY, slices: Sequence[int] | None = None
) -> Dataset:
    """Return highdicom's SEG of (slices, rows, columns[, segments]) on the stack's slices."""
    count = (
        int(pixels.max())
        if pixels.ndim == 3 and kind != SEG.FRACTIONAL
        else (pixels.shape[3] if pixels.ndim == 4 else 1)
    )
    segments = [
        hd.seg.SegmentDescription(
            number, f"part {number}", codes.SCT.Tissue, codes.SCT.Liver, hd.seg.SegmentAlgorithmTypeValues.MANUAL
        )
        for number in range(1, count + 1)
    ]
    images = [stack.slices[n] for n in slices] if slices is not None else stack.slices
    data = hd.seg.Segmentation(
        images, pixels, kind, segments, series_instance_uid=stack.source.uid(1, 700),
        series_number=700, sop_instance_uid=stack.source.uid(1, 700, 1), instance_number=1, manufacturer="ACME",
        manufacturer_model_name="Seg", software_versions="1", device_serial_number="SN-993-QX-11",
        content_creator_name="Papperlapapp^Dr", omit_empty_frames=True, max_fractional_value=255,
    )  # fmt: skip
    data.SeriesDescription = "Quetzalberg Segmentierung"
    return data


def _mask_of(stack: Stack) -> np.ndarray:
    return organ_mask(stack.truth.affine, stack.grid.shape)


def _frames(mask: np.ndarray) -> np.ndarray:
    """Turn (column, row, slice) into (slice, row, column)."""
    return np.ascontiguousarray(mask.transpose(2, 1, 0))


GRIDS = {
    "axial": make_grid(),
    "oblique": make_grid((1, 0, 0), (0, 0.9063078, -0.4226183)),
    "sagittal, falling": make_grid((0, 1, 0), (0, 0, -1), step=-4.0),
}


def _seg(grid: Any) -> object:
    def build(source: Source) -> Expected:
        stack = Stack(source, grid)
        stack.write("ct")
        mask = _mask_of(stack)
        save(source.path("seg.dcm"), _segmentation(stack, _frames(mask)))
        return accepted(only_changed(stack.truth, mask=mask), ignored="?.*")

    return build


for _name, _grid in GRIDS.items():
    case_of("annotations", f"seg {_name}", f"SEG of two segments, {_name}", _seg(_grid))  # type: ignore[arg-type]


@case("SEG of some slices, frames against the order of the slices")
def seg_some_slices(source: Source) -> Expected:
    stack = Stack(source)
    stack.write("ct")
    mask = _mask_of(stack)
    some = [8, 6, 5, 7]
    save(source.path("seg.dcm"), _segmentation(stack, _frames(mask)[some], slices=some))
    kept = np.zeros_like(mask)
    kept[:, :, some] = mask[:, :, some]
    return accepted(only_changed(stack.truth, mask=kept), ignored="?.*")


@case("SEG, fractional")
def seg_fractional(source: Source) -> Expected:
    stack = Stack(source)
    stack.write("ct")
    mask = (_mask_of(stack) == 1).astype(np.uint8)
    share = np.where(_frames(mask) > 0, 0.9, 0.1).astype(np.float32)
    save(source.path("seg.dcm"), _segmentation(stack, share, SEG.FRACTIONAL))
    return accepted(only_changed(stack.truth, mask=mask), ignored="?.*")


@case("SEG, label map")
def seg_labelmap(source: Source) -> Expected:
    stack = Stack(source)
    stack.write("ct")
    mask = _mask_of(stack)
    save(source.path("seg.dcm"), _segmentation(stack, _frames(mask), SEG.LABELMAP))
    return accepted(only_changed(stack.truth, mask=mask), ignored="?.*")


@case("SEG whose segments overlap: both stay whole")
def seg_overlapping(source: Source) -> Expected:
    stack = Stack(source)
    stack.write("ct")
    mask = _mask_of(stack)
    one = (mask == 1).astype(np.uint8)
    two = np.roll(one, 2, axis=0) | (mask == 2)
    save(source.path("seg.dcm"), _segmentation(stack, np.stack([_frames(one), _frames(two)], axis=-1)))
    return accepted(only_changed(stack.truth, mask=one), ignored="?.*", check=_overlap(int(one.sum()), int(two.sum())))


def _overlap(one: int, two: int) -> object:
    def check(home: object, report: object, kept: list) -> list[str]:
        sizes = sorted(
            int((mask == value).sum()) for scan in kept for mask in scan.masks for value in np.unique(mask) if value
        )
        return [] if sizes == sorted((one, two)) else [f"segments of {sizes} voxels, expected {sorted((one, two))}"]

    return check


@case("SEG whose source series is not here")
def seg_dangling(source: Source) -> Expected:
    stack = Stack(source, series=8)
    mask = _mask_of(stack)
    save(source.path("seg.dcm"), _segmentation(stack, _frames(mask)))
    other = Stack(source, series=2)
    other.write("ct")
    return accepted(other.truth, refused="dangling_reference")


@case("SEG beside two series of its frame of reference: only the referenced one gets it")
def seg_of_one_series(source: Source) -> Expected:
    stack, other = Stack(source), Stack(source, series=2, change=lambda v: v + 1)
    stack.write("one")
    other.write("two")
    mask = _mask_of(stack)
    save(source.path("seg.dcm"), _segmentation(stack, _frames(mask)))
    return accepted(only_changed(stack.truth, mask=mask), other.truth, ignored="?.*")


@case("SEG of a series with a missing slice: the series is refused, the SEG has nothing to lie on")
def seg_of_refused_series(source: Source) -> Expected:
    stack = Stack(source)
    mask = _mask_of(stack)
    data = _segmentation(stack, _frames(mask))
    stack.drop(5).write("ct")
    save(source.path("seg.dcm"), data)
    return refused("missing_slice", "dangling_reference|.*reference.*|.*source.*|grid_mismatch")


@case("SEG of a tilted series: follows its repaired scan")
def seg_of_tilted_series(source: Source) -> Expected:
    stack = Stack(source, make_grid(shear=(0.0, 1.2)), change=even)
    stack.write("ct")
    mask = _mask_of(stack)
    save(source.path("seg.dcm"), _segmentation(stack, _frames(mask)))
    truth_ = only_changed(stack.truth, resampled=True)
    return accepted(truth_, ignored="?.*", check=_mask_lies_right(stack, mask))


def _mask_lies_right(stack: Stack, mask: np.ndarray) -> object:
    def check(home: object, report: object, kept: list) -> list[str]:
        complaints = [f"{len(scan.masks)} masks, expected 1" for scan in kept if len(scan.masks) != 1]
        for value in (1, 2):
            inside = np.argwhere(mask == value).mean(axis=0)
            wanted = stack.truth.affine[:3, :3] @ inside + stack.truth.affine[:3, 3]
            for scan in kept:
                for found in scan.masks:
                    middle = np.argwhere(found == value).mean(axis=0)
                    place = scan.affine[:3, :3] @ middle + scan.affine[:3, 3]
                    if np.linalg.norm(place - wanted) > 0.8:
                        complaints.append(f"label {value} lies {np.linalg.norm(place - wanted):.2f} mm off")
        return complaints

    return check


def _structures(stack: Stack, boxes: Sequence[tuple[slice, slice, slice]]) -> Dataset:
    """Return an RTSTRUCT whose contours go around boxes of voxels (column, row, slice), on half indices."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID, data.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.481.3", stack.source.uid(1, 600, 1)
    data.StudyInstanceUID, data.SeriesInstanceUID = stack[0].StudyInstanceUID, stack.source.uid(1, 600)
    data.Modality, data.StructureSetLabel = "RTSTRUCT", "Quetzalberg"
    data.FrameOfReferenceUID = stack[0].FrameOfReferenceUID
    plant(data)
    images = []
    for slice_ in stack:
        image = Dataset()
        image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID = slice_.SOPClassUID, slice_.SOPInstanceUID
        images.append(image)
    series, study, frame = Dataset(), Dataset(), Dataset()
    series.SeriesInstanceUID, series.ContourImageSequence = stack[0].SeriesInstanceUID, Items(images)
    study.ReferencedSOPClassUID, study.ReferencedSOPInstanceUID = "1.2.840.10008.3.1.2.3.1", data.StudyInstanceUID
    study.RTReferencedSeriesSequence = Items([series])
    frame.FrameOfReferenceUID, frame.RTReferencedStudySequence = data.FrameOfReferenceUID, Items([study])
    data.ReferencedFrameOfReferenceSequence = Items([frame])
    regions, contours = [], []
    affine = stack.grid.affine
    for number, (columns, rows, slices) in enumerate(boxes, 1):
        region, drawn = Dataset(), Dataset()
        region.ROINumber, region.ROIName, region.ROIGenerationAlgorithm = number, f"part {number}", "MANUAL"
        region.ReferencedFrameOfReferenceUID = data.FrameOfReferenceUID
        regions.append(region)
        drawn.ReferencedROINumber, planes = number, []
        for index in range(slices.start, slices.stop):
            corners = [
                (columns.start - 0.5, rows.start - 0.5), (columns.stop - 0.5, rows.start - 0.5),
                (columns.stop - 0.5, rows.stop - 0.5), (columns.start - 0.5, rows.stop - 0.5),
            ]  # fmt: skip
            points = [affine @ [column, row, index, 1] for column, row in corners]
            plane, image = Dataset(), Dataset()
            plane.ContourGeometricType, plane.NumberOfContourPoints = "CLOSED_PLANAR", len(points)
            plane.ContourData = [f"{value:.4f}" for point in points for value in point[:3]]
            image.ReferencedSOPClassUID = stack[index].SOPClassUID
            image.ReferencedSOPInstanceUID = stack[index].SOPInstanceUID
            plane.ContourImageSequence = Items([image])
            planes.append(plane)
        drawn.ContourSequence = Items(planes)
        contours.append(drawn)
    data.StructureSetROISequence, data.ROIContourSequence = Items(regions), Items(contours)
    return data


BOXES = ((slice(4, 11), slice(6, 15), slice(3, 8)), (slice(14, 19), slice(3, 6), slice(5, 10)))


def _boxed(shape: tuple[int, int, int]) -> np.ndarray:
    mask = np.zeros(shape, dtype=np.uint8)
    for number, box in enumerate(BOXES, 1):
        mask[box] = number
    return mask


def _rtstruct(grid: Any) -> object:
    def build(source: Source) -> Expected:
        stack = Stack(source, grid)
        stack.write("ct")
        save(source.path("rs.dcm"), _structures(stack, BOXES))
        return accepted(only_changed(stack.truth, mask=_boxed(grid.shape), agreement=0.999), ignored="?.*")

    return build


for _name, _grid in GRIDS.items():
    case_of("annotations", f"rtstruct {_name}", f"RTSTRUCT of two regions, {_name}", _rtstruct(_grid))  # type: ignore[arg-type]


@case("RTSTRUCT whose CT is not here")
def rtstruct_dangling(source: Source) -> Expected:
    stack, other = Stack(source, series=8), Stack(source, series=2)
    save(source.path("rs.dcm"), _structures(stack, BOXES))
    other.write("ct")
    return accepted(other.truth, refused="dangling_reference")


@case("RTSTRUCT with points off the slices")
def rtstruct_off_plane(source: Source) -> Expected:
    stack = Stack(source)
    stack.write("ct")
    data = _structures(stack, BOXES)
    for drawn in data.ROIContourSequence:
        for plane in drawn.ContourSequence:
            points = np.array([float(v) for v in plane.ContourData]).reshape(-1, 3) + np.array([0, 0, 2.6])
            plane.ContourData = [f"{v:.4f}" for v in points.ravel()]
    save(source.path("rs.dcm"), data)
    return accepted(stack.truth, refused="off_plane|grid_mismatch|.*reference.*")
