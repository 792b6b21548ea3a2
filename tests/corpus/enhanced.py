"""Writes stacks as one multi-frame file (PS3.3 C.7.6.16) or as a Siemens mosaic."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from corpus.dicom import Stack, put, save
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items

CLASSES = {
    "CT": "1.2.840.10008.5.1.4.1.1.2.1",
    "MR": "1.2.840.10008.5.1.4.1.1.4.1",
    "PT": "1.2.840.10008.5.1.4.1.1.130",
    "legacy CT": "1.2.840.10008.5.1.4.1.1.2.2",
    "legacy MR": "1.2.840.10008.5.1.4.1.1.4.4",
}
MOVED = (
    "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "RescaleSlope",
    "RescaleIntercept", "InstanceNumber",
)  # fmt: skip
PerFrame = Callable[[Dataset, int], None]


def enhance(
    stacks: Sequence[Stack],
    *,
    kind: str = "CT",
    order: Sequence[int] | None = None,
    shared: Sequence[str] = ("orientation", "measures"),
    edit: PerFrame | None = None,
) -> Dataset:
    """Return one multi-frame data set of the slices of several stacks, frame after frame.

    Parameters
    ----------
    order : sequence of int
        Which slice each frame is; by default as they come.
    shared : sequence of str
        Which of "orientation", "measures" and "values" are in the shared functional groups.
    edit : callable
        Told each frame's functional groups and the number of its slice, before it is written.
    """
    slices = [data for stack in stacks for data in stack.slices]
    order = list(order) if order is not None else list(range(len(slices)))
    data = Dataset()
    data.update(slices[0])
    data.file_meta = slices[0].file_meta
    for name in MOVED:
        if name in data:
            delattr(data, name)
    data.SOPClassUID = CLASSES[kind]
    data.InstanceNumber = 1
    data.SOPInstanceUID = stacks[0].source.uid(1, 1, 777)
    data.NumberOfFrames = len(order)
    data.SharedFunctionalGroupsSequence = Items([_groups(slices[0], shared, skip=())])
    frames = []
    for place, number in enumerate(order):
        groups = _groups(slices[number], ("position", "orientation", "measures", "values"), skip=shared)
        content = Dataset()
        content.StackID, content.InStackPositionNumber = "1", number + 1
        content.DimensionIndexValues = [1, number + 1]
        content.FrameAcquisitionNumber = place + 1
        content.FrameComments = "nestedsecret5521 Quetzalberg"
        groups.FrameContentSequence = Items([content])
        if edit is not None:
            edit(groups, number)
        frames.append(groups)
    data.PerFrameFunctionalGroupsSequence = Items(frames)
    data.PixelData = b"".join(slices[number].PixelData for number in order)
    data["PixelData"].VR = "OW"
    return data


def write_enhanced(stacks: Sequence[Stack], name: str = "enhanced", **options: object) -> Path:
    """Write `enhance`'s data set as one file."""
    return save(stacks[0].source.path(name), enhance(stacks, **options))  # type: ignore[arg-type]


def _groups(data: Dataset, names: Sequence[str], *, skip: Sequence[str]) -> Dataset:
    groups = Dataset()
    wanted = [name for name in names if name not in skip]
    if "position" in wanted:
        groups.PlanePositionSequence = _item(ImagePositionPatient=data.ImagePositionPatient)
    if "orientation" in wanted:
        groups.PlaneOrientationSequence = _item(ImageOrientationPatient=data.ImageOrientationPatient)
    if "measures" in wanted:
        groups.PixelMeasuresSequence = _item(PixelSpacing=data.PixelSpacing, SliceThickness=data.SliceThickness)
    if "values" in wanted and "RescaleSlope" in data:
        groups.PixelValueTransformationSequence = _item(
            RescaleSlope=data.RescaleSlope, RescaleIntercept=data.RescaleIntercept, RescaleType="HU"
        )
    return groups


def _item(**tags: object) -> Items:
    item = Dataset()
    for name, value in tags.items():
        setattr(item, name, value)
    return Items([item])


def mosaic(stack: Stack) -> Dataset:
    """Return the stack as one Siemens mosaic: slices tiled row by row, the CSA header naming their number and normal.

    ImagePositionPatient is that of the mosaic's own corner, as if it were one slice as large as the mosaic: the true
    corner is half the difference further in (Siemens; NiBabel's documentation "Siemens mosaic images").
    """
    columns, rows, slices = stack.grid.shape
    across = int(np.ceil(np.sqrt(slices)))
    tiles = np.zeros((across * rows, across * columns), dtype=np.uint16)
    for index in range(slices):
        top, left = (index // across) * rows, (index % across) * columns
        tiles[top : top + rows, left : left + columns] = stack.pixels(index)
    data = stack[0]
    u, v = stack.grid.row * stack.grid.spacing[0], stack.grid.column * stack.grid.spacing[1]
    corner = stack.grid.origin - u * (across - 1) * columns / 2 - v * (across - 1) * rows / 2
    data.ImagePositionPatient = [f"{value:.6f}" for value in corner]
    data.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]
    data.Manufacturer = "SIEMENS"
    data.SpacingBetweenSlices = float(np.linalg.norm(stack.grid.step))
    normal = stack.grid.step / np.linalg.norm(stack.grid.step)
    data.remove_private_tags()
    block = data.private_block(0x0029, "SIEMENS CSA HEADER", create=True)
    block.add_new(0x08, "CS", "IMAGE NUM 4")
    block.add_new(0x10, "OB", _csa({"NumberOfImagesInMosaic": ("US", [slices]), "SliceNormalVector": ("FD", normal)}))
    put(data, tiles)
    return data


def _csa(tags: dict[str, tuple[str, Sequence[float]]]) -> bytes:
    """Return a CSA2 header ("SV10"; layout as documented by NiBabel's "Siemens format DICOM with CSA header")."""
    body = b"SV10\4\3\2\1" + len(tags).to_bytes(4, "little") + (77).to_bytes(4, "little")
    for name, (vr, values) in tags.items():
        texts = [f"{value:d}" if vr == "US" else f"{value:.8f}" for value in values]
        body += name.encode().ljust(64, b"\0") + len(texts).to_bytes(4, "little")
        body += vr.encode().ljust(4, b"\0") + (6).to_bytes(4, "little")
        body += max(6, len(texts)).to_bytes(4, "little") + (77).to_bytes(4, "little")
        for number in range(max(6, len(texts))):
            value = texts[number].encode() + b"\0" if number < len(texts) else b""
            body += len(value).to_bytes(4, "little") * 2 + (77).to_bytes(4, "little") + len(value).to_bytes(4, "little")
            body += value + bytes(-len(value) % 4)
    return body + bytes(4)
