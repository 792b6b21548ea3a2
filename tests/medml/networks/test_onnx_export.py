"""ONNX files give the scores of torch, for any batch; what cannot be exported is said by name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from medml.errors import MedmlError
from medml.networks import onnx_export
from medml.networks.build import build_network
from medml.networks.ensemble import Ensemble
from medml.networks.onnx_export import example_images, export_onnx
from medml.networks.package import Package, load_package
from medml.records.calibration import Calibration
from medml.records.plan import Plan

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

NARROW = {"widen_factor": 0.125}
STAGES = {"filters": (4, 8, 16), "strides": (1, 2, 2)}
SMALL = {"channels": (4, 8), "strides": (2,), "num_res_units": 0}
NETWORKS = [
    pytest.param({"network": "unet", "network_options": SMALL}, id="unet-3d"),
    pytest.param({"network": "dynunet", "network_options": STAGES, "tta_flips": (0,)}, id="dynunet-3d-mirrored"),
    pytest.param({"dims": 2, "patch": (16, 16, 1), "network_options": SMALL}, id="unet-2d"),
    pytest.param({"task": "classify", "network_options": NARROW}, id="resnet-3d"),
]
SLOW = [
    {"network": "segresnet"},
    {"network": "segresnet_ds"},
    {"network": "residual_unet", "network_options": STAGES},
    {"network": "unetr"},
    {"network": "swinunetr", "patch": (64, 32, 32)},
    {"task": "classify", "network": "densenet121", "size": (32, 32, 32)},
    {"task": "classify", "network": "resnet50"},
    {"task": "classify", "network": "seresnet50", "size": (64, 64, 1), "dims": 2},
    {"task": "classify", "network": "efficientnet-b0", "size": (64, 64, 1), "dims": 2},
    {"task": "classify", "network": "vit"},
    {"task": "classify", "network": "slice_sequence"},
]


def packed(network: nn.Module, plan: Plan, *others: nn.Module) -> Package:
    return Package(
        folder=Path(),
        name="n",
        version="1",
        plan=plan,
        labels=plan.labels,
        calibration=Calibration(),
        sources={},
        environment={},
        digest="d" * 64,
        network=network.eval(),
        others=others,
    )


def ask(path: Path, image: torch.Tensor) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    scores: np.ndarray = session.run(["scores"], {"image": image.numpy()})[0]
    return scores


@pytest.mark.parametrize(
    "changes",
    [*NETWORKS, *(pytest.param(each, id=each["network"], marks=pytest.mark.slow) for each in SLOW)],
)
def test_scores_agree(make_plan: Callable[..., Plan], tmp_path: Path, changes: dict[str, Any]) -> None:
    plan = make_plan(**changes)
    torch.manual_seed(0)
    package = packed(build_network(plan), plan)
    path, parity = export_onnx(package, tmp_path / "out")
    assert sorted(file.name for file in path.parent.iterdir()) == ["model.onnx", "model.onnx.json"]
    written = json.loads((tmp_path / "out" / "model.onnx.json").read_text())
    assert written["largest_difference"] == parity.largest_difference
    assert set(parity.largest_difference) == {"noise", "body"}
    assert max(parity.largest_difference.values()) <= 1e-3
    assert parity.package == "d" * 64
    image = example_images(plan)["noise"][:1].repeat(5, *[1] * (plan.dims + 1))
    module = Ensemble(
        package.members, flips=plan.tta_flips, per_voxel=plan.task == "segment", multi_label=plan.multi_label
    )
    with torch.inference_mode():
        expected = module.eval()(image).numpy()
    np.testing.assert_allclose(ask(path, image), expected, atol=1e-3)


def test_an_ensemble_is_one_file(make_plan: Callable[..., Plan], pack: Any, tmp_path: Path) -> None:
    plan = make_plan(dims=2, patch=(16, 16, 1), network_options=SMALL)
    torch.manual_seed(0)
    members = [build_network(plan) for _ in range(2)]
    path, parity = export_onnx(load_package(pack(members, plan)), tmp_path / "out")
    assert (parity.members, parity.views) == (2, 1)
    image = example_images(plan)["body"]
    with torch.inference_mode():
        expected = sum(torch.softmax(member.eval()(image), dim=1) for member in members) / 2
    found = torch.softmax(torch.from_numpy(ask(path, image)), dim=1)
    torch.testing.assert_close(found, torch.as_tensor(expected), atol=1e-5, rtol=0)


def test_nothing_is_reported_to_the_maker_of_the_runtime() -> None:
    program = (
        "import os, sys; from medml.networks import onnx_export; assert 'onnxruntime' not in sys.modules; "
        "onnx_export._require_libraries(); print(os.environ['ORT_DISABLE_TELEMETRY'])"
    )
    environment = {key: value for key, value in os.environ.items() if key != "ORT_DISABLE_TELEMETRY"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"


def test_scores_that_differ_leave_nothing_behind(
    make_plan: Callable[..., Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(dims=2, patch=(16, 16, 1), network_options=SMALL)
    monkeypatch.setattr(onnx_export, "TOLERANCE", -1.0)
    with pytest.raises(MedmlError, match=r"unet: scores of the ONNX file differ by .* from torch's, at most -1"):
        export_onnx(packed(build_network(plan), plan), tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_network_that_cannot_be_exported_is_said_by_name(make_plan: Callable[..., Plan], tmp_path: Path) -> None:
    class Fickle(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return image if float(image.sum()) > 0 else -image

    with pytest.raises(MedmlError, match=r"unet cannot be exported to ONNX: .*; use the bundle"):
        export_onnx(packed(Fickle(), make_plan(dims=2, patch=(16, 16, 1))), tmp_path / "out")


def test_without_the_libraries_the_extra_is_named(
    make_plan: Callable[..., Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_export, "LIBRARIES", ("a_library_that_is_not",))
    with pytest.raises(MedmlError, match=r"needs a_library_that_is_not, which is not installed; pip install"):
        export_onnx(packed(nn.Identity(), make_plan()), tmp_path / "out")
