"""A registered package, loaded and asked as ``mlflow models serve`` does it."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medml.errors import Refusal
from medml.io.nifti import read_nifti, write_nifti
from medml.networks.build import build_network
from medml.networks.package import write_package
from medml.networks.predictor import Predictor
from medml.records.calibration import Calibration
from medml.records.home import Home
from medml.records.plan import Plan
from medml.records.report import Evaluation, Summary
from medml.records.scan import Volume
from medml.registry import models
from medml.registry.serving_model import ServedPackage
from medml.registry.tracking import Tracker


@pytest.fixture
def served(tmp_path: Path, make_plan: Callable[..., Plan]) -> models.ModelVersion:
    options = {"channels": (8, 16), "strides": (2,), "num_res_units": 0}
    plan = make_plan(network_options=options, spacing_mm=(1.5, 1.5, 2.0))
    digests = {"dataset": "d" * 64}
    package = write_package(
        tmp_path / "package", build_network(plan), plan, plan.labels, Calibration(), "# Card\n", digests
    )
    summary = Summary(model="m", dataset="d", test_digest="e" * 64, split="test", n=1, metrics={})
    tracker = Tracker.of(Home(tmp_path / "home"))
    run_id = tracker.start_or_resume(experiment="organ", run_name="organ", run_key="k")
    return models.register(
        tracker, run_id, "organ", package, Evaluation(task="segment", summary=summary, labels=plan.labels)
    )


def test_mlflow_loads_the_package_from_code_and_answers_with_the_masks_of_the_predictor(
    served: models.ModelVersion, blob: Volume, tmp_path: Path
) -> None:
    from mlflow.pyfunc import load_model

    write_nifti(tmp_path / "image.nii.gz", blob)
    model = load_model(str(served.package_path.parents[1]))
    request = pd.DataFrame({"image": [base64.b64encode((tmp_path / "image.nii.gz").read_bytes()).decode()]})
    (text,) = model.predict(request)["mask"]
    (tmp_path / "mask.nii.gz").write_bytes(base64.b64decode(text))
    answered, _ = read_nifti(tmp_path / "mask.nii.gz")
    expected = Predictor(served.package_path).predict(read_nifti(tmp_path / "image.nii.gz")[0]).mask
    np.testing.assert_array_equal(answered.voxels[0], expected)


def test_an_image_that_is_not_base64_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="the image is not base64"):
        ServedPackage(tmp_path).predict(pd.DataFrame({"image": ["../../etc/passwd"]}))
