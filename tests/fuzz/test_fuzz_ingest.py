"""Changed bytes in files of every format: no crash, no hang, no uncaught exception, nothing written elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import mutations

from medml.catalogue.config import IngestConfig
from medml.catalogue.ingest import ingest
from medml.io.files import Pseudonyms
from medml.records.home import Home
from medml.records.ingest import IngestReport
from medml.store.catalogue import Catalogue
from medml.store.crosswalk import Crosswalk
from medml.store.database import open_database

HANG_SECONDS = 20


def ingested(tmp_path: Path, source: Path) -> IngestReport:
    home = Home(tmp_path / "home")
    (tmp_path / "home").mkdir(exist_ok=True)
    config = IngestConfig(collection="c", seconds_per_scan=HANG_SECONDS, memory_gb=3)
    catalogue = Catalogue(open_database(home.catalogue_url))
    return ingest([source], home, catalogue, Crosswalk(home.crosswalk_url), Pseudonyms(home.key_file), config)


def test_the_seeds_are_valid(tmp_path: Path) -> None:
    for name, content in mutations.seeds().items():
        (tmp_path / "source" / name).mkdir(parents=True)
        (tmp_path / "source" / name / name).write_bytes(content)
    report = ingested(tmp_path, tmp_path / "source")
    codes = {outcome.source: outcome.code for outcome in report.outcomes}
    good = [name for name in mutations.seeds() if name not in ("manifest.csv", "dataset.json")]
    assert all(
        any(name in source and code in ("accepted", "duplicate") for source, code in codes.items()) for name in good
    ), codes


def fuzz(tmp_path: Path, count: int, *, seed: int) -> Counter[str]:
    source = tmp_path / "source"
    mutations.write_mutants(source, count, seed=seed)
    before = {path: path.stat().st_mtime_ns for path in source.rglob("*")}
    beside = set(os.listdir(tmp_path))
    started = time.monotonic()
    report = ingested(tmp_path, source)
    assert time.monotonic() - started < HANG_SECONDS + count
    assert report.counts.files == count
    assert sum(outcome.files for outcome in report.outcomes) == count
    assert {path: path.stat().st_mtime_ns for path in source.rglob("*")} == before
    assert set(os.listdir(tmp_path)) == beside | {"home"}
    assert not list((tmp_path / "home").rglob("*.tmp"))
    return Counter(outcome.code for outcome in report.outcomes)


@pytest.mark.timeout(600)
def test_five_hundred_mutants(tmp_path: Path) -> None:
    codes = fuzz(tmp_path, 500, seed=1)
    lost = [code for code in codes if code in ("decoder_crashed", "timeout", "memory", "undecodable")]
    assert not lost, codes


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("seed", range(10))
def test_twenty_thousand_mutants(tmp_path: Path, seed: int) -> None:
    codes = fuzz(tmp_path, 2000, seed=100 + seed)
    assert codes["timeout"] == 0, codes
