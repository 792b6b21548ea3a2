"""Gaps in which nobody served the flows, and what was due in them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from medml.records.home import Home
from pipelines.schedules import ScheduleConfig, fire_times
from pipelines.served import begin_serving, missed, note_served, paused_names, read_served, set_paused

NIGHTLY = ScheduleConfig(name="nightly", flow="say", cron="0 2 * * *")
HOURLY = ScheduleConfig(name="hourly", flow="say", cron="30 * * * *")
MONDAY = datetime(2026, 11, 2, 12, tzinfo=UTC)


def home_in(folder: Path) -> Home:
    home = Home(folder)
    home.prefect.mkdir()
    return home


def test_fire_times_follow_the_time_zone_over_the_change_of_clocks() -> None:
    berlin = NIGHTLY.model_copy(update={"timezone": "Europe/Berlin"})
    start = datetime(2026, 10, 24, tzinfo=UTC)
    found = [due.astimezone(UTC).strftime("%d %H:%M") for due in fire_times(berlin, start, start + timedelta(days=3))]
    assert found == ["24 00:00", "25 00:00", "26 01:00"]


def test_more_than_a_thousand_times_are_found_once_each_and_the_end_does_not_count() -> None:
    every = ScheduleConfig(name="every", flow="say", cron="* * * * *")
    found = fire_times(every, MONDAY, MONDAY + timedelta(days=1))
    assert (len(found), len(set(found))) == (1440, 1440)
    assert found[0] == MONDAY
    assert found[-1] == MONDAY + timedelta(hours=23, minutes=59)


def test_two_nights_without_a_server_are_two_missed_runs_and_a_restart_is_none(tmp_path: Path) -> None:
    home = home_in(tmp_path)
    assert begin_serving(home, Path("s.yaml"), MONDAY) is None
    note_served(home, MONDAY + timedelta(hours=1))
    later = MONDAY + timedelta(days=2)
    gap = begin_serving(home, Path("s.yaml"), later)
    assert gap
    assert gap.long
    assert missed(home, [NIGHTLY], later) == [
        ("nightly", "2026-11-04T02:00:00+00:00"),
        ("nightly", "2026-11-03T02:00:00+00:00"),
    ]
    short = begin_serving(home, Path("s.yaml"), later + timedelta(minutes=10))
    assert short
    assert not short.long
    assert len(read_served(home).gaps) == 1


def test_what_a_short_gap_delayed_is_due_in_it(tmp_path: Path) -> None:
    home = home_in(tmp_path)
    begin_serving(home, Path("s.yaml"), MONDAY + timedelta(minutes=25))
    gap = begin_serving(home, Path("s.yaml"), MONDAY + timedelta(minutes=35))
    assert gap
    assert not gap.long
    assert gap.due(HOURLY) == [MONDAY + timedelta(minutes=30)]


def test_while_nobody_serves_the_open_gap_counts_and_paused_or_disabled_schedules_do_not(tmp_path: Path) -> None:
    home = home_in(tmp_path)
    begin_serving(home, Path("s.yaml"), MONDAY)
    now = MONDAY + timedelta(hours=3)
    disabled = HOURLY.model_copy(update={"name": "off", "enabled": False})
    assert [name for name, _ in missed(home, [HOURLY, disabled], now)] == ["hourly"] * 3
    set_paused(home, "hourly", True)
    assert missed(home, [HOURLY], now) == []
    set_paused(home, "hourly", False)
    assert paused_names(home) == frozenset()
    assert len(missed(home, [HOURLY], now, days=0.1)) == 2
