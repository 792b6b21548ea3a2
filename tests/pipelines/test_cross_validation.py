"""Several folds make one model, settings are tuned, and a home that moved goes on: what a user types."""

from __future__ import annotations

import csv
import getpass
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch

from medml.networks.package import load_package
from medml.registry.relocate import PLACES
from pipelines.configs import read_experiment_file

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
EXPERIMENT = """
name: spots
task: classify
dataset: {name: spots, select: {collection: spots}, test_fraction: 0.25, folds: 2}
budget: {minutes: 0.5, epochs: 2}
folds: all
plan: {steps_per_epoch: 4, batch: 4, network: resnet18, network_options: {widen_factor: 0.0625}, class_weights: null}
tune:
  space:
    learning_rate: {low: 0.0001, high: 0.01, log: true}
    network_options.widen_factor: {choices: [0.0625, oops]}
"""


def write_cohort(folder: Path, patients: int = 24) -> None:
    """Noise of 12x12x8 voxels, one NIfTI for each patient; every second one has a bright spot."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    rows = [["subject_id", "image", "label"]]
    for n in range(patients):
        voxels = generator.normal(0, 20, (12, 12, 8)).astype(np.float32)
        voxels[3:8, 3:8, 2:6] += 100 * (n % 2)
        nib.save(nib.Nifti1Image(voxels, np.diag([-1.0, -1.0, 1.0, 1.0])), folder / f"scan{n:02d}.nii.gz")
        rows.append([f"subject-{n:02d}", f"scan{n:02d}.nii.gz", ("plain", "spot")[n % 2]])
    with (folder / "cohort.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def command(home: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "pipelines.cli", "--home", str(home), *arguments, "--json"]


def medml(home: Path, *arguments: str) -> dict[str, Any]:
    result = subprocess.run(command(home, *arguments), capture_output=True, text=True, cwd=ROOT, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return dict(json.loads(result.stdout.splitlines()[-1]))


def runs(home: Path) -> dict[str, dict[str, str]]:
    """Return the tags of every MLflow run by its name."""
    with sqlite3.connect(home / "mlflow.db") as database:
        names = dict(database.execute("select run_uuid, name from runs").fetchall())
        tags: dict[str, dict[str, str]] = {name: {} for name in names.values()}
        for run, key, value in database.execute("select run_uuid, key, value from tags"):
            tags[names[run]][key] = value
        for run, status in database.execute("select run_uuid, status from runs"):
            tags[names[run]] |= {"id": run, "status": status}
    return tags


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train two folds, killed once on the way and taken up again."""
    place = tmp_path_factory.mktemp("folds")
    home = place / "home"
    write_cohort(place / "cohort")
    (place / "spots.yaml").write_text(EXPERIMENT)
    medml(home, "ingest", str(place / "cohort" / "cohort.csv"), "--collection", "spots")
    process = subprocess.Popen(
        command(home, "train", str(place / "spots.yaml")),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 240
    while not list((home / "runs").glob("spots-*/fold-0-seed-0/package/digests.json")):
        assert time.monotonic() < deadline, "no first fold within four minutes"
        assert process.poll() is None, "the training ended before it could be killed"
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    (first,) = (home / "runs").glob("spots-*/fold-0-seed-0/package/models/model.pt")
    shutil.copy(first, place / "first_fold.pt")
    trained = medml(home, "train", str(place / "spots.yaml"))
    (place / "trained.json").write_text(json.dumps(trained))
    return place


def test_folds_make_one_package_whose_members_were_each_trained_once(place: Path) -> None:
    trained = json.loads((place / "trained.json").read_text())
    assert trained["counts"]["trainings"] == 2
    package = load_package(Path(trained["outputs"]["package"]))
    assert len(package.members) == 2
    assert package.sources["folds"] == "0,1"
    before_the_kill = torch.load(place / "first_fold.pt", weights_only=True)
    assert all(torch.equal(value, before_the_kill[name]) for name, value in package.network.state_dict().items())


def test_the_cross_validation_scores_each_case_once_and_never_a_test_case(place: Path) -> None:
    report = place / "home" / "reports" / "spots-v1"
    crossed = pd.read_csv(report / "cross_validation.csv")
    tested = pd.read_csv(report / "cases.csv")
    assert crossed["case_id"].is_unique
    assert not set(crossed["patient"]) & set(tested["patient"])
    assert len(crossed) + len(tested) == 24
    assert set(crossed["validation_fold"]) == {0, 1}
    spread = json.loads((report / "spread.json").read_text())
    assert [(run["fold"], run["seed"]) for run in spread["runs"]] == [(0, 0), (1, 0)]
    assert spread["deviations"]["auroc"]["seeds"] is None
    page = (report / "report.html").read_text(encoding="utf-8")
    assert "Run-to-run spread" in page
    assert "fold 1, seed 0" in page


def test_each_fold_is_a_nested_run_under_the_model(place: Path) -> None:
    found = runs(place / "home")
    whole = found["spots (2 folds, 2 trainings)"]
    assert whole["status"] == "FINISHED"
    assert whole["mlflow.note.content"].startswith("# spots")
    for name in ("fold 0, seed 0", "fold 1, seed 0"):
        assert found[name]["mlflow.parentRunId"] == whole["id"]
        assert found[name]["status"] == "FINISHED"


def test_tuning_goes_on_where_it_stopped_and_a_failed_trial_ends_nothing(place: Path) -> None:
    home, best = place / "home", place / "best.yaml"
    first = medml(home, "tune", str(place / "spots.yaml"), "--trials", "2", "--workers", "2", "-o", str(best))
    assert first["counts"]["finished"] + first["counts"]["failed"] + first["counts"]["given up early"] == 2
    again = medml(home, "tune", str(place / "spots.yaml"), "--trials", "6", "--workers", "2", "-o", str(best))
    assert sum(again["counts"].values()) == 6
    assert again["summary"]["mlflow_run"] == first["summary"]["mlflow_run"]
    tuned, asked = read_experiment_file(best), read_experiment_file(place / "spots.yaml")
    assert tuned.plan["learning_rate"] == again["summary"]["plan"]["learning_rate"]
    assert (tuned.name, tuned.dataset, tuned.folds) == (asked.name, asked.dataset, asked.folds)
    found = runs(home)
    assert found["trial 0"]["mlflow.parentRunId"] == found["tune spots"]["id"]
    with sqlite3.connect(home / "mlflow.db") as database:
        query = "select count(*) from metrics where key like 'test_%' and run_uuid in (select run_uuid from tags where "
        assert database.execute(query + "key = 'medml.kind' and value in ('trial', 'tuning'))").fetchone() == (0,)


def test_mlflow_names_no_place_no_user_and_no_machine(place: Path) -> None:
    home = place / "home"
    words = re.compile("|".join(rf"\b{re.escape(word)}\b" for word in (str(place)[1:], socket.gethostname())))
    user = getpass.getuser()
    found = []
    with sqlite3.connect(home / "mlflow.db") as database:
        for (table,) in database.execute("select name from sqlite_master where type = 'table'").fetchall():
            columns = [row[1] for row in database.execute(f"pragma table_info({table})")]
            kept = [column for column in columns if (table, column) not in PLACES]
            for row in database.execute(f"select {', '.join(kept)} from {table}"):
                texts = [value for value in row if isinstance(value, str)]
                found += [(table, text) for text in texts if user == text or words.search(text)]
    for file in (home / "mlartifacts").rglob("*"):
        if file.is_file():
            text = file.read_bytes().decode("latin-1")
            found += [(file.name, match[0]) for match in words.finditer(text)]
    assert not found


def test_a_moved_home_loads_its_champion(place: Path) -> None:
    moved = place / "moved"
    shutil.copytree(place / "home", moved, ignore=shutil.ignore_patterns("prefect"))
    new = place / "new"
    new.mkdir()
    shutil.copy(place / "cohort" / "scan03.nii.gz", new / "scan.nii.gz")
    assert medml(moved, "predict", "spots@champion", str(new), "-o", str(place / "out"))["counts"]["done"] == 1
    with sqlite3.connect(moved / "mlflow.db") as database:
        (location,) = database.execute("select artifact_location from logged_models").fetchone()
    assert "/moved/mlartifacts/" in location
