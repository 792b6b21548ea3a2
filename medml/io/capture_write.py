"""Pictures as DICOM Secondary Capture, in the study and frame of reference of their source."""

from __future__ import annotations

from copy import deepcopy
from io import BytesIO

import highdicom as hd
import numpy as np
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sr.codedict import codes
from pydicom.uid import UID, ExplicitVRLittleEndian, JPEGBaseline8Bit
from pydicom.valuerep import DSfloat

from medml.io.dicom_sources import SourceImages
from medml.io.seg_write import MANUFACTURER
from medml.records.labels import Author

SERIES_NUMBER = 9003
QUALITY = 92


def secondary_capture(
    pixels: np.ndarray,
    sources: SourceImages,
    author: Author,
    *,
    place: int,
    zoom: float,
    uids: tuple[str, str],
    number: int,
    like: Dataset | None = None,
) -> Dataset:
    """Return one picture as a Secondary Capture Image, JPEG-compressed: they are for looking at.

    Parameters
    ----------
    pixels : ndarray of shape (rows, columns, 3), uint8
    place : int
        The slice of the source that it shows.
    zoom : float
        Its pixels along each side of one of the source's.
    uids : tuple of str
        SeriesInstanceUID and SOPInstanceUID.
    number : int
        InstanceNumber.
    like : Dataset or None
        Another picture of the same series, of which all that they share is copied, which is faster.
    """
    image = sources.images[0 if sources.multi_frame or len(sources.images) == 1 else place]
    spacing, where = _place(sources, image, place)
    data = _new(image, pixels, author, uids) if like is None else deepcopy(like)
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = UID(uids[1])
    data.InstanceNumber = number
    data.PatientOrientation = image.get("PatientOrientation", "") if where is None else _orientation(where[1])
    data.SourceImageSequence = [_source(image, sources, place)]
    if where is not None:
        data.FrameOfReferenceUID = image.FrameOfReferenceUID
        data.PositionReferenceIndicator = image.get("PositionReferenceIndicator", "")
        data.ImageOrientationPatient = [DSfloat(_number(v)) for v in where[1]]
        # The middle of the first pixel of a finer picture lies outside of the middle of the source's first pixel.
        data.ImagePositionPatient = [DSfloat(_number(v)) for v in _corner(where, spacing, zoom)]
    if spacing is not None:
        data.PixelSpacing = [DSfloat(_number(value / zoom)) for value in spacing]
    _compress(data, pixels)
    return data


def _new(image: Dataset, pixels: np.ndarray, author: Author, uids: tuple[str, str]) -> Dataset:
    """Return what all pictures of a series share."""
    data = hd.sc.SCImage.from_ref_dataset(
        image,
        pixel_array=pixels,
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        series_instance_uid=uids[0],
        series_number=SERIES_NUMBER,
        sop_instance_uid=uids[1],
        instance_number=1,
        manufacturer=MANUFACTURER,
        patient_orientation=("L", "P"),
        transfer_syntax_uid=ExplicitVRLittleEndian,
    )
    data.SeriesDescription = f"{author.name} {author.version} pictures (research)"[:64]
    data.ManufacturerModelName = author.name[:64]
    data.SoftwareVersions = author.version[:64]
    data.ImageType = ["DERIVED", "SECONDARY"]
    data.ConversionType = "WSD"
    data.Laterality = image.get("Laterality", "")
    data.DerivationDescription = "Slice with the model's result drawn in; not for diagnosis"
    data.BurnedInAnnotation = "YES" if image.get("BurnedInAnnotation") == "YES" else "NO"
    return data


def _place(
    sources: SourceImages, image: Dataset, place: int
) -> tuple[tuple[float, float] | None, tuple[np.ndarray, np.ndarray] | None]:
    """Return spacing between rows and columns, and position and orientation, of the slice; None where unsaid."""
    holders = [image]
    if sources.multi_frame:
        groups = image.get("PerFrameFunctionalGroupsSequence")
        shared = image.get("SharedFunctionalGroupsSequence")
        frame = [groups[sources.frames[place]]] if groups else []
        for name in ("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence"):
            found = next((group[name].value[0] for group in (*frame, *(shared or ())) if name in group), None)
            holders += [found] if found is not None else []
    found = {
        name: next((np.array(holder[name].value, dtype=float) for holder in holders if holder.get(name)), None)
        for name in ("PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient")
    }
    spacing, position, orientation = found.values()
    known = position is not None and orientation is not None and image.get("FrameOfReferenceUID")
    # A mosaic's tiles lie where no header says.
    several = len(sources.images) == 1 and len(sources.frames) > 1 and not sources.multi_frame
    return (
        None if spacing is None else (float(spacing[0]), float(spacing[1])),
        (position, orientation) if known and not several else None,
    )


def _corner(where: tuple[np.ndarray, np.ndarray], spacing: tuple[float, float] | None, zoom: float) -> np.ndarray:
    if spacing is None:
        return where[0]
    along_row, along_column = where[1][:3], where[1][3:]
    shift = (1 / zoom - 1) / 2
    corner: np.ndarray = where[0] + shift * (along_row * spacing[1] + along_column * spacing[0])
    return corner


def _orientation(directions: np.ndarray) -> list[str]:
    """Return which way rows and columns run, in letters."""
    letters = (("L", "R"), ("P", "A"), ("H", "F"))
    found = []
    for direction in (directions[:3], directions[3:]):
        axis = int(np.abs(direction).argmax())
        found.append(letters[axis][0 if direction[axis] > 0 else 1])
    return found


def _source(image: Dataset, sources: SourceImages, place: int) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = image.SOPClassUID
    item.ReferencedSOPInstanceUID = image.SOPInstanceUID
    if sources.multi_frame:
        item.ReferencedFrameNumber = sources.frames[place] + 1
    item.PurposeOfReferenceCodeSequence = [
        hd.sr.CodedConcept.from_code(codes.DCM.SourceImageForImageProcessingOperation)
    ]
    return item


def _compress(data: Dataset, pixels: np.ndarray) -> None:
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=QUALITY, subsampling="4:2:2")
    jpeg = buffer.getvalue()
    data.PixelData = encapsulate([jpeg])
    data["PixelData"].is_undefined_length = True
    data.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    data.Rows, data.Columns = pixels.shape[:2]
    data.PhotometricInterpretation = "YBR_FULL_422"
    data.LossyImageCompression = "01"
    data.LossyImageCompressionRatio = _number(pixels.nbytes / len(jpeg))
    data.LossyImageCompressionMethod = "ISO_10918_1"


def _number(value: float) -> float:
    """Return a number that fits the sixteen letters of a decimal string."""
    return float(f"{float(value):.10g}")
