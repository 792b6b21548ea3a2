"""Networks that give one score per label and voxel, with defaults that follow from the plan's patch and spacing."""

from __future__ import annotations

from typing import Any

from monai.networks.nets.dynunet import DynUNet
from monai.networks.nets.segresnet import SegResNet
from monai.networks.nets.unet import UNet

from medml.networks.recipe import Recipe, given, input_shape
from medml.records.plan import Plan

MOST_HALVINGS = 5


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


def _dynunet(plan: Plan) -> dict[str, Any]:
    shape = input_shape(plan)
    spacing = plan.spacing_mm[: plan.dims] if plan.spacing_mm else None
    options = plan.network_options
    pools = halvings(shape, spacing)
    while len(pools) < 2:  # DynUNet has at least three stages
        pools.append((1,) * plan.dims)
    strides: Any = options.get("strides", [(1,) * plan.dims, *pools])
    stages = len(strides)
    return given(plan) | {
        "strides": strides,
        "kernel_size": [(3,) * plan.dims] * stages,
        "upsample_kernel_size": list(strides[1:]),
        "filters": [min(32 * 2**stage, 320 if plan.dims == 3 else 512) for stage in range(stages)],
    }


def _segresnet(plan: Plan) -> dict[str, Any]:
    return given(plan) | {"init_filters": 16}


def _unet(plan: Plan) -> dict[str, Any]:
    pools = halvings(input_shape(plan), None)
    strides: Any = plan.network_options.get("strides", pools[:4] or [(1,) * plan.dims])
    return given(plan) | {
        "strides": strides,
        "channels": [min(16 * 2**stage, 256) for stage in range(len(strides) + 1)],
        "num_res_units": 2,
    }


SEGMENTERS = {
    "dynunet": Recipe(
        "DynUNet",
        DynUNet,
        _dynunet,
        (
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
        ),
    ),
    "segresnet": Recipe(
        "SegResNet", SegResNet, _segresnet, ("init_filters", "blocks_down", "blocks_up", "dropout_prob", "norm")
    ),
    "unet": Recipe(
        "UNet",
        UNet,
        _unet,
        ("channels", "strides", "kernel_size", "up_kernel_size", "num_res_units", "norm", "dropout"),
    ),
}
