"""The list of a batch's scans on disk, and the kinds of fault."""

from __future__ import annotations

import errno
from functools import partial
from pathlib import Path

import pytest

from medml.errors import MedmlError, Refusal
from medml.inference.batch import Stages, run_batch
from medml.inference.faults import StorageFull, check_storage, is_transient
from medml.inference.listing import PAGE, find_listing, new_listing
from medml.records.batch import LedgerRow
from medml.records.candidate import Candidate
from medml.records.home import Home


def candidate(name: str, error: Exception | None = None) -> Candidate:
    return Candidate(
        source=name, files=1, identity=name, stamp=name, read=partial(fail, error), patient=("", ""), study="", group=""
    )


def fail(error: Exception | None) -> object:
    raise error or ValueError("never read")


def test_candidates_are_read_back_by_number_and_the_list_goes_with_its_run(tmp_path: Path) -> None:
    home = Home(tmp_path)
    with new_listing(home) as listing:
        listing.write(0, [candidate(f"a{number}") for number in range(PAGE)])
        listing.write(1, [None, candidate("b")])
        other = find_listing(home, listing.folder.name)
        assert [other.candidate(number).source for number in (0, PAGE - 1, PAGE + 1, 5)] == ["a0", "a63", "b", "a5"]
        for path in (listing.folder, *listing.folder.iterdir()):
            assert path.stat().st_mode & 0o077 == 0
        with pytest.raises(MedmlError, match="number 64 of the list of scans is no scan"):
            other.candidate(PAGE)
        with pytest.raises(MedmlError, match="page 2 of the list of scans is not there"):
            other.candidate(2 * PAGE)
    with pytest.raises(MedmlError, match="there is no such list in this home"):
        find_listing(home, listing.folder.name)
    with pytest.raises(MedmlError, match="is not the name of a list of scans"):
        find_listing(home, "../../etc")


@pytest.mark.parametrize("code", [errno.EIO, errno.ETIMEDOUT, errno.ESTALE, errno.EAGAIN])
def test_a_fault_of_storage_or_network_may_pass(code: int) -> None:
    assert is_transient(OSError(code, "for a moment"))
    refusal = Refusal("unreadable", "it cannot be read")
    refusal.__context__ = OSError(code, "for a moment")  # as `raise ... from None` leaves it
    assert is_transient(refusal)
    assert is_transient(TimeoutError())
    assert not is_transient(FileNotFoundError(errno.ENOENT, "gone"))
    assert not is_transient(ValueError("damaged"))


def test_a_full_disk_stops_the_batch_and_leaves_its_scan_to_the_next_run() -> None:
    check_storage(OSError(errno.EIO, "other"))
    with pytest.raises(StorageFull, match="the disk is full, so the batch stopped; nothing was left half written"):
        check_storage(OSError(errno.ENOSPC, "full"))
    recorded: list[LedgerRow] = []
    with pytest.raises(StorageFull):
        run(recorded, [candidate("a", OSError(errno.ENOSPC, "full")), candidate("b")])
    assert recorded == []


def test_a_passing_fault_is_told_from_others_and_none_lets_a_batch_wait() -> None:
    recorded: list[LedgerRow] = []
    run(recorded, [None, candidate("a", OSError(errno.EIO, "for a moment")), None, candidate("b")])
    assert [(row.source, row.code) for row in recorded] == [("a", "transient"), ("b", "failed")]


def run(recorded: list[LedgerRow], candidates: list[Candidate | None]) -> None:
    def never(_: object, __: object = None) -> object:
        raise AssertionError("nothing was read")

    stages = Stages(lambda one: one.read(), never, never, never, never)  # type: ignore[arg-type, return-value]
    run_batch(candidates, stages, done={}, record=recorded.append)
