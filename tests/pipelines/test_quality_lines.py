"""What `status` and `verify` say about the quality of scans."""

from __future__ import annotations

import numpy as np

from medml.catalogue.quality_rules import finding
from medml.metrics.likeness import fingerprint
from medml.records.scan import Finding, Scan, SourceGrid
from pipelines.status import _findings, _quality

EYE = ((1.0, 0.0, 0.0, 0.0), (0.0, 1.0, 0.0, 0.0), (0.0, 0.0, 1.0, 0.0), (0.0, 0.0, 0.0, 1.0))
GRID = SourceGrid(shape=(4, 4, 4), affine=EYE, axes=(0, 1, 2), flips=(False, False, False))
PICTURE = np.random.default_rng(0).integers(0, 255, (32, 32, 1))


def scan(number: int, *findings: Finding, likeness: str = "") -> Scan:
    return Scan(
        scan_id=f"{number:024x}",
        collection="demo",
        patient=f"p-{number}",
        study="s",
        group="g",
        shape=(4, 4, 4),
        affine=EYE,
        spacing_mm=None,
        content=str(number),
        source_grid=GRID,
        findings=findings,
        likeness=likeness,
    )


def test_status_counts_serious_findings_and_says_nothing_where_there_are_none() -> None:
    few, crop = finding("few_slices", "3 slices"), finding("cropped", "a crop")
    assert _findings([scan(0, few, crop), scan(1, few)]) == "; findings: few_slices 2"
    assert _findings([scan(0, crop)]) == ""


def test_verify_tells_of_pictures_that_patients_share() -> None:
    one, other = fingerprint(PICTURE), fingerprint(PICTURE[::-1])
    told = _quality([scan(0, finding("cropped", "a crop"), likeness=one), scan(1, likeness=other)])
    assert told == {
        "finding near_duplicate": "2 scans",
        "pictures shared by patients": "1",
        "findings": {"cropped": 1, "near_duplicate": 2},
    }
    assert _quality([scan(0)]) == {"findings": {}}
