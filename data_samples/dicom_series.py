"""Phantoms as CT Image Storage series, the same byte for byte whenever they are written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

from data_samples.phantom import Phantom, Style

SYNTAX = {Style.RLE: RLELossless, Style.JPEG_LS: JPEGLSLossless, Style.JPEG_2000: JPEG2000Lossless}
ENCODER = {Style.RLE: "pydicom", Style.JPEG_LS: "pyjpegls", Style.JPEG_2000: "pylibjpeg"}
WRITER_UID = generate_uid(entropy_srcs=["medml phantom writer"])


def write_series(phantom: Phantom, folder: Path, *, name: str, first: int = 0) -> list[Path]:
    """Write one series, one file a slice.

    Parameters
    ----------
    name : str
        File name with ``{index}``, counted from ``first`` in an order that is not that of the slices if the
        phantom is shuffled.

    Returns
    -------
    list of Path
        One per slice, along the slice normal.
    """
    folder.mkdir(parents=True, exist_ok=True)
    count = phantom.hounsfield.shape[2]
    order = np.arange(count)
    if phantom.shuffled:
        order = np.random.default_rng((phantom.seed, phantom.number, 3)).permutation(count)
    paths = []
    for position in range(count):
        instance = int(order[position]) + 1
        path = folder / name.format(index=first + instance)
        _slice(phantom, position, instance).save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def _slice(phantom: Phantom, position: int, instance: int) -> Dataset:
    dataset = Dataset()
    _describe_examination(dataset, phantom)
    _describe_slice(dataset, phantom, position, instance)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.ImplementationClassUID = WRITER_UID
    dataset.file_meta.ImplementationVersionName = "MEDML_PHANTOM"
    plain = ImplicitVRLittleEndian if phantom.number % 5 == 0 else ExplicitVRLittleEndian
    dataset.file_meta.TransferSyntaxUID = plain
    _put_pixels(dataset, phantom, phantom.hounsfield[:, :, position].T)
    return dataset


def _describe_examination(dataset: Dataset, phantom: Phantom) -> None:
    """Set patient, study, series, equipment and frame of reference (PS3.3 A.3, CT Image IOD)."""
    scanner = phantom.scanner
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.PatientName = f"PHANTOM^{phantom.number:04d}"
    dataset.PatientID = phantom.subject
    dataset.PatientBirthDate = ""
    dataset.PatientSex = phantom.sex
    dataset.PatientAge = f"{phantom.age:03d}Y"
    dataset.StudyInstanceUID = _uid(phantom, "study")
    dataset.StudyDate = f"2024{phantom.number % 12 + 1:02d}{phantom.number % 28 + 1:02d}"
    dataset.StudyTime = f"{8 + phantom.number % 10:02d}{phantom.number % 60:02d}00"
    dataset.ReferringPhysicianName = ""
    dataset.StudyID = str(phantom.number)
    dataset.AccessionNumber = f"A{phantom.number:07d}"
    dataset.StudyDescription = "Phantom abdomen"
    dataset.Modality = "CT"
    dataset.SeriesInstanceUID = _uid(phantom, "series", phantom.reconstruction)
    dataset.SeriesNumber = phantom.reconstruction + 1
    dataset.SeriesDate, dataset.SeriesTime = dataset.StudyDate, dataset.StudyTime
    dataset.SeriesDescription = f"Abdomen axial {scanner.spacing_mm[2]:g} mm"
    dataset.BodyPartExamined = "ABDOMEN"
    dataset.PatientPosition = "FFS" if phantom.feet_first else "HFS"
    dataset.FrameOfReferenceUID = _uid(phantom, "frame")
    dataset.PositionReferenceIndicator = ""
    dataset.Manufacturer = scanner.maker
    dataset.ManufacturerModelName = scanner.name
    dataset.InstitutionName = f"Imaginary Hospital {scanner.site.title()}"
    dataset.DeviceSerialNumber = f"{scanner.site}-1"
    dataset.SoftwareVersions = "1"


def _describe_slice(dataset: Dataset, phantom: Phantom, position: int, instance: int) -> None:
    affine = phantom.affine_lps
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    origin = affine[:3, 3] + position * affine[:3, 2]
    dataset.SOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = _uid(phantom, "slice", phantom.reconstruction, position)
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.AcquisitionNumber = 1
    dataset.InstanceNumber = instance
    dataset.ContentDate, dataset.ContentTime = dataset.StudyDate, dataset.StudyTime
    dataset.AcquisitionDate, dataset.AcquisitionTime = dataset.StudyDate, dataset.StudyTime
    dataset.ImagePositionPatient = [f"{value:.4f}" for value in origin]
    cosines = np.concatenate([affine[:3, 0] / spacing[0], affine[:3, 1] / spacing[1]])
    dataset.ImageOrientationPatient = [f"{value:.8f}" for value in cosines]
    dataset.PixelSpacing = [f"{spacing[1]:.5f}", f"{spacing[0]:.5f}"]  # between rows, then between columns
    dataset.SliceThickness = f"{spacing[2]:.4f}"
    dataset.SliceLocation = f"{origin[2]:.3f}"
    dataset.KVP = "120"
    dataset.ConvolutionKernel = f"K{phantom.scanner.kernel_mm:g}"
    dataset.WindowCenter, dataset.WindowWidth = "60", "400"


def _put_pixels(dataset: Dataset, phantom: Phantom, hounsfield: np.ndarray) -> None:
    """Store one slice (rows, columns) with the scanner's rescaling, compressed if the phantom's style says so."""
    slope, intercept = phantom.scanner.rescale
    dataset.RescaleSlope, dataset.RescaleIntercept = f"{slope:g}", f"{intercept:g}"
    dataset.RescaleType = "HU"
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = hounsfield.shape
    dataset.BitsAllocated = 16
    dataset.BitsStored = 16 if phantom.scanner.signed else 12
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(phantom.scanner.signed)
    stored = np.rint((hounsfield - intercept) / slope).astype("<i2" if phantom.scanner.signed else "<u2")
    dataset.PixelData = stored.tobytes()
    dataset["PixelData"].VR = "OW"
    if phantom.style in SYNTAX:
        dataset.compress(
            SYNTAX[phantom.style], stored, encoding_plugin=ENCODER[phantom.style], generate_instance_uid=False
        )


def _uid(phantom: Phantom, *parts: object) -> str:
    return generate_uid(entropy_srcs=["medml phantom", *(str(p) for p in (phantom.seed, phantom.number, *parts))])
