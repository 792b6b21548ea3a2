"""One picture per scan, so that a result can be judged at a glance."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medml.geometry import spacing_of
from medml.io.files import write_atomic
from medml.pages.overlays import overlay_png
from medml.records.plan import Plan
from medml.records.scan import Volume
from medml.results.masks import named


def write_preview(out: Path, scan_id: str, volume: Volume, mask: np.ndarray | None, plan: Plan) -> Path:
    """Write ``previews/<scan id>.png``: three planes through the largest predicted area, or the picture as it is."""
    path = named(out, "previews", scan_id, ".png")
    png = overlay_png(
        volume.voxels,
        mask,
        spacing_mm=spacing_of(volume.affine) if volume.geometry == "mm" else None,
        labels=plan.labels,
        modality=plan.modality,
    )
    write_atomic(path, lambda temporary: temporary.write_bytes(png))
    return path
