from __future__ import annotations

import pytest

from medml.errors import ConfigError, NotFound
from medml.records.batch import LedgerRow
from medml.store.database import Database
from medml.store.leases import LeaseLost, Leases, this_owner
from medml.store.ledger import Ledger


def _row(source: str, scan_id: str = "s1", **fields: object) -> LedgerRow:
    return LedgerRow.model_validate({"source": source, "scan_id": scan_id, "status": "queued"} | fields)


@pytest.fixture
def ledger(database: Database) -> Ledger:
    ledger = Ledger(database)
    ledger.open_batch("b1", "lungs/3", "d" * 64, "request-1")
    return ledger


def test_opening_a_batch_again_returns_the_first(ledger: Ledger) -> None:
    again = ledger.open_batch("b1", "lungs/3", "d" * 64, "request-2")
    assert again.source_request == "request-1"
    assert ledger.batches() == [again]


def test_batch_with_another_model_is_refused(ledger: Ledger) -> None:
    with pytest.raises(ConfigError, match=r"begun with model lungs/3 \(dddddddddddd\), found lungs/4 \(eeeeeeeeeeee\)"):
        ledger.open_batch("b1", "lungs/4", "e" * 64)


def test_row_of_the_same_source_is_replaced(ledger: Ledger) -> None:
    done = _row("a/1", status="done", mask="masks/s1.nii.gz", outputs={"masks/s1.nii.gz": "ab"}, result={"mL": 1.5})
    ledger.record("b1", _row("a/1"))
    ledger.record("b1", _row("b/1", "s2"))
    ledger.record("b1", done)
    assert ledger.rows("b1") == [done, _row("b/1", "s2")]
    assert ledger.counts("b1") == {"done": 1, "queued": 1}


def test_row_without_source_is_keyed_by_its_scan(ledger: Ledger) -> None:
    ledger.record("b1", _row("", "s1"))
    ledger.record("b1", _row("", "s2"))
    ledger.record("b1", _row("", "s2", status="failed", reason="out of memory", code="memory"))
    assert ledger.counts("b1") == {"failed": 1, "queued": 1}


def test_batches_do_not_mix(ledger: Ledger) -> None:
    ledger.open_batch("b2", "lungs/3", "d" * 64)
    ledger.record("b1", _row("a"))
    assert ledger.rows("b2") == []
    assert ledger.counts("b2") == {}


def test_row_of_an_unknown_batch_is_refused(ledger: Ledger) -> None:
    with pytest.raises(NotFound, match="batch b9 is not in the ledger"):
        ledger.record("b9", _row("a"))


def test_row_under_a_lost_lease_is_refused(ledger: Ledger) -> None:
    leases = Leases(ledger.database)
    stale = leases.take("device:cpu:0", "far/1/1", 0.0)
    current = leases.take("device:cpu:0", this_owner(), 60.0)
    assert stale is not None
    assert current is not None
    with pytest.raises(LeaseLost, match=r"lease device:cpu:0: token 1 of far/1/1 is no longer valid, .* token 2"):
        ledger.record("b1", _row("a"), lease=stale)
    ledger.record("b1", _row("a", status="running"), lease=current)
    assert ledger.counts("b1") == {"running": 1}


def test_rows_left_running_are_queued_again(ledger: Ledger) -> None:
    leases = Leases(ledger.database)
    mine = leases.take("device:cpu:0", this_owner(), 60.0)
    dead = leases.take("device:cpu:1", "far/1/1", 0.0)
    ledger.record("b1", _row("mine", status="running"), lease=mine)
    ledger.record("b1", _row("dead", status="running", started="2024-01-01T00:00:00+00:00"), lease=dead)
    ledger.record("b1", _row("nobody", status="running"))
    ledger.record("b1", _row("ready", status="done"))
    assert ledger.requeue("b1") == 2
    assert {row.source: row.status for row in ledger.rows("b1")} == {
        "mine": "running",
        "dead": "queued",
        "nobody": "queued",
        "ready": "done",
    }
    assert {row.source: row.started for row in ledger.rows("b1")}["dead"] == ""


def test_rows_of_a_released_lease_are_queued_again(ledger: Ledger) -> None:
    leases = Leases(ledger.database)
    lease = leases.take("device:cpu:0", this_owner(), 60.0)
    assert lease is not None
    ledger.record("b1", _row("a", status="running"), lease=lease)
    leases.release(lease)
    assert ledger.requeue("b1") == 1
