"""The table of cases: one row per case, whatever happens to it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from medml.evaluation.evaluate import case_table, read_case
from medml.evaluation.names import label_keys
from medml.records.batch import Prediction
from medml.records.scan import Volume


def number_of(volume: Volume) -> int:
    return int(volume.voxels[0, 0, 0, 0]) - 100


def test_a_perfect_segmenter_scores_one_and_volumes_are_in_millilitres(
    segment_bench: Any, make_model: Any, perfect: Any
) -> None:
    bench, told = segment_bench, []
    table = case_table(
        make_model(perfect),
        bench.dataset.cases,
        bench.scans,
        bench.dataset.labels,
        part="test",
        on_case=lambda case_id, status: told.append((case_id, status)),
    )
    assert told == [(case.case_id, "done") for case in bench.dataset.cases]
    assert table["dice"].tolist() == [1.0] * 12
    assert table["hd95_left_lobe"].tolist() == [0.0] * 12
    first = table.iloc[0]
    assert first["volume_ml_left_lobe"] == pytest.approx(6 * 6 * 4 * 2 / 1000)
    assert first["reference_ml_left_lobe"] == first["volume_ml_left_lobe"]
    assert math.isnan(first["dice_lesion"])  # neither has one
    assert (first["missed_lesion"], first["false_lesion"]) == (0, 0)
    assert (first["sex"], first["scanner"], first["seconds"]) == ("F", "A", 0.25)
    assert first["diagonal_mm"] == pytest.approx(math.sqrt(12**2 + 10**2 + 12**2))


def test_missed_and_false_structures_are_counted(segment_bench: Any, make_model: Any) -> None:
    def lesion_in_the_wrong_cases(volume: Volume) -> Prediction:
        mask = np.zeros(volume.voxels.shape[1:], np.uint8)
        mask[2:8, 2:8, 1:5] = 1
        if number_of(volume) % 2 == 0:
            mask[3, 3, 3] = 2
        return Prediction(mask=mask)

    bench = segment_bench
    cases = bench.dataset.cases[:2]
    table = case_table(make_model(lesion_in_the_wrong_cases), cases, bench.scans, bench.dataset.labels, part="test")
    assert table["false_lesion"].tolist() == [1, 0]
    assert table["missed_lesion"].tolist() == [0, 1]
    assert table["dice_lesion"].tolist() == [0.0, 0.0]
    assert table["hd95_lesion"].isna().all()
    assert table["dice"].iloc[0] == pytest.approx((2 * 143 / (143 + 144) + 0) / 2)


def test_one_failing_case_is_recorded_and_the_rest_goes_on(segment_bench: Any, make_model: Any, perfect: Any) -> None:
    def sometimes(volume: Volume) -> Prediction:
        if number_of(volume) == 3:
            raise RuntimeError("out of memory")
        return perfect(volume)

    bench = segment_bench
    cases = [*bench.dataset.cases[:5], bench.dataset.cases[5].model_copy(update={"mask": None})]
    table = case_table(make_model(sometimes), cases, bench.scans, bench.dataset.labels, part="test")
    assert table["status"].tolist() == ["done", "done", "done", "failed", "done", "failed"]
    assert table["reason"].iloc[3] == "RuntimeError: out of memory"
    assert "no reference mask" in table["reason"].iloc[5]
    assert table["sex"].iloc[3] == "M"


def test_without_spacing_there_is_nothing_in_millimetres(segment_bench: Any, make_model: Any, perfect: Any) -> None:
    bench = segment_bench
    case = bench.dataset.cases[1]
    scan = bench.home.scan_folder(case.case_id) / "scan.json"
    scan.write_text(scan.read_text(encoding="utf-8").replace('"geometry": "mm"', '"geometry": "none"'))
    volume, _ = read_case(case, bench.scans)
    assert volume.geometry == "none"
    table = case_table(make_model(perfect), [case], bench.scans, bench.dataset.labels, part="test")
    assert not [name for name in table.columns if "mm" in name or "ml" in name or name.startswith(("hd95", "nsd"))]
    assert table["dice"].tolist() == [1.0]


def test_a_classifier_gets_probabilities_truth_and_decision(class_bench: Any, make_model: Any) -> None:
    bench = class_bench
    model = make_model(lambda volume: Prediction(probabilities=np.array([0.4, 0.6])), task="classify")
    table = case_table(model, bench.dataset.cases[:2], bench.scans, bench.dataset.labels, part="validation")
    assert table["prob_ill"].tolist() == [0.6, 0.6]
    assert table["truth"].tolist() == ["healthy", "ill"]
    assert table["predicted"].tolist() == ["ill", "ill"]
    assert table["correct"].tolist() == [0, 1]
    assert table["part"].tolist() == ["validation"] * 2


def test_a_model_with_other_classes_is_refused_but_the_truth_stays(class_bench: Any, make_model: Any) -> None:
    bench = class_bench
    model = make_model(lambda volume: Prediction(probabilities=np.array([0.2, 0.3, 0.5])), task="classify")
    unlabelled = bench.dataset.cases[1].model_copy(update={"classes": None})
    table = case_table(model, [bench.dataset.cases[0], unlabelled], bench.scans, bench.dataset.labels, part="test")
    assert "gives 3 probabilities, the dataset has 2 classes" in table["reason"].iloc[0]
    assert "no class label" in table["reason"].iloc[1]
    assert table["truth"].iloc[0] == "healthy"


def test_several_classes_may_hold_at_once(class_bench: Any, make_model: Any) -> None:
    bench = class_bench
    labels = {0: "mass", 1: "effusion", 2: "nodule"}
    model = make_model(
        lambda volume: Prediction(probabilities=np.array([0.9, 0.5, 0.1])),
        task="classify",
        multi_label=True,
        labels=labels,
    )
    case = bench.dataset.cases[0].model_copy(update={"classes": (1, 0)})
    empty = case.model_copy(update={"classes": ()})
    table = case_table(model, [case, empty], bench.scans, labels, part="test")
    assert table["truth"].tolist() == ["mass; effusion", ""]
    assert table[["truth_mass", "truth_effusion", "truth_nodule"]].to_numpy().tolist() == [[1, 1, 0], [0, 0, 0]]
    assert table["predicted"].tolist() == ["mass; effusion"] * 2
    assert table["correct"].tolist() == [1, 0]


def test_no_cases_give_an_empty_table(segment_bench: Any, make_model: Any, perfect: Any) -> None:
    table = case_table(make_model(perfect), [], segment_bench.scans, segment_bench.dataset.labels, part="test")
    assert len(table) == 0
    assert "status" in table


def test_label_names_become_column_names_that_differ() -> None:
    assert label_keys({0: "background", 1: "left lobe", 2: "left/lobe", 3: "%"}) == {
        0: "background",
        1: "left_lobe",
        2: "left_lobe_2",
        3: "label_3",
    }
