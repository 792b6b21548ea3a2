"""The corpus: what ingest does with each case, judged by landmarks, values, reasons and planted secrets."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from corpus.all_cases import ALL
from corpus.judge import judge, judge_part
from corpus.planted import leaks, leaks_below
from corpus.source import Case, Source

from medml.catalogue.config import IngestConfig
from medml.catalogue.deidentify import deidentify
from medml.catalogue.ingest import ingest
from medml.config import validate
from medml.io.files import Pseudonyms
from medml.records.home import Home
from medml.records.ingest import IngestReport
from medml.store.catalogue import Catalogue
from medml.store.crosswalk import Crosswalk
from medml.store.database import open_database

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def empty_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a home whose databases are migrated; each case works in a copy."""
    home = Home(tmp_path_factory.mktemp("corpus") / "home")
    home.root.mkdir()
    database = open_database(home.catalogue_url)
    Catalogue(database)
    Crosswalk(home.crosswalk_url)
    Pseudonyms(home.key_file)
    return home.root


@pytest.mark.parametrize("case", ALL, ids=lambda case: case.id)
def test_case(
    case: Case,
    empty_home: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    source = Source(tmp_path / "source", case.id)
    expected = case.make(source)
    shutil.copytree(empty_home, tmp_path / "home")
    home = Home(tmp_path / "home")
    capfd.readouterr()
    caplog.clear()
    caplog.set_level(logging.DEBUG)
    report = _ingest(home.root, source.folder, **expected.config)
    out = capfd.readouterr()
    complaints = judge(source, expected, home.root, report, "\n".join([out.out, out.err, caplog.text]))
    assert not complaints, "\n".join(complaints)


AGAIN = (
    "reading-series_in_one_folder",
    "mixtures-mixed_echo",
    "geometry-gantry_tilted_by_15_degrees",
    "geometry-exact_copies",
    "multiframe-echoes",
    "annotations-seg_axial",
    "labels-nnunet",
    "labels-table",
    "robustness-truncated_pixels",
    "nifti-four_dimensions",
    "identities-capture_beside_ct",
)


@pytest.mark.parametrize("case", [case for case in ALL if case.id in AGAIN], ids=lambda case: case.id)
def test_a_second_ingest_changes_nothing(case: Case, empty_home: Path, tmp_path: Path) -> None:
    source = Source(tmp_path / "above" / "source", case.id)
    case.make(source)
    shutil.copytree(empty_home, tmp_path / "home")
    first = _ingest(tmp_path / "home", source.folder)
    before = _state(tmp_path / "home")
    again = _ingest(tmp_path / "home", source.folder)
    # Reached from the folder above, it still is the same.
    _ingest(tmp_path / "home", tmp_path / "above")
    assert _state(tmp_path / "home") == before
    assert (again.counts.scans, again.counts.files) == (first.counts.scans, first.counts.files)
    assert {o.code for o in again.outcomes if o.outcome == "accepted"} <= {"known", "known_annotation", "duplicate"}
    refused = [sorted(o.code for o in report.outcomes if o.outcome == "refused") for report in (first, again)]
    assert refused[0] == refused[1]


@pytest.mark.parametrize("group", ["reading", "multiframe", "values", "identities", "robustness"])
def test_deidentified_dicom_holds_no_secret(group: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """`medml deidentify`: from DICOM to DICOM by table E.1-1; the corpus' secrets are in none of what comes out."""
    tree, out, home = tmp_path / "tree", tmp_path / "out", Home(tmp_path / "home")
    for case in ALL:
        if case.group == group and "bomb" not in case.name:
            case.make(Source(tree / case.id, case.id, tmp_path / "outside" / case.id))
    home.root.mkdir()
    capfd.readouterr()
    report = deidentify(tree, out, home, Pseudonyms(home.key_file))
    told = capfd.readouterr()
    files = [path for path in out.rglob("*") if path.is_file()]
    assert len(files) > 10
    assert report.counts.files == sum(1 for path in tree.rglob("*") if path.is_symlink() or not path.is_dir())
    complaints = {f"secret in the copies: {leak}" for leak in leaks_below(out, skip=())}
    complaints |= {f"secret in the home: {leak}" for leak in leaks_below(home.root)}
    complaints |= {f"secret told: {leak}" for leak in leaks((told.out + told.err).encode(), paths=False)}
    assert not complaints, "\n".join(sorted(complaints))


def _ingest(home: Path, *sources: Path, **config: object) -> IngestReport:
    there = Home(home)
    values = {"collection": "corpus", "isolated": False, **config}
    return ingest(
        sources,
        there,
        Catalogue(open_database(there.catalogue_url)),
        Crosswalk(there.crosswalk_url),
        Pseudonyms(there.key_file),
        validate(values, IngestConfig, name="configuration"),
    )


def _state(home: Path) -> dict[str, tuple[int, bytes]]:
    files = [path for path in (home / "scans").rglob("*") if path.is_file()]
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


@pytest.mark.slow
def test_all_cases_in_one_tree_are_one_batch(tmp_path: Path) -> None:
    """The batch finishes; each case fares as it does alone; nothing leaks, nothing is written outside."""
    tree, home = tmp_path / "tree", tmp_path / "home"
    cases = [
        (source := Source(tree / case.id, case.id, tmp_path / "outside" / case.id), case.make(source)) for case in ALL
    ]
    before = sorted(tmp_path.rglob("*"))
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.cli", "--home", home, "ingest", tree, "--collection", "corpus", "--json"],
        capture_output=True,
        text=True,
        errors="replace",
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 1, done.stderr[-2000:]
    report = IngestReport.model_validate_json(next(home.glob("reports/ingest-*.json")).read_text())
    assert report.counts.files == sum(1 for path in tree.rglob("*") if path.is_symlink() or not path.is_dir())
    assert sorted(path for path in tmp_path.rglob("*") if not path.is_relative_to(home)) == before
    complaints = [f"secret in {leak}" for leak in leaks_below(home)]
    complaints += [f"secret told: {leak}" for leak in leaks((done.stdout + done.stderr).encode(), paths=False)]
    for source, expected in cases:
        if expected.config:
            continue
        complaints += [f"{source.name}: {text}" for text in judge_part(source, expected, home, report)]
    assert not complaints, "\n".join(complaints)


def test_the_corpus_is_as_large_as_promised() -> None:
    assert len(ALL) >= 120
    assert len({case.id for case in ALL}) == len(ALL)
    assert {case.id for case in ALL} >= set(AGAIN)
