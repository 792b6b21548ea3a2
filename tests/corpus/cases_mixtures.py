"""Several images in one series: orientations, matrices, echoes, times, diffusion, acquisitions, modalities."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from corpus.dicom import Stack
from corpus.phantom import AXIAL, LPS, Grid, Truth, make_grid, only_changed, place
from corpus.source import Expected, Source, accepted, case, either, refused


@case("axial, coronal and sagittal stacks in one series")
def mixed_orientation(source: Source) -> Expected:
    stacks = [
        Stack(source, first=1),
        Stack(source, make_grid((1, 0, 0), (0, 0, -1)), first=101, change=lambda values: values + 1),
        Stack(source, make_grid((0, 1, 0), (0, 0, -1)), first=201, change=lambda values: values + 2),
    ]
    for stack in stacks:
        stack.write()
    return accepted(*(stack.truth for stack in stacks), findings="mixed_orientation")


@case("the second half turned by 180 degrees in its plane")
def half_turned(source: Source) -> Expected:
    stack = Stack(source)
    for index, data in enumerate(stack):
        if index > 5:
            data.ImageOrientationPatient = [-1, 0, 0, 0, -1, 0]
            far = AXIAL.position(index) + AXIAL.row * 23 * 2.0 + AXIAL.column * 19 * 2.5
            data.ImagePositionPatient = [f"{v:.6f}" for v in far]
            data.PixelData = stack.pixels(index)[::-1, ::-1].astype("<i4").__add__(1024).astype("<u2").tobytes()
    stack.write()
    halves = (stack.part(0, 6), stack.part(6, 12))
    return either(*halves)


@case("slices that turn around an axis (radial)")
def radial(source: Source) -> Expected:
    stack = Stack(source)
    planes = []
    for index, data in enumerate(stack):
        angle = np.radians(15 * index)
        row, column = np.array([np.cos(angle), np.sin(angle), 0]), np.array([0, 0, -1])
        data.ImageOrientationPatient = [f"{v:.8f}" for v in (*row, *column)]
        grid = replace(AXIAL, row=row, column=column, step=4 * np.cross(row, column), origin=AXIAL.position(index))
        planes.append(_plane(stack, index, grid))
    stack.write()
    return Expected(maybe=tuple(planes), refused=("?mixed_orientation|missing_slice|variable_spacing",))


def _plane(stack: Stack, index: int, grid: Grid) -> Truth:
    """Return the truth of one slice alone, where a grid has it."""
    affine = LPS @ grid.affine
    inside = [at for at in stack.landmarks.values() if at[2] == index]
    points = {float(stack.values[at]): place(affine, (*at[:2], 0)) for at in inside}
    return Truth(points, stack.values[:, :, index : index + 1].astype(float), affine)


@case("two matrices in one series")
def mixed_matrix(source: Source) -> Expected:
    one = Stack(source)
    other = Stack(source, make_grid(shape=(22, 18, 12)), first=101, change=lambda values: values + 1)
    one.write()
    other.write()
    return accepted(one.truth, other.truth, findings="mixed_matrix")


@case("two pixel spacings in one series")
def mixed_spacing(source: Source) -> Expected:
    one = Stack(source)
    other = Stack(source, make_grid(spacing=(1.9, 2.4)), first=101, change=lambda values: values + 1)
    one.write()
    other.write()
    return either(one.truth, other.truth)


@case("two echoes in one series")
def mixed_echo(source: Source) -> Expected:
    truths = []
    for echo in (1, 2):
        stack = Stack(source, modality="MR", first=100 * echo, change=lambda values, echo=echo: values + 1000 + echo)
        stack.set(EchoTime=20.0 * echo, EchoNumbers=echo).write()
        truths.append(stack.truth)
    return accepted(*truths, findings=".*echo.*|several_volumes")


@case("three time points in one series")
def time_points(source: Source) -> Expected:
    truths = []
    for time in (1, 2, 3):
        stack = Stack(source, modality="MR", first=100 * time, change=lambda values, time=time: values + 1000 + time)
        stack.set(TemporalPositionIdentifier=time, NumberOfTemporalPositions=3).write()
        truths.append(stack.truth)
    return accepted(*truths, findings=".*time.*|.*temporal.*|several_volumes")


@case("dynamic CT: only AcquisitionNumber and time tell the passes apart")
def acquisitions(source: Source) -> Expected:
    truths = []
    for time in (1, 2):
        stack = Stack(source, first=100 * time, change=lambda values, time=time: values + time)
        stack.set(AcquisitionNumber=time).write()
        truths.append(stack.truth)
    return either(*truths)


@case("two b-values in one series")
def b_values(source: Source) -> Expected:
    truths = []
    for number, value in enumerate((0.0, 800.0)):
        stack = Stack(source, modality="MR", first=100 * (number + 1), change=lambda v, n=number: v + 1000 + n)
        stack.set(DiffusionBValue=value).write()
        truths.append(stack.truth)
    return accepted(*truths, findings=".*b_?value.*|.*diffusion.*|several_volumes")


@case("one b-value in six directions")
def diffusion_directions(source: Source) -> Expected:
    truths = []
    for number in range(6):
        stack = Stack(source, modality="MR", first=100 * (number + 1), change=lambda v, n=number: v + 1000 + n)
        angle = np.pi * number / 6
        stack.set(DiffusionBValue=800.0, DiffusionGradientOrientation=[np.cos(angle), np.sin(angle), 0.0]).write()
        truths.append(stack.truth)
    return either(*truths)


@case("heart phases told apart by TriggerTime")
def trigger_times(source: Source) -> Expected:
    truths = []
    for phase in (1, 2, 3):
        stack = Stack(source, modality="MR", first=100 * phase, change=lambda v, n=phase: v + 1000 + n)
        stack.set(TriggerTime=40.0 * phase).write()
        truths.append(stack.truth)
    return accepted(*truths, findings=".*trigger.*|.*phase.*|.*time.*|several_volumes")


@case("trigger times that rise from slice to slice: one volume")
def trigger_time_per_slice(source: Source) -> Expected:
    stack = Stack(source, modality="MR")
    for index, data in enumerate(stack):
        data.TriggerTime = 35.5 + 11 * index
    stack.write()
    return accepted(stack.truth)


@case("magnitude and phase images in one series")
def magnitude_and_phase(source: Source) -> Expected:
    truths = []
    for number, kind in enumerate(("M", "P")):
        stack = Stack(source, modality="MR", first=100 * (number + 1), change=lambda v, n=number: v + 1000 + n)
        stack.set(ImageType=["ORIGINAL", "PRIMARY", kind, "FFE"]).write()
        truths.append(stack.truth)
    return either(*truths)


@case("three time points, the second lacks a slice")
def time_point_with_gap(source: Source) -> Expected:
    truths = []
    for time in (1, 2, 3):
        stack = Stack(source, modality="MR", first=100 * time, change=lambda v, time=time: v + 1000 + time)
        stack.set(TemporalPositionIdentifier=time)
        if time == 2:
            stack.drop(5)
        else:
            truths.append(stack.truth)
        stack.write()
    return either(*truths, refused="missing_slice")


@case("localizer")
def localizer(source: Source) -> Expected:
    stack = Stack(source).set(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    stack.write()
    return refused("localizer", truth=stack.truth)


@case("a localizer among the slices of a series")
def localizer_among_slices(source: Source) -> Expected:
    stack = Stack(source)
    scout = Stack(source, make_grid((1, 0, 0), (0, 0, -1)), first=301)
    scout.slices = scout.slices[5:6]
    scout.set(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]).write()
    stack.write()
    return either(stack.truth, refused="localizer")


@case("two frames of reference")
def mixed_frame_of_reference(source: Source) -> Expected:
    stack = Stack(source)
    for data in stack.slices[6:]:
        data.FrameOfReferenceUID = source.uid(77)
    stack.write()
    return either(stack.part(0, 6), stack.part(6, 12))


@case("CT and PET under one series UID")
def mixed_modality(source: Source) -> Expected:
    one = Stack(source)
    other = Stack(source, modality="PT", first=101)
    one.write()
    other.write()
    return either(one.truth, other.truth)


@case("two acquisitions that overlap, slices 0 to 7 and 5 to 11")
def overlapping_acquisitions(source: Source) -> Expected:
    one, other = Stack(source), Stack(source, first=101, change=lambda v: v + 1)
    truths = one.part(0, 8), other.part(5, 12)
    one.drop(*range(8, 12)).set(AcquisitionNumber=1).write()
    other.drop(*range(5)).set(AcquisitionNumber=2).write()
    return Expected(maybe=truths, refused=("?duplicate_positions|several_volumes",))


@case("two acquisitions end to end, the second starts half a slice off")
def joined_acquisitions(source: Source) -> Expected:
    one = Stack(source)
    lower = one.part(0, 6)
    upper = Stack(source, first=101)
    part = upper.part(6, 12)
    shifted = part.affine.copy()
    shifted[2, 3] += 2.0
    points = {value: (x, y, z + 2.0) for value, (x, y, z) in part.points.items()}
    for index, data in enumerate(upper):
        data.ImagePositionPatient = [f"{value:.6f}" for value in AXIAL.position(index) + np.array([0, 0, 2.0])]
    one.drop(*range(6, 12)).set(AcquisitionNumber=1).write()
    upper.drop(*range(6)).set(AcquisitionNumber=2).write()
    moved = only_changed(part, affine=shifted, points=points)
    return Expected(maybe=(lower, moved), refused=("?variable_spacing|missing_slice|several_volumes",))


@case("one series UID in two studies of one patient")
def series_in_two_studies(source: Source) -> Expected:
    one, other = Stack(source), Stack(source, study=2, change=lambda v: v + 1)
    other.set(SeriesInstanceUID=one[0].SeriesInstanceUID)
    one.write()
    other.write()
    return Expected(maybe=(one.truth, other.truth), refused=("?uid_conflict",))


@case("two kernels of one CT in one series")
def two_kernels(source: Source) -> Expected:
    truths = []
    for number, kernel in enumerate(("B30f", "B70f")):
        stack = Stack(source, first=100 * (number + 1), change=lambda v, n=number: v + n)
        stack.set(ConvolutionKernel=kernel).write()
        truths.append(stack.truth)
    return either(*truths)
