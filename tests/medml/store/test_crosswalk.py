from __future__ import annotations

import stat
from pathlib import Path

import pytest

from medml.errors import NotFound
from medml.store.crosswalk import Crosswalk, Origin


def test_source_is_found_by_scan_id_and_by_stamp(any_url: str) -> None:
    crosswalk = Crosswalk(any_url)
    crosswalk.put([Origin("a", "stamp-a", {"paths": ["/x/1"], "positions": [0.5]}), Origin("b", "stamp-b", {})])
    assert crosswalk.by_stamp(["stamp-b", "stamp-a", "stamp-c"]) == {"stamp-a": "a", "stamp-b": "b"}
    assert crosswalk.locator("a") == {"paths": ["/x/1"], "positions": [0.5]}
    crosswalk.database.close()


def test_last_source_of_a_scan_counts(any_url: str) -> None:
    crosswalk = Crosswalk(any_url)
    crosswalk.put([Origin("a", "old", {"path": "/old"})])
    crosswalk.put([Origin("a", "new", {"path": "/new"})])
    assert crosswalk.locator("a") == {"path": "/new"}
    assert crosswalk.by_stamp(["old", "new"]) == {"new": "a"}
    crosswalk.database.close()


def test_unknown_scan_is_not_found(any_url: str) -> None:
    crosswalk = Crosswalk(any_url)
    with pytest.raises(NotFound, match="scan abc: the crosswalk does not know its source"):
        crosswalk.locator("abc")
    crosswalk.database.close()


def test_many_origins_in_one_group(url: str) -> None:
    crosswalk = Crosswalk(url)
    crosswalk.put(Origin(f"{n}", f"stamp-{n}", {"n": n}) for n in range(5000))
    assert len(crosswalk.by_stamp(f"stamp-{n}" for n in range(6000))) == 5000


def test_crosswalk_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    Crosswalk(f"sqlite:///{tmp_path / 'secrets' / 'crosswalk.db'}").put([Origin("a", "s", {})])
    for path in (tmp_path / "secrets").glob("crosswalk.db*"):
        if not path.name.endswith(".lock"):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_scans_are_found_by_the_pseudonym_of_their_series(any_url: str) -> None:
    crosswalk = Crosswalk(any_url)
    crosswalk.put([Origin("b", "s1", {}, "g-1"), Origin("a", "s2", {}, "g-1"), Origin("c", "s3", {})])
    assert crosswalk.by_series(["g-1", "g-9"]) == ["a", "b"]
    assert crosswalk.by_series([""]) == []
    crosswalk.database.close()
