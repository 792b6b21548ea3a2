"""What is explained: one image on the network's grid, one class, and the score that the maps are about."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from medml.errors import ConfigError, Refusal
from medml.networks.predictor import Predictor
from medml.networks.recipe import input_shape
from medml.records.plan import Plan
from medml.records.scan import Volume
from medml.transforms.preprocessing import Prepared, preprocess
from medml.transforms.restoring import restore_values


class Scored(nn.Module):
    """A network whose output is one score per class (B, L): a segmenter's is averaged over ``region``."""

    def __init__(self, network: nn.Module, region: torch.Tensor | None) -> None:
        super().__init__()
        self.network = network
        self.region = region

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (B, L) of images (B, C, ...)."""
        logits = torch.as_tensor(self.network(x))
        if self.region is None:
            return logits
        weight = self.region.to(logits)
        return (logits * weight).flatten(2).sum(dim=2) / weight.sum()


@dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """An image ready to be explained.

    Attributes
    ----------
    image : Tensor of shape (1, C, I, J[, K])
        On the network's grid; a segmenter's is one window around what it found.
    network : Scored
        A copy in evaluation mode, in fp32, that may be hooked and differentiated.
    target : int
        The class that is explained.
    start : tuple of int
        Where ``image`` begins in the prepared volume; negative where it was padded.
    """

    image: torch.Tensor
    network: Scored
    target: int
    plan: Plan
    prepared: Prepared
    start: tuple[int, int, int]

    def probability(self, images: torch.Tensor) -> torch.Tensor:
        """Return the target's probability (B,) of images like ``image``."""
        with torch.no_grad():
            return self.log_shares(self.network(images))[:, self.target].exp()

    def log_shares(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the log probabilities (B, L) of logits (B, L)."""
        return nn.functional.logsigmoid(logits) if self.plan.multi_label else torch.log_softmax(logits, dim=1)

    def on_volume(self, values: np.ndarray) -> np.ndarray:
        """Bring a map (I, J, K) of the image onto the volume's own grid; 0 where the network did not look."""
        whole = np.zeros(prepared_shape(self.prepared), np.float32)
        inside, of_map = [], []
        for begin, length, size in zip(self.start, values.shape, prepared_shape(self.prepared), strict=True):
            low, high = max(begin, 0), min(begin + length, size)
            inside.append(slice(low, high))
            of_map.append(slice(low - begin, high - begin))
        whole[tuple(inside)] = values[tuple(of_map)]
        return _unprepared(whole, self.prepared, self.plan)


def subject_of(predictor: Predictor, volume: Volume, target: int | None = None) -> Subject:
    """Prepare one volume for explanation.

    Parameters
    ----------
    target : int
        Label value; None: the likeliest class, or the largest structure that a segmenter finds.

    Raises
    ------
    ConfigError
        If the model has no such class.
    Refusal
        ``nothing_found`` if a segmenter finds nothing of the target in this volume.
    """
    plan = predictor.plan
    if target is not None and target not in plan.labels:
        names = ", ".join(f"{value} {name}" for value, name in sorted(plan.labels.items()))
        raise ConfigError(f"class {target}: the model has none such; it has {names}")
    prepared = preprocess(volume, plan)
    network = copy.deepcopy(predictor.network).float().eval()
    for module in network.modules():
        if getattr(module, "inplace", False):
            module.inplace = False  # type: ignore[assignment]  # hooks need what went in to stay as it was
    image = torch.from_numpy(prepared.voxels)[None].to(predictor.device)
    if plan.task == "classify":
        image = image[..., 0] if plan.dims == 2 else image
        scored = Scored(network, None).eval()
        if target is None:
            with torch.no_grad():
                target = int(scored(image).argmax())
        return Subject(image, scored, target, plan, prepared, (0, 0, 0))
    found = predictor.logits(image[0]).argmax(dim=0)
    target = _largest(found) if target is None else target
    region = torch.eq(found, target)
    if not target or not bool(region.any()):
        raise Refusal("nothing_found", "the model finds nothing of it in this volume, so there is nothing to explain")
    image, region, start = _window(image, region, plan)
    return Subject(image, Scored(network, region).eval(), target, plan, prepared, start)


def prepared_shape(prepared: Prepared) -> tuple[int, int, int]:
    """Return the shape (I, J, K) of a prepared volume."""
    i, j, k = prepared.voxels.shape[1:]
    return i, j, k


def _largest(found: torch.Tensor) -> int:
    """Return the label with most voxels; 0 if only background is found."""
    counts = torch.bincount(found.flatten())
    return int(counts[1:].argmax()) + 1 if int(counts[1:].sum()) else 0


def _window(
    image: torch.Tensor, region: torch.Tensor, plan: Plan
) -> tuple[torch.Tensor, torch.Tensor, tuple[int, int, int]]:
    """Cut one input of the network around the region's centre; of 2D networks, the slice with most of it."""
    places = torch.nonzero(region)
    centre = places.double().mean(dim=0).round().long().tolist()
    shape = (*input_shape(plan), 1)[:3]
    if plan.dims == 2:
        centre[2] = int(region.sum(dim=(0, 1)).argmax())
    start: list[int] = []
    pads: list[tuple[int, int]] = []
    cuts: list[slice] = []
    for middle, length, size in zip(centre, shape, region.shape, strict=True):
        begin = min(max(middle - length // 2, 0), max(size - length, 0))
        cuts.append(slice(begin, min(begin + length, size)))
        missing = length - (cuts[-1].stop - begin)
        pads.append((missing // 2, missing - missing // 2))
        start.append(begin - missing // 2)
    widths = [width for pair in reversed(pads) for width in pair]
    image = nn.functional.pad(image[:, :, cuts[0], cuts[1], cuts[2]], widths)
    region = nn.functional.pad(region[cuts[0], cuts[1], cuts[2]].float(), widths)
    if plan.dims == 2:
        image, region = image[..., 0], region[..., 0]
    return image, region, (start[0], start[1], start[2])


def _unprepared(values: np.ndarray, prepared: Prepared, plan: Plan) -> np.ndarray:
    """Resample a map on the network's grid to the volume's own, linearly."""
    tensor = torch.from_numpy(values)[None]
    if plan.task == "classify" and plan.size is not None:
        tensor = _unfitted(tensor, prepared, keep_scale=plan.spacing_mm is not None)
    return restore_values(tensor[0], prepared, dtype=np.float32)


def _unfitted(tensor: torch.Tensor, prepared: Prepared, *, keep_scale: bool) -> torch.Tensor:
    """Undo the last step of a classifier's preprocessing: padding and cropping, or resizing."""
    found, wanted = tensor.shape[1:], prepared.resampled
    if not keep_scale:
        return nn.functional.interpolate(tensor[None], size=wanted, mode="trilinear", align_corners=False)[0]
    widths: list[int] = []
    for size, length in zip(reversed(found), reversed(wanted), strict=True):
        before = (size - length) // 2 if length < size else size // 2 - length // 2
        widths += [-before, length - size + before]
    return nn.functional.pad(tensor, widths)
