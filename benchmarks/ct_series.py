"""A synthetic CT series, the same on every machine: 300 slices of 512x512, body, lungs, bone and realistic noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless
from scipy.ndimage import gaussian_filter, zoom

SYNTAXES = {"raw": ExplicitVRLittleEndian, "jls": JPEGLSLossless, "j2k": JPEG2000Lossless}
ROOT = "1.2.826.0.1.3680043.8.498.3003"
SIZE = 512
SLICES = 300
LABELS = {0: "background", 1: "lungs", 2: "spine"}


def build_series(folder: Path, kind: str, slices: int = SLICES) -> Path:
    """Write the series once into ``folder/kind-slices``; file names do not follow the order of the slices."""
    done = folder / f"{kind}-{slices}"
    if done.exists():
        return done
    part = done.with_name(f"{done.name}.part")
    part.mkdir(parents=True, exist_ok=True)
    places = np.random.default_rng(1).permutation(slices)
    texture = slice_texture(slices)
    for index in range(slices):
        data = _header(index, SYNTAXES[kind])
        pixels = slice_pixels(index, texture[index])
        if kind == "raw":
            data.PixelData = pixels.tobytes()
            data["PixelData"].VR = "OW"
        else:
            data.compress(SYNTAXES[kind], pixels, generate_instance_uid=False)
        data.save_as(part / f"IM{places[index]:05d}.dcm", enforce_file_format=True)
    part.rename(done)
    return done


def build_study(folder: Path, *, series: int, slices: int) -> Path:
    """Write several uncompressed series of one patient once; each shows the same, moved along the rows."""
    for number in range(series):
        done = folder / f"series-{number + 1}"
        if done.exists():
            continue
        part = done.with_name(f"{done.name}.part")
        part.mkdir(parents=True, exist_ok=True)
        texture = slice_texture(slices)
        for index in range(slices):
            data = _header(index, ExplicitVRLittleEndian)
            data.SeriesInstanceUID = data.FrameOfReferenceUID = f"{ROOT}.5.{number + 1}"
            data.SOPInstanceUID = f"{data.SeriesInstanceUID}.{index + 1}"
            data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
            data.SeriesNumber = number + 1
            data.PixelData = np.roll(slice_pixels(index, texture[index]), 12 * number, axis=1).tobytes()
            data["PixelData"].VR = "OW"
            data.save_as(part / f"IM{index:05d}.dcm", enforce_file_format=True)
        part.rename(done)
    return folder


def slice_pixels(index: int, texture: np.ndarray) -> np.ndarray:
    """Return the Hounsfield units (rows, columns) of one slice as int16; noise has the grain of a body kernel."""
    rng = np.random.default_rng([2, index])
    rows, columns = np.mgrid[:SIZE, :SIZE].astype(np.float32) - 256
    body = np.hypot(rows / 170, columns / 220)
    lungs = _lungs(rows, columns)
    units = np.where(body < 1, 40 + 25 * texture, -1000)
    units = np.where(lungs < 1, -850 + 40 * texture, units)
    units = np.where(_spine(rows, columns) < 28, 450 + 150 * texture, units)
    units = np.where((body > 0.96) & (body < 1), -100, units)
    grain = gaussian_filter(rng.normal(size=(SIZE, SIZE)).astype(np.float32), 0.6)
    units = units + grain / grain.std() * np.where(body < 1, 18, 6)
    return np.clip(np.rint(units), -1024, 3071).astype(np.int16)


def _lungs(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    return np.minimum(np.hypot((rows + 10) / 90, (columns - 95) / 70), np.hypot((rows + 10) / 90, (columns + 95) / 70))


def _spine(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    return np.hypot(rows - 110, columns)


def slice_labels() -> np.ndarray:
    """Return `LABELS` (rows, columns) of every slice, uint8."""
    rows, columns = np.mgrid[:SIZE, :SIZE].astype(np.float32) - 256
    labels = np.where(_lungs(rows, columns) < 1, 1, 0)
    return np.where(_spine(rows, columns) < 28, 2, labels).astype(np.uint8)


def slice_texture(slices: int) -> np.ndarray:
    """Return coarse noise (slices, rows, columns) of the tissues."""
    coarse = np.random.default_rng(3).normal(size=(slices // 10 + 2, 20, 20)).astype(np.float32)
    return np.asarray(zoom(coarse, (10, SIZE / 20, SIZE / 20), order=1)[:slices, :SIZE, :SIZE])


def _header(index: int, syntax: UID) -> Dataset:
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian if syntax != ExplicitVRLittleEndian else syntax
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = CTImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = f"{ROOT}.4.{index + 1}"
    data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = f"{ROOT}.1", f"{ROOT}.2", f"{ROOT}.3"
    data.PatientName, data.PatientID, data.PatientSex, data.PatientAge = "Bench^Mark", "BENCH-1", "F", "061Y"
    data.PatientBirthDate = "19620101"
    data.Modality, data.Manufacturer, data.ManufacturerModelName = "CT", "SIEMENS", "Phantom"
    data.BodyPartExamined, data.PatientPosition = "CHEST", "HFS"
    data.StudyDate = data.SeriesDate = data.AcquisitionDate = data.ContentDate = "20240101"
    data.StudyTime = data.SeriesTime = data.AcquisitionTime = data.ContentTime = "120000"
    data.StudyID, data.SeriesNumber, data.AcquisitionNumber, data.InstanceNumber = "1", 2, 1, index + 1
    data.AccessionNumber, data.SeriesDescription, data.ProtocolName = "A1", "Chest", "Chest"
    data.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    data.ImagePositionPatient = [-200, -200, float(index)]
    data.SliceLocation, data.SliceThickness, data.SpacingBetweenSlices = float(index), 1, 1
    data.PixelSpacing, data.KVP = [0.78125, 0.78125], 120
    data.Rows = data.Columns = SIZE
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PixelRepresentation = 1, "MONOCHROME2", 1
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 16, 15
    data.RescaleSlope, data.RescaleIntercept, data.RescaleType = 1, 0, "HU"
    return data
