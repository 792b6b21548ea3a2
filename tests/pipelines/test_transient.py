"""What is tried again, and what a run shows of its outcome."""

from __future__ import annotations

import errno
import sqlite3
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from medml.errors import ConfigError
from medml.records.home import Home
from pipelines.artifacts import table_of
from pipelines.tasks import FlowFailed, guarded, is_transient
from pipelines.verb import VerbResult


def caused_by(error: Exception) -> Exception:
    try:
        try:
            raise error
        except Exception as cause:
            raise RuntimeError("the server said no") from cause
    except RuntimeError as outer:
        return outer


@pytest.mark.parametrize(
    ("error", "transient"),
    [
        (ConnectionRefusedError(), True),
        (TimeoutError(), True),
        (OSError(errno.ESTALE, "stale file handle"), True),
        (OperationalError("insert", {}, sqlite3.OperationalError("database is locked")), True),
        (caused_by(ConnectionResetError()), True),
        (OSError(errno.ENOSPC, "disk full"), False),
        (FileNotFoundError(), False),
        (ValueError("a broken file"), False),
        (caused_by(ValueError()), False),
    ],
)
def test_only_faults_that_may_go_away_are_transient(error: Exception, transient: bool) -> None:
    assert is_transient(error) is transient


@pytest.mark.parametrize(("error", "transient"), [(ConnectionError(), True), (ConfigError("wrong"), False)])
def test_a_neutral_failure_says_whether_it_may_go_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, transient: bool
) -> None:
    monkeypatch.setenv("MEDML_HOME", str(tmp_path))

    @guarded
    def work() -> None:
        raise error

    with pytest.raises(FlowFailed, match=r"work failed") as failed:
        work()
    assert failed.value.transient is transient


def test_a_run_shows_counts_and_places_in_the_home_but_no_path_and_no_note(tmp_path: Path) -> None:
    result = VerbResult(
        verb="predict",
        ok=True,
        counts={"done": 3},
        outputs={
            "report": str(tmp_path / "batches" / "batch-1" / "report.html"),
            "ledger": "/mnt/DOE^JANE/ledger.json",
        },
        summary={"dice": 0.9, "place": "/mnt/DOE^JANE", "nested": {"a": 1}},
        notes=("1 failed: DOE^JANE",),
    )
    assert table_of(result, Home(tmp_path)) == [
        {"what": "done", "value": 3},
        {"what": "dice", "value": 0.9},
        {"what": "report", "value": "HOME/batches/batch-1/report.html"},
    ]
