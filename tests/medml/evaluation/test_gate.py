"""The gate: each rule, on results written down by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from medml.config import load_config
from medml.evaluation import gate as rules_of
from medml.evaluation.card import REQUIRED
from medml.evaluation.evaluate import summarise
from medml.evaluation.gate import GateConfig, Judged, answered
from medml.records.report import Signature

SIZE = 30
CARD = "\n".join(f"## {title}\nsaid\n" for title in REQUIRED)
decide = partial(rules_of.decide, card=CARD)


@pytest.fixture
def judged(segment_bench: Any) -> Any:
    def make(dice: Any, **changes: Any) -> Judged:
        table = pd.DataFrame(
            {
                "case_id": [f"c{n:02d}" for n in range(SIZE)],
                "patient": [f"p{n}" for n in range(SIZE)],
                "status": "done",
                "reason": "",
                "seconds": 1.0,
                "sex": ["F", "M"] * (SIZE // 2),
                "dice": np.broadcast_to(dice, SIZE).astype(float),
            }
        )
        dataset = segment_bench.dataset.model_copy(update=changes)
        return Judged(summarise(table, dataset, "m", "test"), table)

    return make


def failed(decision: Any) -> set[str]:
    return {str(rule["rule"]) for rule in decision.rules if not rule["passed"]}


def test_equal_models_pass_and_the_reason_says_so(judged: Any) -> None:
    spread = np.linspace(0.7, 0.9, SIZE)
    decision = decide(judged(spread), judged(spread), GateConfig(), challenger="m/2", champion="m/1")
    assert decision.promoted
    assert decision.reason.startswith("promoted: all")
    assert "against m/1" in decision.reason
    assert (decision.model, decision.test_digest) == ("m", "e" * 64)


def test_a_slightly_worse_model_passes_within_the_margin_only(judged: Any) -> None:
    spread = np.linspace(0.7, 0.9, SIZE)
    assert decide(judged(spread - 0.005), judged(spread), GateConfig(), challenger="m/2", champion="m/1").promoted
    decision = decide(judged(spread - 0.02), judged(spread), GateConfig(), challenger="m/2", champion="m/1")
    assert failed(decision) == {"non-inferior dice_mean"}
    assert "dice_mean differs by -0.0200" in decision.reason


def test_another_test_set_is_never_compared(judged: Any) -> None:
    decision = decide(judged(0.9), judged(0.5, test_digest="f" * 64), GateConfig(), challenger="m/2", champion="m/1")
    assert failed(decision) == {"same test set"}
    assert "evaluate both on one" in decision.reason
    assert not [rule for rule in decision.rules if str(rule["rule"]).startswith("non-inferior")]


def test_tables_over_other_cases_are_never_compared(judged: Any) -> None:
    old = judged(0.9)
    fewer = Judged(old.evaluation, old.table.head(20))
    decision = decide(judged(0.9), fewer, GateConfig(), challenger="m/2", champion="m/1")
    assert "share 20 of 30 test cases" in decision.reason


def test_failed_cases_count_as_worst(judged: Any) -> None:
    new = judged(0.9)
    new.table.loc[0, ["status", "dice"]] = ["failed", math.nan]
    decision = decide(new, judged(0.9), GateConfig(), challenger="m/2", champion="m/1")
    assert "non-inferior dice_mean" in failed(decision)
    assert "dice_mean differs by -0.0300" in decision.reason  # 0.9 of 30 cases
    new.table.loc[1:5, "status"] = "failed"
    decision = decide(new, None, GateConfig(), challenger="m/2")
    assert "20.0% of 30 test cases could not be scored" in decision.reason


def test_nothing_to_find_and_nothing_found_is_perfect(judged: Any) -> None:
    new, old = judged(0.9), judged(0.9)
    new.table.loc[0, "dice"] = math.nan
    old.table.loc[0, "dice"] = 0.0
    decision = decide(new, old, GateConfig(), challenger="m/2", champion="m/1")
    (rule,) = [rule for rule in decision.rules if rule["rule"] == "non-inferior dice_mean"]
    assert rule["passed"]
    assert "differs by +0.0333" in str(rule["reason"])


def test_a_missed_structure_costs_the_diagonal(judged: Any) -> None:
    new, old = judged(0.9), judged(0.9)
    for table, distances in ((new.table, [math.nan] + [1.0] * 29), (old.table, [2.0] * 30)):
        table["hd95_lobe"], table["missed_lobe"], table["diagonal_mm"] = distances, 0, 61.0
    new.table.loc[0, "missed_lobe"] = 1
    decision = decide(new, old, GateConfig(margins={"hd95_lobe": 0.5}), challenger="m/2", champion="m/1")
    (rule,) = [rule for rule in decision.rules if rule["rule"] == "non-inferior hd95_lobe"]
    assert not rule["passed"]
    assert "differs by -1.0000" in str(rule["reason"])  # (61 + 29) / 30 against 2: a millimetre worse on average


def test_a_subgroup_below_its_floor_or_far_below_the_champion_stops_it(judged: Any) -> None:
    split = np.where(np.arange(SIZE) % 2 == 0, 0.95, 0.45)
    decision = decide(judged(split), None, GateConfig(), challenger="m/2")
    assert failed(decision) == {"subgroup sex=M dice_mean"}
    assert "dice_mean is 0.450 where sex is M (15 patients), at least 0.500 is needed" in decision.reason
    new, old = np.where(np.arange(SIZE) % 2 == 0, 0.95, 0.7), np.where(np.arange(SIZE) % 2 == 0, 0.7, 0.8)
    decision = decide(
        judged(new), judged(old), GateConfig(margins={"dice_mean": 0.1}), challenger="m/2", champion="m/1"
    )
    assert failed(decision) == {"subgroup sex=M dice_mean"}
    assert "(the champion has 0.800)" in decision.reason


def test_floors_and_smallest_test_set_hold_without_a_champion(judged: Any) -> None:
    gate = GateConfig(min_cases=31, floors={"dice_mean": 0.95, "unknown": 0.1})
    decision = decide(judged(0.9), None, gate, challenger="m/1")
    assert failed(decision) == {"test cases", "floor dice_mean", "floor unknown"}
    assert "30 test cases were scored, at least 31 are needed" in decision.reason
    assert "unknown is undefined" in decision.reason
    assert decide(judged(0.9), None, GateConfig(), challenger="m/1").reason.endswith(
        "there is no champion to compare with"
    )


def test_a_gate_that_compares_nothing_the_model_has_does_not_promote(judged: Any) -> None:
    decision = decide(judged(0.9), judged(0.9), GateConfig(margins={"auroc": 0.1}), challenger="m/2", champion="m/1")
    assert "nothing that a segment model has" in decision.reason
    decision = decide(judged(0.9), judged(0.9), GateConfig(margins={"nsd_x": 0.1}), challenger="m/2", champion="m/1")
    assert "nsd_x is in the gate but not in both tables" in decision.reason


def test_too_few_patients_cannot_show_anything(judged: Any) -> None:
    new, old = judged(0.9), judged(0.9)
    for side in (new, old):
        side.table["patient"] = "one"
    decision = decide(new, old, GateConfig(), challenger="m/2", champion="m/1")
    assert "dice_mean cannot be compared: 1 patients count" in decision.reason


def test_classifiers_are_compared_by_auroc_and_failures_count_as_wrong(class_bench: Any) -> None:
    truth = np.arange(SIZE) % 2
    table = pd.DataFrame(
        {
            "case_id": [f"c{n:02d}" for n in range(SIZE)],
            "patient": [f"p{n}" for n in range(SIZE)],
            "status": "done",
            "reason": "",
            "seconds": 1.0,
            "truth": np.array(["healthy", "ill"])[truth],
            "prob_healthy": 0.9 - 0.8 * truth,
            "prob_ill": 0.1 + 0.8 * truth,
        }
    )
    result = Judged(summarise(table, class_bench.dataset, "m", "test"), table)
    assert decide(result, result, GateConfig(), challenger="m/2", champion="m/1").promoted
    broken = table.copy()
    broken.loc[:2, ["prob_healthy", "prob_ill"]] = math.nan
    decision = decide(Judged(result.evaluation, broken), result, GateConfig(), challenger="m/2", champion="m/1")
    assert failed(decision) == {"non-inferior auroc"}
    assert "auroc differs by -" in decision.reason


def test_the_example_configuration_states_the_defaults() -> None:
    path = Path(__file__).parents[3] / "configs" / "gates" / "default.yaml"
    assert load_config(path, GateConfig) == GateConfig()


def test_ceilings_bound_calibration_time_and_memory(judged: Any) -> None:
    gate = GateConfig(ceilings={"ece": 0.1, "seconds_per_case": 0.5, "peak_memory_mb": 1e6})
    decision = decide(judged(0.9), None, gate, challenger="m/1")
    assert failed(decision) == {"ceiling seconds_per_case", "ceiling peak_memory_mb"}  # ece is no segmenter's
    assert "seconds_per_case is 1.000, at most 0.500 is accepted" in decision.reason
    assert "peak_memory_mb is undefined" in decision.reason


def test_an_incomplete_card_is_named(judged: Any) -> None:
    silent = CARD.replace("## Limits\nsaid", "## Limits\nNot stated.\n- a note")
    decision = decide(judged(0.9), None, GateConfig(), challenger="m/1", card=silent)
    assert failed(decision) == {"model card"}
    assert "says nothing under Limits: fill in card:" in decision.reason
    assert failed(decide(judged(0.9), None, GateConfig(), challenger="m/1", card=None)) == {"model card"}
    assert decide(judged(0.9), None, GateConfig(require_card=False), challenger="m/1", card=None).promoted


def test_a_challenger_that_learned_from_test_cases_is_refused(judged: Any) -> None:
    seen = replace(judged(0.9), seen=3)
    decision = decide(seen, judged(0.5), GateConfig(), challenger="m/2", champion="m/1")
    assert failed(decision) == {"unseen test cases"}
    assert "the challenger learned from 3 of the 30 test cases, none is allowed" in decision.reason


def test_a_champion_that_learned_from_test_cases_is_said_to_be_favoured(judged: Any) -> None:
    old = replace(judged(0.9), seen=12)
    for dice, promoted in ((0.9, True), (0.8, False)):
        decision = decide(judged(dice), old, GateConfig(), challenger="m/2", champion="m/1")
        assert decision.promoted is promoted
        assert "the champion learned from 12 of the 30 test cases, which favours it" in decision.reason


def test_a_person_has_the_last_word(judged: Any) -> None:
    decision = decide(judged(0.9), None, GateConfig(), challenger="m/2")
    yes = Signature(approved=True, name="A. Reader", reason="looked at 20 cases", signed="2026-01-01")
    approved = answered(decision, yes, minutes=60)
    assert approved.promoted
    assert approved.reason.endswith("; approved by A. Reader: looked at 20 cases")
    rejected = answered(decision, yes.model_copy(update={"approved": False, "reason": "not on MR"}), minutes=60)
    assert not rejected.promoted
    assert rejected.reason.startswith("not promoted, although the gate said: promoted: all")
    assert rejected.reason.endswith("rejected by A. Reader: not on MR")
    nobody = answered(decision, None, minutes=0.5)
    assert not nobody.promoted
    assert nobody.reason.startswith("not promoted: nobody answered within 0.5 minutes")


def test_a_planted_bias_against_one_sex_is_caught(class_bench: Any) -> None:
    rng = np.random.default_rng(0)
    truth = np.arange(200) % 2
    score = np.clip(0.5 + 0.3 * (2 * truth - 1) + rng.normal(0, 0.15, 200), 0.01, 0.99)
    table = pd.DataFrame(
        {
            "case_id": [f"c{n:03d}" for n in range(200)],
            "patient": [f"p{n}" for n in range(200)],
            "status": "done",
            "reason": "",
            "seconds": 1.0,
            "sex": np.where(np.arange(200) % 4 < 2, "F", "M"),
            "truth": np.array(["healthy", "ill"])[truth],
            "prob_healthy": 1 - score,
            "prob_ill": score,
        }
    )
    dataset = class_bench.dataset.model_copy(update={"subgroups": ("sex",)})
    fair = Judged(summarise(table, dataset, "m", "test", threshold=0.5), table)
    assert decide(fair, fair, GateConfig(), challenger="m/2", champion="m/1").promoted
    biased = table.copy()
    women = biased["sex"] == "F"
    biased.loc[women, ["prob_healthy", "prob_ill"]] = table.loc[women, ["prob_ill", "prob_healthy"]].to_numpy()
    unfair = Judged(summarise(biased, dataset, "m", "test", threshold=0.5), biased)
    (gap,) = [g for g in unfair.evaluation.subgroups if (g.level, g.metric) == ("F", "auroc")]
    assert gap.p_holm is not None
    assert gap.p_holm < 0.001
    assert "subgroup sex=F auroc" in failed(decide(unfair, fair, GateConfig(), challenger="m/2", champion="m/1"))
