"""An ingest ended at any step, and run again, leaves what an unbroken one leaves."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

KILLS = Path(__file__).parents[2] / "kills"


class Harness:
    """A process with everything imported that forks one ingest after the other; see ``kills/harness.py``."""

    def __init__(self, source: Path, count: Path) -> None:
        self.source, self.count = source, count
        env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(KILLS), *(path for path in sys.path if path)])}
        command = [sys.executable, "-P", str(KILLS / "harness.py")]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)

    def start(self, home: Path, limit: int = 0, *, isolated: bool = False, error: int = 0) -> None:
        (home / "secrets").mkdir(exist_ok=True, mode=0o700, parents=True)
        key = home / "secrets" / "pseudonym.key"
        if not key.exists():
            key.touch(mode=0o600)
            key.write_bytes(bytes(32))
        self.count.unlink(missing_ok=True)
        assert self.process.stdin is not None
        self.process.stdin.write(f"{limit} {isolated:d} {error} {home} {self.source} {self.count}\n")
        self.process.stdin.flush()

    def result(self) -> tuple[int, int]:
        """Return exit code (3: an error of ours) and steps done."""
        assert self.process.stdout is not None
        return int(self.process.stdout.readline()), self.count.stat().st_size

    def run(self, home: Path, limit: int = 0, *, isolated: bool = False, error: int = 0) -> tuple[int, int]:
        self.start(home, limit, isolated=isolated, error=error)
        return self.result()

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


@pytest.fixture
def filled(source):
    """A source of pictures, volumes with label maps and a table of classes: more than one group."""
    for n in range(66):
        source.picture(f"pictures/{n % 2}/{n:02d}.png", n)
    for n in range(3):
        source.image(f"images/{n}.nii.gz", n)
        source.mask(f"labels/{n}.nii.gz")
    return source.root


@pytest.fixture
def harness(filled: Path, tmp_path: Path) -> Iterator[Harness]:
    harness = Harness(filled, tmp_path / "count")
    yield harness
    harness.close()


def state(home: Path) -> dict[str, object]:
    """Everything that an ingest leaves, but for times."""
    files = {
        str(path.relative_to(home)): path.read_bytes() for path in (home / "scans").rglob("*") if not path.is_dir()
    }
    assert not list(home.rglob("*.tmp"))
    return {**files, **rows(home / "catalogue.db"), **rows(home / "secrets" / "crosswalk.db")}


def rows(database: Path) -> dict[str, object]:
    found: dict[str, object] = {}
    connection = sqlite3.connect(database)
    names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    for name in names:
        cursor = connection.execute(f'SELECT * FROM "{name}"')
        keep = [n for n, column in enumerate(cursor.description) if column[0] not in ("added", "updated")]
        found[f"{database.name} {name}"] = sorted(tuple(row[n] for n in keep) for row in cursor)
    connection.close()
    return found


def check(
    harness: Harness, tmp_path: Path, points: int, *, isolated: bool, start: Path | None = None, error: int = 0
) -> Counter[int]:
    """End an ingest at so many steps spread over it, and run it again; return how often it ended with which code."""
    whole = tmp_path / "whole"
    if start is not None:
        shutil.copytree(start, whole)
    code, steps = harness.run(whole, isolated=isolated)
    assert code == 0
    expected = state(whole)
    codes = Counter[int]()
    for n in range(points):
        home = tmp_path / "broken"
        shutil.rmtree(home, ignore_errors=True)
        if start is not None:
            shutil.copytree(start, home)
        limit = 1 + n * (steps - 1) // max(1, points - 1)
        codes[harness.run(home, limit, isolated=isolated, error=error)[0]] += 1
        assert harness.run(home)[0] == 0, f"the rerun after step {limit} of {steps}"
        assert state(home) == expected, f"after step {limit} of {steps}"
    shutil.rmtree(whole)
    return codes


def test_ended_at_any_step(harness: Harness, tmp_path: Path) -> None:
    assert check(harness, tmp_path, 6, isolated=False)[-9] >= 5


def test_ended_at_any_step_of_a_child(harness: Harness, tmp_path: Path) -> None:
    assert check(harness, tmp_path, 2, isolated=True)[-9] >= 1


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS])
def test_an_error_of_the_disk_at_any_step_is_a_message_and_a_rerun_completes(
    harness: Harness, tmp_path: Path, error: int
) -> None:
    codes = check(harness, tmp_path, 3, isolated=False, error=error)
    assert set(codes) <= {0, 3}, codes


def test_two_ingests_at_once_give_one_result(harness: Harness, tmp_path: Path) -> None:
    twice(harness, tmp_path, rounds=3)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_ingests_at_once_give_one_result_in_fifty_rounds(harness: Harness, tmp_path: Path) -> None:
    twice(harness, tmp_path, rounds=50)


def twice(harness: Harness, tmp_path: Path, *, rounds: int) -> None:
    """Run two ingests of one folder into one home at the same time, and compare with one alone."""
    assert harness.run(tmp_path / "alone")[0] == 0
    other = Harness(harness.source, tmp_path / "other")
    try:
        for n in range(rounds):
            home = tmp_path / "both"
            shutil.rmtree(home, ignore_errors=True)
            for one in (harness, other):
                one.start(home, isolated=n % 10 == 0)
            assert [one.result()[0] for one in (harness, other)] == [0, 0]
            assert state(home) == state(tmp_path / "alone")
            assert len(list((home / "reports").glob("ingest-*.json"))) == 2
    finally:
        other.close()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_ended_at_two_hundred_steps(harness: Harness, tmp_path: Path) -> None:
    assert check(harness, tmp_path, 160, isolated=False)[-9] >= 155
    assert check(harness, tmp_path, 40, isolated=True)[-9] >= 35


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_ended_while_labels_are_added_to_known_scans(harness: Harness, source, tmp_path: Path) -> None:
    for n in range(3):
        (source.root / f"labels/{n}.nii.gz").unlink()
    start = tmp_path / "start"
    assert harness.run(start)[0] == 0
    for n in range(3):
        source.mask(f"labels/{n}.nii.gz", (1,))
    assert check(harness, tmp_path, 40, isolated=False, start=start)[-9] >= 38
