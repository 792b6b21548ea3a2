"""Decisions are only added."""

from __future__ import annotations

import pytest

from medml.errors import ConfigError
from medml.records.batch import LedgerRow
from medml.records.review import Decision, result_digest
from medml.store.database import Database
from medml.store.ledger import Ledger
from medml.store.reviews import Reviews


def decision(number: int, **changes: object) -> Decision:
    values: dict[str, object] = {
        "batch_id": "b",
        "scan_id": "s",
        "number": number,
        "verdict": "accepted",
        "person": "Ada",
        "decided": "2026-01-01T00:00:00+00:00",
        "status_before": "needs_review",
        "result": "r",
    }
    return Decision.model_validate(values | changes)


def test_the_last_decision_counts_and_none_is_overwritten(database: Database) -> None:
    Ledger(database).open_batch("b", "m/1", "d" * 64)
    reviews = Reviews(database)
    reviews.add(decision(1))
    reviews.add(decision(2, verdict="rejected", reason="blurred"))
    with pytest.raises(ConfigError, match=r"somebody else decided on it in between \(decision 2\)"):
        reviews.add(decision(2, person="Eve"))
    assert [(d.number, d.verdict, d.person) for d in reviews.of("b", "s")] == [
        (1, "accepted", "Ada"),
        (2, "rejected", "Ada"),
    ]
    assert reviews.last("b")["s"].reason == "blurred"
    assert reviews.last("other") == {}


def test_a_result_is_named_by_its_mask_or_by_what_was_said() -> None:
    row = LedgerRow(source="a", scan_id="s", status="done", mask="masks/s.nii.gz", outputs={"masks/s.nii.gz": "ab"})
    assert result_digest(row) == "ab"
    said = LedgerRow(source="a", scan_id="s", status="done", result={"predicted": "x", "seconds": 1.0})
    slower = said.model_copy(update={"result": {"predicted": "x", "seconds": 2.0}})
    other = said.model_copy(update={"result": {"predicted": "y", "seconds": 1.0}})
    assert result_digest(said) == result_digest(slower) != result_digest(other)
