from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from medml.errors import ConfigError
from medml.networks.build import build_network, network_shapes, run_network
from medml.networks.segmenters import halvings
from medml.records.plan import Plan

PlanMaker = Callable[..., Plan]


@pytest.mark.parametrize("network", ["dynunet", "segresnet", "unet"])
@pytest.mark.parametrize(("dims", "patch"), [(3, (16, 16, 8)), (3, (24, 16, 8)), (2, (32, 32, 1))])
def test_segmenters_score_every_voxel(
    make_plan: PlanMaker, network: str, dims: int, patch: tuple[int, int, int]
) -> None:
    options: dict[str, Any] = {"blocks_down": (1, 1, 1), "blocks_up": (1, 1)} if network == "segresnet" else {}
    plan = make_plan(network=network, dims=dims, patch=patch, network_options=options, labels={0: "a", 1: "b", 2: "c"})
    scores = run_network(build_network(plan).eval(), torch.zeros(1, 1, *patch), plan)
    assert scores.shape == (1, 3, *patch)


@pytest.mark.parametrize(
    ("network", "dims", "size"),
    [
        ("resnet18", 3, (16, 16, 16)),
        ("resnet34", 2, (28, 28, 1)),
        ("resnet50", 2, (28, 28, 1)),
        ("densenet121", 2, (64, 64, 1)),
        ("efficientnet-b0", 2, (64, 64, 1)),
        ("vit", 2, (28, 28, 1)),
        ("vit", 3, (28, 28, 28)),
    ],
)
def test_classifiers_score_every_class(
    make_plan: PlanMaker, network: str, dims: int, size: tuple[int, int, int]
) -> None:
    plan = make_plan(task="classify", network=network, dims=dims, size=size, channels=("r", "g", "b"))
    scores = run_network(build_network(plan).eval(), torch.zeros(2, 3, *size), plan)
    assert scores.shape == (2, 2)


def test_the_small_stem_keeps_the_resolution_of_small_images(make_plan: PlanMaker) -> None:
    stem = {"conv1_t_size": 3, "conv1_t_stride": 1, "no_max_pool": True}
    network = build_network(make_plan(task="classify", dims=2, size=(28, 28, 1), network_options=stem))
    assert network.conv1.kernel_size == (3, 3)
    assert network.no_max_pool


def test_deep_supervision_gives_one_map_per_head_while_training(make_plan: PlanMaker) -> None:
    options = {"deep_supervision": True, "deep_supr_num": 1, "filters": (4, 8, 16), "strides": (1, 2, 2)}
    plan = make_plan(network="dynunet", network_options=options)
    network = build_network(plan)
    assert run_network(network.train(), torch.zeros(1, 1, 16, 16, 16), plan).shape == (1, 2, 2, 16, 16, 16)
    assert run_network(network.eval(), torch.zeros(1, 1, 16, 16, 16), plan).shape == (1, 2, 16, 16, 16)


def test_a_plan_from_json_builds_the_same_network(make_plan: PlanMaker) -> None:
    plan = make_plan(
        network="dynunet", network_options={"filters": (4, 8, 16), "strides": ((1, 1, 1),) + ((2, 2, 2),) * 2}
    )
    again = Plan.model_validate_json(plan.model_dump_json())
    assert network_shapes(again) == network_shapes(plan)
    assert {n: tuple(v.shape) for n, v in build_network(plan).state_dict().items()} == network_shapes(plan)


def test_axes_are_halved_while_they_are_long_and_not_already_coarse() -> None:
    # 64 x 64 in plane, 16 slices four times as thick: the slices wait until the plane has caught up.
    assert halvings((64, 64, 16), (1.0, 1.0, 4.0)) == [(2, 2, 1), (2, 2, 1), (2, 2, 2), (2, 2, 2)]
    assert halvings((12, 10, 7), None) == [(2, 2, 1)]
    assert halvings((6, 6, 6), None) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"network": "resnet18"}, r"'resnet18' cannot segment; choose one of dynunet, .*segresnet, .*unet"),
        ({"task": "classify", "network": "x"}, r"choose one of densenet121, efficientnet-b0, .*resnet18, .*vit"),
        ({"network_options": {"colour": 3}}, "colour is not an option; it takes channels, strides"),
        ({"network_options": {"in_channels": 3}}, "in_channels is not an option"),
        ({"network": "segresnet", "network_options": {"init_filters": 12}}, "do not fit together: num_channels"),
        ({"network": "dynunet", "network_options": {"strides": (1, 2)}}, "do not fit together: length of kernel_size"),
        ({"network": "unet", "network_options": {"channels": "many"}}, "do not fit together"),
        ({"network": "dynunet", "patch": (18, 16, 16), "network_options": {"strides": (1, 2, 2)}}, "18x16x16 voxels"),
        (
            {
                "task": "classify",
                "network": "densenet121",
                "dims": 2,
                "size": (28, 28, 1),
                "network_options": {"block_config": (6, 12, 24, 16)},
            },
            "input of 28x28 voxels",
        ),
        ({"patch": None}, r"no patch, which a network to segment needs; set plan.patch"),
        ({"task": "classify", "size": None}, r"no size, which a network to classify needs"),
        ({"labels": {n: str(n) for n in range(300)}}, "300 labels; at most 256"),
        (
            {"network": "segresnet", "patch": (20, 20, 20), "network_options": {"blocks_down": (1, 1, 1, 1)}},
            "strides do not divide the patch|cannot take an input",
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_the_choices(
    make_plan: PlanMaker, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        build_network(make_plan(**changes))
