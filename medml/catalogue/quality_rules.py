"""What quality findings there are: code, severity, meaning, threshold, advice; docs/quality.md shows the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt

from medml.config import Config
from medml.metrics.likeness import SAME
from medml.records.scan import Finding

Severity = Literal["info", "warning", "error"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")


class QualityLimits(Config):
    """Thresholds of the quality findings; `RULES` says why each default is what it is.

    Attributes
    ----------
    anisotropy : float
        Largest voxel side over smallest.
    non_square : float
        Difference of the two in-plane voxel sides, as a share of the smaller.
    min_slices : int
        Fewest slices of a volume.
    min_extent_mm, max_extent_mm : float
        Smallest and largest length of the longest side of the imaged field.
    saturated_share : float
        Share of voxels at the largest value.
    truncated_mm : float
        Length of the field's edge that runs through the body without a break.
    truncated_slices : float
        Share of axial slices in which it does.
    mask_outside_share : float
        Share of a mask's voxels that lie outside the body.
    tiny_component_share : float
        Size of a component, as a share of its label.
    tiny_component_voxels : int
        Size in voxels; smaller than both counts as tiny.
    outlier_z : float
        Robust z-score among the scans of one collection and modality.
    outlier_factor : float
        Least factor between an outlier and the median.
    outlier_scans : int
        Fewest scans of one collection and modality among which an outlier is looked for.
    near_duplicate : float
        Correlation of two fingerprints.
    shown_scans : int
        Most scans that the quality page shows pictures of.
    """

    anisotropy: PositiveFloat = 3.0
    non_square: PositiveFloat = 0.02
    min_slices: PositiveInt = 5
    min_extent_mm: PositiveFloat = 20.0
    max_extent_mm: PositiveFloat = 2200.0
    saturated_share: PositiveFloat = Field(default=0.01, lt=1)
    truncated_mm: PositiveFloat = 30.0
    truncated_slices: PositiveFloat = Field(default=0.1, le=1)
    mask_outside_share: PositiveFloat = Field(default=0.01, lt=1)
    tiny_component_share: PositiveFloat = Field(default=0.01, lt=1)
    tiny_component_voxels: PositiveInt = 10
    outlier_z: PositiveFloat = 6.0
    outlier_factor: float = Field(default=2.0, ge=1)
    outlier_scans: PositiveInt = 20
    near_duplicate: PositiveFloat = Field(default=SAME, lt=1)
    shown_scans: int = Field(default=60, ge=0, le=2000)


@dataclass(frozen=True, slots=True)
class Rule:
    """One kind of finding.

    Attributes
    ----------
    meaning : str
        What is wrong with the scan.
    threshold : str
        When it is found; names the key of `QualityLimits`, if there is one, and the reason for its default.
    """

    severity: Severity
    meaning: str
    threshold: str
    advice: str


RULES: dict[str, Rule] = {
    "constant_image": Rule(
        "error",
        "every voxel has one value",
        "largest value = smallest value",
        "leave it out; export it again from its source",
    ),
    "non_finite": Rule(
        "error",
        "voxels are NaN or infinite",
        "any",
        "find out which program wrote them; set them to the background before training",
    ),
    "ct_not_hounsfield": Rule(
        "error",
        "a CT whose values are no Hounsfield units",
        "no value below -10, and 1 % of the voxels at the smallest value or over 700 (air at 0, water at 1000); or a "
        "standard deviation below 2 (scaled to 0 and 1)",
        "export it with RescaleSlope and RescaleIntercept; a picture of a CT is no CT",
    ),
    "ct_below_air": Rule(
        "error",
        "a CT with many different values far below air (-1000 HU)",
        "5 % of the voxels below -1100 that are not one padding value: the intercept was applied twice",
        "read it again without its rescale, or correct RescaleIntercept",
    ),
    "ct_air_off": Rule(
        "warning",
        "a CT whose air is not near -1000 HU",
        "the most common value between -1500 and -880 HU is more than 60 HU from -1000 (scanners: within 20)",
        "check RescaleIntercept; ask for the scanner's calibration",
    ),
    "ct_padding": Rule(
        "info",
        "one value below -1100 HU fills voxels outside the scanned field",
        "0.1 % of the voxels; scanners write -2000, -2048 or -3024 there",
        "nothing: intensities are clipped before training",
    ),
    "ct_beyond_12_bit": Rule(
        "info",
        "a CT with values over 3071 HU, the end of the 12-bit scale",
        "any value over 3071 HU",
        "nothing for metal in an extended scale; else check the rescale",
    ),
    "empty_slices": Rule(
        "warning",
        "slices inside the volume hold one value each",
        "any constant slice between two that are not",
        "export the series again; slices were lost",
    ),
    "empty_ends": Rule(
        "info",
        "slices at an end of the volume hold one value each",
        "any",
        "usual after registration or cropping; crop them",
    ),
    "saturated": Rule(
        "warning",
        "bright voxels are cut off at the largest value",
        "`saturated_share` of the voxels have the largest value, ten times as many as any value just below it; with "
        "noise a maximum is reached about once",
        "export it with its full range instead of a window; leave out over-exposed pictures",
    ),
    "anisotropic": Rule(
        "info",
        "voxels are much longer than wide",
        "`anisotropy`: 3, where planners stop treating axes alike (Isensee 2021)",
        "nothing: the plan keeps its kernels flat; compare thicknesses across sites",
    ),
    "non_square_pixels": Rule(
        "info",
        "pixels within a slice are not square",
        "`non_square`: 2 %, more than rounding of the tags",
        "check that PixelSpacing was not swapped or lost by a resize",
    ),
    "few_slices": Rule(
        "warning",
        "a volume of very few slices",
        "fewer than `min_slices`; a 3D network needs more than its kernel of three",
        "check that the series is complete; a localizer is no scan",
    ),
    "small_field_of_view": Rule(
        "warning",
        "the longest side is very short for a patient",
        "below `min_extent_mm`: 20 mm",
        "check the unit of the spacing (metres or centimetres taken as mm)",
    ),
    "large_field_of_view": Rule(
        "warning",
        "the longest side is longer than a patient, or wider than a bore",
        "above `max_extent_mm`: 2200 mm; across the body 1000 mm",
        "check the unit of the spacing (micrometres taken as mm)",
    ),
    "truncated_field_of_view": Rule(
        "warning",
        "a CT whose field of view cuts through the body",
        "over `truncated_mm` of the field's edge without a break is tissue (above -200 HU), in `truncated_slices` of "
        "the axial slices; couches and holders are thinner than 30 mm",
        "do not measure what is cut off; use a larger reconstruction",
    ),
    "body_at_edge": Rule(
        "info",
        "an MR image whose field of view cuts through the body, which may fold over",
        "as truncated_field_of_view, for signal over a fifth of the bright tissue's",
        "look for wrapped signal; usual for spine and joints",
    ),
    "cropped": Rule(
        "info",
        "tissue reaches most of the edge of the field: a crop",
        "more than half of the edge; no whole body reaches that",
        "nothing, if all scans of the collection are crops",
    ),
    "snr_outlier": Rule(
        "warning",
        "much noisier or smoother than its collection's scans of the same modality",
        "robust z-score of log(signal / noise) over `outlier_z` (a normal spread reaches 6 twice in 1000 million) and "
        "`outlier_factor` from the median (half the signal to noise is a quarter of the scan time), among at least "
        "`outlier_scans` scans",
        "look at it: motion, another protocol, a smoothed or synthetic image",
    ),
    "contrast_outlier": Rule(
        "warning",
        "much flatter or harsher than its collection's scans of the same modality",
        "the same for log(standard deviation / mean), counted from no signal (CT: -1000 HU)",
        "look at it: a wrong window, inverted grey values, another sequence",
    ),
    "duplicate_pixels": Rule(
        "warning",
        "the same voxels under another patient",
        "equal content digests",
        "find out whose they are; datasets keep both patients on one side of a split",
    ),
    "near_duplicate": Rule(
        "warning",
        "the same picture under another patient: rescaled, inverted, flipped, turned, resized or compressed again",
        "`near_duplicate`: correlation of the fingerprints, at best over all flips and turns",
        "look at both; datasets keep both patients on one side of a split",
    ),
    "mask_empty": Rule(
        "warning",
        "a mask without any label",
        "no voxel above 0",
        "leave it only if the finding is really absent",
    ),
    "mask_outside_body": Rule(
        "warning",
        "labels lie outside the body or on padding",
        "`mask_outside_share` of the label voxels outside the box around the body, or half of them on the "
        "background's one value",
        "check that mask and image belong together and are not flipped",
    ),
    "undeclared_label": Rule(
        "warning",
        "the mask holds values that its source does not name",
        "any",
        "name them in `labels`, or correct the mask",
    ),
    "absent_label": Rule(
        "info",
        "the mask lacks values that its source names",
        "any",
        "nothing, if the structure is absent in this patient",
    ),
    "tiny_components": Rule(
        "warning",
        "specks beside the main part of a label",
        "components smaller than both `tiny_component_voxels` and `tiny_component_share` of the label",
        "remove them, or confirm that they are lesions",
    ),
    "far_components": Rule(
        "warning",
        "a small component lies far from the rest of its label",
        "smaller than `tiny_component_share` of the label, and further from its largest component than that one is "
        "long",
        "check for a stray click",
    ),
    "label_at_border": Rule(
        "info",
        "a label reaches the edge of the image",
        "any voxel in an outermost plane of a volume",
        "its volume is a lower bound, if the structure is cut off",
    ),
    "thin_label": Rule(
        "warning",
        "a label is one voxel thick",
        "at least 20 voxels, in one plane only, of a volume",
        "check that all its slices were annotated",
    ),
}


def finding(code: str, message: str, **numbers: float) -> Finding:
    """Return a finding of `RULES` with what was seen."""
    rule = RULES[code]
    shown = {name: float(f"{value:.6g}") for name, value in numbers.items()}
    return Finding(code=code, severity=rule.severity, message=message, numbers=shown, advice=rule.advice)


def worst_first(findings: tuple[Finding, ...]) -> tuple[Finding, ...]:
    """Return findings by severity, then by code."""
    return tuple(sorted(findings, key=lambda item: (SEVERITIES.index(item.severity), item.code)))
