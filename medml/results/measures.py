"""What is measured of each label: how much there is, and how bright it is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from medml.metrics.structures import Shape, shape_of
from medml.records.batch import Job
from medml.records.plan import Plan

SHARES = {"p05": 5, "p50": 50, "p95": 95}
INTENSITIES = ("mean", "sd", "min", "max", *SHARES)


@dataclass(frozen=True, slots=True)
class LabelMeasures:
    """One label in one scan.

    Attributes
    ----------
    volume_ml : float or None
        None where the voxels' size is unknown.
    intensity : dict
        Name (of `INTENSITIES`) to value, in HU for CT, else in the image's own unit; empty if there is no voxel.
    """

    shape: Shape
    volume_ml: float | None
    intensity: dict[str, float]


def measure_labels(job: Job, mask: np.ndarray, plan: Plan) -> dict[int, LabelMeasures]:
    """Measure every label of a mask (I, J, K) but the background, on the first channel of its image."""
    volume = job.reading.volume
    image = volume.voxels[0]
    voxel_ml = abs(float(np.linalg.det(volume.affine[:3, :3]))) / 1000 if volume.geometry == "mm" else None
    labels = [label for label in sorted(plan.labels) if label != 0]
    boxes = ndimage.find_objects(mask, max_label=max(labels, default=0))
    found = {}
    for label in labels:
        box = boxes[label - 1]
        shape = shape_of(mask, label, box)
        inside = image[box][mask[box] == label] if box is not None else image[:0]
        found[label] = LabelMeasures(
            shape=shape,
            volume_ml=None if voxel_ml is None else round(shape.voxels * voxel_ml, 4),
            intensity=_intensity(inside) if inside.size else {},
        )
    return found


def unit_of(job: Job, plan: Plan) -> str:
    """Return the unit of intensities: HU for CT, what the source states for others, empty if it states none."""
    return "HU" if plan.modality == "CT" else str(job.reading.columns.get("unit") or "")


def _intensity(values: np.ndarray) -> dict[str, float]:
    values = values.astype(np.float32, copy=False)
    found = {
        "mean": float(values.mean(dtype=np.float64)),
        "sd": float(values.std(dtype=np.float64)),
        "min": float(values.min()),
        "max": float(values.max()),
    }
    percentiles = np.percentile(values, list(SHARES.values()))
    found |= {name: float(value) for name, value in zip(SHARES, percentiles, strict=True)}
    return {name: round(value, 4) for name, value in found.items()}
