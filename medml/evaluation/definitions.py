"""How each figure of a mask is computed, and what holds where it is undefined: it stands beside the figures."""

from __future__ import annotations

from collections.abc import Sequence

from medml.evaluation.summary import TOLERANCE_MM
from medml.metrics.lesions import MIN_IOU
from medml.pages.content import Table, Value

ONE_SIDED = "undefined where either mask is empty: left out of the mean, and counted as missed or false"
EMPTY = "both masks empty: undefined, left out and counted; one of them empty: 0"
BORDER = "border voxels (a face neighbour lies outside), from voxel centre to voxel centre, in mm, not weighted by area"

# Prefix of the metric's name: what it is called, how it is computed, the rule at its edges.
MASKS: dict[str, tuple[str, str, str]] = {
    "dice": ("Dice", "2 |P ∩ R| / (|P| + |R|) over the voxels of the whole scan; mean over scans", EMPTY),
    "iou": ("IoU", "|P ∩ R| / |P ∪ R|; mean over scans", EMPTY),
    "hd95": (
        "HD95 (mm)",
        f"{BORDER}; the larger of the two directed 95th percentiles (MONAI's definition; tools that pool both "
        "directions, or weight by area, give other values)",
        ONE_SIDED,
    ),
    "assd": ("ASSD (mm)", f"{BORDER}; mean over all border voxels of both masks", ONE_SIDED),
    "nsd": (
        f"NSD at {TOLERANCE_MM:g} mm",
        f"share of {BORDER.split(',')[0]} of both masks that lie within {TOLERANCE_MM:g} mm of the other's",
        ONE_SIDED,
    ),
    "volume_bias_ml": ("Volume bias (mL)", "predicted minus reference volume, voxels times voxel size", "none"),
    "missed": ("Missed", "scans whose reference has the structure and whose prediction has none of it", "none"),
    "false": ("False", "scans whose prediction has the structure and whose reference has none of it", "none"),
    "lesion_sensitivity": (
        "Lesions found",
        f"connected components (26 neighbours), matched one to one at an IoU of at least {MIN_IOU:g}, best pairs first",
        "scans without lesions count for the false ones only",
    ),
    "lesion_false_per_scan": ("False lesions per scan", "predicted components that match none, over all scans", "none"),
    "lesion_f1": ("Lesion F1", "2 TP / (2 TP + FN + FP) over the lesions of all scans", "undefined without lesions"),
    "outer_missed": (
        "Share missed",
        "of the reference's voxels, those outside the outer mask; mean over scans",
        "scans without the structure are left out",
    ),
}


def mask_definitions(names: Sequence[str]) -> Table:
    """Return the definitions of those figures that a report shows, ``names`` of its metrics."""
    rows: list[list[Value]] = [
        [title, how, edge]
        for prefix, (title, how, edge) in MASKS.items()
        if any(name.startswith(f"{prefix}_") for name in names)
    ]
    return Table(["Figure", "How it is computed (P prediction, R reference)", "At the edges"], rows, "Definitions")
