"""Whether the field of view cuts through the body: how much tissue lies on the edge of axial slices.

Only the edges around the body count (R-L and A-P): a patient is nearly always longer than the scan.
"""

from __future__ import annotations

import numpy as np

from medml.catalogue.quality_rules import QualityLimits, finding
from medml.catalogue.quality_values import BELOW_AIR_HU, Sample
from medml.records.scan import Finding

MOST_SLICES = 16
MOST_PIXELS = 256
CROPPED = 0.5


def edge_findings(
    image: np.ndarray, spacing: tuple[float, float, float], modality: str, sample: Sample, limits: QualityLimits
) -> list[Finding]:
    """Find a body that is cut off, on at most 16 axial slices of ``image`` (I, J, K), canonical, spacing in mm.

    The edge is that of the matrix; in CT that of the scanned field, where padding surrounds it.
    """
    step = tuple(max(1, -(-n // MOST_PIXELS)) for n in image.shape[:2])
    pixel = spacing[0] * step[0], spacing[1] * step[1]
    count = min(MOST_SLICES, image.shape[2])
    places = ((np.arange(count) + 0.5) * image.shape[2] / count).astype(int)
    runs, shares = [], []
    for place in places:
        plane = image[:: step[0], :: step[1], place]
        scanned = plane > BELOW_AIR_HU if modality == "CT" else np.ones(plane.shape, dtype=bool)
        if scanned.any():
            run, share = _along_edge(plane > sample.body, scanned, pixel)
            runs.append(run)
            shares.append(share)
    if not runs:
        return []
    if np.median(shares) > CROPPED:
        share = float(np.median(shares))
        return [finding("cropped", f"{100 * share:.0f} % of the field's edge is tissue", share=share)]
    cut = sum(run >= limits.truncated_mm for run in runs)
    if cut < max(1.0, limits.truncated_slices * len(runs)):
        return []
    code = "truncated_field_of_view" if modality == "CT" else "body_at_edge"
    message = f"tissue runs along {max(runs):.0f} mm of the field's edge; {cut} of {len(runs)} slices looked at are cut"
    return [finding(code, message, longest_mm=max(runs), slices=cut, looked_at=len(runs))]


def _along_edge(tissue: np.ndarray, scanned: np.ndarray, pixel: tuple[float, float]) -> tuple[float, float]:
    """Return the longest unbroken run of tissue along the edge of what was scanned, in mm, and its share of the edge.

    Edge pixels are put in order by their angle around the middle; the way from one to the next is capped at three
    pixels, so that a ragged edge does not make a run longer.
    """
    inner = np.zeros_like(scanned)
    inner[1:-1, 1:-1] = (
        scanned[1:-1, 1:-1] & scanned[:-2, 1:-1] & scanned[2:, 1:-1] & scanned[1:-1, :-2] & scanned[1:-1, 2:]
    )
    rows, columns = np.nonzero(scanned & ~inner)
    x, y = rows * pixel[0], columns * pixel[1]
    order = np.argsort(np.arctan2(y - (y.min() + y.max()) / 2, x - (x.min() + x.max()) / 2), kind="stable")
    x, y, flags = x[order], y[order], tissue[rows, columns][order]
    ways = np.minimum(np.hypot(np.diff(x, append=x[0]), np.diff(y, append=y[0])), 3 * max(pixel))
    if flags.all():
        return float(ways.sum()), 1.0
    start = int(np.argmin(flags))
    flags, ways = np.roll(flags, -start), np.roll(ways, -start)
    changes = np.flatnonzero(np.diff(flags.astype(np.int8), prepend=0, append=0))
    far = np.concatenate([[0.0], np.cumsum(ways)])
    runs = far[changes[1::2]] - far[changes[::2]]
    return float(runs.max(initial=0.0)), float(ways[flags].sum() / ways.sum())
