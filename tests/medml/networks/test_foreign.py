"""Weights from elsewhere: nothing in them runs, they fit or say why not, and nnU-Net's network computes the same."""

from __future__ import annotations

import importlib.util
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from medml.errors import ConfigError, NotFound, Refusal
from medml.networks import foreign
from medml.networks.build import build_network
from medml.networks.foreign import find_weights, fit_network, read_foreign
from medml.records.plan import Plan

SMALL = {"channels": (4, 8), "strides": (2,), "num_res_units": 0}
FILTERS, STRIDES = (4, 8, 16), ((1, 1, 1), (2, 2, 2), (1, 2, 2))
NNUNET = {"filters": FILTERS, "strides": STRIDES, "kernel_size": ((3, 3, 3),) * 3, "trans_bias": True}


class Payload:
    """What a harmful file does when it is unpickled: it makes a folder here."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.place),)


class Conv(nn.Module):
    """nnU-Net's block by its names: convolution with a bias, instance norm, leaky ReLU."""

    def __init__(self, before: int, after: int, stride: tuple[int, ...]) -> None:
        super().__init__()
        self.conv = nn.Conv3d(before, after, 3, stride, 1)
        self.norm = nn.InstanceNorm3d(after, affine=True)
        self.all_modules = nn.Sequential(self.conv, self.norm, nn.LeakyReLU(0.01))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.all_modules(x)


def stage(before: int, after: int, stride: tuple[int, ...]) -> nn.Module:
    held = nn.Module()
    held.convs = nn.Sequential(Conv(before, after, stride), Conv(after, after, (1, 1, 1)))
    return held


class PlainUNet(nn.Module):
    """A network with the layout and the names of nnU-Net's plain U-Net."""

    def __init__(self) -> None:
        super().__init__()
        before = (1, *FILTERS[:-1])
        self.encoder, self.decoder = nn.Module(), nn.Module()
        self.encoder.stages = nn.Sequential(
            *(nn.Sequential(stage(b, f, s)) for b, f, s in zip(before, FILTERS, STRIDES, strict=True))
        )
        ups = [(FILTERS[n], FILTERS[n - 1], STRIDES[n]) for n in (2, 1)]
        self.decoder.encoder = self.encoder
        self.decoder.transpconvs = nn.ModuleList(nn.ConvTranspose3d(b, a, s, s) for b, a, s in ups)
        self.decoder.stages = nn.ModuleList(stage(2 * a, a, (1, 1, 1)) for _, a, _ in ups)
        self.decoder.seg_layers = nn.ModuleList(nn.Conv3d(a, 2, 1) for _, a, _ in ups)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skips = []
        for part in self.encoder.stages:
            x = part[0].convs(x)
            skips.append(x)
        for up, part, skip in zip(self.decoder.transpconvs, self.decoder.stages, skips[-2::-1], strict=True):
            x = part.convs(torch.cat((up(x), skip), 1))
        return self.decoder.seg_layers[-1](x)


@pytest.fixture
def plan(make_plan: Callable[..., Plan]) -> Plan:
    return make_plan(network_options=SMALL)


def test_a_file_that_would_run_something_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    torch.save({"weight": Payload(tmp_path / "ran")}, tmp_path / "zip.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps({"state_dict": Payload(tmp_path / "ran")}, protocol=2))
    torch.save({"weight": Payload(tmp_path / "ran")}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    for name in ("zip.pt", "plain.pt", "old.pt"):
        with pytest.raises(Refusal, match=rf"{name}: not a plain file of tensors .*nothing in it was run") as refused:
            read_foreign(tmp_path / name)
        assert refused.value.code == "weights_format"
    assert not (tmp_path / "ran").exists()


def test_what_is_no_state_dict_is_refused_with_what_it_is(tmp_path: Path) -> None:
    torch.save([torch.ones(2)], tmp_path / "list.pt")
    torch.save({"epoch": 3, "weight": torch.ones(2)}, tmp_path / "mixed.pt")
    (tmp_path / "text.pt").write_text("no weights")
    with pytest.raises(Refusal, match="found a list, expected a state dict"):
        read_foreign(tmp_path / "list.pt")
    with pytest.raises(Refusal, match="1 of its 2 entries are tensors, expected a state dict, or a checkpoint"):
        read_foreign(tmp_path / "mixed.pt")
    with pytest.raises(Refusal, match=r"text.pt: not a plain file of tensors"):
        read_foreign(tmp_path / "text.pt")


def test_a_file_too_large_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"weight": torch.ones(2)}, tmp_path / "w.pt")
    monkeypatch.setattr(foreign, "MAX_BYTES", 100)
    with pytest.raises(Refusal, match=r"w.pt: \d+ bytes, at most 100 are read"):
        read_foreign(tmp_path / "w.pt")


