"""Objects beyond classic slices, tiny and built in sight: enhanced multi-frame, mosaic, nuclear, PET, ECG."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from dicom_phantoms import ROOT, pixels_of, set_pixels, slice_dataset
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import (
    EnhancedMRImageStorage,
    MRImageStorage,
    NuclearMedicineImageStorage,
    PositronEmissionTomographyImageStorage,
    TwelveLeadECGWaveformStorage,
    UltrasoundMultiFrameImageStorage,
)

FrameEdit = Callable[[Dataset, int], None]


def item(**tags: Any) -> Items:
    """A sequence of one item."""
    data = Dataset()
    for name, value in tags.items():
        setattr(data, name, value)
    return Items([data])


def enhanced_dataset(frames: int = 4, *, edit: FrameEdit | None = None, spacing: float = 5.0) -> Dataset:
    """Enhanced MR: frame n holds slice n of `slice_dataset`; orientation and pixel size are shared."""
    data = slice_dataset(0)
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "InstanceNumber"):
        delattr(data, name)
    del data.RescaleSlope, data.RescaleIntercept
    data.SOPClassUID, data.Modality = EnhancedMRImageStorage, "MR"
    shared = Dataset()
    shared.PlaneOrientationSequence = item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])
    shared.PixelMeasuresSequence = item(PixelSpacing=[0.5, 0.75], SliceThickness=5)
    shared.PixelValueTransformationSequence = item(RescaleSlope=2, RescaleIntercept=-7, RescaleType="US")
    data.SharedFunctionalGroupsSequence = Items([shared])
    groups = []
    for index in range(frames):
        group = Dataset()
        group.PlanePositionSequence = item(ImagePositionPatient=[-10.0, -20.0, round(30.0 + spacing * index, 6)])
        group.FrameContentSequence = item(StackID="1", InStackPositionNumber=index + 1, FrameAcquisitionNumber=1)
        if edit is not None:
            edit(group, index)
        groups.append(group)
    data.PerFrameFunctionalGroupsSequence = Items(groups)
    set_frames(data, [pixels_of(index) for index in range(frames)])
    return data


def set_frames(data: Dataset, frames: Sequence[np.ndarray]) -> None:
    """Put several frames into a data set."""
    set_pixels(data, frames[0])
    data.NumberOfFrames = len(frames)
    data.PixelData = b"".join(frame.tobytes() for frame in frames)


def cine_dataset(frames: int = 3) -> Dataset:
    """Frames of ultrasound that nothing places in the patient."""
    data = slice_dataset(0)
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        delattr(data, name)
    data.SOPClassUID, data.Modality, data.BurnedInAnnotation = UltrasoundMultiFrameImageStorage, "US", "NO"
    set_frames(data, [pixels_of(index) for index in range(frames)])
    return data


def nuclear_dataset(spacing: float = -4.0) -> Dataset:
    """A reconstructed nuclear volume of four slices, stored from the third to the second."""
    data = slice_dataset(0)
    del data.ImagePositionPatient, data.ImageOrientationPatient
    data.SOPClassUID, data.Modality = NuclearMedicineImageStorage, "NM"
    data.ImageType = ["ORIGINAL", "PRIMARY", "RECON TOMO", "EMISSION"]
    data.SpacingBetweenSlices = spacing
    data.FrameIncrementPointer = 0x00540080
    data.SliceVector = [3, 4, 1, 2]
    data.DetectorInformationSequence = item(
        ImagePositionPatient=[-10, -20, 30], ImageOrientationPatient=[1, 0, 0, 0, 1, 0]
    )
    set_frames(data, [pixels_of(index) for index in (2, 3, 0, 1)])
    return data


def csa_header(tags: Mapping[str, Sequence[str]]) -> bytes:
    """A Siemens CSA2 header: each tag has six values of a type, as the scanners write them."""
    body = b"SV10\x04\x03\x02\x01" + struct.pack("<II", len(tags), 77)
    for name, values in tags.items():
        body += struct.pack("<64si4s3i", name.encode(), len(values), b"FD", 4, 6, 77)
        for index in range(6):
            text = values[index].encode() + b"\0" if index < len(values) else b""
            body += struct.pack("<4i", len(text), len(text), 77, len(text)) + text + b"\0" * (-len(text) % 4)
    return body


def mosaic_dataset(slices: int = 3, normal: float = -1.0) -> Dataset:
    """A Siemens mosaic of 2 x 2 tiles of 3 rows and 2 columns; slices lie 4 mm apart along ``normal`` x z."""
    data = slice_dataset(0)
    data.SOPClassUID, data.Modality = MRImageStorage, "MR"
    del data.RescaleSlope, data.RescaleIntercept
    data.ImageType = ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]
    picture = np.zeros((6, 4), np.uint16)
    for index in range(slices):
        top, left = index // 2 * 3, index % 2 * 2
        picture[top : top + 3, left : left + 2] = pixels_of(index)
    set_pixels(data, picture)
    data.SpacingBetweenSlices = 4
    block = data.private_block(0x0029, "SIEMENS CSA HEADER", create=True)
    csa = {"NumberOfImagesInMosaic": [str(slices)], "SliceNormalVector": ["0.0", "0.0", str(normal)]}
    block.add_new(0x10, "OB", csa_header(csa))
    return data


def pet_dataset(index: int = 0, **tags: Any) -> Dataset:
    """A PET slice: 70 kg, 350 MBq of F-18 given one half-life (6586.2 s) before the scan at 11:49:46.2."""
    data = slice_dataset(index)
    data.SOPClassUID, data.Modality = PositronEmissionTomographyImageStorage, "PT"
    data.Units, data.DecayCorrection, data.CorrectedImage = "BQML", "START", ["DECY", "ATTN"]
    data.SeriesDate = data.AcquisitionDate = "20240131"
    data.SeriesTime, data.AcquisitionTime = "114946.2", "115000"
    data.PatientWeight, data.RescaleSlope, data.RescaleIntercept = "70", "2", "0"
    data.FrameReferenceTime, data.ActualFrameDuration = "0", "180000"
    data.RadiopharmaceuticalInformationSequence = item(
        RadiopharmaceuticalStartTime="100000.0", RadionuclideTotalDose="350000000", RadionuclideHalfLife="6586.2"
    )
    for name, value in tags.items():
        if value is None:
            delattr(data, name)
        else:
            setattr(data, name, value)
    return data


def ecg_dataset(leads: Sequence[str] = ("I", "II"), samples: int = 5) -> Dataset:
    """A resting ECG: sample s of lead n has the stored value 100 n + s; 2.5 uV a step, baseline 10 uV; 500 Hz."""
    base = slice_dataset(0)
    data = Dataset()
    data.file_meta = base.file_meta
    for name in ("StudyInstanceUID", "PatientID", "IssuerOfPatientID", "PatientName", "PatientSex", "PatientAge"):
        setattr(data, name, base[name].value)
    data.SOPClassUID, data.SOPInstanceUID = TwelveLeadECGWaveformStorage, f"{ROOT}.9.1"
    data.SeriesInstanceUID, data.Modality = f"{ROOT}.9", "ECG"
    group = Dataset()
    group.WaveformOriginality, group.NumberOfWaveformChannels = "ORIGINAL", len(leads)
    group.NumberOfWaveformSamples, group.SamplingFrequency = samples, "500"
    group.WaveformBitsAllocated, group.WaveformSampleInterpretation = 16, "SS"
    definitions = []
    for lead in leads:
        channel = Dataset()
        channel.ChannelSourceSequence = item(CodeValue="2:1", CodingSchemeDesignator="MDC", CodeMeaning=f"Lead {lead}")
        channel.ChannelSensitivity, channel.ChannelBaseline = "2.5", "10"
        channel.ChannelSensitivityCorrectionFactor = "1"
        channel.ChannelSensitivityUnitsSequence = item(
            CodeValue="uV", CodingSchemeDesignator="UCUM", CodeMeaning="microvolt"
        )
        definitions.append(channel)
    group.ChannelDefinitionSequence = Items(definitions)
    steps = np.arange(samples)[:, None] + 100 * np.arange(len(leads))[None]
    group.add_new(0x54001010, "OW", steps.astype("<i2").tobytes())
    data.WaveformSequence = Items([group])
    return data
