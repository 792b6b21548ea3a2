from __future__ import annotations

from pathlib import Path

import pytest
import torch

from medml.errors import ConfigError
from medml.networks import precision
from medml.networks.precision import autocast, choose_device, choose_precision, cpu_has_bf16

CPU = torch.device("cpu")


def test_what_is_asked_for_is_taken() -> None:
    assert choose_device("cpu") == CPU
    assert [choose_precision(CPU, name) for name in ("fp32", "bf16", "fp16")] == ["fp32", "bf16", "fp16"]


@pytest.mark.parametrize(
    ("flags", "expected"), [("fpu avx512_bf16", "bf16"), ("fpu amx_bf16", "bf16"), ("avx2", "fp32")]
)
def test_auto_follows_the_instructions_of_the_cpu(
    flags: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listing = tmp_path / "cpuinfo"
    listing.write_text(f"processor\t: 0\nflags\t\t: {flags}\n")
    monkeypatch.setattr(precision, "Path", lambda _: listing)
    cpu_has_bf16.cache_clear()
    try:
        assert choose_precision(CPU) == expected
    finally:
        cpu_has_bf16.cache_clear()


def test_without_a_list_of_instructions_it_is_fp32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "Path", lambda _: tmp_path / "absent")
    cpu_has_bf16.cache_clear()
    try:
        assert choose_precision(CPU) == "fp32"
    finally:
        cpu_has_bf16.cache_clear()


def test_autocast_runs_convolutions_in_bf16() -> None:
    layer = torch.nn.Conv2d(1, 1, 3)
    with autocast(CPU, "bf16"):
        assert layer(torch.zeros(1, 1, 8, 8)).dtype == torch.bfloat16
    with autocast(CPU, "fp32"):
        assert layer(torch.zeros(1, 1, 8, 8)).dtype == torch.float32


@pytest.mark.parametrize(
    ("requested", "words"),
    [("gpu", "'gpu' is unknown; use auto"), ("meta", "'meta' is not supported"), ("cuda:99", "'cuda:99' is not there")],
)
def test_a_device_that_is_not_there_is_refused(requested: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        choose_device(requested)


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(ConfigError, match="'fp64' is unknown; use auto, fp32"):
        choose_precision(CPU, "fp64")
