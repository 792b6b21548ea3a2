"""Weights that were trained elsewhere: read without running anything of theirs, and fitted to a plan's network."""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from medml.errors import ConfigError, NotFound, Refusal
from medml.networks.build import build_network
from medml.records.plan import Plan

State = dict[str, torch.Tensor]

MAX_BYTES = 8 << 30
SHOWN = 3
SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".safetensors")
# Where a folder keeps its weights: a MONAI bundle's, ours, a fold of nnU-Net's.
PLACES = ("models/model.pt", "models/model.safetensors", "checkpoint_final.pth", "fold_0/checkpoint_final.pth")
# What checkpoints call their state dict: nnU-Net, then MONAI and Lightning.
KEYS = ("network_weights", "state_dict", "model", "network", "model_state_dict", "net")
PREFIXES = ("module.", "network.", "_orig_mod.", "model.", "net.")


def find_weights(source: Path) -> Path:
    """Return the file of weights that a path names: itself, or the one of a bundle or a folder of nnU-Net.

    Raises
    ------
    NotFound
        If the folder holds no weights, or several and none where they are looked for.
    """
    if source.is_file():
        return source
    for place in PLACES:
        if (source / place).is_file():
            return source / place
    found = sorted(path for path in (source / "models").glob("*") if path.suffix in SUFFIXES)
    if len(found) == 1:
        return found[0]
    raise NotFound(
        f"{source}: {len(found)} files of weights in its models folder, expected one, or one of {', '.join(PLACES)}; "
        "name the file itself"
    )


def read_foreign(path: Path) -> tuple[State, bool]:
    """Return the tensors of a checkpoint, and whether nnU-Net wrote it; nothing that the file holds is run.

    Raises
    ------
    Refusal
        ``weights_size`` if it is larger than 8 GiB; ``weights_format`` if it is no plain file of tensors.
    """
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise Refusal(
            "weights_size", f"{path.name}: {size} bytes, at most {MAX_BYTES} are read; export the weights alone"
        )
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    nnunet = "network_weights" in content
    inner = next((held for key in KEYS if isinstance(held := content.get(key), Mapping)), content)
    state = {str(key): value for key, value in inner.items() if isinstance(value, torch.Tensor)}
    if len(state) != len(inner) or not state:
        raise Refusal(
            "weights_format",
            f"{path.name}: {len(state)} of its {len(inner)} entries are tensors, expected a state dict, or a "
            f"checkpoint that holds one as {', '.join(KEYS)}",
        )
    return state, nnunet


def fit_network(state: Mapping[str, torch.Tensor], plan: Plan, *, axes: tuple[int, ...] | None = None) -> nn.Module:
    """Return the plan's network with foreign weights.

    Prefixes that wrappers add are taken off. Weights of nnU-Net's plain U-Net are given the names of DynUNet, which
    computes the same; the biases before its instance norms, which these norms undo, are left out.

    Parameters
    ----------
    axes : tuple of int
        For each of the network's spatial axes (I, J, K), the axis of the weights' kernels that runs along it. nnU-Net
        trains on (z, y, x): (2, 1, 0).

    Raises
    ------
    ConfigError
        If ``axes`` is no order of the plan's axes.
    Refusal
        ``weights_shapes`` if they do not fit; the text lists the first that differ.
    """
    network = build_network(plan)
    expected = network.state_dict()
    if axes is not None and sorted(axes) != list(range(plan.dims)):
        raise ConfigError(f"axes {axes}: expected an order of {tuple(range(plan.dims))}, as the plan has {plan.dims}D")
    plain = fitting_names(state, expected, axes=axes)
    _check(plain, expected, plan)
    network.load_state_dict(plain)
    return network.eval()


def fitting_names(
    state: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor], *, axes: tuple[int, ...] | None = None
) -> State:
    """Return foreign weights under a network's own names, as far as they are known; shapes are not looked at.

    Parameters
    ----------
    expected : mapping
        The network's state dict.
    axes : tuple of int
        As in `fit_network`.
    """
    plain = _nnunet_names(_without_prefix(state, expected))
    if axes is not None:
        plain = {key: _turned(value, axes) for key, value in plain.items()}
    return _with_aliases(plain, expected)


def _read_torch(path: Path) -> Mapping[str, object]:
    try:
        with _numpy_numbers():
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))
    except Exception as error:
        # torch raises UnpicklingError, RuntimeError, EOFError, … for what is not a plain file of tensors.
        raise Refusal(
            "weights_format",
            f"{path.name}: not a plain file of tensors ({type(error).__name__}); nothing in it was run. Save the state "
            "dict alone where the model was trained, with torch.save(network.state_dict(), …)",
        ) from None
    if not isinstance(content, Mapping):
        raise Refusal(
            "weights_format", f"{path.name}: found a {type(content).__name__}, expected a state dict of tensors"
        )
    return content


