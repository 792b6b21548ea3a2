"""Runs of a batch: every scan once whoever is killed, the rest done whatever is broken."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest
from batch_place import finish, hired, run_batch, start_run, write_scans

from medml.inference.batch import Stages
from medml.records.batch import Job, LedgerRow, Prediction, Written
from medml.records.candidate import Candidate
from medml.store.database import open_database
from medml.store.ledger import Ledger


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MEDML_HOME", str(tmp_path / "home"))
    return tmp_path


def ledger_of(place: Path) -> Ledger:
    return Ledger(open_database(os.environ.get("MEDML_CATALOGUE_URL", f"sqlite:///{place / 'home' / 'catalogue.db'}")))


def rows_of(place: Path, out: str = "out") -> dict[str, LedgerRow]:
    return {row.source: row for row in ledger_of(place).rows(f"batch-{out}")}


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "masks").iterdir()}


def begun(place: Path, out: str = "out") -> Counter[str]:
    return Counter((place / out / "begun").read_text().split())


def wait_for(what: object, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not what():  # type: ignore[operator]
        assert time.monotonic() < deadline, "what was waited for did not come"
        time.sleep(0.02)


def test_broken_scans_are_named_and_a_second_run_does_only_them(place: Path) -> None:
    write_scans(place / "scans", 20, broken=2)
    assert run_batch(place) == {"done": 18, "refused": 2}
    broken = {name: row for name, row in rows_of(place).items() if row.status == "refused"}
    assert sorted(broken) == ["scan0000.nii.gz", "scan0010.nii.gz"]
    assert all(row.reason and row.code for row in broken.values())
    assert run_batch(place) == {"done": 18, "refused": 2}
    assert set(begun(place).values()) == {1}
    (place / "out" / "masks" / Path(str(rows_of(place)["scan0001.nii.gz"].mask)).name).unlink()
    run_batch(place)
    assert [name for name, times in begun(place).items() if times == 2] == ["scan0001.nii.gz"]
    assert not list((place / "home" / "secrets").glob(".lists*"))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_hundred_scans_with_twenty_broken_ones(place: Path) -> None:
    write_scans(place / "scans", 200, broken=20)
    assert run_batch(place, workers=2) == {"done": 180, "refused": 20}
    assert sum(bool(row.reason) for row in rows_of(place).values()) == 20


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_four_workers_share_one_ledger(
    kind: str, place: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    if kind == "postgresql":
        monkeypatch.setenv("MEDML_CATALOGUE_URL", request.getfixturevalue("postgresql_url"))
    monkeypatch.setenv("SECONDS", "0.05")
    write_scans(place / "scans", 24)
    assert run_batch(place, workers=4) == {"done": 24}
    assert begun(place) == Counter(path.name for path in (place / "scans").iterdir())
    assert len(files_of(place / "out")) == 24


@pytest.mark.timeout(600)
def test_scans_of_a_killed_worker_are_done_by_others_at_once(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_scans(place / "scans", 8)
    monkeypatch.setenv("SECONDS", "0.2")
    killed: list[float] = []
    with hired() as hire:

        def hire_and_kill(listing: str, number: int, device: str) -> object:
            future = hire(listing, number, device)
            if not killed:
                wait_for(lambda: (place / "out" / "begun").exists())
                os.kill(future.pid, signal.SIGKILL)
                killed.append(time.monotonic())
            return future

        assert run_batch(place, workers=2, submit=hire_and_kill) == {"done": 8}
    assert len(files_of(place / "out")) == 8
    assert time.monotonic() - killed[0] < 120  # less than a lease: a dead process of this host is seen at once


@pytest.mark.timeout(600)
def test_a_scan_that_kills_its_workers_fails_alone(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_scans(place / "scans", 6)
    monkeypatch.setenv("POISON", "scan0002.nii.gz")
    assert run_batch(place) == {"done": 5, "failed": 1}
    row = rows_of(place)["scan0002.nii.gz"]
    assert (row.code, row.attempts) == ("poison", 2)
    assert "its worker died 2 times" in row.reason


def kill_and_resume(place: Path, scans: int, kills: int) -> None:
    """Kill everything ``kills`` times, each time going on; compare with a batch that was never interrupted."""
    write_scans(place / "scans", scans)
    assert finish(start_run(place, "whole")) == {"done": scans}
    draw = random.Random(0)
    for _ in range(kills):
        run = start_run(place, "broken", SECONDS="0.1")
        known = len(list((place / "broken").glob("masks/*.nii.gz")))
        wanted = min(known + draw.randint(0, 1), scans - 1)
        wait_for(
            lambda run=run, wanted=wanted: (
                run.poll() is not None or len(list((place / "broken").glob("masks/*.nii.gz"))) >= wanted
            )
        )
        time.sleep(draw.uniform(0, 0.5))
        for child in children_of(run.pid):
            os.kill(child, signal.SIGKILL)
        run.kill()
        run.communicate()
    assert finish(start_run(place, "broken")) == {"done": scans}
    assert files_of(place / "broken") == files_of(place / "whole")
    whole, broken = rows_of(place, "whole"), rows_of(place, "broken")
    assert {name: (row.scan_id, row.outputs, row.result) for name, row in broken.items()} == {
        name: (row.scan_id, row.outputs, row.result) for name, row in whole.items()
    }
    assert len({row.scan_id for row in broken.values()}) == scans
    assert not [path for path in (place / "broken").rglob("*") if path.name.startswith(".")]


def children_of(pid: int) -> list[int]:
    found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False)
    return [int(child) for child in found.stdout.split()]


@pytest.mark.timeout(600)
def test_a_batch_that_is_killed_goes_on_and_ends_as_an_unbroken_one(place: Path) -> None:
    kill_and_resume(place, scans=8, kills=3)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_batch_that_is_killed_fifty_times_ends_as_an_unbroken_one(place: Path) -> None:
    kill_and_resume(place, scans=40, kills=50)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_ledger_costs_little_beside_any_scan(place: Path) -> None:
    assert ledger_milliseconds(place, 1000) < 20


def test_the_ledger_costs_little_in_a_short_batch(place: Path) -> None:
    assert ledger_milliseconds(place, 100) < 40  # its start is spread over few scans


def ledger_milliseconds(place: Path, scans: int) -> float:
    """Return the CPU time that listing, claiming and closing a scan take together, with stages that do nothing."""
    from medml.inference.listing import PAGE, new_listing
    from medml.records.batch import BatchMeta, BatchOptions
    from medml.records.home import Home
    from pipelines.enlisting import Enlisting
    from pipelines.slots import batch_lease
    from pipelines.worker import Work, do_scans

    home = Home(place / "home")
    home.root.mkdir()
    ledger = ledger_of(place)
    meta = BatchMeta(model="t", version="1", digest="d", task="segment", labels={}, batch_id="batch-out")
    ledger.open_batch("batch-out", "t/1", "d")
    began = time.process_time()
    with batch_lease("batch-out") as lease, new_listing(home) as listing:
        ledger.begin("batch-out", source_request="", options="", lease=lease)
        work = Work(run=lease, package="", out=str(place), meta=meta, options=BatchOptions())
        enlisting = Enlisting(ledger, work, listing, None, 0)
        for page in range(0, scans, PAGE):
            numbers = range(page, min(page + PAGE, scans))
            enlisting._enlist(page // PAGE, [(0, nothing(number)) for number in numbers])
        ledger.mark("batch-out", "listed", lease=lease)
        do_scans(work, listing, 0, null_stages())
    spent = time.process_time() - began
    assert ledger.counts("batch-out") == {"done": scans}
    return 1000 * spent / scans


def nothing(number: int) -> Candidate:
    name = str(number)
    return Candidate(source=name, files=1, identity=name, stamp=name, read=none, patient=("", ""), study="", group="")


def none() -> object:
    return None


def null_stages() -> Stages:
    return Stages(
        read=lambda candidate: Job(candidate.source, candidate.source, candidate.read(), input_digest="d"),
        prepare=lambda job: job,
        infer=lambda job: job,
        restore=lambda job: Prediction(),
        write=lambda job, prediction: Written(),
    )
