"""An operator's environment may name other places than the home's own files."""

from __future__ import annotations

from pathlib import Path

import pytest

from medml.records.home import Home
from pipelines.stores import open_catalogue, open_crosswalk, open_pseudonyms


def test_two_homes_that_share_a_key_file_give_the_same_pseudonyms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = Home(tmp_path / "one"), Home(tmp_path / "other")
    assert open_pseudonyms(one).patient("", "A") != open_pseudonyms(other).patient("", "A")
    monkeypatch.setenv("MEDML_KEY_FILE", str(tmp_path / "shared" / "key"))
    assert open_pseudonyms(one).patient("", "A") == open_pseudonyms(other).patient("", "A")


def test_databases_lie_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Home(tmp_path / "home")
    monkeypatch.setenv("MEDML_CATALOGUE_URL", f"sqlite:///{tmp_path / 'c.db'}")
    monkeypatch.setenv("MEDML_CROSSWALK_URL", f"sqlite:///{tmp_path / 'x.db'}")
    open_catalogue(home).close()
    open_crosswalk(home)
    assert (tmp_path / "c.db").exists()
    assert (tmp_path / "x.db").exists()
    assert not (home.root / "catalogue.db").exists()
