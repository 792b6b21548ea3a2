"""A CT of 4 slices of 8 rows and 6 columns, and SEG and RTSTRUCT objects drawn on it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
from dicom_phantoms import ROOT, save_slice, set_pixels, slice_dataset
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian

from medml.io.structures import SourceSlices

ROWS, COLUMNS, SLICES = 8, 6, 4
SHAPE = (COLUMNS, ROWS, SLICES)
OBLIQUE = [0.96, 0.28, 0.0, -0.28, 0.96, 0.0]


def ct(orientation: Sequence[float] = (1, 0, 0, 0, 1, 0), count: int = SLICES) -> list[Dataset]:
    """Slices 2.5 mm apart along z, 0.5 mm between rows and 0.75 mm between columns, in order."""
    found = []
    for index in range(count):
        data = slice_dataset(index)
        data.ImagePositionPatient = [-10.0, -20.0, 30.0 + 2.5 * index]
        data.ImageOrientationPatient = list(orientation)
        data.StudyDate, data.StudyTime, data.AccessionNumber, data.StudyID = "20200102", "101010", "A1", "S1"
        data.PatientBirthDate, data.SeriesNumber = "19600102", 1
        data.ReferringPhysicianName = "Roe^Richard"
        rows, columns = np.mgrid[:ROWS, :COLUMNS]
        set_pixels(data, (1000 + 100 * index + 10 * rows + columns).astype(np.uint16))
        found.append(data)
    return found


def save_all(folder: Path, datasets: Sequence[Dataset]) -> list[Path]:
    """Write slices."""
    return [save_slice(folder / f"{number}.dcm", data) for number, data in enumerate(datasets)]


def slices_of(datasets: Sequence[Dataset]) -> SourceSlices:
    """Return where slices lie, worked out by hand: steps of 0.75 mm, 0.5 mm and 2.5 mm."""
    origins = np.array([data.ImagePositionPatient for data in datasets], dtype=float)
    row, column = np.array(datasets[0].ImageOrientationPatient, dtype=float).reshape(2, 3)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1], affine[:3, 2], affine[:3, 3] = row * 0.75, column * 0.5, [0, 0, 2.5], origins[0]
    uids = tuple(str(data.SOPInstanceUID) for data in datasets)
    return SourceSlices((COLUMNS, ROWS, len(datasets)), uids, (0,) * len(datasets), affine, origins)


def segment(number: int, label: str, kind: Any = codes.SCT.Liver) -> hd.seg.SegmentDescription:
    """Describe a segment."""
    return hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=label,
        segmented_property_category=codes.SCT.Organ,
        segmented_property_type=kind,
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.MANUAL,
    )


def seg(
    datasets: Sequence[Dataset], pixels: np.ndarray, labels: Sequence[str], *, kind: str = "BINARY", **options: Any
) -> hd.seg.Segmentation:
    """Return a SEG; ``pixels`` are (frame, row, column[, segment]) in the order of ``datasets``."""
    return hd.seg.Segmentation(
        source_images=list(datasets),
        pixel_array=pixels,
        segmentation_type=kind,
        segment_descriptions=[segment(number, label) for number, label in enumerate(labels, start=1)],
        series_instance_uid=f"{ROOT}.20",
        series_number=20,
        sop_instance_uid=options.pop("sop_uid", f"{ROOT}.20.1"),
        instance_number=1,
        manufacturer="ACME",
        manufacturer_model_name="Drawer",
        software_versions="1",
        device_serial_number="1",
        **options,
    )


def rtstruct(
    datasets: Sequence[Dataset],
    regions: dict[str, list[tuple[int, Sequence[tuple[float, float]]]]],
    *,
    kind: str = "CLOSED_PLANAR",
    lift_mm: float = 0.0,
) -> Dataset:
    """Return a structure set.

    Parameters
    ----------
    regions : dict
        Name to contours: slice number and points as (column, row) in pixels, whole numbers at pixel centres.
    lift_mm : float
        How far the contours are moved off their slices.
    """
    first = datasets[0]
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID, data.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.481.3", f"{ROOT}.30.1"
    data.StudyInstanceUID, data.SeriesInstanceUID = first.StudyInstanceUID, f"{ROOT}.30"
    data.PatientID, data.IssuerOfPatientID, data.PatientName = first.PatientID, "HOSP", first.PatientName
    data.Modality, data.StructureSetLabel = "RTSTRUCT", "plan"
    series = _with(SeriesInstanceUID=first.SeriesInstanceUID, ContourImageSequence=[_image(item) for item in datasets])
    study = _with(ReferencedSOPInstanceUID=first.StudyInstanceUID, RTReferencedSeriesSequence=[series])
    data.ReferencedFrameOfReferenceSequence = [
        _with(FrameOfReferenceUID=first.FrameOfReferenceUID, RTReferencedStudySequence=[study])
    ]
    data.StructureSetROISequence, data.ROIContourSequence = [], []
    slices = slices_of(datasets)
    for number, (name, contours) in enumerate(regions.items(), start=1):
        data.StructureSetROISequence.append(
            _with(ROINumber=number, ROIName=name, ReferencedFrameOfReferenceUID=first.FrameOfReferenceUID)
        )
        drawn = [_contour(datasets[n], slices, n, points, kind, lift_mm) for n, points in contours]
        data.ROIContourSequence.append(_with(ReferencedROINumber=number, ContourSequence=drawn))
    return data


def _contour(
    image: Dataset, slices: SourceSlices, number: int, points: Sequence[tuple[float, float]], kind: str, lift: float
) -> Dataset:
    assert slices.affine is not None
    index = np.array([[column, row, number] for column, row in points], dtype=float)
    world = index @ slices.affine[:3, :3].T + slices.affine[:3, 3] + [0, 0, lift]
    return _with(
        ContourGeometricType=kind,
        NumberOfContourPoints=len(points),
        ContourData=[f"{value:.4f}" for value in world.ravel()],
        ContourImageSequence=[_image(image)],
    )


def _image(data: Dataset) -> Dataset:
    return _with(ReferencedSOPClassUID=data.SOPClassUID, ReferencedSOPInstanceUID=data.SOPInstanceUID)


def _with(**values: Any) -> Dataset:
    data = Dataset()
    for name, value in values.items():
        setattr(data, name, value)
    return data
