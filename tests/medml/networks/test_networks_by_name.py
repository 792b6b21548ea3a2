"""Every network by its name: it learns, its weights come back from a package, and what it cannot take it says."""

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

from medml.errors import ConfigError
from medml.io.nifti import read_nifti, write_nifti
from medml.networks.build import NETWORKS, build_network, network_arguments, network_script, run_network
from medml.networks.classifiers import slice_axis
from medml.networks.package import load_package
from medml.networks.predictor import Predictor
from medml.networks.residual_unet import ResidualEncoderUNet
from medml.networks.slice_sequence import SliceSequence
from medml.records.plan import Plan
from medml.records.scan import Volume

PlanMaker = Callable[..., Plan]

# Name to the narrowest options it is still itself with, and an input (I, J, K).
SEGMENTERS: dict[str, tuple[dict[str, Any], tuple[int, int, int]]] = {
    "dynunet": ({"filters": (2, 4, 4)}, (8, 8, 8)),
    "folded_unet": ({"filters": (2, 4, 4)}, (16, 16, 16)),
    "residual_unet": ({"filters": (2, 4, 4), "blocks": (1, 2, 1)}, (8, 8, 8)),
    "segresnet": ({"init_filters": 8}, (8, 8, 8)),
    "segresnet_ds": ({"init_filters": 8}, (8, 8, 8)),
    "swinunetr": ({"feature_size": 12, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 1, 1)}, (64, 32, 32)),
    "unet": ({"channels": (2, 4)}, (8, 8, 8)),
    "unetr": ({"feature_size": 2, "hidden_size": 12, "mlp_dim": 12, "num_heads": 1}, (16, 16, 16)),
}
WIDTH = {"widen_factor": 0.0625}
CLASSIFIERS: dict[str, tuple[dict[str, Any], tuple[int, int, int]]] = {
    "densenet121": ({"init_features": 4, "growth_rate": 2, "block_config": (1, 1)}, (8, 8, 8)),
    "efficientnet-b0": ({}, (32, 32, 32)),
    "resnet18": (WIDTH, (16, 16, 16)),
    "resnet34": (WIDTH, (16, 16, 16)),
    "resnet50": (WIDTH, (16, 16, 16)),
    "seresnet50": ({"layers": (1, 1, 1, 1), "inplanes": 16}, (16, 16, 16)),
    "slice_sequence": (WIDTH | {"hidden": 4}, (8, 8, 6)),
    "vit": ({"hidden_size": 12, "mlp_dim": 12, "num_layers": 1}, (8, 8, 8)),
}


def named(make_plan: PlanMaker, task: str, name: str, dims: int) -> Plan:
    options, shape = (SEGMENTERS if task == "segment" else CLASSIFIERS)[name]
    shape = (*shape[:2], shape[2] if dims == 3 else 1)
    return make_plan(
        task=task,
        network=name,
        dims=dims,
        network_options=options,
        patch=shape if task == "segment" else None,
        size=shape if task == "classify" else None,
        channels=("one", "two"),
    )


def test_every_name_is_tried_here() -> None:
    larger = {f"efficientnet-b{size}" for size in range(1, 8)}
    assert set(NETWORKS["segment"]) == set(SEGMENTERS)
    assert set(NETWORKS["classify"]) - larger == set(CLASSIFIERS)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", SEGMENTERS)
def test_a_segmenter_learns_and_comes_back_from_its_package(
    make_plan: PlanMaker, pack: Callable[..., Path], name: str, dims: int
) -> None:
    learn_and_return(named(make_plan, "segment", name, dims), pack)


# EfficientNet has 11 million weights in 3D, which takes too long here.
@pytest.mark.parametrize(
    ("name", "dims"),
    [(name, dims) for name in CLASSIFIERS for dims in (2, 3) if (name, dims) != ("efficientnet-b0", 3)],
)
def test_a_classifier_learns_and_comes_back_from_its_package(
    make_plan: PlanMaker, pack: Callable[..., Path], name: str, dims: int
) -> None:
    if (name, dims) == ("slice_sequence", 2):
        with pytest.raises(ConfigError, match="slice_sequence reads 3D images, the plan has 2D ones"):
            build_network(named(make_plan, "classify", name, dims))
        return
    learn_and_return(named(make_plan, "classify", name, dims), pack)


def learn_and_return(plan: Plan, pack: Callable[..., Path]) -> None:
    """Take one step, which moves every weight that has a gradient, and read the package."""
    torch.manual_seed(0)
    network = build_network(plan)
    before = {name: value.clone() for name, value in network.named_parameters()}
    images = torch.randn(2, 2, *(plan.patch or plan.size or ()))
    scores = run_network(network.train(), images, plan)
    assert scores.shape[:2] == (2, 2)
    scores.float().logsumexp(1).sum().backward()
    torch.optim.SGD(network.parameters(), lr=1e-4).step()
    moved = sum(not torch.equal(value, before[name]) for name, value in network.named_parameters())
    assert moved > len(before) / 2
    package = load_package(pack(network, plan))
    written = torch.load(package.folder / "models" / "model.pt", weights_only=True)
    assert written.keys() == network.state_dict().keys()
    with torch.no_grad():
        ours, theirs = (run_network(each.eval(), images, plan) for each in (network, package.network))
    assert torch.equal(ours, theirs)


