"""The same findings under other policies of ``configs/ingest/*.yaml``."""

from __future__ import annotations

from typing import Any

import numpy as np
from corpus.dicom import Stack
from corpus.enhanced import write_enhanced
from corpus.phantom import AXIAL, even, make_grid, only_changed
from corpus.source import Expected, Source, accepted, case, refused


def _policy(**values: str) -> dict[str, Any]:
    return {"policies": values}


@case("gantry tilt: refuse")
def tilt_refused(source: Source) -> Expected:
    stack = Stack(source, make_grid(shear=(0.0, 1.2)))
    stack.write()
    return refused("gantry_tilt", config=_policy(gantry_tilt="refuse"))


@case("missing slice: split into the regular runs on both sides")
def gap_split(source: Source) -> Expected:
    stack = Stack(source)
    truths = stack.part(0, 5), stack.part(6, 12)
    stack.drop(5).write()
    return accepted(*truths, findings="missing_slice", config=_policy(missing_slice="split"))


@case("mixed orientation: refuse")
def orientation_refused(source: Source) -> Expected:
    Stack(source).write()
    Stack(source, make_grid((1, 0, 0), (0, 0, -1)), first=101).write()
    return refused("mixed_orientation", config=_policy(mixed_orientation="refuse"))


@case("echoes: refuse")
def echoes_refused(source: Source) -> Expected:
    for echo in (1, 2):
        Stack(source, modality="MR", first=100 * echo).set(EchoTime=20.0 * echo, EchoNumbers=echo).write()
    return refused(".*echo.*|several_volumes", config=_policy(echoes="refuse"))


@case("echoes: stacked into one scan, a component each, in order")
def echoes_stacked(source: Source) -> Expected:
    truths = []
    for echo in (2, 1):
        stack = Stack(source, modality="MR", first=100 * echo, change=lambda v, n=echo: v + 1000 + n)
        stack.set(EchoTime=20.0 * echo, EchoNumbers=echo).write()
        truths.append(only_changed(stack.truth, component=echo - 1))
    return accepted(truths[1], config=_policy(echoes="stack"), check=_components(truths))


@case("time points of an Enhanced file: stacked")
def time_points_stacked(source: Source) -> Expected:
    stacks = [Stack(source, modality="MR", change=lambda v, n=n: v + 1000 + n) for n in (1, 2, 3)]

    def edit(groups: Any, number: int) -> None:
        groups.FrameContentSequence[0].TemporalPositionIndex = 1 + number // 12
        groups.FrameContentSequence[0].InStackPositionNumber = 1 + number % 12
        groups.FrameContentSequence[0].DimensionIndexValues = [1, number % 12 + 1, 1 + number // 12]

    write_enhanced(stacks, kind="MR", edit=edit)
    truths = [only_changed(stack.truth, component=n) for n, stack in enumerate(stacks)]
    return accepted(truths[0], config=_policy(time_points="stack"), check=_components(truths))


def _components(truths: list[Any]) -> object:
    """Check every component of the one scan."""
    from corpus.judge import mismatch

    def check(home: object, report: object, kept: list) -> list[str]:
        if len(kept) != 1 or kept[0].voxels.shape[3] != len(truths):
            return [f"expected one scan of {len(truths)} components"]
        wrong = [mismatch(truth, kept[0].voxels[..., truth.component], kept[0].affine) for truth in truths]
        return [f"SILENTLY WRONG: component {n}: {text}" for n, text in enumerate(wrong) if text]

    return check


@case("the same slices twice: one of each is taken")
def duplicates_repaired(source: Source) -> Expected:
    stack, again = Stack(source), Stack(source, first=50)
    for index, data in enumerate(again):
        data.InstanceNumber = index + 1
    stack.slices += again.slices
    stack.write()
    return accepted(stack.truth, findings="duplicate.*", config=_policy(duplicate_positions="repair"))


@case("two different images at one position: not even repair takes one")
def duplicates_not_repaired(source: Source) -> Expected:
    stack = Stack(source)
    extra = Stack(source, first=50, change=lambda v: v + 9)[6]
    stack.slices.append(extra)
    stack.write()
    return refused("duplicate_positions", config=_policy(duplicate_positions="repair"))


@case("variable spacing: resampled along the normal")
def spacing_repaired(source: Source) -> Expected:
    stack = Stack(source, change=even)
    points = {}
    for index, data in enumerate(stack):
        at = AXIAL.position(min(index, 6)) + np.array([0, 0, 3.0 * max(0, index - 6)])
        data.ImagePositionPatient = [f"{v:.6f}" for v in at]
    for value, (column, row, index) in stack.landmarks.items():
        position = np.array([float(v) for v in stack[index].ImagePositionPatient])
        world = position + AXIAL.row * column * AXIAL.spacing[0] + AXIAL.column * row * AXIAL.spacing[1]
        points[float(value)] = (-world[0], -world[1], world[2])
    stack.write()
    # A single voxel between unequal neighbours is drawn towards the wider gap: its slice is checked to half a voxel.
    near = _near(points)
    return Expected(free=True, findings=("variable_spacing",), check=near, config=_policy(variable_spacing="repair"))


def _near(points: dict[float, tuple[float, float, float]]) -> object:
    from corpus.judge import _centroid

    def check(home: object, report: Any, kept: list) -> list[str]:
        if len(kept) != 1:
            return [f"{len(kept)} scans, expected 1: {[o.code for o in report.outcomes]}"]
        complaints, inverse = [], np.linalg.inv(kept[0].affine)
        for value, place in points.items():
            expected = inverse[:3, :3] @ place + inverse[:3, 3]
            found = _centroid(kept[0].voxels[..., 0], expected)
            if found is None or np.abs(found - expected).max() > 0.5:
                complaints.append(f"SILENTLY WRONG: landmark {value:g} is at {found}, expected {expected}")
        return complaints

    return check


@case("localizer: split policy lets the other images in")
def localizer_split(source: Source) -> Expected:
    stack = Stack(source)
    scout = Stack(source, make_grid((1, 0, 0), (0, 0, -1)), first=301, change=lambda v: v + 1)
    scout.slices = scout.slices[5:6]
    truth = scout.part(5, 6)
    scout.set(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]).write()
    stack.write()
    return accepted(stack.truth, maybe=truth, config=_policy(localizer="split"))


@case("PET left in Bq/mL")
def pet_in_becquerel(source: Source) -> Expected:
    from corpus.cases_values import _pet

    stack = _pet(source)
    stack.write()
    return accepted(stack.truth, config={"pet": "bqml"})
