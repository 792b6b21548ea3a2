"""Every flow on small phantoms, on a CPU: what a user types, from scans to results and back."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from held_server import held_server

ROOT = Path(__file__).resolve().parents[2]
EXPERIMENT = """
name: tiny
task: segment
dataset: {name: tiny, select: {collection: tiny}, test_fraction: 0.4}
budget: {minutes: 0.5, epochs: 2}
plan: {steps_per_epoch: 10}
"""


def write_cohort(folder: Path, patients: int = 30) -> None:
    """Bright balls in noise, one NIfTI for each patient, with its mask; 16x16x8 voxels of 2x2x3 mm."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(np.arange(16), np.arange(16), np.arange(8), indexing="ij"))
    affine = np.diag([-2.0, -2.0, 3.0, 1.0])
    rows = [["subject_id", "image", "mask", "label", "sex", "age"]]
    for n in range(patients):
        centre = generator.uniform([5, 5, 3], [11, 11, 5])[:, None, None, None]
        mask = (np.square(grid - centre).sum(0) < 10).astype(np.uint8)
        image = generator.normal(0, 20, mask.shape) + 200 * mask
        nib.save(nib.Nifti1Image(image.astype(np.float32), affine), folder / f"scan{n:02d}.nii.gz")
        nib.save(nib.Nifti1Image(mask, affine), folder / f"mask{n:02d}.nii.gz")
        rows.append([f"SECRET-{n:02d}", f"scan{n:02d}.nii.gz", f"mask{n:02d}.nii.gz", "ball", "FM"[n % 2], str(40 + n)])
    with (folder / "cohort.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def command(home: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "pipelines.cli", "--home", str(home), *arguments, "--json"]


def medml(home: Path, *arguments: str, code: int = 0) -> dict[str, Any]:
    """Run a verb as a user would; return its line of JSON."""
    result = subprocess.run(command(home, *arguments), capture_output=True, text=True, cwd=ROOT, check=False)
    assert result.returncode == code, result.stdout + result.stderr
    return dict(json.loads(result.stdout.splitlines()[-1]))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("flows")
    write_cohort(place / "cohort")
    (place / "tiny.yaml").write_text(EXPERIMENT)
    return place


@pytest.fixture(scope="module")
def home(place: Path) -> Iterator[Path]:
    """Return a home with the cohort ingested and one model trained."""
    home = place / "home"
    ingested = medml(home, "ingest", str(place / "cohort" / "cohort.csv"), "--collection", "tiny")
    assert ingested["counts"]["labelled"] == 30
    with held_server(home):
        trained = medml(home, "train", str(place / "tiny.yaml"))
        assert trained["model"] == "tiny/1"
        assert trained["summary"]["alias"] == "champion"
        yield home


def test_training_leaves_a_report_a_package_and_figures_with_intervals(home: Path) -> None:
    report = home / "reports" / "tiny-v1"
    assert (report / "report.html").stat().st_size > 10_000
    summary = json.loads((report / "summary.json").read_text())
    assert set(summary) == {"model", "dataset", "test_digest", "split", "n", "metrics"}
    metrics = summary["metrics"]
    assert summary["split"] == "test"
    assert metrics["dice_mean_low"] <= metrics["dice_mean"] <= metrics["dice_mean_high"]
    assert not list((home / "runs").iterdir())


def test_export_writes_a_dataset_for_other_tools_once(place: Path, home: Path) -> None:
    out = place / "Dataset001_tiny"
    first = medml(home, "export", "tiny", "-o", str(out), "--layout", "nnunet")
    assert first["counts"]["cases"] == 30
    assert json.loads((out / "dataset.json").read_text())["labels"] == {"background": 0, "label_1": 1}
    assert not any("SECRET" in str(path) or "SECRET" in path.read_text("latin-1") for path in out.rglob("*.*"))
    assert medml(home, "export", "tiny", "-o", str(out), "--layout", "nnunet")["counts"] == first["counts"]
    refused = subprocess.run(
        command(home, "export", "tiny", "-o", str(out), "--layout", "bids"), capture_output=True, text=True, cwd=ROOT
    )
    assert refused.returncode == 2
    assert "holds something else already" in refused.stderr


def test_predict_returns_masks_on_the_source_grid_and_a_rerun_does_nothing(place: Path, home: Path) -> None:
    new = place / "new"
    new.mkdir()
    source = nib.load(place / "cohort" / "scan03.nii.gz")
    nib.save(source, new / "first.nii.gz")
    (new / "broken.nii.gz").write_bytes(b"\x1f\x8b no scan")
    out = place / "out"
    first = medml(home, "predict", "tiny@champion", str(new), "-o", str(out), code=1)
    assert first["counts"]["done"] == 1
    assert first["counts"]["refused"] == 1
    rows = {row["source"]: row for row in json.loads((out / "ledger.json").read_text())}
    assert rows["broken.nii.gz"]["status"] == "refused"
    mask = nib.load(out / rows["first.nii.gz"]["mask"])
    assert mask.shape == source.shape
    assert np.allclose(mask.affine, source.affine)
    times = {path: path.stat().st_mtime_ns for path in (out / "masks").iterdir()}
    again = medml(home, "predict", "tiny@champion", str(new), "-o", str(out), code=1)
    assert again["counts"]["skipped"] == 1
    assert {path: path.stat().st_mtime_ns for path in (out / "masks").iterdir()} == times


@pytest.mark.slow
def test_killed_batch_goes_on_and_ends_as_an_unbroken_one(place: Path, home: Path) -> None:
    scans = place / "many"
    scans.mkdir()
    for path in (place / "cohort").glob("scan*0*.nii.gz"):
        (scans / path.name).write_bytes(path.read_bytes())
    whole, broken = place / "whole", place / "broken"
    assert medml(home, "predict", "tiny", str(scans), "-o", str(whole))["counts"]["done"] == 12
    process = subprocess.Popen(
        command(home, "predict", "tiny", str(scans), "-o", str(broken)), cwd=ROOT, stdout=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while len(list(broken.glob("masks/*.nii.gz"))) < 3:
        assert time.monotonic() < deadline, "no mask within two minutes"
        assert process.poll() is None, "the batch ended before it could be killed"
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    counts = medml(home, "predict", "tiny", str(scans), "-o", str(broken))["counts"]
    assert counts["done"] + counts["skipped"] == 12
    masks = {path.name: path.read_bytes() for path in (whole / "masks").iterdir()}
    assert {path.name: path.read_bytes() for path in (broken / "masks").iterdir()} == masks
    assert len(masks) == 12
    results = [
        {row["source"]: row["result"] | {"seconds": 0} for row in json.loads((out / "ledger.json").read_text())}
        for out in (whole, broken)
    ]
    assert results[0] == results[1]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_batch_on_a_dask_cluster_gives_what_one_process_gives(place: Path, home: Path) -> None:
    alone, cluster = place / "alone", place / "cluster"
    scans = place / "two"
    scans.mkdir()
    for name in ("scan03.nii.gz", "scan04.nii.gz"):
        (scans / name).write_bytes((place / "cohort" / name).read_bytes())
    medml(home, "predict", "tiny", str(scans), "-o", str(alone))
    found = medml(home, "predict", "tiny", str(scans), "-o", str(cluster), "--runner", "dask", "--workers", "2")
    assert found["counts"]["done"] == 2
    masks = {path.name: path.read_bytes() for path in (alone / "masks").iterdir()}
    assert {path.name: path.read_bytes() for path in (cluster / "masks").iterdir()} == masks


def test_a_scan_is_explained(place: Path, home: Path) -> None:
    scan = sorted(path.name for path in (home / "scans").glob("*/*"))[0]
    explained = medml(home, "explain", "tiny", scan, "--method", "gradcam")
    page = Path(explained["outputs"]["explanation"])
    assert "Layer by layer" in page.read_text(encoding="utf-8")
    assert explained["summary"]["gradcam"] in ("believable", "not believable")


def test_second_training_is_the_challenger_and_the_gate_answers(place: Path, home: Path) -> None:
    trained = medml(home, "train", str(place / "tiny.yaml"), "--set", "plan.seed=1")
    assert trained["summary"]["alias"] == "challenger"
    promoted = subprocess.run(command(home, "promote", "tiny"), capture_output=True, text=True, cwd=ROOT, check=False)
    assert promoted.returncode in (0, 1), promoted.stderr
    verdict = json.loads(promoted.stdout.splitlines()[-1])
    assert verdict["ok"] is (promoted.returncode == 0)
    assert set(verdict["summary"].values()) <= {"pass", "FAIL"}


def test_killed_training_resumes_in_the_same_mlflow_run(place: Path, home: Path) -> None:
    import sqlite3

    settings = ("--set", "budget.epochs=4", "--set", "plan.seed=7")
    process = subprocess.Popen(
        command(home, "train", str(place / "tiny.yaml"), *settings), cwd=ROOT, stdout=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while not (epochs := list((home / "runs").glob("*/epochs.jsonl"))) or not epochs[0].read_text().count("\n"):
        assert time.monotonic() < deadline, "no epoch within two minutes"
        assert process.poll() is None, "the training ended before it could be killed"
        time.sleep(0.05)
    run_id = json.loads((epochs[0].parent / "mlflow.json").read_text())["run_id"]
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    finished = medml(home, "train", str(place / "tiny.yaml"), *settings)
    assert finished["summary"]["mlflow_run"] == run_id
    with sqlite3.connect(home / "mlflow.db") as database:
        query = "select step, count(*) from metrics where run_uuid = ? and key = 'train_loss' group by step"
        counts = dict(database.execute(query, (run_id,)).fetchall())
    assert len(counts) == 4
    assert set(counts.values()) == {1}


def test_wrong_names_exit_with_2_and_list_what_there_is(home: Path, place: Path) -> None:
    result = subprocess.run(
        command(home, "predict", "nobody", str(place / "cohort")), capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert result.returncode == 2
    assert "tiny" in result.stderr


def test_status_and_verify_see_the_whole_home(home: Path) -> None:
    assert medml(home, "status")["counts"]["scans"] == 30
    assert medml(home, "verify")["ok"] is True


def test_no_identity_reaches_mlflow_prefect_logs_or_reports(home: Path) -> None:
    found = []
    for path in home.rglob("*"):
        private = home / "secrets" in path.parents or path.name.startswith("ingest-")
        if path.is_file() and not private and b"SECRET-" in path.read_bytes():
            found.append(path.relative_to(home))
    assert not found


def test_backup_put_back_elsewhere_verifies_the_same_and_holds_the_champion(home: Path, place: Path) -> None:
    from medml.networks.package import load_package
    from medml.records.home import Home
    from medml.registry import models
    from medml.registry.tracking import Tracker

    medml(home, "backup", str(place / "backup"))
    new = place / "elsewhere" / "home"
    restored = subprocess.run(
        [sys.executable, "-m", "pipelines.cli", "restore", str(place / "backup"), str(new), "--json"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert restored.returncode == 0, restored.stderr
    assert medml(new, "verify") == medml(home, "verify")
    version = models.resolve(Tracker.of(Home(new)), "tiny@champion")
    assert version.package_path.is_relative_to(new)
    assert load_package(version.package_path).digest


def test_forgotten_patient_leaves_no_trace_and_what_used_the_scan_is_marked(home: Path, place: Path) -> None:
    """The last test of the file: datasets, models and batches of the home have all used the patient."""
    from medml.records.home import Home
    from medml.registry import models
    from medml.registry.tracking import Tracker

    shown = subprocess.run(
        command(home, "forget", "--ids", "-"), input="SECRET-03\n", capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert json.loads(shown.stdout.splitlines()[-1])["counts"]["scan folders"] >= 1
    scan = next(path for path in (home / "scans").glob("*/*/scan.json") if _is_patient(path, home, "SECRET-03"))
    record = json.loads(scan.read_text())
    done = subprocess.run(
        command(home, "forget", "--ids", "-", "--yes"), input="SECRET-03\n", capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout + done.stderr
    names = [record[key].encode() for key in ("scan_id", "patient", "study", "group", "content")]
    places = [home, *(place / name for name in ("out", "whole", "broken") if (place / name).exists())]
    left = [
        str(path.relative_to(place))
        for folder in places
        for path in folder.rglob("*")
        if path.is_file() and any(name in path.read_bytes() or name.decode() in str(path) for name in names)
    ]
    assert left == []
    assert medml(home, "verify")["ok"] is True
    assert medml(home, "status")["counts"]["scans"] == 29
    versions = models.all_versions(Tracker.of(Home(home)))
    assert versions
    assert all("were erased on request" in version.tags["forgotten"] for version in versions)
    refused = subprocess.run(
        command(home, "train", str(place / "tiny.yaml"), "--set", "plan.seed=9"),
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert refused.returncode == 2
    assert "1 of its 30 cases were erased on request" in refused.stderr


def _is_patient(scan: Path, home: Path, patient: str) -> bool:
    from medml.records.home import Home
    from pipelines.forget import pseudonyms_of

    return json.loads(scan.read_text())["patient"] in pseudonyms_of(Home(home), patient, None)
