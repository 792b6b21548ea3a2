"""The model card: what a person must say, and what the figures say."""

from __future__ import annotations

from medml.evaluation.card import REQUIRED, complete_card, missing_sections
from medml.records.experiment import CardText
from medml.records.report import Evaluation, Subgroup, Summary

TRAINED = "# lobes: segment\n\n## Data\n- 40 cases\n\n## Model\n- unet\n"
METRICS = {"dice_mean": 0.9, "dice_mean_low": 0.88, "dice_mean_high": 0.92, "dice_lobe": 0.91, "failed": 0.0}


def _evaluation(*groups: Subgroup) -> Evaluation:
    summary = Summary(model="m", dataset="lobes", test_digest="e" * 64, split="test", n=20, metrics=METRICS)
    notes = ("Dice is 0 where one side is empty.",)
    return Evaluation(
        task="segment", summary=summary, labels={0: "background", 1: "lobe"}, subgroups=groups, notes=notes
    )


def test_a_card_with_words_and_figures_is_complete() -> None:
    text = CardText(intended_use="Measuring lobes in T1 MR.", limits="Not for children.")
    group = Subgroup(column="sex", level="F", patients=12, cases=12, metric="dice_mean", value=0.9, low=0.85, high=0.93)
    card = complete_card(TRAINED, text, _evaluation(group))
    assert missing_sections(card) == []
    assert "| dice_mean | 0.900 | 0.880 to 0.920 |" in card
    assert "| dice_lobe | 0.910 | – |" in card
    assert "| sex F | 12 | dice_mean | 0.900 | 0.850 to 0.930 |" in card
    assert card.index("## Data") < card.index("## Intended use") < card.index("## Test results")


def test_what_nobody_said_is_missing() -> None:
    card = complete_card(TRAINED, CardText(), _evaluation())
    assert missing_sections(card) == ["Intended use", "Limits"]
    assert missing_sections("") == list(REQUIRED)


def test_completing_twice_changes_nothing() -> None:
    text = CardText(intended_use="Measuring lobes.", limits="Not for children.")
    once = complete_card(TRAINED, text, _evaluation())
    assert complete_card(once, text, _evaluation()) == once
