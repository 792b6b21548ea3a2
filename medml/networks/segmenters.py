"""Networks that give one score per label and voxel, with defaults that follow from the plan's patch and spacing."""

from __future__ import annotations

from typing import Any

import torch
from monai.networks.nets.dynunet import DynUNet
from monai.networks.nets.segresnet import SegResNet
from monai.networks.nets.segresnet_ds import SegResNetDS
from monai.networks.nets.swin_unetr import SwinUNETR
from monai.networks.nets.unet import UNet
from monai.networks.nets.unetr import UNETR
from torch import nn

from medml.networks.folded_unet import FoldedUNet
from medml.networks.recipe import Recipe, given, input_shape, own
from medml.networks.residual_unet import ResidualEncoderUNet
from medml.records.plan import Plan

MOST_HALVINGS = 5
RESIDUAL_BLOCKS = (1, 3, 4, 6, 6, 6)  # per stage, as in nnU-Net's residual encoder presets
SEGRESNET_BLOCKS = (1, 2, 2, 4)


def halvings(shape: tuple[int, ...], spacing: tuple[float, ...] | None, *, smallest: int = 4) -> list[tuple[int, ...]]:
    """Return the strides, stage by stage, that bring ``shape`` down to about ``smallest`` voxels along every axis.

    An axis is halved while it stays even and long enough, and not while its voxels are twice as long as the
    shortest (nnU-Net, Isensee et al., Nature Methods 18:203, 2021).
    """
    size, pitch = list(shape), list(spacing or (1.0,) * len(shape))
    stages: list[tuple[int, ...]] = []
    while len(stages) < MOST_HALVINGS:
        halve = [
            length % 2 == 0 and length >= 2 * smallest and step < 2 * min(pitch)
            for length, step in zip(size, pitch, strict=True)
        ]
        if not any(halve):
            break
        stages.append(tuple(2 if yes else 1 for yes in halve))
        size = [length // 2 if yes else length for length, yes in zip(size, halve, strict=True)]
        pitch = [step * 2 if yes else step for step, yes in zip(pitch, halve, strict=True)]
    return stages


def _stages(plan: Plan) -> Any:
    """Return the strides of all stages of a U-Net, the first (1, …); at least three stages, which DynUNet needs."""
    if "strides" in plan.network_options:
        return plan.network_options["strides"]
    pools = halvings(input_shape(plan), plan.spacing_mm[: plan.dims] if plan.spacing_mm else None)
    while len(pools) < 2:
        pools.append((1,) * plan.dims)
    return [(1,) * plan.dims, *pools]


def _filters(plan: Plan, stages: int) -> list[int]:
    return [min(32 * 2**stage, 320 if plan.dims == 3 else 512) for stage in range(stages)]


def _dynunet(plan: Plan) -> dict[str, Any]:
    strides = _stages(plan)
    return given(plan) | {
        "strides": strides,
        "kernel_size": [(3,) * plan.dims] * len(strides),
        "upsample_kernel_size": list(strides[1:]),
        "filters": _filters(plan, len(strides)),
    }


def _folded_unet(plan: Plan) -> dict[str, Any]:
    first, *pools = _stages(plan)[1:]
    while len(pools) < 2:  # DynUNet has at least three stages
        pools.append((1,) * plan.dims)
    strides = [(1,) * plan.dims, *pools]
    return given(plan) | {"fold": first, "strides": strides, "filters": _filters(plan, len(strides))}


def _residual_unet(plan: Plan) -> dict[str, Any]:
    strides = _stages(plan)
    blocks = [*RESIDUAL_BLOCKS, *RESIDUAL_BLOCKS[-1:] * len(strides)][: len(strides)]
    return given(plan) | {"strides": strides, "filters": _filters(plan, len(strides)), "blocks": blocks}


def _levels(plan: Plan) -> int:
    """Return how often all sides can be halved at once, which is how SegResNet goes down."""
    return min(sum(all(step == 2 for step in stage) for stage in halvings(input_shape(plan), None)), 3)


def _segresnet(plan: Plan) -> dict[str, Any]:
    return given(plan) | {"init_filters": 16} | _segresnet_blocks(plan)


def _segresnet_ds(plan: Plan) -> dict[str, Any]:
    blocks = {"blocks_down": SEGRESNET_BLOCKS[: _levels(plan) + 1]}
    return given(plan) | {"init_filters": 32, "norm": "instance"} | blocks


def _segresnet_blocks(plan: Plan) -> dict[str, Any]:
    asked: Any = plan.network_options.get("blocks_down")
    if asked is not None:
        return {"blocks_up": (1,) * (len(asked) - 1)}
    levels = _levels(plan)
    return {"blocks_down": SEGRESNET_BLOCKS[: levels + 1], "blocks_up": (1,) * levels}


def _unet(plan: Plan) -> dict[str, Any]:
    pools = halvings(input_shape(plan), None)
    strides: Any = plan.network_options.get("strides", pools[:4] or [(1,) * plan.dims])
    return given(plan) | {
        "strides": strides,
        "channels": [min(16 * 2**stage, 256) for stage in range(len(strides) + 1)],
        "num_res_units": 2,
    }


def _unetr(plan: Plan) -> dict[str, Any]:
    return given(plan) | {"img_size": input_shape(plan)}


def _build_swinunetr(**arguments: Any) -> nn.Module:
    """Build on the CPU and move: MONAI's constructor reads numbers out of tensors, which have none on shapes alone."""
    wanted = torch.empty(0).device
    with torch.device("cpu"):
        return SwinUNETR(**arguments).to(wanted)


def _swinunetr(plan: Plan) -> dict[str, Any]:
    return given(plan) | {"feature_size": 24}


_DYNUNET = (
    "filters",
    "strides",
    "kernel_size",
    "upsample_kernel_size",
    "norm_name",
    "dropout",
    "res_block",
    "deep_supervision",
    "deep_supr_num",
    "trans_bias",
)
_SWIN = ("feature_size", "depths", "num_heads", "window_size", "norm_name", "drop_rate", "use_checkpoint", "use_v2")

SEGMENTERS = {
    # With res_block=True both halves are residual; in residual_unet the encoder alone is, and it is deeper.
    "dynunet": Recipe("DynUNet", DynUNet, _dynunet, _DYNUNET),
    "folded_unet": Recipe(own(FoldedUNet), FoldedUNet, _folded_unet, ("filters", "strides", "fold")),
    "residual_unet": Recipe(
        own(ResidualEncoderUNet), ResidualEncoderUNet, _residual_unet, ("filters", "strides", "blocks")
    ),
    "segresnet": Recipe(
        "SegResNet", SegResNet, _segresnet, ("init_filters", "blocks_down", "blocks_up", "dropout_prob", "norm")
    ),
    "segresnet_ds": Recipe(
        "SegResNetDS", SegResNetDS, _segresnet_ds, ("init_filters", "blocks_down", "norm", "upsample_mode")
    ),
    "swinunetr": Recipe("SwinUNETR", _build_swinunetr, _swinunetr, _SWIN, multiple=32),
    "unetr": Recipe(
        "UNETR",
        UNETR,
        _unetr,
        ("feature_size", "hidden_size", "mlp_dim", "num_heads", "norm_name", "conv_block", "res_block", "dropout_rate"),
        multiple=16,
    ),
    "unet": Recipe(
        "UNet",
        UNet,
        _unet,
        ("channels", "strides", "kernel_size", "up_kernel_size", "num_res_units", "norm", "dropout"),
    ),
}
