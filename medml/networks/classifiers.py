"""Networks that give one score per class and image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from monai.networks.nets.densenet import DenseNet121
from monai.networks.nets.efficientnet import EfficientNetBN
from monai.networks.nets.resnet import resnet18, resnet34, resnet50
from monai.networks.nets.senet import SEResNet50
from monai.networks.nets.vit import ViT

from medml.networks.recipe import Recipe, given, input_shape, own
from medml.networks.slice_sequence import SliceSequence
from medml.records.plan import Plan

DENSE_BLOCKS = (6, 12, 24, 16)
SMALL_STEM_SIDE = 64


class VisionTransformer(ViT):
    """MONAI's ViT, whose forward returns the class scores alone; its state dict is that of `ViT`."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return scores (B, L) of images (B, C, ...)."""
        scores: torch.Tensor = super().forward(x)[0]  # type: ignore[no-untyped-call]
        return scores


def _resnet(plan: Plan) -> dict[str, Any]:
    inputs = given(plan)
    return {
        "spatial_dims": inputs["spatial_dims"],
        "n_input_channels": inputs["in_channels"],
        "num_classes": inputs["out_channels"],
        "pretrained": False,
    }


def _densenet(plan: Plan) -> dict[str, Any]:
    return given(plan) | {"pretrained": False, "block_config": _dense_blocks(min(input_shape(plan)))}


def _dense_blocks(shortest: int) -> tuple[int, ...]:
    """Return the dense blocks of DenseNet-121 that an input has room for.

    The stem halves twice, each of the pools between the blocks once more: an image of 28 voxels is down to one before
    the fourth block, which is left out then.
    """
    side = (shortest + 1) // 2
    side = (side + 1) // 2
    count = 1
    while count < len(DENSE_BLOCKS) and side >= 2:
        side, count = side // 2, count + 1
    return DENSE_BLOCKS[:count]


def _efficientnet(name: str) -> Callable[[Plan], dict[str, Any]]:
    def defaults(plan: Plan) -> dict[str, Any]:
        inputs = given(plan)
        return {
            "model_name": name,
            "pretrained": False,
            "spatial_dims": inputs["spatial_dims"],
            "in_channels": inputs["in_channels"],
            "num_classes": inputs["out_channels"],
        }

    return defaults


def _seresnet(plan: Plan) -> dict[str, Any]:
    inputs = given(plan)
    return {
        "spatial_dims": inputs["spatial_dims"],
        "in_channels": inputs["in_channels"],
        "num_classes": inputs["out_channels"],
    }


def _slice_sequence(plan: Plan) -> dict[str, Any]:
    asked: Any = plan.network_options.get("axis")
    axis = slice_axis(plan) if asked is None else int(asked)
    plane = [side for number, side in enumerate(input_shape(plan)) if number != axis]
    stem: dict[str, Any] = {}
    if max(plane) <= SMALL_STEM_SIDE:
        stem = {"conv1_t_size": 3, "conv1_t_stride": 1, "no_max_pool": True}
    inputs = given(plan)
    return {"in_channels": inputs["in_channels"], "out_channels": inputs["out_channels"], "axis": axis} | stem


def slice_axis(plan: Plan) -> int:
    """Return the axis along which the slices lie: the coarsest spacing, or the fewest voxels where there is none."""
    if plan.spacing_mm is not None:
        return plan.spacing_mm.index(max(plan.spacing_mm))
    shape = input_shape(plan)
    return min(range(len(shape)), key=lambda axis: (shape[axis], -axis))


def _vit(plan: Plan) -> dict[str, Any]:
    inputs, shape = given(plan), input_shape(plan)
    return {
        "spatial_dims": inputs["spatial_dims"],
        "in_channels": inputs["in_channels"],
        "num_classes": inputs["out_channels"],
        "img_size": shape,
        "patch_size": tuple(_patch(length, most=14 if plan.dims == 2 else 8) for length in shape),
        "classification": True,
        "post_activation": "none",
        "hidden_size": 192,
        "mlp_dim": 768,
        "num_layers": 6,
        "num_heads": 3,
    }


def _patch(length: int, *, most: int) -> int:
    """Return the smallest divisor of ``length`` that cuts it into at most ``most`` pieces."""
    return next(size for size in range(1, length + 1) if length % size == 0 and length // size <= most)


RESNET_OPTIONS = ("conv1_t_size", "conv1_t_stride", "no_max_pool", "shortcut_type", "widen_factor", "norm")

CLASSIFIERS = {
    # For small images: conv1_t_size=3, conv1_t_stride=1, no_max_pool=True.
    "resnet18": Recipe("resnet18", resnet18, _resnet, RESNET_OPTIONS),
    "resnet34": Recipe("resnet34", resnet34, _resnet, RESNET_OPTIONS),
    "resnet50": Recipe("resnet50", resnet50, _resnet, RESNET_OPTIONS),
    "densenet121": Recipe(
        "DenseNet121", DenseNet121, _densenet, ("init_features", "growth_rate", "block_config", "dropout_prob", "norm")
    ),
    **{
        name: Recipe("EfficientNetBN", EfficientNetBN, _efficientnet(name), ("norm",))
        for name in (f"efficientnet-b{size}" for size in range(8))
    },
    # For small images: input_3x3=True has three small kernels in place of one of 7.
    "seresnet50": Recipe(
        "SEResNet50",
        SEResNet50,
        _seresnet,
        ("layers", "reduction", "dropout_prob", "inplanes", "downsample_kernel_size", "input_3x3"),
    ),
    "slice_sequence": Recipe(
        own(SliceSequence),
        SliceSequence,
        _slice_sequence,
        ("axis", "widen_factor", "conv1_t_size", "conv1_t_stride", "no_max_pool", "hidden", "pooling", "dropout"),
        dims=(3,),
    ),
    "vit": Recipe(
        "ViT",
        VisionTransformer,
        _vit,
        ("patch_size", "hidden_size", "mlp_dim", "num_layers", "num_heads", "dropout_rate", "qkv_bias"),
    ),
}
