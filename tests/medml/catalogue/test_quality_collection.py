"""What shows beside other scans: outliers among equals, and one picture under two patients."""

from __future__ import annotations

import math
import random

import numpy as np

from medml.catalogue.quality_collection import collection_findings, same_pictures
from medml.catalogue.quality_rules import QualityLimits
from medml.metrics.likeness import fingerprint
from medml.records.scan import Finding, Scan, SourceGrid

EYE = ((1.0, 0.0, 0.0, 0.0), (0.0, 1.0, 0.0, 0.0), (0.0, 0.0, 1.0, 0.0), (0.0, 0.0, 0.0, 1.0))
GRID = SourceGrid(shape=(4, 4, 4), affine=EYE, axes=(0, 1, 2), flips=(False, False, False))


def scan(number: int, **fields: object) -> Scan:
    values: dict[str, object] = {
        "scan_id": f"{number:024x}",
        "collection": "demo",
        "patient": f"p-{number}",
        "study": "s",
        "group": "g",
        "modality": "MR",
        "shape": (4, 4, 4),
        "affine": EYE,
        "spacing_mm": (1.0, 1.0, 1.0),
        "content": f"content {number}",
        "source_grid": GRID,
    }
    return Scan.model_validate(values | fields)


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (32, 32, 1))


def judged(scans: list[Scan], limits: QualityLimits | None = None) -> dict[str, tuple[Finding, ...]]:
    return collection_findings(scans, same_pictures(scans, limits=limits), limits=limits)


def test_an_outlier_is_far_from_the_median_in_robust_deviations() -> None:
    # Logarithms 0.9, 1.1 and their mean: median 1, median distance 0.1, so one deviation is 0.148.
    values = [0.9] * 10 + [1.1] * 9 + [1.0] + [1.0 + 0.148 * 6.5]
    scans = [scan(n, quality={"snr": math.exp(value)}) for n, value in enumerate(values)]
    items = judged(scans)
    assert items.keys() == {scans[-1].scan_id}
    (item,) = items[scans[-1].scan_id]
    assert (item.code, round(item.numbers["z"], 1)) == ("snr_outlier", 6.5)
    assert judged(scans[:-1]) == {}


def test_an_outlier_is_at_least_a_factor_of_two_away() -> None:
    values = [100.0, 101.0] * 15 + [150.0]
    scans = [scan(n, quality={"contrast": value}) for n, value in enumerate(values)]
    assert judged(scans) == {}
    assert len(judged(scans, QualityLimits(outlier_factor=1.2))) == 1


def test_outliers_are_looked_for_within_a_collection_and_modality_of_enough_scans() -> None:
    equal = [scan(n, quality={"snr": 10.0}) for n in range(19)]
    odd = scan(19, quality={"snr": 50.0})
    assert len(judged([*equal, odd])) == 1
    assert judged([*equal[1:], odd]) == {}
    assert judged([*equal, odd.model_copy(update={"modality": "CT"})]) == {}
    assert judged([*equal, odd.model_copy(update={"collection": "other"})]) == {}


def test_exact_and_changed_copies_under_other_patients_are_named_by_scan_id() -> None:
    one, two = fingerprint(picture(0)), fingerprint(picture(1))
    copy = fingerprint(255 - picture(0)[::-1])
    scans = [
        scan(0, likeness=one),
        scan(1, likeness=one, content="content 0"),
        scan(2, likeness=copy),
        scan(3, likeness=two),
    ]
    items = judged(scans)
    assert {scan_id[-1]: [item.code for item in found] for scan_id, found in items.items()} == {
        "0": ["duplicate_pixels"],
        "1": ["duplicate_pixels"],
        "2": ["near_duplicate"],
    }
    assert f"the same voxels as {scans[1].scan_id}, of another patient" in items[scans[0].scan_id][0].message
    assert "p-" not in str(items)
    assert same_pictures(scans) == (tuple(item.scan_id for item in scans[:3]),)


def test_copies_of_one_patient_and_flat_images_are_no_matter() -> None:
    one = fingerprint(picture(0))
    assert judged([scan(0, likeness=one), scan(1, likeness=one, patient="p-0")]) == {}
    assert judged([scan(0), scan(1)]) == {}


def test_constant_images_are_the_same_only_if_their_contents_are() -> None:
    items = judged([scan(0, content="flat"), scan(1, content="flat"), scan(2)])
    assert [item.code for found in items.values() for item in found] == ["duplicate_pixels"] * 2


def test_the_order_of_scans_does_not_matter() -> None:
    prints = [fingerprint(picture(n % 7)) for n in range(30)]
    scans = [scan(n, likeness=prints[n], quality={"snr": 10.0 + n, "contrast": 1.0}) for n in range(30)]
    mixed = random.Random(0).sample(scans, len(scans))
    assert judged(mixed) == judged(scans)
    assert list(judged(mixed)) == list(judged(scans))
