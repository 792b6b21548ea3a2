"""What a person is asked to look at, and with which words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from medml.metrics.structures import Shape
from medml.records.batch import LedgerRow, Prediction
from medml.records.calibration import Calibration
from medml.records.norms import Norms, Structure
from medml.records.plan import Plan
from medml.results.doubts import DoubtLimits, Standards, doubts_of, reasons_of
from medml.results.measures import LabelMeasures

PlanMaker = Callable[..., Plan]
USUAL = Structure(scans=40, absent=0, touching=1, pieces=1, least_ml=10.0, most_ml=100.0)
NORMS = Norms(learned=30, judged=10, uncertainty=(0.1, 0.2, 0.3), structures={1: USUAL})
MASK = np.ones((2, 2, 2), np.uint8)


def measures(volume: float | None = 50.0, **shape: Any) -> dict[int, LabelMeasures]:
    found = {"voxels": 8, "pieces": 1, "touching": False} | shape
    return {1: LabelMeasures(Shape(**found), volume, {})}


def reasons(
    plan: Plan,
    prediction: Prediction | None = None,
    found: dict[int, LabelMeasures] | None = None,
    norms: Norms | None = NORMS,
    **limits: Any,
) -> list[str]:
    standards = Standards(Calibration(), norms, DoubtLimits(**limits))
    return [doubt.reason for doubt in doubts_of(prediction or Prediction(mask=MASK), found or {}, plan, standards)]


def test_a_usual_result_is_not_doubted(make_plan: PlanMaker) -> None:
    sure = Prediction(mask=MASK, uncertainty=0.29, disagreement=0.1, unlike={"geometry": 1.5})
    assert reasons(make_plan(), sure, measures()) == []
    assert reasons(make_plan(), found=measures(200.0)) == []  # the largest known times 2: still inside
    assert reasons(make_plan(), found=measures(5.0)) == []


def test_uncertainty_above_that_of_validation_is_named_with_its_limit(make_plan: PlanMaker) -> None:
    unsure = Prediction(mask=MASK, uncertainty=0.31)
    assert reasons(make_plan(), unsure, uncertainty_quantile=1.0) == [
        "Uncertain: mean entropy 0.310, limit 0.300 (quantile 1 of 3 validation scans)."
    ]
    assert reasons(make_plan(), Prediction(mask=MASK, uncertainty=0.25), uncertainty_quantile=0.5) == [
        "Uncertain: mean entropy 0.250, limit 0.200 (quantile 0.5 of 3 validation scans)."
    ]
    assert reasons(make_plan(), unsure, uncertainty_quantile=None) == []
    split = Prediction(mask=MASK, disagreement=0.2)
    assert reasons(make_plan(), split) == ["The model's members disagree: 0.200, limit 0.150."]


def test_several_classes_that_cannot_be_ruled_out(make_plan: PlanMaker) -> None:
    plan = make_plan(task="classify", labels={0: "a", 1: "b", 2: "c"})
    standards = Standards(Calibration(quantile=0.7))
    (doubt,) = doubts_of(Prediction(probabilities=np.array([0.4, 0.1, 0.5])), {}, plan, standards)
    assert doubt.code == "undecided"
    assert doubt.reason == "2 classes cannot be ruled out at 90% coverage: c, a; expected 1."
    assert doubts_of(Prediction(probabilities=np.array([0.1, 0.1, 0.8])), {}, plan, standards) == []
    several = plan.model_copy(update={"multi_label": True})
    assert doubts_of(Prediction(probabilities=np.array([0.4, 0.1, 0.5])), {}, several, standards) == []


def test_a_scan_unlike_the_training_data_is_named_by_aspect_farthest_first(make_plan: PlanMaker) -> None:
    far = Prediction(mask=MASK, unlike={"geometry": 1.6, "intensity": 4.0, "layout": 1.4})
    assert reasons(make_plan(), far) == [
        "Unlike the training data: 4.0 in brightness, contrast and noise, 1.6 in voxel size and field of view, where 1 "
        "is the farthest of 40 known scans; limit 1.5."
    ]
    assert reasons(make_plan(), far, unlike=None) == []


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (measures(201.0), "organ has 201 mL, limit 200 (largest of 40 known: 100)."),
        (measures(4.9), "organ has 4.9 mL, at least 5 expected (smallest of 40 known: 10)."),
        (measures(0.0, voxels=0, pieces=0), "Nothing found of organ, which each of 40 known scans has."),
        (
            measures(touching=True),
            "organ touches the border of the image and may go on beyond it, as in 1 of 40 known scans; limit 5%.",
        ),
        (measures(pieces=3), "organ is in 3 large pieces, limit 1 as in 40 known scans."),
    ],
)
def test_what_no_known_scan_shows_is_implausible(
    make_plan: PlanMaker, found: dict[int, LabelMeasures], expected: str
) -> None:
    assert reasons(make_plan(), found=found) == [expected]
    assert reasons(make_plan(), found=found, fewest_scans=41) == []
    off = {"volume_factor": None, "empty": False, "touching_share": None, "pieces": False}
    assert reasons(make_plan(), found=found, **off) == []


def test_what_known_scans_show_is_plausible(make_plan: PlanMaker) -> None:
    usual = Structure(scans=40, absent=1, touching=3, pieces=2, least_ml=None, most_ml=None)
    norms = NORMS.model_copy(update={"structures": {1: usual}})
    for found in (measures(0.0, voxels=0, pieces=0), measures(touching=True), measures(9e9), measures(pieces=2)):
        assert reasons(make_plan(), found=found, norms=norms) == []


def test_a_package_that_says_nothing_raises_few_doubts(make_plan: PlanMaker) -> None:
    strange = Prediction(mask=MASK, uncertainty=0.9, unlike={})
    assert reasons(make_plan(), strange, measures(9e9), norms=None) == []


def test_reasons_come_back_from_a_ledger_row() -> None:
    row = LedgerRow(
        source="a",
        scan_id="b",
        status="needs_review",
        result={"review_codes": "uncertain unlike", "review": "One.\nTwo."},
    )
    assert reasons_of(row) == [("uncertain", "One."), ("unlike", "Two.")]
    assert reasons_of(row.model_copy(update={"result": {}})) == []
