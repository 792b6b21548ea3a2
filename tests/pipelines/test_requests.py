"""What flows are given instead of paths."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from medml.errors import ConfigError
from medml.records.home import Home
from pipelines.requests import (
    known_sources,
    read_request,
    resolve_source,
    write_request,
)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
def aliases(tmp_path: Path) -> Path:
    file = tmp_path / "configs" / "sources.yaml"
    file.parent.mkdir()
    file.write_text("sources:\n  pacs_export: /srv/export\n  nearby: ../scans\n")
    return file


def test_a_request_returns_what_was_asked_and_only_the_owner_may_read_it(
    home: Home,
) -> None:
    request = write_request(home, "predict", sources=["/data/a"], output="/data/out")
    file = home.requests / f"{request}.json"
    assert read_request(home, request) == {
        "verb": "predict",
        "sources": ["/data/a"],
        "output": "/data/out",
    }
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(home.requests.stat().st_mode) == 0o700


def test_a_request_id_says_nothing_of_the_path(home: Home) -> None:
    first, second = (write_request(home, "ingest", sources=["/data/smith_john"]) for _ in range(2))
    assert first != second
    assert len(first) == len("req-") + 12
    assert int(first.removeprefix("req-"), 16) >= 0


@pytest.mark.parametrize("request_id", ["req-000000000000", "req-../../etc/passwd", "../secrets"])
def test_an_unknown_request_is_refused(home: Home, request_id: str) -> None:
    with pytest.raises(ConfigError, match="is not known in this home"):
        read_request(home, request_id)


def test_a_source_is_a_request_or_an_alias(home: Home, aliases: Path, tmp_path: Path) -> None:
    (tmp_path / "scans").mkdir()
    request = write_request(home, "ingest", sources=["/data/a"], config={"collection": "a"})
    assert resolve_source(home, request)["config"] == {"collection": "a"}
    assert resolve_source(home, "nearby", aliases=aliases) == {"sources": [str(tmp_path / "scans")]}


def test_the_inbox_is_built_in_and_made_when_first_asked_for(home: Home, aliases: Path) -> None:
    assert resolve_source(home, "inbox", aliases=aliases) == {"sources": [str(home.inbox)]}
    assert home.inbox.is_dir()


def test_an_unknown_alias_lists_the_known_ones(home: Home, aliases: Path) -> None:
    with pytest.raises(ConfigError, match=r"aliases: inbox, nearby, pacs_export"):
        resolve_source(home, "/data/scans", aliases=aliases)


def test_an_alias_whose_place_is_gone_is_refused_by_its_name_only(home: Home, aliases: Path) -> None:
    with pytest.raises(ConfigError, match="'pacs_export': its path is not there") as error:
        resolve_source(home, "pacs_export", aliases=aliases)
    assert "/srv" not in str(error.value)


def test_an_alias_must_look_like_a_name(home: Home, aliases: Path) -> None:
    aliases.write_text("sources:\n  'a b': /srv\n")
    with pytest.raises(ConfigError, match="expected a name of lower-case letters"):
        known_sources(home, aliases)
