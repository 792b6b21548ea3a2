"""Puts slices into the compressed transfer syntaxes, by other software than the one that reads them where there is."""

from __future__ import annotations

import tempfile
from pathlib import Path

import gdcm
import numpy as np
from corpus.dicom import Stack, encoded
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID

RLE = "1.2.840.10008.1.2.5"
JPEG_BASELINE = "1.2.840.10008.1.2.4.50"
JPEG_EXTENDED = "1.2.840.10008.1.2.4.51"
JPEG_LOSSLESS = "1.2.840.10008.1.2.4.57"
JPEG_LOSSLESS_SV1 = "1.2.840.10008.1.2.4.70"
JPEG_LS = "1.2.840.10008.1.2.4.80"
JPEG_LS_NEAR = "1.2.840.10008.1.2.4.81"
JPEG_2000_LOSSLESS = "1.2.840.10008.1.2.4.90"
JPEG_2000 = "1.2.840.10008.1.2.4.91"
BY_GDCM = {
    JPEG_BASELINE: gdcm.TransferSyntax.JPEGBaselineProcess1,
    JPEG_EXTENDED: gdcm.TransferSyntax.JPEGExtendedProcess2_4,
    JPEG_LOSSLESS: gdcm.TransferSyntax.JPEGLosslessProcess14,
    JPEG_LOSSLESS_SV1: gdcm.TransferSyntax.JPEGLosslessProcess14_1,
}


def compress(stack: Stack, syntax: str) -> Stack:
    """Compress every slice of a stack."""
    stack.slices = [compress_one(data, syntax) for data in stack.slices]
    return stack


def compress_one(data: Dataset, syntax: str) -> Dataset:
    """Return a data set in another transfer syntax."""
    if syntax in BY_GDCM:
        return _by_gdcm(data, syntax)
    options: dict[str, object] = {}
    if syntax == JPEG_LS_NEAR:
        options = {"jls_error": 2}
    if syntax == JPEG_2000:
        options = {"j2k_psnr": [80]}
    data.compress(UID(syntax), generate_instance_uid=False, **options)
    return data


def _by_gdcm(data: Dataset, syntax: str) -> Dataset:
    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder) / "before", Path(folder) / "after"
        before.write_bytes(encoded(data))
        reader = gdcm.ImageReader()
        reader.SetFileName(str(before))
        change = gdcm.ImageChangeTransferSyntax()
        change.SetTransferSyntax(gdcm.TransferSyntax(BY_GDCM[syntax]))
        if not reader.Read():
            raise ValueError("gdcm could not read what pydicom wrote")
        change.SetInput(reader.GetImage())
        if not change.Change():
            raise ValueError(f"gdcm could not write {syntax}")
        writer = gdcm.ImageWriter()
        writer.SetFile(reader.GetFile())
        writer.SetFileName(str(after))
        writer.SetImage(change.GetOutput())
        if not writer.Write():
            raise ValueError(f"gdcm could not save {syntax}")
        pixels = dcmread(after)
    data.PixelData = pixels.PixelData
    data["PixelData"].VR = "OB"
    data["PixelData"].is_undefined_length = True
    data.file_meta.TransferSyntaxUID = UID(syntax)
    return data


def encapsulated(data: Dataset, frames: list[bytes], syntax: str, *, fragments: int = 1, offsets: bool = True) -> None:
    """Put coded frames into a data set, with or without a Basic Offset Table, whole or in fragments."""
    data.PixelData = encapsulate(frames, fragments_per_frame=fragments, has_bot=offsets)
    data["PixelData"].VR = "OB"
    data["PixelData"].is_undefined_length = True
    data.file_meta.TransferSyntaxUID = UID(syntax)


def grey_of(values: np.ndarray) -> np.ndarray:
    """Return values as little-endian 16-bit."""
    return np.ascontiguousarray(values, dtype="<u2")