def test_safetensors_need_their_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "w.safetensors").write_bytes(b"\0" * 16)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(Refusal, match="the package safetensors is not installed"):
        read_foreign(tmp_path / "w.safetensors")


def test_checkpoints_of_nnunet_monai_and_lightning_give_their_state_dict(tmp_path: Path) -> None:
    state = {"weight": torch.arange(2.0)}
    # nnU-Net keeps NumPy numbers and its arguments beside the weights.
    rest = {"_best_ema": np.float64(0.9), "logging": {"dice": [np.float32(0.5)]}, "init_args": {"fold": np.int64(0)}}
    for key in ("network_weights", "state_dict", "model"):
        torch.save({key: state, **rest}, tmp_path / "checkpoint.pth")
        found, nnunet = read_foreign(tmp_path / "checkpoint.pth")
        assert found.keys() == {"weight"}
        assert torch.equal(found["weight"], state["weight"])
        assert nnunet == (key == "network_weights")


def test_weights_are_found_in_bundles_and_folds(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    with pytest.raises(NotFound, match="0 files of weights in its models folder"):
        find_weights(tmp_path)
    (tmp_path / "models" / "best.pt").touch()
    assert find_weights(tmp_path).name == "best.pt"
    (tmp_path / "models" / "last.pt").touch()
    with pytest.raises(NotFound, match=r"2 files of weights .* name the file itself"):
        find_weights(tmp_path)
    (tmp_path / "models" / "model.pt").touch()
    assert find_weights(tmp_path).name == "model.pt"
    assert find_weights(tmp_path / "models" / "last.pt").name == "last.pt"


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "network."])
def test_prefixes_of_wrappers_are_taken_off(plan: Plan, prefix: str) -> None:
    state = build_network(plan).state_dict()
    assert next(iter(state)).startswith("model.")  # MONAI's UNet calls its own layers so
    fitted = fit_network({prefix + key: value for key, value in state.items()}, plan).state_dict()
    assert all(torch.equal(fitted[key], value) for key, value in state.items())


def test_shapes_that_differ_are_listed(plan: Plan) -> None:
    state = dict(build_network(plan).state_dict())
    first, *others = state
    state[first] = torch.ones(1, 2)
    del state[others[0]]
    state["extra"] = torch.ones(3)
    with pytest.raises(
        Refusal, match=rf"^2 of {len(others) + 1} entries do not fit the plan's unet, and 1 are not"
    ) as refused:
        fit_network(state, plan)
    text = str(refused.value)
    assert f"{first}: found (1, 2), expected (4, 1, 3, 3, 3)" in text
    assert f"{others[0]}: found nothing, expected" in text
    assert "extra: found (3,), expected nothing" in text
    assert refused.value.code == "weights_shapes"


def test_nnunets_network_computes_the_same_under_dynunets_names(make_plan: Callable[..., Plan]) -> None:
    torch.manual_seed(0)
    theirs = PlainUNet().eval()
    ours = fit_network(theirs.state_dict(), make_plan(network="dynunet", network_options=NNUNET, patch=(16, 16, 8)))
    image = torch.randn(1, 1, 8, 16, 16)
    with torch.no_grad():
        assert torch.allclose(ours(image), theirs(image), atol=1e-4)


def test_kernels_are_turned_to_the_axes_of_the_plan(make_plan: Callable[..., Plan]) -> None:
    torch.manual_seed(0)
    theirs = PlainUNet().eval()  # sees (z, y, x), and strides (1, 2, 2) where z stays
    turned = NNUNET | {"strides": tuple(stride[::-1] for stride in STRIDES)}
    plan = make_plan(network="dynunet", network_options=turned, patch=(16, 16, 8))
    ours = fit_network(theirs.state_dict(), plan, axes=(2, 1, 0))
    image = torch.randn(1, 1, 16, 16, 8)
    with torch.no_grad():
        expected = theirs(image.permute(0, 1, 4, 3, 2)).permute(0, 1, 4, 3, 2)
        assert torch.allclose(ours(image), expected, atol=1e-4)
    with pytest.raises(ConfigError, match=r"axes \(1, 0\): expected an order of \(0, 1, 2\)"):
        fit_network(theirs.state_dict(), plan, axes=(1, 0))
