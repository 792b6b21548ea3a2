"""Multi-frame files: Enhanced CT, MR and PET, legacy converted ones, mosaics, cine."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from corpus.dicom import CLASSES, Stack, put, save, store
from corpus.enhanced import enhance, mosaic, write_enhanced
from corpus.phantom import AXIAL, LPS, Truth, even, make_grid, only_changed, to_byte
from corpus.source import Expected, Source, accepted, case, case_of, either, refused
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian


def _plain(kind: str, modality: str, shared: tuple[str, ...]) -> object:
    def build(source: Source) -> Expected:
        stack = Stack(source, make_grid((1, 0, 0), (0, 0.9063078, -0.4226183)), modality=modality)
        write_enhanced([stack], kind=kind, shared=shared)
        return accepted(stack.truth)

    return build


_SHARED = ("orientation", "measures")
_FAMILY = {
    "Enhanced CT": ("CT", "CT", _SHARED),
    "Enhanced MR": ("MR", "MR", _SHARED),
    "Enhanced PET": ("PT", "PT", _SHARED),
    "legacy converted CT": ("legacy CT", "CT", _SHARED),
    "legacy converted MR": ("legacy MR", "MR", _SHARED),
    "Enhanced CT, every group per frame": ("CT", "CT", ()),
    "Enhanced CT, rescale shared": ("CT", "CT", (*_SHARED, "values")),
}
for _name, _facts in _FAMILY.items():
    case_of("multiframe", _name, f"{_name}, oblique", _plain(*_facts))  # type: ignore[arg-type]


@case("frames in another order than the slices")
def frames_shuffled(source: Source) -> Expected:
    stack = Stack(source)
    write_enhanced([stack], order=[(5 * n + 3) % 12 for n in range(12)])
    return accepted(stack.truth)


@case("every frame has its own rescale")
def rescale_per_frame(source: Source) -> Expected:
    stack = Stack(source)
    for index, data in enumerate(stack):
        store(data, stack.pixels(index), intercept=-1024 - 10 * index)
    write_enhanced([stack])
    return accepted(stack.truth)


@case("the rescale of every frame is in the shared groups and differs from the top level's")
def rescale_at_top_level_lies(source: Source) -> Expected:
    stack = Stack(source)
    data = enhance([stack], shared=("orientation", "measures", "values"))
    data.RescaleSlope, data.RescaleIntercept = 3, 7
    save(source.path("e.dcm"), data)
    return either(stack.truth)


@case("a frame missing")
def frame_missing(source: Source) -> Expected:
    stack = Stack(source)
    truth = stack.truth
    write_enhanced([stack.drop(6)])
    return refused("missing_slice", truth=only_changed(truth, values=None))


@case("two echoes in one file")
def echoes(source: Source) -> Expected:
    stacks = [Stack(source, modality="MR", change=lambda v, n=n: v + 1000 + n) for n in (1, 2)]

    def edit(groups: Dataset, number: int) -> None:
        item = Dataset()
        item.EffectiveEchoTime = 20.0 * (1 + number // 12)
        groups.MREchoSequence = Items([item])

    write_enhanced(stacks, kind="MR", edit=edit)
    return accepted(*(stack.truth for stack in stacks), findings=".*echo.*|several_volumes")


@case("three time points in one file, frames interleaved")
def time_points(source: Source) -> Expected:
    stacks = [Stack(source, modality="MR", change=lambda v, n=n: v + 1000 + n) for n in (1, 2, 3)]

    def edit(groups: Dataset, number: int) -> None:
        groups.FrameContentSequence[0].TemporalPositionIndex = 1 + number // 12
        groups.FrameContentSequence[0].InStackPositionNumber = 1 + number % 12
        groups.FrameContentSequence[0].DimensionIndexValues = [1, number % 12 + 1, 1 + number // 12]

    order = [time * 12 + index for index in range(12) for time in range(3)]
    write_enhanced(stacks, kind="MR", order=order, edit=edit)
    return accepted(*(stack.truth for stack in stacks), findings=".*time.*|.*temporal.*|several_volumes")


@case("two b-values in one file")
def b_values(source: Source) -> Expected:
    stacks = [Stack(source, modality="MR", change=lambda v, n=n: v + 1000 + n) for n in (1, 2)]

    def edit(groups: Dataset, number: int) -> None:
        item = Dataset()
        item.DiffusionBValue = 800.0 * (number // 12)
        groups.MRDiffusionSequence = Items([item])

    write_enhanced(stacks, kind="MR", edit=edit)
    return accepted(*(stack.truth for stack in stacks), findings=".*b_?value.*|.*diffusion.*|several_volumes")


@case("the same positions twice, nothing tells the frames apart")
def duplicate_frames(source: Source) -> Expected:
    stacks = [Stack(source, modality="MR", change=lambda v, n=n: v + 1000 + n) for n in (1, 2)]
    write_enhanced(stacks, kind="MR")
    return Expected(
        maybe=tuple(stack.truth for stack in stacks), refused=("?duplicate_positions|several_volumes",), check=_told
    )


def _told(home: object, report: Any, kept: list) -> list[str]:
    told = [o for o in report.outcomes if o.outcome == "refused" or o.findings]
    return [] if told else ["two volumes in one went by without a word"]


@case("no frame has a position")
def no_positions(source: Source) -> Expected:
    stack = Stack(source)

    def edit(groups: Dataset, number: int) -> None:
        del groups.PlanePositionSequence

    write_enhanced([stack], edit=edit)
    return refused("missing_geometry", truth=stack.truth)


@case("one frame lies in another orientation")
def orientation_differs(source: Source) -> Expected:
    stack = Stack(source)

    def edit(groups: Dataset, number: int) -> None:
        if number == 4:
            groups.PlaneOrientationSequence[0].ImageOrientationPatient = [0, 1, 0, 0, 0, -1]

    write_enhanced([stack], shared=("measures",), edit=edit)
    row, column = np.array([0.0, 1, 0]), np.array([0.0, 0, -1])
    grid = replace(AXIAL, row=row, column=column, step=4 * np.cross(row, column), origin=AXIAL.position(4))
    affine = LPS @ grid.affine
    alone = Truth({}, stack.values[:, :, 4:5].astype(float), affine)
    return Expected(maybe=(alone,), refused=("mixed_orientation|missing_slice",))


@case("fewer functional groups than frames")
def groups_missing(source: Source) -> Expected:
    stack = Stack(source)
    data = enhance([stack])
    data.PerFrameFunctionalGroupsSequence = Items(list(data.PerFrameFunctionalGroupsSequence)[:7])
    save(source.path("e.dcm"), data)
    return refused(".*geometry.*|.*frame.*|damaged.*", truth=())


@case("more frames declared than pixels are there")
def frames_truncated(source: Source) -> Expected:
    stack = Stack(source)
    data = enhance([stack])
    data.PixelData = data.PixelData[: 7 * 24 * 20 * 2]
    save(source.path("e.dcm"), data)
    return refused("truncated|.*frame.*", truth=())


@case("gantry tilted, in one file")
def tilted(source: Source) -> Expected:
    stack = Stack(source, make_grid(shear=(0.0, 1.2)), change=even)
    write_enhanced([stack])
    return accepted(only_changed(stack.truth, resampled=True), findings="gantry_tilt")


@case("one series as several Enhanced files of three frames each")
def several_files(source: Source) -> Expected:
    stack = Stack(source)
    slices, truth = stack.slices, stack.truth
    for part in range(4):
        stack.slices = slices[3 * part : 3 * part + 3]
        data = enhance([stack])
        data.SOPInstanceUID = source.uid(1, 1, 800 + part)
        save(source.path(f"{part}.dcm"), data)
    return either(truth)


@case("compressed frames (RLE) in one file")
def compressed(source: Source) -> Expected:
    from corpus import codecs

    stack = Stack(source)
    data = enhance([stack])
    data.compress(codecs.RLE, generate_instance_uid=False)
    save(source.path("e.dcm"), data)
    return accepted(stack.truth)


@case("compressed frames (JPEG 2000) with several fragments a frame")
def compressed_fragments(source: Source) -> Expected:
    from corpus import codecs
    from pydicom.encaps import generate_frames

    stack = Stack(source, make_grid(spacing=(1.2, 1.3), shape=(40, 36, 12)))
    data = enhance([stack])
    data.compress(codecs.JPEG_2000_LOSSLESS, generate_instance_uid=False)
    frames = list(generate_frames(data.PixelData, number_of_frames=12))
    codecs.encapsulated(data, frames, codecs.JPEG_2000_LOSSLESS, fragments=2, offsets=True)
    save(source.path("e.dcm"), data)
    return accepted(stack.truth)


@case("a Siemens mosaic")
def siemens_mosaic(source: Source) -> Expected:
    stack = Stack(source, modality="MR")
    save(source.path("mosaic.dcm"), mosaic(stack))
    return either(stack.truth)


@case("an oblique Siemens mosaic whose slices run against row x column")
def siemens_mosaic_oblique(source: Source) -> Expected:
    stack = Stack(
        source, make_grid((0.9659258, 0.258819, 0), (-0.1830127, 0.6830127, -0.7071068), step=-4.0), modality="MR"
    )
    save(source.path("mosaic.dcm"), mosaic(stack))
    return either(stack.truth)


@case("an ultrasound cine loop")
def ultrasound_cine(source: Source) -> Expected:
    data = _loop(source, "1.2.840.10008.5.1.4.1.1.3.1", "US")
    save(source.path("cine.dcm"), data)
    return refused("burned_in.*|.*ultrasound.*|.*quarantine.*", truth=())


@case("a multi-frame grey secondary capture")
def secondary_capture(source: Source) -> Expected:
    data = _loop(source, "1.2.840.10008.5.1.4.1.1.7.3", "OT")
    save(source.path("cine.dcm"), data)
    return refused("secondary_capture|burned_in.*", truth=())


@case("an X-ray angiography run: frames of one view, no volume")
def angiography(source: Source) -> Expected:
    data = _loop(source, "1.2.840.10008.5.1.4.1.1.12.1", "XA")
    save(source.path("run.dcm"), data)
    return refused("missing_geometry|.*frame.*|several_volumes|unsupported.*", truth=())


@case("classic CT that claims 12 frames at one position")
def classic_multiframe(source: Source) -> Expected:
    stack = Stack(source)
    data = stack[0]
    data.NumberOfFrames = 12
    data.PixelData = b"".join(slice_.PixelData for slice_ in stack)
    data["PixelData"].VR = "OW"
    stack.slices = [data]
    stack.write()
    return refused("missing_geometry|.*frame.*|duplicate_positions|several_volumes|truncated", truth=())


def _loop(source: Source, uid: str, modality: str) -> Dataset:
    stack = Stack(source, modality="MR", change=to_byte)
    data = stack[0]
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "FrameOfReferenceUID"):
        delattr(data, name)
    put(data, np.vstack([stack.pixels(index) for index in range(5)]).astype(np.uint8))
    data.Rows, data.NumberOfFrames = 20, 5
    data.SOPClassUID, data.Modality = uid, modality
    assert CLASSES
    return data


@case("two stacks of other orientation in one Enhanced file")
def two_stacks(source: Source) -> Expected:
    stacks = [Stack(source), Stack(source, make_grid((1, 0, 0), (0, 0, -1)), change=lambda v: v + 1)]

    def edit(groups: Dataset, number: int) -> None:
        content = groups.FrameContentSequence[0]
        content.StackID, content.InStackPositionNumber = str(1 + number // 12), 1 + number % 12
        content.DimensionIndexValues = [1 + number // 12, 1 + number % 12]

    write_enhanced(stacks, shared=("measures",), edit=edit)
    return Expected(maybe=tuple(stack.truth for stack in stacks), refused=("?mixed_orientation",), check=_told)


@case("frames of another pixel spacing among the rest")
def spacing_differs(source: Source) -> Expected:
    stack = Stack(source)

    def edit(groups: Dataset, number: int) -> None:
        if number > 5:
            groups.PixelMeasuresSequence[0].PixelSpacing = [5.0, 4.0]

    write_enhanced([stack], shared=("orientation",), edit=edit)
    half = stack.part(0, 6)
    return Expected(maybe=(half, _coarser(stack.part(6, 12))), refused=("?mixed_spacing",), check=_told)


def _coarser(truth: Truth) -> Truth:
    """Return a truth whose pixels are twice as large, from the same corner."""
    affine = truth.affine.copy()
    affine[:3, :2] *= 2
    inverse = np.linalg.inv(truth.affine)
    points = {v: tuple((affine @ inverse @ [*at, 1])[:3]) for v, at in truth.points.items()}
    return Truth(points, truth.values, affine)


@case("a frame whose group states no rescale where the others do")
def rescale_missing_once(source: Source) -> Expected:
    stack = Stack(source)

    def edit(groups: Dataset, number: int) -> None:
        if number == 4:
            del groups.PixelValueTransformationSequence

    write_enhanced([stack], edit=edit)
    return refused(".*rescale.*|.*slope.*|.*value.*|mixed.*", truth=())


@case("Enhanced CT in big endian, and one deflated")
def other_syntaxes(source: Source) -> Expected:
    truths = []
    for number, syntax in enumerate((ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian), 1):
        stack = Stack(source, series=number, change=lambda v, n=number: v + n)
        data = enhance([stack])
        data.SOPInstanceUID = source.uid(1, number, 777)
        data.file_meta.TransferSyntaxUID = syntax
        if number == 1:
            data.PixelData = np.frombuffer(data.PixelData, "<u2").astype(">u2").tobytes()
            data["PixelData"].VR = "OW"
        save(source.path(f"{number}.dcm"), data)
        truths.append(stack.truth)
    return accepted(*truths)
