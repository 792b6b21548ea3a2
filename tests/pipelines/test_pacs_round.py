"""A department's round against a real Orthanc: found, pulled, selected, inferred, pushed back, and nothing twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest
import torch
from corpus.dicom import Stack
from corpus.source import Source
from pacs_server import Orthanc, need_orthanc

from medml.io.pacs.archive import Query
from medml.networks.build import build_network
from medml.records.batch import LedgerRow
from medml.records.home import Home
from pipelines.archives import load_pacs, open_archive
from pipelines.configs import read_plan_file
from pipelines.pacs import push_results
from pipelines.register import register_weights
from pipelines.requests import write_request
from pipelines.tasks import FlowFailed

ROOT = Path(__file__).resolve().parents[2]
PLAN = """
task: segment
dims: 3
modality: CT
channels: [CT]
labels: {0: background, 1: organ}
patch: [16, 16, 8]
normalisation: [{kind: range, low: -100, high: 300}]
network: unet
network_options: {channels: [4, 8], strides: [2], num_res_units: 0}
"""
SELECTION = """
models:
  - model: tiny@champion
    rule: {modality: [CT], slices: [10, 100], without_type: [LOCALIZER]}
"""


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    need_orthanc()
    pacs = Orthanc(tmp_path_factory.mktemp("pacs"))
    yield pacs
    pacs.kill()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, orthanc: Orthanc) -> Iterator[Path]:
    """A home with a tiny model, and the configurations of a PACS by both ways in."""
    place = tmp_path_factory.mktemp("round")
    home = Home(place / "home")
    for folder in ("home/secrets", "configs/pacs", "configs/selection"):
        (place / folder).mkdir(parents=True)
    home.secrets.chmod(0o700)
    (home.secrets / "ORTHANC_PASSWORD").write_text("secret\n")
    (home.secrets / "ORTHANC_PASSWORD").chmod(0o600)
    web = {"kind": "dicomweb", "url": f"http://127.0.0.1:{orthanc.web}/dicom-web", "user": "ana"}
    web |= {"password_env": "ORTHANC_PASSWORD", "queries": {"all_ct": {"modality": "CT", "dates": "any"}}}
    dicom = {"kind": "dicom", "host": "127.0.0.1", "port": orthanc.dicom, "called_aet": "ORTHANC", "attempts": 2}
    for name, values in (("web", web), ("dicom", dicom)):
        (place / "configs/pacs" / f"{name}.yaml").write_text(json.dumps(values))
    (place / "configs/selection/whole.yaml").write_text(SELECTION)
    (place / "plan.yaml").write_text(PLAN)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDML_HOME", str(home.root))
        patch.setenv("MEDML_CONFIGS", str(place / "configs"))
        for name in ("MLFLOW_TRACKING_URI", "MEDML_CATALOGUE_URL", "MEDML_CROSSWALK_URL", "MEDML_KEY_FILE"):
            patch.delenv(name, raising=False)
        torch.manual_seed(3)
        plan = read_plan_file(place / "plan.yaml")
        torch.save(build_network(plan).state_dict(), place / "w.pt")
        asked = {"weights": str(place / "w.pt"), "plan": plan.model_dump(mode="json"), "axes": None}
        register_weights.fn("tiny", write_request(home, "register", **asked))
        yield place


def fill(orthanc: Orthanc, folder: Path) -> str:
    """Store a study with a whole series and a localizer; return its UID."""
    Stack(Source(folder, "round")).write("s")
    scout = Stack(Source(folder, "round"), series=2)
    scout.slices = scout.slices[:1]
    for image in scout.slices:
        image.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    scout.write("scout")
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    orthanc.archive("get").send(paths)
    return str(pydicom.dcmread(paths[0]).StudyInstanceUID)


def medml(place: Path, *arguments: str, code: int = 0) -> tuple[dict[str, Any], str]:
    """Run a verb as a user would; return its line of JSON and all it printed."""
    command = [sys.executable, "-m", "pipelines.cli", "--home", str(place / "home"), *arguments, "--json"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, env=dict(os.environ))
    assert result.returncode == code, result.stdout + result.stderr
    return dict(json.loads(result.stdout.splitlines()[-1])), result.stdout + result.stderr


def delete_results(orthanc: Orthanc) -> None:
    """Remove what was pushed from the PACS, by its own interface."""
    login = {"Authorization": f"Basic {b64encode(b'ana:secret').decode()}"}

    def ask(path: str, method: str = "GET") -> Any:
        request = urllib.request.Request(f"http://127.0.0.1:{orthanc.web}{path}", headers=login, method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read())

    for series in ask("/series"):
        if ask(f"/series/{series}")["MainDicomTags"]["Modality"] != "CT":
            ask(f"/series/{series}", "DELETE")


def kinds(home: Home, pacs: str, study: str) -> dict[str, int]:
    """Return how many series of each kind a study has in the PACS, as a client finds them."""
    found: dict[str, int] = {}
    for series in open_archive(home, load_pacs(pacs)).find(Query(study_uid=study)):
        found[series.modality] = found.get(series.modality, 0) + 1
    return found


@pytest.mark.system
@pytest.mark.timeout(900)
def test_a_round_finds_pulls_infers_and_pushes_and_a_second_one_does_nothing(
    tmp_path: Path, orthanc: Orthanc, place: Path
) -> None:
    home = Home(place / "home")
    study = fill(orthanc, tmp_path / "src")
    assert kinds(home, "web", study) == kinds(home, "dicom", study) == {"CT": 2}

    arguments = ("pacs", "run", "web", "--query", "all_ct", "--selection", "whole", "--unreviewed", "--device", "cpu")
    first, said = medml(place, *arguments)
    counts = first["counts"]
    assert (counts["pulled"], counts["images"], counts["not_selected"]) == (2, 13, 1)
    assert counts.get("done", 0) + counts.get("needs_review", 0) == 1
    assert counts["sent"] >= 2
    folder = Path(first["outputs"]["predict tiny@champion ledger"]).parent
    rows = [LedgerRow.model_validate(row) for row in json.loads((folder / "ledger.json").read_text())]
    (passed,) = [row for row in rows if row.status == "not_selected"]
    assert "scout view, no volume" in passed.reason
    (done,) = [row for row in rows if row.status != "not_selected"]
    objects = [name for name in done.outputs if name.endswith(".dcm")]
    assert len(objects) == counts["sent"]
    after = kinds(home, "web", study)
    assert (after["CT"], after["SEG"], after["SR"]) == (2, 1, 1)
    assert kinds(home, "dicom", study) == after

    secrets = [study, str(pydicom.dcmread(next((tmp_path / "src").rglob("s/*"))).PatientID)]
    logs = "".join(path.read_text(errors="replace") for path in home.logs.rglob("*.log"))
    assert not any(secret in said + logs for secret in secrets)
    written = [path.stat().st_mtime_ns for path in sorted(folder.rglob("*.dcm"))]

    second, _ = medml(place, *arguments)
    again = {name: number for name, number in second["counts"].items() if number}
    assert (again["known"], again["skipped"]) == (2 + len(objects), 1)
    assert not set(again) & {"pulled", "images", "done", "needs_review", "sent", "failed"}
    assert written == [path.stat().st_mtime_ns for path in sorted(folder.rglob("*.dcm"))]
    assert kinds(home, "web", study) == after

    delete_results(orthanc)
    assert kinds(home, "dicom", study) == {"CT": 2}
    orthanc.kill()
    with pytest.raises(FlowFailed) as failed:
        push_results.fn("nowhere", folder.name, True)
    assert "pacs configuration 'nowhere' not found" in failed.value.details.read_text()
    down = push_results.fn("dicom", folder.name, True)
    assert (down.ok, down.counts["not_sent"]) == (False, len(objects))
    assert "failed 2 times at storing objects" in down.notes[0]
    orthanc.start()
    assert push_results.fn("dicom", folder.name, False).counts.get("held", 0) == (done.status == "needs_review")
    assert push_results.fn("dicom", folder.name, True).ok
    assert kinds(home, "dicom", study) == after
