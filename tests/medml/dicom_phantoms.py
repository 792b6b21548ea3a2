"""Tiny DICOM series written with pydicom: 4 slices of 3 rows and 2 columns whose values tell where they stand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from medml.io.dicom import Header, read_header

ROOT = "1.2.826.0.1.3680043.8.498.77"
Edit = Callable[[Dataset, int], None]


def pixels_of(index: int) -> np.ndarray:
    """Values of one slice: 1000 + 100 x slice + 10 x row + column."""
    rows, columns = np.mgrid[:3, :2]
    return (1000 + 100 * index + 10 * rows + columns).astype(np.uint16)


def slice_dataset(index: int, spacing: float = 5.0) -> Dataset:
    """An axial CT slice, 0.5 mm between rows and 0.75 mm between columns."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID = CTImageStorage
    data.SOPInstanceUID = f"{ROOT}.4.{index + 1}"
    data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = f"{ROOT}.1", f"{ROOT}.2", f"{ROOT}.3"
    data.PatientID, data.IssuerOfPatientID, data.PatientName = "PID7", "HOSP", "Doe^Jane"
    data.PatientSex, data.PatientAge = "F", "061Y"
    data.Modality, data.Manufacturer, data.ManufacturerModelName = "CT", "ACME", "Scan 9"
    data.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    data.InstanceNumber = index + 1
    data.ImagePositionPatient = [-10.0, -20.0, round(30.0 + spacing * index, 6)]
    data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    data.PixelSpacing = [0.5, 0.75]
    data.SliceThickness = 5
    data.RescaleSlope, data.RescaleIntercept = 1, -1024
    set_pixels(data, pixels_of(index))
    return data


def set_pixels(data: Dataset, pixels: np.ndarray, photometric: str = "MONOCHROME2") -> None:
    """Put pixels and what describes them into a data set."""
    data.Rows, data.Columns = pixels.shape[:2]
    data.SamplesPerPixel = 3 if pixels.ndim == 3 else 1
    if pixels.ndim == 3:
        data.PlanarConfiguration = 0
    data.PhotometricInterpretation = photometric
    data.BitsAllocated = data.BitsStored = 8 * pixels.dtype.itemsize
    data.HighBit = data.BitsStored - 1
    data.PixelRepresentation = int(pixels.dtype.kind == "i")
    data.PixelData = pixels.tobytes() + bytes(pixels.nbytes % 2)
    data["PixelData"].VR = "OB" if pixels.dtype.itemsize == 1 else "OW"


def save_slice(path: Path, data: Dataset) -> Path:
    """Write a data set as a DICOM file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID
    data.file_meta.MediaStorageSOPInstanceUID = data.get("SOPInstanceUID", "1.2")
    data.save_as(path, enforce_file_format=True)
    return path


def write_series(folder: Path, count: int = 4, *, spacing: float = 5.0, edit: Edit | None = None) -> list[Path]:
    """Write slices under names that do not follow their order; ``edit`` may change each data set."""
    paths = []
    for index in range(count):
        data = slice_dataset(index, spacing)
        if edit is not None:
            edit(data, index)
        paths.append(save_slice(folder / f"IM{(index * 7 + 3) % 11:03d}_{index}", data))
    return paths


def headers_of(paths: list[Path]) -> list[Header]:
    """Read the headers of files that are DICOM."""
    headers = [read_header(path) for path in paths]
    return [header for header in headers if header is not None]


def tagged(**tags: Any) -> Edit:
    """Return an edit that sets the same tags on every slice; None deletes a tag."""

    def edit(data: Dataset, index: int) -> None:
        for name, value in tags.items():
            if value is None:
                delattr(data, name)
            else:
                setattr(data, name, value)

    return edit
