"""What is no volume: reports, plans, doses, waveforms; and what is one flat image: radiographs, photographs."""

from __future__ import annotations

import numpy as np
from corpus.dicom import Stack, plant, put, save, store
from corpus.phantom import only_changed, to_byte
from corpus.source import Expected, Source, accepted, case, case_of, either, ignored
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import ExplicitVRLittleEndian

OBJECTS = {
    "structured report": ("1.2.840.10008.5.1.4.1.1.88.33", "SR"),
    "presentation state": ("1.2.840.10008.5.1.4.1.1.11.1", "PR"),
    "key object selection": ("1.2.840.10008.5.1.4.1.1.88.59", "KO"),
    "encapsulated PDF": ("1.2.840.10008.5.1.4.1.1.104.1", "DOC"),
    "radiotherapy plan": ("1.2.840.10008.5.1.4.1.1.481.5", "RTPLAN"),
    "raw data": ("1.2.840.10008.5.1.4.1.1.66", "OT"),
    "registration": ("1.2.840.10008.5.1.4.1.1.66.1", "REG"),
}


def _object(uid: str, modality: str) -> object:
    def build(source: Source) -> Expected:
        data = _no_image(source, uid, modality)
        data.add_new(0x00420011, "OB", b"Quetzalberg PDF!")
        save(source.path("object.dcm"), data)
        return ignored("not_an_image|.*object.*", truth=())

    return build


for _name, _facts in OBJECTS.items():
    case_of("reading", _name, _name, _object(*_facts))  # type: ignore[arg-type]


@case("a radiotherapy dose beside its CT: a grid of numbers, no image")
def dose(source: Source) -> Expected:
    stack = Stack(source)
    stack.write("ct")
    data = Stack(source, series=2)[0]
    data.SOPClassUID, data.Modality = "1.2.840.10008.5.1.4.1.1.481.2", "RTDOSE"
    data.NumberOfFrames = 4
    put(data, np.arange(80 * 6, dtype=np.uint16).reshape(80, 6))
    data.Rows = 20
    save(source.path("dose.dcm"), data)
    return accepted(stack.truth, ignored="not_an_image|.*object.*|.*dose.*")


@case("an ECG waveform: catalogued or set aside by name, never refused as broken")
def waveform(source: Source) -> Expected:
    data = _no_image(source, "1.2.840.10008.5.1.4.1.1.9.1.1", "ECG")
    channel = Dataset()
    channel.ChannelLabel, channel.ChannelSampleSkew, channel.WaveformBitsStored = "I", "0", 16
    channel.ChannelSensitivity, channel.ChannelBaseline, channel.ChannelSensitivityCorrectionFactor = "1", "0", "1"
    group = Dataset()
    group.MultiplexGroupTimeOffset, group.WaveformOriginality = "0", "ORIGINAL"
    group.NumberOfWaveformChannels, group.NumberOfWaveformSamples, group.SamplingFrequency = 1, 100, "500"
    group.ChannelDefinitionSequence = Items([channel])
    group.WaveformBitsAllocated, group.WaveformSampleInterpretation = 16, "SS"
    group.add_new(0x54001010, "OW", np.arange(100, dtype="<i2").tobytes())
    data.WaveformSequence = Items([group])
    save(source.path("ecg.dcm"), data)
    return Expected(check=_not_refused, ignored=("?.*",), free=True)


def _not_refused(home: object, report: object, kept: object) -> list[str]:
    return [f"refused as {o.code}" for o in report.outcomes if o.outcome == "refused"]  # type: ignore[attr-defined]


FLAT = {"CR": "PixelSpacing", "DX": "ImagerPixelSpacing", "MG": "ImagerPixelSpacing"}


def _flat(modality: str, spacing: str, photometric: str) -> object:
    def build(source: Source) -> Expected:
        stack = Stack(source, modality=modality)
        data = stack[6]
        for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "FrameOfReferenceUID"):
            delattr(data, name)
        setattr(data, spacing, [0.2, 0.2])
        data.ViewPosition, data.BurnedInAnnotation = "PA", "NO"
        values = stack.pixels(6)
        store(data, values if photometric == "MONOCHROME2" else 4095 - values, rescale=False, stored=12)
        data.PhotometricInterpretation = photometric
        stack.slices = [data]
        stack.write()
        at = {float(stack.values[i]): (float(i[0]), float(i[1]), 0.0) for i in stack.landmarks.values() if i[2] == 6}
        flat = stack.values[:, :, 6:7].astype(float)
        return accepted(only_changed(stack.truth, points=at, values=flat, affine=np.eye(4), flat=True))

    return build


for _name, _tag in FLAT.items():
    for _kind in ("MONOCHROME2", "MONOCHROME1"):
        case_of(
            "reading", f"{_name} {_kind}", f"{_name} radiograph, {_kind}, high is bright", _flat(_name, _tag, _kind)
        )  # type: ignore[arg-type]


@case("a photograph of the skin, RGB, marked free of text")
def photograph(source: Source) -> Expected:
    return _photograph(source, "RGB", 0)


@case("a photograph, RGB in planes")
def photograph_in_planes(source: Source) -> Expected:
    return _photograph(source, "RGB", 1)


def _photograph(source: Source, photometric: str, planar: int) -> Expected:
    stack = Stack(source, modality="XC")
    data = stack[6]
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "FrameOfReferenceUID"):
        delattr(data, name)
    data.BurnedInAnnotation = "NO"
    red = to_byte(stack.pixels(6) - 1000)
    rgb = np.stack([red, red // 2, 255 - red], axis=-1)
    put(data, rgb, photometric=photometric)
    if planar:
        data.PlanarConfiguration = 1
        data.PixelData = np.ascontiguousarray(rgb.transpose(2, 0, 1)).tobytes()
    stack.slices = [data]
    stack.write()
    points = {float(to_byte(stack.values[i] - 1000)): (i[0], i[1], 0) for i in stack.landmarks.values() if i[2] == 6}
    truth = only_changed(stack.truth, points=points, values=None, affine=None, flat=True)
    return either(truth)


def _no_image(source: Source, uid: str, modality: str) -> Dataset:
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID, data.SOPInstanceUID = uid, source.uid(1, 9, 1)
    data.StudyInstanceUID, data.SeriesInstanceUID, data.Modality = source.uid(1), source.uid(1, 9), modality
    plant(data)
    return data
