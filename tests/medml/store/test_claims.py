"""The ledger's list of scans: claimed once, closed by whoever claimed them, given to others when a worker dies."""

from __future__ import annotations

import threading
from collections import Counter

import pytest

from medml.records.batch import LedgerRow
from medml.store.database import Database
from medml.store.leases import Lease, LeaseLost, Leases, this_owner
from medml.store.ledger import Ledger, Listed


def lease(ledger: Ledger, name: str, seconds: float = 60.0, owner: str | None = None) -> Lease:
    taken = Leases(ledger.database).take(name, owner or this_owner(), seconds)
    assert taken is not None
    return taken


def listed(name: str, number: int, status: str = "queued", stamp: str = "1") -> Listed:
    row = LedgerRow.model_validate({"source": name, "scan_id": "", "status": status, "stamp": stamp})
    return Listed(key=name, number=number, row=row)


@pytest.fixture
def ledger(database: Database) -> Ledger:
    ledger = Ledger(database)
    ledger.open_batch("b1", "lungs/3", "d" * 64)
    return ledger


@pytest.fixture
def run(ledger: Ledger) -> Lease:
    run = lease(ledger, "batch:b1")
    ledger.begin("b1", source_request="req-1", options="{}", lease=run)
    ledger.enlist("b1", [listed(name, number) for number, name in enumerate("abc")], lease=run)
    return run


def ended(row: LedgerRow, status: str = "done") -> LedgerRow:
    return LedgerRow.model_validate(row.model_dump() | {"status": status, "scan_id": f"id-{row.source}"})


def test_scans_are_claimed_in_order_closed_and_found_again(ledger: Ledger, run: Lease) -> None:
    worker = lease(ledger, "worker:b1:0")
    first = ledger.claim("b1", worker=worker, run=run)
    assert first is not None
    assert (first.key, first.number, first.row.status, first.row.attempts) == ("a", 0, "running", 1)
    ledger.close("b1", "a", ended(first.row), worker=worker)
    second = ledger.claim("b1", worker=worker, run=run)
    assert second is not None
    assert second.key == "b"
    assert ledger.counts("b1") == {"done": 1, "queued": 1, "running": 1}
    assert [row.source for row in ledger.finished("b1", stamps=["1"])] == ["a"]
    assert [row.source for row in ledger.finished("b1", scan_ids=["id-a", ""])] == ["a"]
    assert ledger.batch("b1").state == "listing"
    ledger.mark("b1", "listed", lease=run)
    assert (ledger.batch("b1").state, ledger.batch("b1").source_request) == ("listed", "req-1")


def test_many_workers_claim_every_scan_once(ledger: Ledger, run: Lease) -> None:
    ledger.enlist("b1", [listed(f"s{number}", number) for number in range(40)], lease=run)
    claimed: Counter[str] = Counter()

    def work(number: int) -> None:
        worker = lease(ledger, f"worker:b1:{number}")
        while claim := ledger.claim("b1", worker=worker, run=run):
            claimed[claim.key] += 1
            ledger.close("b1", claim.key, ended(claim.row), worker=worker)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert claimed.total() == len(claimed) == 43
    assert ledger.counts("b1") == {"done": 43}


def test_a_late_worker_is_refused(ledger: Ledger, run: Lease) -> None:
    late = lease(ledger, "worker:b1:0", 0.0, owner="far/1/1")
    claim = ledger.claim("b1", worker=late, run=run)
    assert claim is not None
    assert ledger.requeue("b1") == 1
    other = lease(ledger, "worker:b1:1")
    assert ledger.claim("b1", worker=other, run=run).key == "b"  # type: ignore[union-attr]
    with pytest.raises(LeaseLost, match=r"scan id-a of b1 is no longer far/1/1's \(token 1\): it was given to another"):
        ledger.close("b1", "a", ended(claim.row), worker=late)
    lease(ledger, "worker:b1:0")
    with pytest.raises(LeaseLost, match="token 1 of far/1/1 is no longer valid"):
        ledger.close("b1", "a", ended(claim.row), worker=late)


def test_nothing_is_begun_for_a_run_that_is_over(ledger: Ledger, run: Lease) -> None:
    worker = lease(ledger, "worker:b1:0")
    Leases(ledger.database).release(run)
    with pytest.raises(LeaseLost, match="the run of b1 is over, or its owner is gone"):
        ledger.claim("b1", worker=worker, run=run)
    with pytest.raises(LeaseLost, match="is no longer valid"):
        ledger.enlist("b1", [listed("d", 3)], lease=run)


