"""Maps of what mattered for one class: Grad-CAM, Grad-CAM++, occlusion, integrated gradients.

Grad-CAM and occlusion are MONAI's, integrated gradients captum's; here the layer is chosen, and the map scaled to its
largest value, negative evidence left out.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from medml.errors import ConfigError
from medml.explain.subject import Subject

FINEST_SIDE = 7  # voxels a layer must keep along each side for its map to say where
COARSEST_MAP = 5  # voxels a side; fewer say nothing about where
STEPS = 24
PLACED = (nn.Conv2d, nn.Conv3d, nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.SiLU, nn.modules.batchnorm._NormBase, nn.GroupNorm)
OCCLUDED_SHARE = 4  # an occluding block is a quarter of the image along each axis: a piece of a lesion proves nothing


def grad_cam(subject: Subject) -> np.ndarray:
    """Return the Grad-CAM (I, J, K) of the subject's class (Selvaraju et al., ICCV 2017)."""
    from monai.visualize.class_activation_maps import GradCAM

    return _cam(subject, GradCAM)


def grad_cam_pp(subject: Subject) -> np.ndarray:
    """Return the Grad-CAM++ (I, J, K), which follows several small structures better (Chattopadhay et al., 2018)."""
    from monai.visualize.class_activation_maps import GradCAMpp

    return _cam(subject, GradCAMpp)


def occlusion(subject: Subject) -> np.ndarray:
    """Return what the class's log probability loses where a block is blanked (I, J, K) (Zeiler, Fergus, ECCV 2014)."""
    from monai.visualize.occlusion_sensitivity import OcclusionSensitivity

    sides = [max(2, side // OCCLUDED_SHARE) for side in subject.image.shape[2:]]
    tool = OcclusionSensitivity(
        subject.network,
        mask_size=sides,
        n_batch=8,
        verbose=False,
        mode="mean_img",
        overlap=0.75 if subject.plan.dims == 2 else 0.5,
        activate=subject.log_shares,  # near certainty probabilities no longer tell blocks apart
    )
    with torch.no_grad():
        left, _ = tool(subject.image.clone())  # a last batch of one is changed in place
        whole = subject.log_shares(subject.network(subject.image))
    return _scaled(whole[0, subject.target] - torch.as_tensor(left)[0, subject.target], subject)


def integrated_gradients(subject: Subject) -> np.ndarray:
    """Return what each voxel adds on the way from a blank image (I, J, K) (Sundararajan et al., ICML 2017)."""
    from captum.attr import IntegratedGradients

    blank = torch.zeros_like(subject.image) + subject.image.amin()
    added = IntegratedGradients(subject.network).attribute(
        subject.image, baselines=blank, target=subject.target, n_steps=STEPS, internal_batch_size=4
    )
    return _scaled(added.detach()[0].clamp(min=0).sum(dim=0), subject)


METHODS: dict[str, Callable[[Subject], np.ndarray]] = {
    "gradcam": grad_cam,
    "gradcam++": grad_cam_pp,
    "occlusion": occlusion,
    "integrated_gradients": integrated_gradients,
}


def explain_map(subject: Subject, method: str) -> np.ndarray:
    """Return the map (I, J, K) of ``method`` on the subject's image, 0 to 1.

    Raises
    ------
    ConfigError
        If there is no such method, or the network has no layer that says where (a vision transformer's Grad-CAM).
    """
    if method not in METHODS:
        raise ConfigError(f"method {method!r}: expected one of {', '.join(METHODS)}")
    return METHODS[method](subject)


def cam_layer(subject: Subject) -> str:
    """Return the name of the deepest layer that still tells places apart: at least seven voxels a side, if any has.

    For segmenters that is the bottleneck, where the whole window is seen.
    """
    seen: list[tuple[str, int]] = []
    dims = subject.image.ndim

    def note(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: object, output: object) -> None:
            if isinstance(output, torch.Tensor) and output.ndim == dims and output.shape[1] > 1:
                seen.append((name, min(output.shape[2:])))

        return hook

    handles = [
        module.register_forward_hook(note(name))
        for name, module in subject.network.network.named_modules()
        if isinstance(module, PLACED)
    ]
    with torch.no_grad():
        subject.network(subject.image)
    for handle in handles:
        handle.remove()
    finest = max((side for _, side in seen), default=0)
    fine = [(name, side) for name, side in seen if side >= min(FINEST_SIDE, finest)]
    if finest < min(COARSEST_MAP, min(subject.image.shape[2:]) // 2):
        raise ConfigError("the network has no layer that keeps places apart; use occlusion or integrated_gradients")
    coarsest = min(side for _, side in fine)
    return f"network.{[name for name, side in fine if side == coarsest][-1]}"


def _cam(subject: Subject, kind: Callable[..., object]) -> np.ndarray:
    tool = kind(nn_module=subject.network, target_layers=cam_layer(subject), postprocessing=lambda values: values)
    with torch.enable_grad():
        values = tool(subject.image.detach().requires_grad_(), class_idx=subject.target)  # type: ignore[operator]
    return _scaled(torch.as_tensor(values).detach()[0, 0], subject)


def _scaled(values: torch.Tensor, subject: Subject) -> np.ndarray:
    """Return positive evidence as shares of the largest, (I, J, K)."""
    positive = values.float().clamp(min=0).cpu().numpy()
    if subject.plan.dims == 2:
        positive = positive[..., np.newaxis]
    top = float(positive.max())
    shares: np.ndarray = positive / top if top > 0 else positive
    return shares
