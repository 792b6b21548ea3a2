"""The inbox: what has been quiet for long enough is announced, once, until its flow has ended."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from medml.records.home import Home
from pipelines.arrivals import AGAIN_SECONDS, LOOK_AGAIN_SECONDS, look, read_arrivals, settle
from pipelines.requests import read_request


def home_in(folder: Path) -> Home:
    home = Home(folder)
    (home.inbox / "DOE^JANE").mkdir(parents=True)
    (home.inbox / "DOE^JANE" / "1.dcm").write_text("one")
    return home


def seen(home: Home, now: float) -> list[str]:
    return look(home, "study", 30, now)


def test_a_folder_is_announced_when_it_has_been_quiet_and_only_once(tmp_path: Path) -> None:
    home = home_in(tmp_path)
    assert seen(home, 1000) == []
    assert seen(home, 1029) == []
    (request,) = seen(home, 1030)
    assert read_request(home, request)["sources"] == [str(home.inbox / "DOE^JANE")]
    assert "DOE" not in request
    assert seen(home, 1035) == []
    assert (home.secrets / "arrivals-study.json").stat().st_mode & 0o777 == 0o600


def test_a_file_that_arrives_or_grows_starts_the_wait_anew(tmp_path: Path) -> None:
    home = home_in(tmp_path)
    seen(home, 1000)
    (home.inbox / "DOE^JANE" / "2.dcm").write_text("two")
    assert seen(home, 1030) == []
    (home.inbox / "DOE^JANE" / "2.dcm").write_text("two and more")
    assert seen(home, 1050) == []
    assert seen(home, 1079) == []
    assert len(seen(home, 1080)) == 1


def test_hidden_entries_and_links_are_left_alone(tmp_path: Path) -> None:
    home = Home(tmp_path)
    (home.inbox / ".partial").mkdir(parents=True)
    os.symlink("/etc", home.inbox / "link")
    seen(home, 1000)
    assert seen(home, 2000) == []
    assert read_arrivals(home, "study").entries == {}


def test_each_study_in_the_folder_of_a_pacs_is_an_arrival_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDML_CONFIGS", str(tmp_path / "configs"))
    (tmp_path / "configs" / "pacs").mkdir(parents=True)
    (tmp_path / "configs" / "pacs" / "main.yaml").touch()
    home = Home(tmp_path / "home")
    for study in ("s-1", "s-2"):
        (home.inbox / "main" / study / "series").mkdir(parents=True)
        (home.inbox / "main" / study / "series" / "1.dcm").write_text(study)
    seen(home, 1000)
    (home.inbox / "main" / "s-2" / "series" / "2.dcm").write_text("late")
    (request,) = seen(home, 1030)
    assert read_request(home, request)["sources"] == [str(home.inbox / "main" / "s-1")]
    assert sorted(read_arrivals(home, "study").entries) == ["main/s-1", "main/s-2"]


def test_it_is_announced_again_until_a_run_has_ended_but_not_while_one_is_under_way(tmp_path: Path) -> None:
    home = home_in(tmp_path)
    seen(home, 1000)
    (request,) = seen(home, 1030)
    assert seen(home, 1030 + AGAIN_SECONDS - 1) == []
    assert seen(home, 1030 + AGAIN_SECONDS) == [request]
    settle(home, "study", set(), {request}, 1400)
    assert seen(home, 1401) == []
    settle(home, "study", {request}, set(), 1500)
    assert seen(home, 99_999) == []


def test_after_five_times_nobody_is_asked_again(tmp_path: Path) -> None:
    home = home_in(tmp_path)
    seen(home, 0)
    announced = [now for now in range(30, 20_000, 10) if seen(home, float(now))]
    assert announced == [30, 150, 390, 870, 1830]


def test_more_files_in_a_folder_that_was_done_are_a_new_arrival(tmp_path: Path) -> None:
    home = home_in(tmp_path)
    seen(home, 1000)
    (first,) = seen(home, 1030)
    settle(home, "study", {first}, set(), 1100)
    (home.inbox / "DOE^JANE" / "late.dcm").write_text("late")
    assert seen(home, 1100 + LOOK_AGAIN_SECONDS) == []
    (second,) = seen(home, 1130 + LOOK_AGAIN_SECONDS)
    assert second != first