def _read_safetensors(path: Path) -> Mapping[str, object]:
    if importlib.util.find_spec("safetensors") is None:
        raise Refusal(
            "weights_format", f"{path.name}: the package safetensors is not installed; pip install safetensors"
        )
    read = importlib.import_module("safetensors.torch").load_file
    try:
        return dict(read(path))
    except Exception as error:
        raise Refusal("weights_format", f"{path.name}: not a safetensors file ({type(error).__name__})") from None


@contextmanager
def _numpy_numbers() -> Iterator[None]:
    """Let single NumPy numbers through, which nnU-Net keeps among its figures; they run nothing."""
    kinds = (np.float64, np.float32, np.int64, np.int32, np.bool_)
    numbers: list[Any] = [np.dtype, *(type(np.dtype(kind)) for kind in kinds)]
    scalar: Any = np.float64(0).__reduce__()[0]
    names = [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    with torch.serialization.safe_globals([*numbers, *names]):
        yield


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"PK"


def _without_prefix(state: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> State:
    """Take off what wrappers put before every name, one after another, until names are the network's."""
    plain = dict(state)
    while not plain.keys() & expected.keys():
        prefix = next((text for text in PREFIXES if all(key.startswith(text) for key in plain)), None)
        if prefix is None:
            break
        plain = {key.removeprefix(prefix): value for key, value in plain.items()}
    return plain


def _nnunet_names(state: State) -> State:
    """Return nnU-Net's plain U-Net under DynUNet's names; other state dicts as they are."""
    if "encoder.stages.0.0.convs.0.conv.weight" not in state:
        return state
    stages = 1 + max(int(key.split(".")[2]) for key in state if key.startswith("encoder.stages."))
    named: State = {}
    for key, value in state.items():
        name = None if "all_modules" in key or key.startswith("decoder.encoder.") else _nnunet_name(key, stages)
        if name:
            named[name] = value
    return named


def _nnunet_name(key: str, stages: int) -> str | None:
    """Return DynUNet's name of an entry of nnU-Net; None of what inference has no use for."""
    block = re.fullmatch(r"(encoder|decoder)\.stages\.(\d+)(?:\.0)?\.convs\.(\d+)\.(conv|norm)\.(weight|bias)", key)
    if block:
        side, stage, conv, kind, what = block[1], int(block[2]), int(block[3]) + 1, block[4], block[5]
        if kind == "conv" and what == "bias":
            return None
        part = f"conv{conv}.conv" if kind == "conv" else f"norm{conv}"
        return f"{_encoder(stage, stages) if side == 'encoder' else f'upsamples.{stage}.conv_block'}.{part}.{what}"
    up = re.fullmatch(r"decoder\.transpconvs\.(\d+)\.(weight|bias)", key)
    if up:
        return f"upsamples.{up[1]}.transp_conv.conv.{up[2]}"
    head = re.fullmatch(r"decoder\.seg_layers\.(\d+)\.(weight|bias)", key)
    if head:
        return f"output_block.conv.conv.{head[2]}" if int(head[1]) == stages - 2 else None
    return key


def _encoder(stage: int, stages: int) -> str:
    return "input_block" if stage == 0 else "bottleneck" if stage == stages - 1 else f"downsamples.{stage - 1}"


def _turned(value: torch.Tensor, axes: tuple[int, ...]) -> torch.Tensor:
    """Return a kernel (out, in, ...) with its spatial axes in the network's order; other entries as they are."""
    if value.ndim != len(axes) + 2:
        return value
    return value.permute(0, 1, *(axis + 2 for axis in axes)).contiguous()


def _with_aliases(plain: State, expected: Mapping[str, torch.Tensor]) -> State:
    """Give every name of an entry that a network holds under several (DynUNet's skip layers) the value of one."""
    place = {key: (value.data_ptr(), tuple(value.shape)) for key, value in expected.items() if value.numel()}
    given = {place[key]: value for key, value in plain.items() if key in place}
    return {key: given[place[key]] for key in place if key not in plain and place[key] in given} | plain


def _check(found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor], plan: Plan) -> None:
    shapes = {key: tuple(value.shape) for key, value in expected.items()}
    given = {key: tuple(value.shape) for key, value in found.items()}
    wrong = [key for key, shape in shapes.items() if given.get(key) != shape]
    extra = [key for key in given if key not in shapes]
    if wrong or extra:
        first = "; ".join(
            f"{key}: found {given.get(key, 'nothing')}, expected {shapes.get(key, 'nothing')}"
            for key in (*wrong[:SHOWN], *extra[:SHOWN])
        )
        raise Refusal(
            "weights_shapes",
            f"{len(wrong)} of {len(shapes)} entries do not fit the plan's {plan.network}, and {len(extra)} are not its "
            f"own; the first: {first}. Correct network, network_options, channels or labels of the plan, or name "
            "another file of weights",
        )
