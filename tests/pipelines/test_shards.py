"""Shards of an ingest: read by another process as by this one, on Dask as without."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medml.catalogue.config import IngestConfig
from medml.catalogue.ingest import ingest
from medml.catalogue.shards import read_shard
from medml.errors import MedmlError
from medml.io.files import Pseudonyms
from medml.io.nifti import write_nifti
from medml.records.home import Home
from medml.records.scan import Volume
from medml.store.catalogue import Catalogue
from medml.store.crosswalk import Crosswalk
from medml.store.database import open_database

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    """Five small volumes and a file that is none, under names that must not travel."""
    folder = tmp_path / "SECRET-cohort"
    folder.mkdir()
    for n in range(5):
        voxels = np.random.default_rng(n).integers(0, 100, (1, 6, 7, 8)).astype(np.int16)
        write_nifti(folder / f"SECRET-{n}.nii.gz", Volume(voxels, np.eye(4)))
    (folder / "SECRET-x.nii.gz").write_text("no image")
    return folder


def files(home: Path) -> dict[str, bytes]:
    scans = home / "scans"
    return {str(path.relative_to(scans)): path.read_bytes() for path in scans.rglob("*") if path.is_file()}


def run(home: Home, source: Path, **options: Any) -> Any:
    (home.root / "secrets").mkdir(parents=True, mode=0o700)
    home.key_file.touch(mode=0o600)
    home.key_file.write_bytes(bytes(32))
    catalogue = Catalogue(open_database(home.catalogue_url))
    config = IngestConfig(collection="c", isolated=False)
    crosswalk = Crosswalk(home.crosswalk_url)
    return ingest([source], home, catalogue, crosswalk, Pseudonyms(home.key_file), config, **options)


def test_shards_give_what_an_ingest_without_them_gives(cohort: Path, tmp_path: Path) -> None:
    whole, home = Home(tmp_path / "whole"), Home(tmp_path / "home")
    names: list[str] = []

    def submit(name: str) -> Any:
        names.append(name)
        assert (home.secrets / f"{name}.shard").stat().st_mode & 0o077 == 0
        return lambda: read_shard(home, name, Pseudonyms(home.key_file))

    expected = run(whole, cohort)
    report = run(home, cohort, submit=submit)
    assert report.counts == expected.counts
    assert files(home.root) == files(whole.root)
    assert len(names) == 1
    assert "SECRET" not in names[0]
    assert [path.name for path in home.secrets.iterdir() if "shards" in path.name] == []


def test_only_a_shard_of_this_home_is_read(tmp_path: Path) -> None:
    home = Home(tmp_path)
    pseudonyms = Pseudonyms(home.key_file)
    with pytest.raises(MedmlError, match="is not the name of a shard"):
        read_shard(home, "../../etc/passwd", pseudonyms)
    with pytest.raises(MedmlError, match="there is no such shard in this home"):
        read_shard(home, ".shards.01234567-1-2-89abcdef.tmp/0", pseudonyms)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_dask_workers_read_the_shards(cohort: Path, tmp_path: Path) -> None:
    results = {}
    for name in ("local", "dask"):
        home = tmp_path / name
        (home / "secrets").mkdir(parents=True, mode=0o700)
        (home / "secrets" / "pseudonym.key").touch(mode=0o600)
        (home / "secrets" / "pseudonym.key").write_bytes(bytes(32))
        command = [sys.executable, "-m", "pipelines.cli", "--home", str(home), "ingest", str(cohort), "--json"]
        command += ["--set", f"runner={name}", "--set", "collection=c"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
        assert done.returncode == 1, done.stdout + done.stderr  # one file is refused
        results[name] = json.loads(done.stdout.splitlines()[-1])
    assert results["dask"]["counts"] == results["local"]["counts"]
    assert results["dask"]["counts"]["scans"] == 5
    assert files(tmp_path / "dask") == files(tmp_path / "local")
    database = (tmp_path / "dask" / "prefect" / "prefect.db").read_bytes()
    assert b"SECRET" not in database
    assert b"read shard" in database
