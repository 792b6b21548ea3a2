"""What to do with each finding about the geometry of a series: refuse it, split it, repair it, or stack it."""

from __future__ import annotations

from typing import Literal, get_args

from medml.config import Config

RefuseSplit = Literal["refuse", "split"]
RefuseRepair = Literal["refuse", "repair"]
RefuseSplitStack = Literal["refuse", "split", "stack"]


class Policies(Config):
    """One policy per finding; whatever is split or repaired carries a finding with its numbers.

    "split" makes each part a scan of its own, or refuses that part alone. "stack" makes one scan with a named component
    per part, where all parts stand on one grid.

    Attributes
    ----------
    missing_slice : "refuse" or "split"
        A gap. "split" keeps each regular run of at least two slices, and takes an echo or time point that has fewer
        slices than the others.
    duplicate_positions : "refuse" or "repair"
        Images at one place that no tag tells apart. "repair" takes one of those whose pixels are the same.
    variable_spacing : "refuse" or "repair"
        "repair" resamples along the normal to the median distance (linear), where no distance is over twice that.
    gantry_tilt : "refuse" or "repair"
        "repair" shears the slices back (linear, in the plane); masks return to the slices by nearest neighbour.
    mixed_orientation, mixed_matrix, mixed_spacing, mixed_modality, mixed_frame_of_reference : "refuse" or "split"
    localizer : "refuse" or "split"
        Scout views. Either way the other images of the series are judged by themselves.
    echoes, contrasts, b_values, image_types, time_points, phases : "refuse", "split" or "stack"
        Echo times; inversion, repetition times and flip angles; b-values and gradient directions; magnitude, phase,
        real, imaginary, water, fat; dynamics; phases of a cycle.
    acquisitions, stacks : "refuse" or "split"
        Several acquisitions, SeriesNumbers or stacks under one series UID that do not cover the same positions.
    cine : "refuse" or "frames"
        Frames that nothing places in the patient (ultrasound, fluoroscopy): "frames" makes a flat image of each.
    """

    missing_slice: RefuseSplit = "refuse"
    duplicate_positions: RefuseRepair = "refuse"
    variable_spacing: RefuseRepair = "refuse"
    gantry_tilt: RefuseRepair = "repair"
    mixed_orientation: RefuseSplit = "split"
    mixed_matrix: RefuseSplit = "split"
    mixed_spacing: RefuseSplit = "split"
    mixed_modality: RefuseSplit = "refuse"
    mixed_frame_of_reference: RefuseSplit = "refuse"
    localizer: RefuseSplit = "refuse"
    echoes: RefuseSplitStack = "split"
    contrasts: RefuseSplitStack = "split"
    b_values: RefuseSplitStack = "split"
    image_types: RefuseSplitStack = "split"
    time_points: RefuseSplitStack = "split"
    phases: RefuseSplitStack = "split"
    acquisitions: RefuseSplit = "split"
    stacks: RefuseSplit = "split"
    cine: Literal["refuse", "frames"] = "refuse"


DEFAULT = Policies()


def others_than_refuse(code: str) -> tuple[str, ...]:
    """Return what else can be done with a finding that is refused by default; nothing where there is no choice."""
    field = Policies.model_fields.get(code)
    if field is None or field.default != "refuse":
        return ()
    return tuple(choice for choice in get_args(field.annotation) if choice != "refuse")
