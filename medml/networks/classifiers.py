"""Networks that give one score per class and image."""

from __future__ import annotations

from typing import Any

import torch
from monai.networks.nets.densenet import DenseNet121
from monai.networks.nets.efficientnet import EfficientNetBN
from monai.networks.nets.resnet import resnet18, resnet34, resnet50
from monai.networks.nets.vit import ViT

from medml.networks.recipe import Recipe, given, input_shape
from medml.records.plan import Plan


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
    return given(plan) | {"pretrained": False}


def _efficientnet(plan: Plan) -> dict[str, Any]:
    inputs = given(plan)
    return {
        "model_name": "efficientnet-b0",
        "pretrained": False,
        "spatial_dims": inputs["spatial_dims"],
        "in_channels": inputs["in_channels"],
        "num_classes": inputs["out_channels"],
    }


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
    "efficientnet-b0": Recipe("EfficientNetBN", EfficientNetBN, _efficientnet, ("norm",)),
    "vit": Recipe(
        "ViT",
        VisionTransformer,
        _vit,
        ("patch_size", "hidden_size", "mlp_dim", "num_layers", "num_heads", "dropout_rate", "qkv_bias"),
    ),
}
