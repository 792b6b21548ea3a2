"""Whether a model has seen the like of a scan: what is measured of it, and how that compares with its training data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import nn

from medml.metrics.novelty import distance, fit_aspect
from medml.networks.build import build_network
from medml.networks.recipe import input_shape
from medml.networks.shapes import shapes_only
from medml.records.norms import Aspect, Norms
from medml.records.plan import Plan

Measured = dict[str, np.ndarray]
SAMPLED = 1 << 16  # voxels that percentiles are of
CELLS = {2: 8, 3: 4}  # along each axis of the layout
LEAST_SCALE = {"geometry": 0.2, "intensity": 0.05, "layout": 0.1, "features": 1e-3}
SHARES = (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99)


def measure(image: torch.Tensor, shape: Sequence[int], spacing_mm: Sequence[float] | None, dims: int) -> Measured:
    """Measure a preprocessed image; one pass over its voxels.

    Parameters
    ----------
    image : tensor of shape (C, I, J, K)
        As `preprocess` gives it.
    shape, spacing_mm : sequence
        Of the scan before preprocessing, along I, J, K; None where the spacing is unknown.

    Returns
    -------
    dict
        "geometry" (logarithms), "intensity" and "layout" (in units of the normalised image).
    """
    size = np.log(np.asarray(shape[:dims], dtype=float))
    spacing = None if spacing_mm is None else np.log(np.asarray(spacing_mm[:dims], dtype=float))
    cells = CELLS[dims]
    layout = nn.functional.adaptive_avg_pool3d(image[None].float(), (cells, cells, cells if dims == 3 else 1))
    return {
        "geometry": size if spacing is None else np.concatenate([spacing, size + spacing]),
        "intensity": np.concatenate([_intensity(channel) for channel in image]),
        "layout": layout.flatten().double().cpu().numpy(),
    }


def learn_aspects(learned: Sequence[Measured], judged: Sequence[Measured]) -> tuple[dict[str, Aspect], list[float]]:
    """Return what is usual in each aspect that all scans have, and the rising scores of the judged ones."""
    aspects = {}
    for name, least in LEAST_SCALE.items():
        mine = [scan[name] for scan in learned if name in scan]
        known = np.array([scan[name] for scan in judged if name in scan])
        aspect = fit_aspect(np.array(mine), known, least_scale=least) if mine else None
        if aspect is not None:
            aspects[name] = aspect
    scores = [max(unlike(aspects, scan).values(), default=0.0) for scan in judged]
    return aspects, sorted(scores) if aspects else []


def unlike(aspects: Mapping[str, Aspect], scan: Measured) -> dict[str, float]:
    """Return per aspect the distance of a scan as a multiple of the reach: 1 is as far as the farthest one known."""
    return {name: distance(aspects[name], scan[name]) / aspects[name].reach for name in aspects if name in scan}


class FeatureTap:
    """Listens to one layer of a network while it runs, and averages its channels over space, windows and images.

    Parameters
    ----------
    network : nn.Module
        The first member of an ensemble.
    layer : str
        A module of it, as `deepest_layer` names it; empty: nothing is heard.
    views : int
        Mirrored views that follow each other; the first of them, the image as it is, is listened to.
    """

    def __init__(self, network: nn.Module, layer: str, views: int = 1) -> None:
        self.views = views
        self.calls = 0
        self.parts: list[torch.Tensor] = []
        self.handle: Any = None
        if layer:
            module = network.get_submodule(layer)
            heard = self._hear_input if isinstance(module, nn.Linear) else self._hear_output
            self.handle = module.register_forward_hook(heard)

    def __enter__(self) -> FeatureTap:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Listen no more."""
        if self.handle is not None:
            self.handle.remove()

    def take(self) -> np.ndarray | None:
        """Return the mean of each channel (F,) since the last time; None if nothing was heard."""
        parts, self.parts, self.calls = self.parts, [], 0
        if not parts:
            return None
        found = torch.cat([part.to(parts[0].device) for part in parts]).double().mean(dim=0).cpu().numpy()
        return np.asarray(found)

    def _hear_output(self, _module: nn.Module, _inputs: object, output: torch.Tensor) -> None:
        self._keep(output.detach().float().flatten(2).mean(dim=2))

    def _hear_input(self, _module: nn.Module, inputs: tuple[torch.Tensor, ...], _output: object) -> None:
        self._keep(inputs[0].detach().float().flatten(0, -2))

    def _keep(self, pooled: torch.Tensor) -> None:
        if self.calls % self.views == 0:
            self.parts.append(pooled)
        self.calls += 1


def compare(norms: Norms, scan: Measured) -> tuple[dict[str, float], float]:
    """Return how unlike a scan is in each aspect, and the share of validation scans that are more familiar."""
    found = unlike(norms.aspects, scan)
    if not found or not norms.scores:
        return found, float("nan")
    return found, float(np.searchsorted(np.array(norms.scores), max(found.values()), side="left")) / len(norms.scores)


def deepest_layer(plan: Plan) -> str:
    """Name the layer whose pooled output says what a network sees.

    A classifier's last linear layer is asked for its input. Of a segmenter it is the last convolution at the coarsest
    grid: before its norm, which would leave no mean to tell images apart. Empty if the network has none.
    """
    with shapes_only():
        draft = build_network(plan).eval()
    if plan.task == "classify":
        linear = [name for name, module in draft.named_modules() if isinstance(module, nn.Linear)]
        return linear[-1] if linear else ""
    sizes: dict[str, int] = {}

    def note(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: object, output: torch.Tensor) -> None:
            sizes[name] = int(np.prod(output.shape[2:]))

        return hook

    for name, module in draft.named_modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            module.register_forward_hook(note(name))
    with torch.no_grad(), shapes_only():
        draft(torch.empty(1, len(plan.channels), *input_shape(plan)))
    coarsest = min(sizes.values(), default=0)
    return next((name for name in reversed(sizes) if sizes[name] == coarsest), "")


def _intensity(channel: torch.Tensor) -> np.ndarray:
    """Return spread, skewness, percentiles and roughness along each axis of one channel (I, J, K)."""
    flat = channel.reshape(-1)
    sample = flat[:: max(1, flat.numel() // SAMPLED)].double()
    mean, spread = float(sample.mean()), float(sample.std(correction=0))
    skew = float(((sample - mean) ** 3).mean()) / max(spread, 1e-6) ** 3
    percentiles = np.quantile(sample.cpu().numpy(), SHARES)
    return np.array([mean, spread, np.arctan(skew), *percentiles, *_roughness(channel, max(spread, 1e-6))])


def _roughness(channel: torch.Tensor, spread: float) -> list[float]:
    """Return the mean step between neighbours in the plane of I and J, as a share of the spread; of a few slices."""
    every = max(1, channel.shape[2] // max(1, SAMPLED // (channel.shape[0] * channel.shape[1])))
    slices = channel[:, :, ::every].double()
    return [float(slices.diff(dim=axis).abs().mean()) / spread if slices.shape[axis] > 1 else 0.0 for axis in (0, 1)]
