"""The audit log: who did what, and that no line can go unseen."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import pytest

from medml.records.home import Home
from pipelines.audit import check, entries, record, record_result, show
from pipelines.verb import VerbResult


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path)
    for n in range(4):
        record(home, "train", {"run": f"r-{n}", "path": None, "nested": {"no": 1}}, outcome="begun")
    return home


def lines(home: Home) -> list[str]:
    return (home.audit / "audit.jsonl").read_text().splitlines(keepends=True)


def test_lines_are_numbered_chained_and_private(home: Home) -> None:
    found = entries(home)
    assert [entry.number for entry in found] == [1, 2, 3, 4]
    assert [entry.previous for entry in found[1:]] == [entry.digest for entry in found[:-1]]
    assert found[0].details == {"run": "r-0"}
    assert found[0].who
    assert check(home) == []
    assert (home.audit / "audit.jsonl").stat().st_mode & 0o777 == 0o600
    assert home.audit.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("left", "words"),
    [
        ([0, 2, 3], "before line 3 lines were removed"),
        ([1, 2, 3], "before line 2 lines were removed"),
        ([0, 1], "the last 2 lines were removed"),
        ([1, 0, 2, 3], "before line 1 lines were removed, changed or put in"),
    ],
)
def test_removed_and_moved_lines_show(home: Home, left: list[int], words: str) -> None:
    kept = lines(home)
    (home.audit / "audit.jsonl").write_text("".join(kept[n] for n in left))
    assert any(words in sentence for sentence in check(home))
    assert show(home, last=10).ok is False


def test_changed_line_shows(home: Home) -> None:
    kept = lines(home)
    value = json.loads(kept[1])
    kept[1] = json.dumps({**value, "who": "somebody else"}) + "\n"
    (home.audit / "audit.jsonl").write_text("".join(kept))
    assert check(home) == ["line 2 was changed after it was written"]


def test_half_a_line_that_a_full_disk_left_is_cut_off(home: Home) -> None:
    with (home.audit / "audit.jsonl").open("a") as file:
        file.write('{"number": 5, "ti')
    record(home, "evaluate", {})
    assert [entry.verb for entry in entries(home)] == ["train"] * 4 + ["evaluate"]
    assert check(home) == []


def _write(home: Home, count: int) -> None:
    for _ in range(count):
        record(home, "predict", {})


def test_processes_at_once_make_one_chain(tmp_path: Path) -> None:
    home = Home(tmp_path)
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=_write, args=(home, 20)) for _ in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [entry.number for entry in entries(home)] == list(range(1, 81))
    assert check(home) == []


def test_only_verbs_that_change_something_are_kept(tmp_path: Path) -> None:
    home = Home(tmp_path)
    record_result(home, VerbResult(verb="status", ok=True))
    record_result(home, VerbResult(verb="clean", ok=True, counts={"bytes": 7}))
    record_result(home, VerbResult(verb="release", ok=False))
    assert [(entry.verb, entry.outcome) for entry in entries(home)] == [("clean", "done"), ("release", "failed")]
    assert entries(home)[0].details == {"bytes": 7}


def test_newest_lines_are_shown(home: Home) -> None:
    shown = show(home, last=2)
    assert shown.ok
    assert shown.counts == {"lines": 4, "wrong": 0}
    assert [row[4] for row in shown.table[1:]] == ["run r-2", "run r-3"]
    assert show(Home(home.root / "empty"), last=2).table == ()
