"""Writes the body as DICOM: one file a slice, of any orientation and syntax, full of planted secrets."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from corpus.phantom import AXIAL, LPS, Grid, Truth, place, sample
from corpus.planted import PATIENTS
from corpus.source import Source
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import ExplicitVRLittleEndian

CLASSES = {
    "CT": "1.2.840.10008.5.1.4.1.1.2",
    "MR": "1.2.840.10008.5.1.4.1.1.4",
    "PT": "1.2.840.10008.5.1.4.1.1.128",
    "CR": "1.2.840.10008.5.1.4.1.1.1",
    "DX": "1.2.840.10008.5.1.4.1.1.1.1",
    "MG": "1.2.840.10008.5.1.4.1.1.1.2",
    "US": "1.2.840.10008.5.1.4.1.1.6.1",
    "NM": "1.2.840.10008.5.1.4.1.1.20",
    "SC": "1.2.840.10008.5.1.4.1.1.7",
    "XC": "1.2.840.10008.5.1.4.1.1.77.1.4",
}


class Stack:
    """The slices of one series before they are written; change them as a scanner, a PACS or a student would.

    Attributes
    ----------
    slices : list of Dataset
        In the order of the grid.
    truth : Truth
        What the whole stack holds, by PS3.3 C.7.6.2.1.1 from the grid.
    """

    def __init__(
        self,
        source: Source,
        grid: Grid = AXIAL,
        *,
        modality: str = "CT",
        patient: int = 0,
        study: int = 1,
        series: int = 1,
        first: int = 1,
        change: Any = None,
    ) -> None:
        self.source, self.grid = source, grid
        affine = LPS @ grid.affine
        values, self.landmarks = sample(affine, grid.shape)
        # Scanners other than CT store no negative numbers.
        values = np.asarray(change(values)) if change is not None else values + 1000 * (modality != "CT")
        points = {float(values[at]): place(affine, at) for at in self.landmarks.values()}
        self.values = values
        self.truth = Truth(points, values.astype(float), affine)
        self.slices = []
        for index in range(grid.shape[2]):
            data = self._slice(index, modality, patient, (study, series, first + index))
            computed = modality == "CT"
            store(data, values[:, :, index].T, intercept=-1024 * computed, rescale=computed)
            self.slices.append(data)

    def __iter__(self) -> Iterator[Dataset]:
        return iter(self.slices)

    def __getitem__(self, index: int) -> Dataset:
        return self.slices[index]

    def set(self, **tags: Any) -> Stack:
        """Set tags on every slice; None deletes one."""
        for data in self.slices:
            for name, value in tags.items():
                if value is None:
                    delattr(data, name)
                else:
                    setattr(data, name, value)
        return self

    def drop(self, *indices: int) -> Stack:
        """Lose slices."""
        self.slices = [data for index, data in enumerate(self.slices) if index not in indices]
        return self

    def part(self, first: int, last: int) -> Truth:
        """Return the truth of the slices ``first`` to ``last`` - 1 alone."""
        affine = self.truth.affine.copy()
        affine[:3, 3] = place(affine, (0, 0, first))
        values = self.values[:, :, first:last].astype(float)
        inside = [at for at in self.landmarks.values() if first <= at[2] < last]
        points = {float(self.values[at]): place(self.truth.affine, at) for at in inside}
        return Truth(points, values, affine)

    def pixels(self, index: int) -> np.ndarray:
        """Return the values of one slice, (rows, columns)."""
        return np.asarray(self.values[:, :, index].T)

    def write(self, folder: str = "", names: Sequence[str] | None = None) -> list[Path]:
        """Write the slices under random names without suffix, or under ``names``."""
        paths = []
        for index, data in enumerate(self.slices):
            name = names[index] if names else f"{zlib.crc32(f'{data.SOPInstanceUID}'.encode()):08x}"
            paths.append(save(self.source.path(f"{folder}/{name}" if folder else name), data))
        return paths

    def _slice(self, index: int, modality: str, patient: int, uids: tuple[int, int, int]) -> Dataset:
        data = Dataset()
        data.file_meta = FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.SOPClassUID = CLASSES[modality]
        data.SOPInstanceUID = self.source.uid(*uids, 0)
        data.StudyInstanceUID, data.SeriesInstanceUID = self.source.uid(uids[0]), self.source.uid(*uids[:2])
        data.FrameOfReferenceUID = self.source.uid(uids[0], 900)
        data.Modality = modality
        data.Manufacturer, data.ManufacturerModelName = "ACME", "Scan 9"
        data.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        data.SeriesNumber, data.InstanceNumber = uids[1], uids[2]
        data.ImagePositionPatient = [f"{value:.6f}".rstrip("0") + "0" for value in self.grid.position(index)]
        data.ImageOrientationPatient = [_decimal(value) for value in (*self.grid.row, *self.grid.column)]
        data.PixelSpacing = [self.grid.spacing[1], self.grid.spacing[0]]
        data.SliceThickness = 4
        data.PatientPosition = "HFS"
        plant(data, patient)
        return data


def plant(data: Dataset, patient: int = 0) -> None:
    """Put secrets into a data set, where scanners, PACS and people put them."""
    name, number, birth, accession = PATIENTS[patient]
    data.PatientName, data.PatientID, data.PatientBirthDate, data.AccessionNumber = name, number, birth, accession
    data.IssuerOfPatientID = "Klinikum Zwiebelfeld"
    data.PatientSex, data.PatientAge = "F", "093Y"
    data.PatientAddress, data.PatientTelephoneNumbers = "Blumenpfad 77, Zwiebelfeld", "+49 351 5550142"
    data.OtherPatientIDs = "OTHERID-66190"
    data.InstitutionName, data.ReferringPhysicianName = "Klinikum Zwiebelfeld", "Papperlapapp^Dr"
    data.StationName, data.DeviceSerialNumber = "ZQSTATION19", "SN-993-QX-11"
    data.StudyDate = data.SeriesDate = data.AcquisitionDate = data.ContentDate = "20240517"
    data.StudyTime = data.SeriesTime = data.AcquisitionTime = "134522.771"
    data.StudyID = "OTHERID-66190"
    data.PatientComments = data.ImageComments = "kommentar-geheim-4417"
    data.StudyDescription, data.SeriesDescription = "Kontrolle Wilhelmina Quetzalberg", "Quetzalberg Serie"
    data.ProtocolName = "Quetzalberg Protokoll"
    request = Dataset()
    request.RequestedProcedureDescription, request.ScheduledProcedureStepID = "nestedsecret5521", "OTHERID-66190"
    inner = Dataset()
    inner.PatientName, inner.CodeMeaning = name, "nestedsecret5521"
    request.ReferencedPatientSequence = Items([inner])
    data.RequestAttributesSequence = Items([request])
    block = data.private_block(0x0029, "ZQ VENDOR geheimprivat8812", create=True)
    block.add_new(0x10, "LO", "geheimprivat8812")
    deep = Dataset()
    deep.PatientComments = "geheimprivat8812 Quetzalberg"
    block.add_new(0x11, "SQ", Items([deep]))


def store(
    data: Dataset,
    values: np.ndarray,
    *,
    slope: float = 1,
    intercept: float = 0,
    bits: int = 16,
    stored: int | None = None,
    signed: bool = False,
    rescale: bool = True,
) -> None:
    """Put an image (rows, columns) into a data set as stored values (value - intercept) / slope."""
    raw = np.rint((values - intercept) / slope).astype(np.int64)
    width = stored or bits
    low, high = (-(1 << (width - 1)), (1 << (width - 1)) - 1) if signed else (0, (1 << width) - 1)
    if raw.min() < low or raw.max() > high:
        raise ValueError(f"values {raw.min()} to {raw.max()} do not fit {low} to {high}")
    if rescale:
        data.RescaleSlope, data.RescaleIntercept = _decimal(slope), _decimal(intercept)
    if width < bits:
        raw = raw & ((1 << width) - 1)
    put(data, (raw & ((1 << bits) - 1)).astype(f"<u{bits // 8}"), bits=bits, stored=width, signed=signed)


def put(
    data: Dataset,
    raw: np.ndarray,
    *,
    bits: int | None = None,
    stored: int | None = None,
    signed: bool = False,
    photometric: str = "MONOCHROME2",
) -> None:
    """Put raw stored values into a data set, with what describes them."""
    bits = bits or raw.dtype.itemsize * 8
    data.Rows, data.Columns = raw.shape[:2]
    data.SamplesPerPixel = raw.shape[2] if raw.ndim == 3 else 1
    if raw.ndim == 3:
        data.PlanarConfiguration = 0
    data.PhotometricInterpretation = photometric
    data.BitsAllocated, data.BitsStored = bits, stored or bits
    data.HighBit = data.BitsStored - 1
    data.PixelRepresentation = int(signed)
    body = np.ascontiguousarray(raw).astype(raw.dtype.newbyteorder("<")).tobytes()
    data.PixelData = body + bytes(len(body) % 2)
    data["PixelData"].VR = "OB" if bits == 8 else "OW"


def save(path: Path, data: Dataset) -> Path:
    """Write a data set as a part-10 file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(data))
    return path


def encoded(data: Dataset) -> bytes:
    """Return a data set as the bytes of a part-10 file, with a secret in the preamble."""
    buffer = BytesIO()
    meta = data.file_meta
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = data.SOPClassUID, data.SOPInstanceUID
    data.preamble = b"PREAMBLESECRET33".ljust(128, b"\0")
    data.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _decimal(value: float) -> str:
    """Return a number as a DS of at most 16 characters."""
    text = f"{value:.10g}"
    return text if len(text) <= 16 else f"{value:.8g}"[:16]
