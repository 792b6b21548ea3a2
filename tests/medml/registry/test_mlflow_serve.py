"""``mlflow models serve`` on a loopback port answers with what the predictor says; nothing is unpickled."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medml.io.nifti import read_nifti, write_nifti
from medml.networks.build import build_network
from medml.networks.package import write_package
from medml.networks.predictor import Predictor
from medml.records.calibration import Calibration
from medml.records.home import Home
from medml.records.plan import Plan
from medml.records.scan import Volume
from medml.registry import models
from medml.registry.tracking import Tracker

pytestmark = pytest.mark.slow

START_SECONDS = 240
SMALL = {"channels": (8, 16), "strides": (2,), "num_res_units": 0}
NARROW = {"widen_factor": 0.125}


def registered(tmp_path: Path, plan: Plan, members: int) -> models.ModelVersion:
    torch.manual_seed(0)
    networks = [build_network(plan) for _ in range(members)]
    package = write_package(
        tmp_path / "package", networks, plan, plan.labels, Calibration(temperature=1.5), "# C\n", {}
    )
    tracker = Tracker.of(Home(tmp_path / "home"))
    run_id = tracker.start_or_resume(experiment="organ", run_name="organ", run_key="k")
    return models.register(tracker, run_id, "organ", package, None)


@contextmanager
def server(version: models.ModelVersion, log: Path) -> Iterator[str]:
    """Serve a version as docs/packages.md says, and stop it with everything it started."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(version.package_path.parents[1])]
    command += ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    offline = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
    # MLflow starts uvicorn by its name: found where the environment is activated.
    offline["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with log.open("w") as out:
        child = subprocess.Popen(
            command, stdout=out, stderr=out, env={**os.environ, **offline}, start_new_session=True, cwd=log.parent
        )
    address = f"http://127.0.0.1:{port}"
    try:
        _wait(f"{address}/ping", child, log)
        yield address
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGTERM)
        child.wait(timeout=30)


def _wait(address: str, child: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        assert child.poll() is None, log.read_text()[-2000:]
        try:
            with urllib.request.urlopen(address, timeout=5) as answer:
                assert answer.status == 200
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.5)
    raise AssertionError(f"no answer within {START_SECONDS} s: {log.read_text()[-2000:]}")


def ask(address: str, image: str) -> dict[str, Any]:
    body = json.dumps({"dataframe_split": {"columns": ["image"], "data": [[image]]}}).encode()
    request = urllib.request.Request(f"{address}/invocations", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as answer:
        (row,) = json.loads(answer.read())["predictions"]
    return dict(row)


@pytest.mark.timeout(600)
def test_an_ensemble_segmenter_answers_with_its_mask(
    tmp_path: Path, make_plan: Callable[..., Plan], blob: Volume
) -> None:
    plan = make_plan(network_options=SMALL, spacing_mm=(1.5, 1.5, 2.0))
    version = registered(tmp_path, plan, members=2)
    image, mask = tmp_path / "image.nii.gz", tmp_path / "mask.nii.gz"
    write_nifti(image, blob)
    with server(version, tmp_path / "serve.log") as address:
        mask.write_bytes(base64.b64decode(ask(address, base64.b64encode(image.read_bytes()).decode())["mask"]))
        with pytest.raises(urllib.error.HTTPError) as refused:
            ask(address, "/etc/passwd")
    assert refused.value.code >= 400
    answered, _ = read_nifti(mask)
    expected = Predictor(version.package_path).predict(read_nifti(image)[0]).mask
    np.testing.assert_array_equal(answered.voxels[0], expected)
    np.testing.assert_allclose(answered.affine, blob.affine, atol=1e-4)


@pytest.mark.timeout(600)
def test_a_classifier_answers_with_its_probabilities(
    tmp_path: Path, make_plan: Callable[..., Plan], blob: Volume
) -> None:
    plan = make_plan(task="classify", network_options=NARROW, spacing_mm=(2.0, 2.0, 2.0))
    version = registered(tmp_path, plan, members=1)
    image = tmp_path / "image.nii.gz"
    write_nifti(image, blob)
    with server(version, tmp_path / "serve.log") as address:
        found = ask(address, base64.b64encode(image.read_bytes()).decode())
    expected = Predictor(version.package_path).predict(read_nifti(image)[0]).probabilities
    assert expected is not None
    assert list(found) == ["p_absent", "p_present"]
    np.testing.assert_allclose(list(found.values()), expected, atol=1e-6)