def test_a_scan_that_failed_for_a_moment_waits_and_lets_others_pass(ledger: Ledger, run: Lease) -> None:
    worker = lease(ledger, "worker:b1:0")
    claim = ledger.claim("b1", worker=worker, run=run)
    assert claim is not None
    ledger.close("b1", "a", ended(claim.row, "queued"), worker=worker, wait_seconds=60)
    assert [ledger.claim("b1", worker=worker, run=run).key for _ in "bc"] == ["b", "c"]  # type: ignore[union-attr]
    assert ledger.claim("b1", worker=worker, run=run) is None
    assert ledger.counts("b1") == {"queued": 1, "running": 2}


def test_what_is_put_back_counts_as_never_begun(ledger: Ledger, run: Lease) -> None:
    worker = lease(ledger, "worker:b1:0")
    ledger.claim("b1", worker=worker, run=run)
    ledger.claim("b1", worker=worker, run=run)
    assert ledger.put_back("b1", worker=worker) == 2
    assert {row.source: row.attempts for row in ledger.rows("b1")} == {"a": 0, "b": 0, "c": 0}
    assert ledger.claim("b1", worker=worker, run=run).key == "a"  # type: ignore[union-attr]


def test_a_scan_whose_worker_died_is_tried_once_more_and_alone(ledger: Ledger, run: Lease) -> None:
    for number in range(2):
        dead = lease(ledger, f"worker:b1:{number}", 0.0, owner="far/1/1")
        claim = ledger.claim("b1", worker=dead, run=run)
        assert claim is not None
        while claim.key != "a":
            claim = ledger.claim("b1", worker=dead, run=run)
            assert claim is not None
        assert claim.crashes == number
        if number == 0:
            assert ledger.requeue("b1", crashed=True) == 1
            healthy = lease(ledger, "worker:b1:9")
            seen = [ledger.claim("b1", worker=healthy, run=run, alone=False) for _ in range(3)]
            assert [found.key for found in seen if found] == ["b", "c"]
            ledger.put_back("b1", worker=healthy)
    ledger.requeue("b1", crashed=True)
    row = ledger.rows("b1")[0]
    assert (row.status, row.code) == ("failed", "poison")
    assert "its worker died 2 times and the scan was never finished" in row.reason


def test_an_interrupted_run_is_no_ones_fault(ledger: Ledger, run: Lease) -> None:
    for _ in range(3):
        dead = lease(ledger, "worker:b1:0", 0.0, owner="far/1/1")
        ledger.claim("b1", worker=dead, run=run)
        assert ledger.requeue("b1") == 1
    assert ledger.counts("b1") == {"queued": 3}


def test_a_scan_that_is_begun_for_ever_fails(ledger: Ledger, run: Lease, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medml.store.ledger.MOST_ATTEMPTS", 1)
    ledger.claim("b1", worker=lease(ledger, "worker:b1:0", 0.0, owner="far/1/1"), run=run)
    ledger.requeue("b1")
    assert "it was begun 1 times and the scan was never finished" in ledger.rows("b1")[0].reason


def test_listing_again_keeps_attempts_of_what_waits_and_tries_failures_anew(ledger: Ledger, run: Lease) -> None:
    worker = lease(ledger, "worker:b1:0")
    claims = [ledger.claim("b1", worker=worker, run=run) for _ in range(2)]
    ledger.close("b1", "a", ended(claims[0].row, "failed"), worker=worker)  # type: ignore[union-attr]
    again = [listed("a", 0), listed("b", 1), listed("c", 2), listed("d", 3, "not_selected")]
    ledger.enlist("b1", again, lease=run)
    rows = {row.source: (row.status, row.attempts) for row in ledger.rows("b1")}
    assert rows == {"a": ("queued", 0), "b": ("running", 1), "c": ("queued", 0), "d": ("not_selected", 0)}
    Leases(ledger.database).release(worker)
    ledger.requeue("b1")
    ledger.enlist("b1", again, lease=run)
    assert {row.source: row.attempts for row in ledger.rows("b1")}["b"] == 1
    ledger.enlist("b1", [listed("b", 1, stamp="2")], lease=run)
    assert {row.source: row.attempts for row in ledger.rows("b1")}["b"] == 0


def test_a_batch_says_how_it_stands(ledger: Ledger, run: Lease) -> None:
    assert ledger.standing("b1") == "running"
    Leases(ledger.database).release(run)
    assert ledger.standing("b1") == "interrupted"
    again = lease(ledger, "batch:b1")
    worker = lease(ledger, "worker:b1:0")
    while claim := ledger.claim("b1", worker=worker, run=again):
        ledger.close("b1", claim.key, ended(claim.row), worker=worker)
    ledger.mark("b1", "ended", lease=again)
    Leases(ledger.database).release(again)
    assert ledger.standing("b1") == "finished"