def test_in_the_residual_unet_only_the_way_down_is_residual() -> None:
    network = ResidualEncoderUNet(3, 1, 2, filters=(4, 8), strides=(1, 2), blocks=(1, 3))
    kinds = [type(module).__name__ for module in network.encoder.modules()]
    assert kinds.count("UnetResBlock") == 4
    assert not any(type(module).__name__ == "UnetResBlock" for module in network.decoder.modules())
    with pytest.raises(ValueError, match="2 filters, 2 strides and 3 blocks: expected one of each"):
        ResidualEncoderUNet(3, 1, 2, filters=(4, 8), strides=(1, 2), blocks=(1, 1, 1))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_slice_sequence_reads_slices_along_its_axis(axis: int) -> None:
    torch.manual_seed(0)
    network = SliceSequence(1, 3, axis=axis, widen_factor=0.0625, hidden=4).eval()
    images = torch.randn(2, 1, 16, 16, 16)
    turned = images.movedim(axis + 2, 2)
    along_first = SliceSequence(1, 3, axis=0, widen_factor=0.0625, hidden=4).eval()
    along_first.load_state_dict(network.state_dict())
    torch.testing.assert_close(network(images), along_first(turned))


def test_the_mean_of_slices_and_what_a_slice_sequence_refuses() -> None:
    network = SliceSequence(1, 2, widen_factor=0.0625, hidden=4, pooling="mean").eval()
    assert network.weight is None
    assert network(torch.zeros(1, 1, 16, 16, 3)).shape == (1, 2)
    with pytest.raises(ValueError, match="axis 3: slices lie along axis 0, 1 or 2"):
        SliceSequence(1, 2, axis=3)
    with pytest.raises(ValueError, match="pooling 'max': expected attention or mean"):
        SliceSequence(1, 2, pooling="max")  # type: ignore[arg-type]


def test_slices_lie_along_the_coarsest_axis_or_the_shortest(make_plan: PlanMaker) -> None:
    classify = {"task": "classify", "network": "slice_sequence"}
    assert slice_axis(make_plan(**classify, spacing_mm=(4.0, 0.8, 0.8), size=(20, 96, 96))) == 0
    assert slice_axis(make_plan(**classify, spacing_mm=None, size=(96, 20, 96))) == 1
    large = network_arguments(make_plan(**classify, spacing_mm=(0.8, 0.8, 4.0), size=(96, 96, 20)))
    small = network_arguments(make_plan(**classify, spacing_mm=None, size=(28, 28, 6)))
    assert ("conv1_t_stride" in large, small["conv1_t_stride"]) == (False, 1)


def test_densenet_leaves_out_blocks_that_small_images_have_no_room_for(make_plan: PlanMaker) -> None:
    def blocks(*size: int) -> tuple[int, ...]:
        plan = make_plan(task="classify", network="densenet121", dims=3 if size[2] > 1 else 2, size=size)
        arguments: tuple[int, ...] = network_arguments(plan)["block_config"]
        return arguments

    # 28 → 14 → 7 after the stem, → 3 → 1 after two pools; 64 → 16 → 8 → 4 → 2.
    assert blocks(28, 28, 1) == (6, 12, 24)
    assert blocks(64, 64, 1) == (6, 12, 24, 16)
    assert blocks(64, 64, 20) == (6, 12, 24)
    build_network(make_plan(task="classify", network="densenet121", dims=2, size=(28, 28, 1)))


@pytest.mark.parametrize(
    ("network", "patch", "words"),
    [
        ("swinunetr", (40, 56, 40), r"multiples of 32, found 40x56x40 voxels; set plan.patch to \[64, 64, 64\]"),
        ("unetr", (40, 56, 40), r"multiples of 16, found 40x56x40 voxels; set plan.patch to \[48, 64, 48\]"),
    ],
)
def test_sides_that_a_network_cannot_halve_are_refused_with_ones_it_can(
    make_plan: PlanMaker, network: str, patch: tuple[int, int, int], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        build_network(make_plan(network=network, patch=patch))


def test_networks_of_our_own_need_torch_and_monai_alone(make_plan: PlanMaker) -> None:
    scripts = {name: recipe.script for family in NETWORKS.values() for name, recipe in family.items() if recipe.script}
    assert set(scripts) == {"folded_unet", "residual_unet", "slice_sequence"}
    for name, script in scripts.items():
        assert script.stem == name
        assert "medml" not in script.read_text(encoding="utf-8")
    assert network_script(make_plan()) is None


def test_a_bundle_of_our_own_network_runs_under_monai_alone(
    make_plan: PlanMaker, pack: Callable[..., Path], blob: Volume, tmp_path: Path
) -> None:
    pytest.importorskip("fire", reason="the command line of monai.bundle needs fire")
    plan = make_plan(
        task="classify", network="slice_sequence", network_options=WIDTH, spacing_mm=(1.0, 1.0, 4.0), size=(24, 24, 8)
    )
    torch.manual_seed(0)
    package = pack(build_network(plan), plan)
    assert "medml." not in (package / "configs" / "inference.json").read_text()
    image = tmp_path / "scan.nii.gz"
    write_nifti(image, blob)
    ours = Predictor(package).predict(read_nifti(image)[0]).probabilities
    command = [sys.executable, "-W", "ignore", "-m", "monai.bundle", "run", "--config_file", "configs/inference.json"]
    command += ["--input", str(image), "--output_dir", str(tmp_path / "out")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, check=False, cwd=package, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    theirs = json.loads((tmp_path / "out" / "probabilities.json").read_text())
    np.testing.assert_allclose(ours, list(theirs.values()), atol=1e-4)
