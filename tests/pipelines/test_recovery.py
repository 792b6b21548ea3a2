"""`kill -9` of server, worker and flow processes while studies arrive: nothing is lost, doubled, or left unsaid."""

from __future__ import annotations

import os
import random
import signal
import time
import urllib.error
from pathlib import Path

import nibabel
import numpy as np
import psutil
import pytest
from up_running import SAID_WHEN_READY, Running, seen

from medml.store.catalogue import Catalogue
from medml.store.database import open_database
from medml.store.leases import Leases

FLOW = """
import time
from prefect import flow
from pipelines.ingest import ingest
from pipelines.tasks import device_slot

@flow(name="take in", persist_result=False)
def take_in(source: str) -> None:
    with device_slot("cpu"):
        time.sleep(2)
        ingest(source, "inbox")
"""
SCHEDULES = "triggers: [{name: study-complete, flow: take in, quiet_seconds: 1}]\n"
PARTS = ("Prefect server", "process that serves the flows", "flow", "MLflow server")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "take_in_flow.py").write_text(FLOW)
    (tmp_path / "schedules.yaml").write_text(SCHEDULES)
    return tmp_path


@pytest.mark.timeout(1800)
def test_three_kills_lose_and_double_nothing(folder: Path) -> None:
    # A tracking server elsewhere: none is started, which saves its processor time.
    survive(Running(folder, "take_in_flow:take_in", MLFLOW_TRACKING_URI="http://127.0.0.1:9"), kills=3)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_twenty_kills_lose_and_double_nothing(folder: Path) -> None:
    survive(Running(folder, "take_in_flow:take_in"), kills=20)


def survive(running: Running, *, kills: int) -> None:
    chance = random.Random(7)
    try:
        assert seen(lambda: running.said(SAID_WHEN_READY), within=900)
        for number in range(kills):
            drop(running.home.inbox, number)
            time.sleep(chance.uniform(0, 12))
            kill(running, PARTS[number % len(PARTS)])
        assert seen(lambda: settled(running, kills), within=900, every=3), running.output.read_text()
        assert ingested(running) == kills
        assert Leases(open_database(running.home.catalogue_url)).held() == []
        assert {run["state_type"] for run in running.runs()} <= {"COMPLETED", "CRASHED"}
    finally:
        running.end()
    assert "Traceback" not in running.output.read_text()


def drop(inbox: Path, number: int) -> None:
    """Put one study of one phantom into the inbox; each has voxels of its own."""
    inbox.mkdir(parents=True, exist_ok=True)
    staged = inbox / f".study{number}"
    staged.mkdir()
    voxels = np.random.default_rng(number).normal(0, 100, (16, 16, 8)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([2.0, 2.0, 3.0, 1.0])), staged / "scan.nii.gz")
    staged.rename(inbox / f"study{number}")


def kill(running: Running, what: str) -> None:
    """Kill one part without a word; a flow process if there is one now, else the one that serves them."""
    name = "process that serves the flows" if what == "flow" else what
    part = seen(lambda: running.part(name) if running.part(name).alive else None, within=120)
    flows = [process for process in psutil.Process(part.pid).children() if what == "flow" and _runs_a_flow(process)]
    os.kill(flows[0].pid if flows else part.pid, signal.SIGKILL)


def _runs_a_flow(process: psutil.Process) -> bool:
    try:
        return "prefect" in " ".join(process.cmdline())
    except psutil.Error:  # it has just ended
        return False


def ingested(running: Running) -> int:
    scans = Catalogue(open_database(running.home.catalogue_url)).scans(collection="inbox")
    assert len({scan.scan_id for scan in scans}) == len(scans)
    return len(scans)


def settled(running: Running, wanted: int) -> bool:
    """Say whether all that was dropped is in, and no run is planned or under way any more."""
    try:
        left = running.runs("SCHEDULED", "PENDING", "RUNNING", "PAUSED", "CANCELLING")
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False
    return not left and ingested(running) == wanted
