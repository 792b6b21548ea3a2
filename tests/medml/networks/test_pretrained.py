"""First weights from elsewhere: what fits is taken and counted, too little is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from medml.errors import NotFound, Refusal
from medml.networks.build import build_network
from medml.networks.pretrained import begin_with
from medml.records.plan import Plan

PlanMaker = Callable[..., Plan]
SMALL = {"channels": (4, 8), "strides": (2,), "num_res_units": 0}
THREE = {0: "background", 1: "organ", 2: "lesion"}


def test_another_last_layer_stays_random_and_is_said(
    make_plan: PlanMaker, pack: Callable[..., Path], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    plan = make_plan(network_options=SMALL)
    package = pack(build_network(plan), plan)
    given = torch.load(package / "models" / "model.pt", weights_only=True)
    wanted = make_plan(network_options=SMALL, labels=THREE)
    network = build_network(wanted)
    taken = begin_with(network, package, wanted)
    found = network.state_dict()
    same = {key for key in found if found[key].shape == given[key].shape and torch.equal(found[key], given[key])}
    assert taken.taken == len(same) == taken.expected - len(taken.other_shape)
    assert taken.other_shape
    assert (taken.missing, taken.unused) == ((), ())
    assert f"{taken.taken} of {taken.expected} tensors" in taken.describe()
    assert f"{len(taken.other_shape)} in another shape" in taken.describe()


def test_all_of_the_same_network_is_taken_from_a_bare_file_with_a_prefix(make_plan: PlanMaker, tmp_path: Path) -> None:
    plan = make_plan(network_options=SMALL)
    state = {f"module.{key}": torch.full_like(value, 0.5) for key, value in build_network(plan).state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "w.pt")
    network = build_network(plan)
    taken = begin_with(network, tmp_path / "w.pt", plan)
    assert (taken.taken, taken.share) == (taken.expected, 1.0)
    assert all(bool((value == 0.5).all()) for value in network.state_dict().values())


def test_weights_of_another_network_are_refused_with_the_share(make_plan: PlanMaker, tmp_path: Path) -> None:
    torch.save(build_network(make_plan(network_options=SMALL)).state_dict(), tmp_path / "w.pt")
    wide = make_plan(network_options=SMALL | {"channels": (16, 32)})
    network = build_network(wide)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    words = (
        r"w\.pt: too little of it fits the plan's unet: \d+ of \d+ tensors \(\d+% of the numbers\) taken.*at least 50%"
    )
    with pytest.raises(Refusal, match=words) as refused:
        begin_with(network, tmp_path / "w.pt", wide)
    assert refused.value.code == "weights_share"
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_no_weights_are_refused(make_plan: PlanMaker, tmp_path: Path) -> None:
    plan = make_plan(network_options=SMALL)
    with pytest.raises(NotFound, match="0 files of weights in its models folder"):
        begin_with(build_network(plan), tmp_path, plan)
