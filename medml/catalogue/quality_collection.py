"""What only shows beside other scans: outliers of a collection, and the same picture under two patients.

Everything is derived from what is stored with the scans, so the order in which they came does not matter.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from medml.catalogue.quality_rules import QualityLimits, finding
from medml.metrics.likeness import alike
from medml.records.scan import Finding, Scan

if TYPE_CHECKING:
    from medml.store.catalogue import Compared

OUTLIERS = {"snr": "snr_outlier", "contrast": "contrast_outlier"}
SMALLEST_SPREAD = 0.02
SHOWN = 3


def same_pictures(
    scans: Sequence[Scan | Compared], *, limits: QualityLimits | None = None, wanted: Collection[str] | None = None
) -> tuple[tuple[str, ...], ...]:
    """Return the sorted scan ids of each picture that scans of at least two patients show.

    Scans are the same picture if their voxels and grids are equal, or their fingerprints alike.

    Parameters
    ----------
    wanted : collection of str
        Return only the pictures that these scans show; all if None.
    """
    limits = limits or QualityLimits()
    ordered = sorted(scans, key=lambda scan: scan.scan_id)
    by_content: dict[str, list[int]] = defaultdict(list)
    for index, scan in enumerate(ordered):
        if not scan.likeness:
            by_content[scan.content].append(index)
    asked = None if wanted is None else {index for index, scan in enumerate(ordered) if scan.scan_id in wanted}
    likenesses = [scan.likeness for scan in ordered]
    groups = [
        *(group for group in by_content.values() if asked is None or not asked.isdisjoint(group)),
        *alike(likenesses, threshold=limits.near_duplicate, wanted=asked),
    ]
    shared = [group for group in groups if len({ordered[index].patient for index in group}) > 1]
    return tuple(sorted(tuple(ordered[index].scan_id for index in group) for group in shared))


def collection_findings(
    scans: Sequence[Scan | Compared], pictures: Sequence[Sequence[str]], *, limits: QualityLimits | None = None
) -> dict[str, tuple[Finding, ...]]:
    """Return scan id to findings, by code, for scans that stand out or show another patient's picture.

    Parameters
    ----------
    scans : sequence of Scan or Compared
        Any number of collections; outliers are looked for within each collection and modality.
    pictures : sequence of sequences of str
        See `same_pictures`.
    """
    limits = limits or QualityLimits()
    known = {scan.scan_id: scan for scan in scans}
    found: dict[str, list[Finding]] = defaultdict(list)
    for scan_id, entry in _outliers(scans, limits):
        found[scan_id].append(entry)
    for group in pictures:
        members = [known[scan_id] for scan_id in group]
        for scan in members:
            found[scan.scan_id].append(_twin(scan, members))
    return {scan_id: tuple(sorted(found[scan_id], key=lambda item: item.code)) for scan_id in sorted(found)}


def _outliers(scans: Iterable[Scan | Compared], limits: QualityLimits) -> Iterable[tuple[str, Finding]]:
    """Yield scans whose logarithm lies far from the median, in robust standard deviations."""
    groups: dict[tuple[str, str, str], dict[str, float]] = defaultdict(dict)
    for scan in scans:
        for name in OUTLIERS:
            if scan.quality.get(name, 0.0) > 0:
                groups[scan.collection, scan.modality, name][scan.scan_id] = math.log(scan.quality[name])
    for (_, modality, name), values in groups.items():
        if len(values) < limits.outlier_scans:
            continue
        middle, spread = _middle_and_spread(values)
        for scan_id, value in values.items():
            z = (value - middle) / spread
            if abs(z) > limits.outlier_z and abs(value - middle) >= math.log(limits.outlier_factor):
                message = f"{name} {math.exp(value):.3g}, the median of {len(values)} {modality} scans "
                message += f"{math.exp(middle):.3g}: {abs(z):.1f} robust deviations {'above' if z > 0 else 'below'}"
                numbers = {name: math.exp(value), "median": math.exp(middle), "z": z}
                yield scan_id, finding(OUTLIERS[name], message, **numbers)


def _middle_and_spread(values: Mapping[str, float]) -> tuple[float, float]:
    """Return median and 1.4826 times the median distance from it, at least 2 %: equal phantoms have none."""
    known = np.array(list(values.values()))
    middle = float(np.median(known))
    return middle, max(SMALLEST_SPREAD, 1.4826 * float(np.median(np.abs(known - middle))))


def _twin(scan: Scan | Compared, group: Sequence[Scan | Compared]) -> Finding:
    """Say whose picture a scan shows; exact copies first, and only them if there are any."""
    others = [other for other in group if other.patient != scan.patient]
    copies = [other for other in others if other.content == scan.content]
    told = [other.scan_id for other in copies or others]
    named = ", ".join(told[:SHOWN]) + (f" and {len(told) - SHOWN} more" if len(told) > SHOWN else "")
    code, words = ("duplicate_pixels", "voxels") if copies else ("near_duplicate", "picture")
    return finding(code, f"the same {words} as {named}, of another patient", scans=len(told))
