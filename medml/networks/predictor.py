"""Run a packaged network on volumes: weights are loaded once, the result is on the volume's own grid."""

from __future__ import annotations

import logging
import math
import time
from pathlib import Path

import numpy as np
import torch
from monai.inferers.utils import sliding_window_inference
from torch import nn

from medml.errors import ConfigError, MedmlError
from medml.networks.build import run_network
from medml.networks.ensemble import Ensemble, entropy_of
from medml.networks.package import Package, load_package
from medml.networks.precision import Precision, autocast, choose_device, choose_precision
from medml.networks.recipe import input_shape
from medml.records.batch import Prediction
from medml.records.scan import Volume
from medml.transforms.postprocessing import keep_largest
from medml.transforms.preprocessing import best_label, preprocess, restore, restore_probabilities, restore_values

logger = logging.getLogger(__name__)

WINDOW_VOXELS = {"cpu": 1 << 20, "cuda": 1 << 23}
MOST_WINDOWS = 16
SLAB_VOXELS = 1 << 22


class Predictor:
    """A model ready to be asked.

    Parameters
    ----------
    package : Package or Path
        A loaded package, or its folder.
    device : str
        "auto", "cpu", "cuda" or "cuda:N".
    precision : str
        "auto" (segmenters: what the hardware is fast at; classifiers: fp32), "fp32", "bf16" or "fp16".
    """

    def __init__(self, package: Package | Path, device: str = "auto", *, precision: str = "auto") -> None:
        self.package = package if isinstance(package, Package) else load_package(package)
        self.plan = self.package.plan
        self.device = choose_device(device)
        self.precision: Precision = "fp32"
        if self.plan.task == "segment" or precision != "auto":
            self.precision = choose_precision(self.device, precision)
        wrong = [axis for axis in self.plan.tta_flips if not 0 <= axis < self.plan.dims]
        if wrong:
            raise ConfigError(f"the plan's tta_flips name axis {wrong[0]}; a {self.plan.dims}D network has none such")
        self.ensemble = Ensemble(
            self.package.members,
            flips=self.plan.tta_flips,
            per_voxel=self.plan.task == "segment",
            multi_label=self.plan.multi_label,
        )
        self.ensemble.to(self.device).eval()

    @property
    def network(self) -> nn.Module:
        """The first member alone, which explanations look into."""
        return self.package.network

    def predict(self, volume: Volume, *, detailed: bool = False) -> Prediction:
        """Segment or classify one canonical volume (C, I, J, K).

        Parameters
        ----------
        detailed : bool
            Whether a segmenter also gives, for each voxel, the probability of each label and maps of uncertainty: 2
            bytes each.

        Raises
        ------
        Refusal
            If the volume cannot meet the plan: ``channels``, ``no_spacing``, ``dimensions``, ``not_finite``.
        """
        with torch.inference_mode():
            return self._segment(volume, detailed) if self.plan.task == "segment" else self._classify(volume)

    def logits(self, image: torch.Tensor) -> torch.Tensor:
        """Return a segmenter's scores (L, I, J, K) of a preprocessed image (C, I, J, K)."""
        with torch.inference_mode():
            return self._logits(image)

    def _segment(self, volume: Volume, detailed: bool) -> Prediction:
        clock = [time.perf_counter()]
        prepared = preprocess(volume, self.plan)
        clock.append(time.perf_counter())
        found = self._logits(torch.from_numpy(prepared.voxels), with_entropy=detailed)
        logits, single = found[: len(self.plan.labels)], found[len(self.plan.labels) :]
        clock.append(time.perf_counter())
        if not bool(torch.isfinite(logits.sum())):
            raise MedmlError(f"the network gave NaN or infinite scores in {self.precision}; try precision fp32")
        mask = restore(logits, prepared, self.plan)
        if self.plan.keep_largest:
            mask = keep_largest(mask)
        uncertainty = mean_entropy(logits)
        clock.append(time.perf_counter())
        if not detailed:
            return Prediction(mask=mask, uncertainty=uncertainty, seconds=_steps(clock))
        maps = self._uncertainty_maps(logits, single[0])
        return Prediction(
            mask=mask,
            uncertainty=uncertainty,
            seconds=_steps(clock),
            label_probabilities=restore_probabilities(logits, prepared, self.plan),
            uncertainty_maps={name: restore_values(values, prepared) for name, values in maps.items()},
            disagreement=float(maps["disagreement"][foreground_box(logits)].mean()) if len(maps) == 2 else math.nan,
        )

    def _uncertainty_maps(self, logits: torch.Tensor, single: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return maps (I, J, K) in [0, 1] of what `Prediction.uncertainty_maps` holds, on the network's grid."""
        most = math.log(len(self.plan.labels))
        total = entropy_of(logits, multi_label=False, dim=0) / most
        if self.ensemble.voices == 1:
            return {"entropy": total}
        return {"entropy": total, "disagreement": (total - single / most).clamp(0, 1)}

    def _classify(self, volume: Volume) -> Prediction:
        clock = [time.perf_counter()]
        batch = torch.from_numpy(preprocess(volume, self.plan).voxels)[None]
        clock.append(time.perf_counter())
        try:
            found = self._scores(batch, self.device, with_entropy=True)
        except torch.OutOfMemoryError:
            found = self._on_cpu(batch, with_entropy=True)
        clock.append(time.perf_counter())
        if not bool(torch.isfinite(found).all()):
            raise MedmlError(f"the network gave NaN or infinite scores in {self.precision}; try precision fp32")
        scores, single = found.double().cpu()[0, :-1], found[0, -1]
        scaled = scores / self.package.calibration.temperature
        probabilities = torch.sigmoid(scaled) if self.plan.multi_label else torch.softmax(scaled, dim=0)
        clock.append(time.perf_counter())
        return Prediction(
            probabilities=probabilities.numpy(),
            uncertainty=_entropy_of(probabilities, multi_label=self.plan.multi_label),
            disagreement=self._disagreement(scores, float(single)),
            seconds=_steps(clock),
        )

    def _disagreement(self, scores: torch.Tensor, single: float) -> float:
        """Return how much of a classifier's entropy comes from members that differ, before calibration."""
        most = math.log(2 if self.plan.multi_label else len(self.plan.labels))
        if self.ensemble.voices == 1 or most == 0:
            return math.nan
        total = float(entropy_of(scores, multi_label=self.plan.multi_label, dim=0))
        return min(1.0, max(0.0, (total - single) / most))

    def _logits(self, image: torch.Tensor, *, with_entropy: bool = False) -> torch.Tensor:
        """Return logits (L, I, J, K) of an image (C, I, J, K); short of memory, in smaller bites, same result."""
        batch = self._windows_at_once()
        while True:
            try:
                return self._slide(image, batch, self.device, with_entropy=with_entropy)
            except torch.OutOfMemoryError:
                if batch == 1:
                    return self._on_cpu(image, with_entropy=with_entropy)
                batch //= 2
                logger.warning("out of memory on %s; going on with %d windows at a time", self.device, batch)
                _free(self.device)

    def _on_cpu(self, image: torch.Tensor, *, with_entropy: bool) -> torch.Tensor:
        logger.warning("out of memory on %s; this image is done on the CPU", self.device)
        _free(self.device)
        cpu = torch.device("cpu")
        self.ensemble.to(cpu)
        try:
            if self.plan.task == "segment":
                return self._slide(image, 1, cpu, with_entropy=with_entropy)
            return self._scores(image, cpu, with_entropy=with_entropy)
        finally:
            self.ensemble.to(self.device)

    def _slide(self, image: torch.Tensor, batch: int, device: torch.device, *, with_entropy: bool) -> torch.Tensor:
        """Run the network window by window over ``image``; of 2D networks, slice by slice along K."""
        inputs = image.to(device)
        inputs = inputs.movedim(3, 0)[..., None] if self.plan.dims == 2 else inputs[None]
        logits = sliding_window_inference(
            inputs,
            roi_size=(*input_shape(self.plan), 1)[:3],
            sw_batch_size=batch,
            predictor=lambda windows: self._scores(windows, device, with_entropy=with_entropy),
            overlap=self.plan.overlap,
            mode="gaussian",
        )
        result: torch.Tensor = logits[..., 0].movedim(0, 3) if self.plan.dims == 2 else logits[0]  # type: ignore
        return result

    def _scores(self, batch: torch.Tensor, device: torch.device, *, with_entropy: bool = False) -> torch.Tensor:
        """Return float32 scores of a batch (B, C, I, J, K); ``with_entropy`` as in `Ensemble.with_entropy`."""
        with autocast(device, self.precision):
            ask = self.ensemble.with_entropy if with_entropy else self.ensemble
            scores: torch.Tensor = run_network(ask, batch.to(device), self.plan)
        return scores.float()

    def _windows_at_once(self) -> int:
        voxels = math.prod(input_shape(self.plan))
        return int(min(MOST_WINDOWS, max(1, WINDOW_VOXELS[self.device.type] // voxels)))


def mean_entropy(logits: torch.Tensor) -> float:
    """Return the mean entropy, as a share of the largest possible, of logits (L, I, J, K).

    Over the box of what is predicted as foreground; over everything when nothing is.
    """
    inner = logits[(slice(None), *foreground_box(logits))]
    depth = max(1, SLAB_VOXELS // (inner.shape[0] * inner.shape[1] * inner.shape[2]))
    total = 0.0
    for slab in torch.split(inner, depth, dim=3):
        log = torch.log_softmax(slab.float(), dim=0)
        total -= float((log.exp() * log).sum(dtype=torch.float64))
    return total / (math.prod(inner.shape[1:]) * math.log(logits.shape[0]))


def foreground_box(logits: torch.Tensor) -> tuple[slice, slice, slice]:
    """Return the box of what logits (L, I, J, K) say is not background; everything when nothing is."""
    foreground = best_label(logits) > 0
    lines = [torch.nonzero(foreground.any(dim=b).any(dim=a)) for a, b in ((1, 2), (0, 2), (0, 1))]
    i, j, k = (slice(int(line[0]), int(line[-1]) + 1) if len(line) else slice(None) for line in lines)
    return i, j, k


def _entropy_of(probabilities: torch.Tensor, *, multi_label: bool) -> float:
    """Return the entropy of class probabilities (N,) as a share of the largest possible."""
    if multi_label:
        return float(np.mean([_entropy_of(torch.stack((p, 1 - p)), multi_label=False) for p in probabilities]))
    if len(probabilities) < 2:
        return 0.0
    return float(torch.special.entr(probabilities).sum()) / math.log(len(probabilities))


def _steps(clock: list[float]) -> dict[str, float]:
    names = ("preprocess", "network", "restore")
    return {name: end - start for name, start, end in zip(names, clock[:-1], clock[1:], strict=True)}


def _free(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
