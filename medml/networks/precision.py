"""Which device and which arithmetic to use; the same answer every time on the same machine."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path
from typing import Literal

import torch

from medml.errors import ConfigError

Precision = Literal["fp32", "bf16", "fp16"]
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})


def choose_device(requested: str = "auto") -> torch.device:
    """Return the torch device for "auto", "cpu", "cuda" or "cuda:N".

    Raises
    ------
    ConfigError
        If the device is not a known one or is not there.
    """
    if requested == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(requested)
    except RuntimeError:
        raise ConfigError(f"device {requested!r} is unknown; use auto, cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device {requested!r} is not supported; use auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"device {requested!r} is not there, {torch.cuda.device_count()} CUDA devices were found; use auto or cpu"
        )
    return device


def choose_devices(requested: str = "auto") -> tuple[str, ...]:
    """Return the devices that several trainings can share out among them: with "auto" every GPU there is."""
    if requested == "auto" and torch.cuda.is_available():
        return tuple(f"cuda:{number}" for number in range(torch.cuda.device_count()))
    return (str(choose_device(requested)),)


def choose_precision(device: torch.device, requested: str = "auto") -> Precision:
    """Return the arithmetic for "auto": bf16 where the hardware has it, else fp16 on CUDA and fp32 on the CPU.

    The CPU is asked for its instructions rather than timed: on CPUs with native bf16 it was at least 1.7 times faster
    in every measurement, and a timing could change its mind between two runs that must give the same result.
    """
    if requested in ("fp32", "bf16", "fp16"):
        return requested  # type: ignore[return-value]
    if requested != "auto":
        raise ConfigError(f"precision {requested!r} is unknown; use auto, fp32, bf16 or fp16")
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if cpu_has_bf16() else "fp32"


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """Return the context in which a network runs in ``precision``."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=DTYPES[precision])


@cache
def cpu_has_bf16() -> bool:
    """Say whether this CPU multiplies bf16 natively (AVX512_BF16 or AMX); asked once per process."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False  # not Linux: fp32 is always right
    return any(BF16_FLAGS & set(line.split()) for line in text.splitlines() if line.startswith("flags"))
