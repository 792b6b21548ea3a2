"""The images that a result is about: their headers read again, and proved to be the ones that were looked at."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from medml.errors import Refusal

# At INFO highdicom writes the UIDs of the studies that it copies from to the log.
logging.getLogger("highdicom").setLevel(logging.WARNING)

MAY_BE_EMPTY = (  # must be there (PS3.3 type 2), yet cleared exports lack them and are read all the same
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "ReferringPhysicianName",
)


@dataclass(frozen=True, slots=True, eq=False)
class SourceImages:
    """Headers of a scan's source, without pixels. Private: they hold the patient's identity.

    Attributes
    ----------
    images : tuple of Dataset
        One per slice, in the order of the scan's slices (along +normal); or one multi-frame image.
    frames : tuple of int
        For each slice, its frame (from 0) in its file.
    """

    images: tuple[Dataset, ...]
    frames: tuple[int, ...]

    @property
    def multi_frame(self) -> bool:
        """Whether all slices are frames of one file."""
        return "NumberOfFrames" in self.images[0]


def read_sources(locator: Mapping[str, Any]) -> SourceImages:
    """Read the headers that a locator of the crosswalk names.

    Raises
    ------
    Refusal
        ``no_dicom_source`` if the scan did not come from DICOM; ``source_gone`` if a file is not there any more;
        ``source_changed`` if a file holds another image than the one that was read.
    """
    if locator.get("kind") != "dicom":
        raise Refusal("no_dicom_source", "the scan did not come from DICOM, so no DICOM object can refer to it")
    uids, frames = list(locator["sop_uids"]), tuple(int(frame) for frame in locator["frames"])
    found: dict[str, Dataset] = {}
    for path in locator["files"]:
        data = _header(Path(path))
        found[str(data.get("SOPInstanceUID", ""))] = data
    lost = sum(uid not in found for uid in uids)
    if lost:
        raise Refusal(
            "source_changed",
            f"{lost} of {len(uids)} source images are not those that were read; predict on this source again",
        )
    several = len(set(uids)) > 1
    images = tuple(found[uid] for uid in (uids if several else uids[:1]))
    if several and any("NumberOfFrames" in image and int(image.NumberOfFrames) > 1 for image in images):
        raise Refusal("several_multi_frame", "the scan lies in several multi-frame files, expected one")
    return SourceImages(images, frames)


def _header(path: Path) -> Dataset:
    try:
        data = pydicom.dcmread(path, stop_before_pixels=True)
        for keyword in MAY_BE_EMPTY:
            if keyword not in data:
                setattr(data, keyword, None)
        return data
    except (FileNotFoundError, NotADirectoryError):
        raise Refusal(
            "source_gone", "a source file is not where it was read; put it back, or take the NIfTI mask"
        ) from None
    except (InvalidDicomError, OSError) as error:
        raise Refusal(
            "source_changed", f"a source file cannot be read as DICOM any more ({type(error).__name__})"
        ) from None
