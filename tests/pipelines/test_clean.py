"""What a home can do without is shown before it goes, and what is in use stays."""

from __future__ import annotations

import json
import mmap
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from medml.io.files import temporary_path
from medml.io.mentions import files_below
from medml.records.home import Home
from medml.store.leases import Leases, this_owner
from pipelines.clean import clean
from pipelines.stores import open_catalogue
from pipelines.verb import VerbResult

OLD = time.time() - 40 * 86400


def put(path: Path, size: int = 1000, *, old: bool = True) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(size))
    if old:
        os.utime(path, (OLD, OLD))
    return path


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    open_catalogue(home).close()
    put(home.cache / "one" / "plan" / "000.npy", 4000)
    put(home.cache / "two" / "plan" / "000.npy", 2000)
    put(home.cache / "new" / "plan" / "000.npy", 3000, old=False)
    put(home.logs / "prefect.log")
    put(home.logs / "errors" / "abc.txt")
    put(home.logs / "errors" / "new.txt", old=False)
    put(home.batches / "batch-1" / "masks" / "a.nii.gz")
    put(home.scans / "aa" / "image.nii.gz")
    return home


def sweep(home: Home, *, days: float = 30, gb: float | None = None, batches: bool = False, do: bool) -> VerbResult:
    return clean(home, days=days, cache_gb=gb, batches=batches, do=do)


def test_old_cache_and_logs_are_shown_largest_first_and_nothing_goes(home: Home) -> None:
    before = sorted(home.root.rglob("*.*"))
    shown = sweep(home, do=False)
    assert shown.counts == {"cached arrays": 2, "logs": 1, "error texts": 1, "bytes": 8000}
    assert shown.table[1] == ("cached arrays", "cache/one/plan", "0.0 MB", "40 days")
    assert shown.notes == ("nothing was removed; add --yes to remove it",)
    assert sorted(path for path in home.root.rglob("*.*") if not path.name.endswith(("-wal", "-shm"))) == before


def test_what_was_shown_goes_and_the_rest_stays(home: Home) -> None:
    sweep(home, do=True)
    assert not (home.cache / "one" / "plan").exists()
    assert not (home.logs / "prefect.log").exists()
    assert (home.cache / "new" / "plan" / "000.npy").exists()
    assert (home.logs / "errors" / "new.txt").exists()
    assert (home.batches / "batch-1").exists()
    assert (home.scans / "aa" / "image.nii.gz").exists()


def test_batches_go_only_when_asked_for(home: Home) -> None:
    sweep(home, batches=True, do=True)
    assert not (home.batches / "batch-1").exists()


def test_cache_shrinks_to_a_size_longest_unused_first(home: Home) -> None:
    put(home.cache / "newer" / "plan" / "000.npy", 3000, old=False)
    day = time.time() - 86400
    os.utime(home.cache / "new" / "plan" / "000.npy", (day, day))
    sweep(home, gb=4e-6, do=True)
    assert not (home.cache / "new" / "plan").exists()
    assert (home.cache / "newer" / "plan").exists()


def test_mapped_cache_stays(home: Home) -> None:
    with (home.cache / "one" / "plan" / "000.npy").open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    result = sweep(home, do=True)
    assert (home.cache / "one" / "plan" / "000.npy").exists()
    assert "1 cached datasets are in use and stay" in result.notes
    mapped.close()
    sweep(home, days=0, do=True)  # reading was use
    assert not (home.cache / "one" / "plan").exists()


def test_cache_of_a_training_that_holds_a_lease_stays(home: Home) -> None:
    job = home.runs / "liver-1" / "job.json"
    job.parent.mkdir(parents=True)
    job.write_text(json.dumps({"dataset": "/h/datasets/liver/one.json"}))
    leases = Leases(open_catalogue(home))
    lease = leases.take("device:cpu:0", this_owner(), 60)
    assert lease is not None
    sweep(home, do=True)
    assert (home.cache / "one" / "plan").exists()
    leases.release(lease)


def test_batch_under_way_stays(home: Home) -> None:
    leases = Leases(open_catalogue(home))
    lease = leases.take("batch:batch-1", this_owner(), 60)
    assert lease is not None
    sweep(home, batches=True, do=True)
    assert (home.batches / "batch-1").exists()
    leases.release(lease)


def test_only_what_the_dead_have_left_is_an_orphan(home: Home) -> None:
    alive = temporary_path(home.scans / "work")
    alive.mkdir(parents=True)
    code = "from medml.io.files import temporary_path; from pathlib import Path; import sys; "
    code += "p = temporary_path(Path(sys.argv[1])); p.mkdir(); print(p)"
    dead = subprocess.run(
        [sys.executable, "-c", code, str(home.scans / "work")], capture_output=True, text=True, check=True
    )
    result = sweep(home, do=True)
    assert result.counts["left by killed processes"] == 1
    assert alive.exists()
    assert not Path(dead.stdout.strip()).exists()


def test_log_that_a_process_has_open_stays(home: Home) -> None:
    with (home.logs / "prefect.log").open("a"):
        sweep(home, do=True)
        assert (home.logs / "prefect.log").exists()


def test_what_goes_while_it_is_looked_at_is_not_counted(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    def listed_then_gone(folder: Path) -> list[Path]:
        found = list(files_below(folder))
        for path in found:
            path.unlink()
        return found

    for user in ("medml.io.mentions", "pipelines.clean"):
        monkeypatch.setattr(f"{user}.files_below", listed_then_gone)
    shown = sweep(home, days=0, do=False)
    assert shown.counts == {"cached arrays": 3, "bytes": 0}  # their folders, empty now, are still there
