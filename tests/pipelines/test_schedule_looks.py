"""`medml schedule` where nobody serves the flows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from medml.errors import ConfigError, NotFound
from medml.records.home import Home
from pipelines.schedule_looks import backfill, list_schedules, pause
from pipelines.served import begin_serving, paused_names

NOW = datetime.now(UTC)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    home.prefect.mkdir(parents=True)
    path = tmp_path / "s.yaml"
    path.write_text(
        "schedules:\n"
        "  - {name: hourly, flow: predict, cron: '0 * * * *'}\n"
        "  - {name: asleep, flow: predict, cron: '0 * * * *', enabled: false}\n"
        "triggers: [{name: study, flow: arrive}]\n"
    )
    begin_serving(home, path, NOW - timedelta(hours=5))
    return home


def test_what_was_missed_since_is_listed(home: Home) -> None:
    result = list_schedules(home)
    assert result.counts["missed"] == 5
    rows = {row[0]: row for row in result.table[1:]}
    assert [rows[name][3] for name in ("hourly", "asleep", "study")] == ["active", "disabled", "active"]
    assert rows["hourly"][-1].startswith("5, last ")
    assert "nobody serves the flows; last served: 20" in result.notes[0]


def test_a_pause_is_remembered(home: Home) -> None:
    assert pause(home, "study", paused=True).summary == {"schedule": "study", "state": "paused"}
    assert paused_names(home) == {"study"}
    assert pause(home, "asleep", paused=False).summary["state"].startswith("not active: `enabled: false`")
    with pytest.raises(NotFound, match="no schedule or trigger 'x'; there are: asleep, hourly, study"):
        pause(home, "x", paused=True)


@pytest.mark.parametrize(
    ("name", "hours", "message"),
    [
        ("hourly", (2, 3), "expected FROM before TO, and TO not later than now"),
        ("hourly", (2, -1), "expected FROM before TO, and TO not later than now"),
        ("hourly", (500, 0), "500 runs, at most 400 at once"),
        ("hourly", (3, 1), "nobody serves the flows of this home"),
        ("study", (3, 1), "study is a trigger; only schedules have dates to fill"),
    ],
)
def test_a_backfill_that_cannot_be_is_refused(home: Home, name: str, hours: tuple[int, int], message: str) -> None:
    start, end = (NOW - timedelta(hours=number) for number in hours)
    with pytest.raises(ConfigError, match=message):
        backfill(home, name, start, end)
