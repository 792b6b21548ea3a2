"""Valid files of every format, and bytes of them changed: what the fuzz tests feed to ingest."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

SYNTAXES = {
    "explicit": ExplicitVRLittleEndian,
    "implicit": ImplicitVRLittleEndian,
    "deflated": DeflatedExplicitVRLittleEndian,
    "rle": RLELossless,
    "jls": JPEGLSLossless,
    "j2k": JPEG2000Lossless,
    "enhanced": ExplicitVRLittleEndian,
}
INTERESTING = (0, 1, 0x7F, 0x80, 0xFE, 0xFF)


def seeds(number: int = 0) -> dict[str, bytes]:
    """Return file name to content: one small valid file of each format; another number, other UIDs."""
    picture, rng = io.BytesIO(), np.random.default_rng(0)
    pixels = rng.integers(0, 255, (12, 16, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(picture, "PNG")
    photograph, archive = io.BytesIO(), io.BytesIO()
    Image.fromarray(pixels).save(photograph, "JPEG")
    np.savez_compressed(archive, train_images=pixels, train_labels=rng.integers(0, 2, (12, 1)))
    voxels = rng.integers(-900, 900, (5, 6, 7)).astype(np.int16)
    nifti = nib.Nifti1Image(voxels, np.diag([1.0, 2, 3, 1])).to_bytes()
    second = nib.Nifti2Image(voxels.astype(np.float32), np.diag([1.0, 2, 3, 1])).to_bytes()
    nrrd = (
        b"NRRD0004\ntype: short\ndimension: 3\nspace: left-posterior-superior\nsizes: 5 6 7\n"
        b"space directions: (1,0,0) (0,1,0) (0,0,1)\nspace origin: (0,0,0)\nendian: little\nencoding: gzip\n\n"
    )
    meta = b"ObjectType = Image\nNDims = 3\nBinaryData = True\nCompressedData = False\nDimSize = 5 6 7\n"
    meta += b"ElementSpacing = 1 1 1\nElementType = MET_SHORT\nElementDataFile = LOCAL\n"
    dataset = {"labels": {"0": "background", "1": "organ"}, "modality": {"0": "CT"}, "training": ["./a.nii", "b.nii"]}
    return {
        "a.png": picture.getvalue(),
        "a.jpg": photograph.getvalue(),
        "a.npz": archive.getvalue(),
        "a.nii": nifti,
        "b.nii": second,
        "a.nii.gz": gzip.compress(nifti, mtime=0),
        "a.nrrd": nrrd + gzip.compress(voxels.tobytes(), mtime=0),
        "a.mha": meta + voxels.tobytes(),
        "manifest.csv": b"image,label,patient,age\na.png,1,p1,50\nb.png,0,p2,60\n",
        "dataset.json": json.dumps(dataset).encode(),
        **{f"{name}.dcm": content for name, content in _dicom_seeds(number)},
    }


def _dicom_seeds(number: int) -> Iterator[tuple[str, bytes]]:
    for place, (name, syntax) in enumerate(SYNTAXES.items()):
        data = _enhanced() if name == "enhanced" else _slice()
        uid = f"1.2.{1 + number}.{1 + place}"
        data.SOPInstanceUID, data.StudyInstanceUID, data.SeriesInstanceUID = f"{uid}.1", f"{uid}.2", f"{uid}.3"
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        if syntax in (RLELossless, JPEGLSLossless, JPEG2000Lossless):
            data.compress(syntax, generate_instance_uid=False)
        yield name, _written(data, syntax)


def _slice() -> Dataset:
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.SOPClassUID, data.FrameOfReferenceUID = CTImageStorage, "1.2.3"
    data.PatientID, data.Modality, data.ImageType = "P", "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
    data.ImagePositionPatient, data.ImageOrientationPatient = [0, 0, 0], [1, 0, 0, 0, 1, 0]
    data.PixelSpacing, data.SliceThickness, data.RescaleSlope, data.RescaleIntercept = [1, 1], 1, 1, -1024
    _pixels(data, 1)
    return data


def _pixels(data: Dataset, frames: int) -> None:
    data.Rows, data.Columns, data.SamplesPerPixel = 40, 48, 1
    data.PhotometricInterpretation, data.PixelRepresentation = "MONOCHROME2", 0
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 16, 15
    values = np.random.default_rng(1).integers(0, 2000, (frames, 40, 48)).astype(np.uint16)
    data.PixelData = values.tobytes()
    data["PixelData"].VR = "OW"


def _enhanced() -> Dataset:
    data = _slice()
    data.SOPClassUID, data.NumberOfFrames = EnhancedCTImageStorage, 3
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"):
        delattr(data, name)
    _pixels(data, 3)
    shared, measures, orientation = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [1, 1], 1
    orientation.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [orientation]
    data.SharedFunctionalGroupsSequence = [shared]
    frames = []
    for n in range(3):
        frame, place = Dataset(), Dataset()
        place.ImagePositionPatient = [0, 0, n]
        frame.PlanePositionSequence = [place]
        frames.append(frame)
    data.PerFrameFunctionalGroupsSequence = frames
    return data


def _written(data: Dataset, syntax: str) -> bytes:
    data.file_meta.TransferSyntaxUID = syntax
    file = io.BytesIO()
    data.save_as(file, enforce_file_format=True)
    return file.getvalue()


def mutate(content: bytes, rng: np.random.Generator) -> bytes:
    """Return a content with a few bytes flipped, set, cut out, doubled, or its end cut off; mostly near its beginning.

    A header decides more than the voxels behind it, so that half of the changes fall into the first kilobyte.
    """
    data = bytearray(content)
    for _ in range(int(rng.integers(1, 5))):
        change = CHANGES[int(rng.integers(len(CHANGES)))]
        end = min(len(data), 1024) if rng.random() < 0.5 else len(data)
        change(data, int(rng.integers(max(1, end))), rng)
    return bytes(data)


def _flip(data: bytearray, place: int, rng: np.random.Generator) -> None:
    if data:
        data[place] ^= 1 << int(rng.integers(8))


def _set(data: bytearray, place: int, rng: np.random.Generator) -> None:
    if data:
        data[place] = INTERESTING[int(rng.integers(len(INTERESTING)))]


def _word(data: bytearray, place: int, rng: np.random.Generator) -> None:
    values = (0, 1, -1, 2**31 - 1, -(2**31), 0x7F800000, 0x7FC00000, 65535)
    data[place : place + 4] = (values[int(rng.integers(len(values)))] & 0xFFFFFFFF).to_bytes(4, "little")


def _remove(data: bytearray, place: int, rng: np.random.Generator) -> None:
    del data[place : place + int(rng.integers(1, 40))]


def _double(data: bytearray, place: int, rng: np.random.Generator) -> None:
    piece = data[place : place + int(rng.integers(1, 40))]
    data[place:place] = piece


def _cut(data: bytearray, place: int, rng: np.random.Generator) -> None:
    del data[place:]


CHANGES: tuple[Callable[[bytearray, int, np.random.Generator], None], ...] = (
    _flip,
    _set,
    _word,
    _remove,
    _double,
    _cut,
)


def write_mutants(folder: Path, count: int, *, seed: int) -> None:
    """Fill a folder with so many mutants, a folder each, so that none hides another."""
    rng = np.random.default_rng(seed)
    n = 0
    while n < count:
        for name, content in seeds(n).items():
            place = folder / f"{n:05d}"
            place.mkdir(parents=True)
            (place / name).write_bytes(mutate(content, rng))
            n += 1
            if n == count:
                break
