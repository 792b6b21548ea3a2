"""The test split is read after everything is chosen: training ends with the test scans out of reach."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from held_server import held_server

ROOT = Path(__file__).resolve().parents[2]
EXPERIMENT = """
name: spots
task: classify
dataset: {name: spots, select: {collection: spots}, test_fraction: 0.3}
budget: {minutes: 0.5, epochs: 2}
plan: {steps_per_epoch: 4, batch: 4, network: resnet18, network_options: {widen_factor: 0.0625}, class_weights: null}
"""
# Loaded by every process of a command: notes which voxels are opened, and when a package gets its name.
WATCH = """
import os
import sys

LOG = os.open(os.environ["MEDML_TEST_LOG"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)


def note(event, arguments):
    path = str(arguments[0] if event == "open" else arguments[1] if event == "os.rename" else "")
    if event == "open" and path.endswith(".nii.gz") and "/scans/" in path:
        who = "child" if "medml.training" in " ".join(sys.orig_argv) else "flow"
        os.write(LOG, f"read {who} {path.split('/')[-2]}\\n".encode())
    if event == "os.rename" and path.endswith("/package"):
        os.write(LOG, b"frozen - -\\n")


sys.addaudithook(note)
"""
FROZEN = ["frozen", "-", "-"]


@dataclass(frozen=True)
class Place:
    """Ids of the test scans, and what two trainings by one command read: without these scans, and with them."""

    test: frozenset[str]
    without: list[list[str]]
    refused: subprocess.CompletedProcess[str]
    trained: dict[str, Any]
    whole: list[list[str]]


def write_cohort(folder: Path, patients: int = 20) -> None:
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


def medml(home: Path, *arguments: str, log: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a verb as a user would, watched if there is a log."""
    environment = dict(os.environ)
    if log is not None:
        environment |= {"PYTHONPATH": f"{home.parent / 'watch'}{os.pathsep}{ROOT}", "MEDML_TEST_LOG": str(log)}
    command = [sys.executable, "-m", "pipelines.cli", "--home", str(home), *arguments, "--json"]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, env=environment)


def last_line(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stdout + done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


def noted(log: Path) -> list[list[str]]:
    return [line.split() for line in log.read_text().splitlines()]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Train twice: first with the test scans moved away, then with them back."""
    folder = tmp_path_factory.mktemp("split")
    home, experiment = folder / "home", folder / "spots.yaml"
    write_cohort(folder / "cohort")
    (folder / "watch").mkdir()
    (folder / "watch" / "sitecustomize.py").write_text(WATCH)
    experiment.write_text(EXPERIMENT)
    with held_server(home):
        last_line(medml(home, "ingest", str(folder / "cohort" / "cohort.csv"), "--collection", "spots"))
        chosen = ("--task", "classify", "--select", "collection=spots", "--test-fraction", "0.3")
        last_line(medml(home, "dataset", "spots", *chosen))
        dataset = json.loads(next((home / "datasets" / "spots").glob("*.json")).read_text())
        test = {scan for case in dataset["cases"] if case["case_id"] in dataset["test"] for scan in case["scans"]}
        for scan in test:
            (home / "scans" / scan[:2] / scan).rename(folder / scan)
        refused = medml(home, "train", str(experiment), log=folder / "without.log")
        for scan in test:
            shutil.move(folder / scan, home / "scans" / scan[:2] / scan)
        again = folder / "again.yaml"
        again.write_text(EXPERIMENT.replace("name: spots", "name: again", 1))
        trained = last_line(medml(home, "train", str(again), log=folder / "whole.log"))
    return Place(frozenset(test), noted(folder / "without.log"), refused, trained, noted(folder / "whole.log"))


def read_by(who: str, lines: list[list[str]]) -> set[str]:
    return {scan for what, reader, scan in lines if (what, reader) == ("read", who)}


def test_training_reaches_its_package_with_the_test_scans_moved_away(place: Place) -> None:
    assert len(place.test) == 6
    assert place.without.count(FROZEN) == 1
    assert len(read_by("child", place.without)) == 14
    assert not read_by("child", place.without) & place.test


def test_without_a_test_nothing_is_registered(place: Place) -> None:
    assert place.refused.returncode == 1
    said = " ".join((place.refused.stdout + place.refused.stderr).split())
    assert "none of the 6 test cases of dataset spots could be scored, so nothing is registered" in said


def test_the_first_look_at_a_test_scan_comes_after_the_package_is_frozen(place: Place) -> None:
    looks = [number for number, line in enumerate(place.whole) if line[2] in place.test]
    assert place.whole.count(FROZEN) == 1
    assert min(looks) > place.whole.index(FROZEN)
    assert {place.whole[number][1] for number in looks} == {"flow"}
    assert place.trained["counts"]["test cases"] == 6
