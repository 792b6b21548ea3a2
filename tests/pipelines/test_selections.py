"""What ``medml predict`` was asked: model and source, or a selection of models and a source."""

from __future__ import annotations

from pathlib import Path

import pytest

from medml.errors import ConfigError
from medml.records.home import Home
from pipelines.archives import load_pacs, read_query
from pipelines.pacs import batch_folder
from pipelines.requests import read_request, write_request
from pipelines.selections import joined, load_selection, sort_out
from pipelines.verb import VerbResult


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def test_with_a_selection_the_model_may_be_left_out(home: Home, tmp_path: Path) -> None:
    both = sort_out(home, "liver", str(tmp_path), None, tmp_path / "out")
    assert (both.model, both.source, both.quiet_seconds) == ("liver", str(tmp_path), 0.0)
    asked = read_request(home, both.request(home))
    assert (asked["sources"], asked["output"]) == ([str(tmp_path)], str(tmp_path / "out"))
    alone = sort_out(home, str(tmp_path), "", "abdomen_ct", None)
    assert (alone.model, alone.source) == ("", str(tmp_path))


def test_the_inbox_is_a_source_that_must_be_quiet(home: Home) -> None:
    asked = sort_out(home, "liver", "inbox", None, None)
    assert (asked.alias, asked.request(home), asked.quiet_seconds) == (True, "inbox", 10.0)
    assert home.inbox.is_dir()
    named = sort_out(home, "liver", "inbox", None, Path("/out"))
    assert read_request(home, named.request(home))["sources"] == [str(home.inbox)]


def test_what_cannot_be_meant_is_said(home: Home, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected MODEL and SRC, found 'liver' alone; give --selection"):
        sort_out(home, "liver", "", None, None)
    with pytest.raises(ConfigError, match="nowhere: no such file or folder; check the path, or give an alias: inbox"):
        sort_out(home, "liver", "nowhere", None, None)
    with pytest.raises(ConfigError, match="--output is for one model; each model of a selection has a batch"):
        sort_out(home, str(tmp_path), "", "abdomen_ct", tmp_path / "out")
    with pytest.raises(ConfigError, match="selection configuration 'nothing' not found; there are: abdomen_ct"):
        load_selection("nothing")


def test_several_runs_are_told_as_one() -> None:
    one = VerbResult(verb="predict", ok=True, counts={"done": 2, "skipped": 1}, outputs={"report": "a"})
    two = VerbResult(verb="predict", ok=False, counts={"done": 3, "failed": 1}, notes=("1 failed",))
    whole = joined("predict", {"liver": one, "spleen": two})
    assert (whole.ok, whole.counts) == (False, {"done": 5, "skipped": 1, "failed": 1})
    assert (whole.outputs, whole.notes) == ({"liver report": "a"}, ("spleen: 1 failed",))


def test_queries_and_batches_are_known_by_name(home: Home) -> None:
    config = load_pacs("web_example")
    assert read_query(home, config, "web_example", "todays_ct").modality == "CT"
    request = write_request(home, "pacs", query={"modality": "MR", "dates": "any"})
    assert read_query(home, config, "web_example", request).modality == "MR"
    with pytest.raises(ConfigError, match=r"has no query 'mr'; it has: recent_abdomen, todays_ct; write it into"):
        read_query(home, config, "web_example", "mr")
    for wrong in ("../secrets", "secrets", "/tmp"):
        with pytest.raises(ConfigError, match="expected the name of a folder in"):
            batch_folder(home, wrong)
    with pytest.raises(ConfigError, match=r"there is no ledger\.json; run the batch to its end, then push"):
        batch_folder(home, "batch-1")
