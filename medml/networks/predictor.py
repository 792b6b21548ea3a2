"""Run a packaged network on volumes: weights are loaded once, the result is on the volume's own grid."""

from __future__ import annotations

import itertools
import logging
import math
import time
from pathlib import Path

import numpy as np
import torch
from monai.inferers.utils import sliding_window_inference

from medml.errors import ConfigError, MedmlError
from medml.networks.build import run_network
from medml.networks.package import Package, load_package
from medml.networks.precision import Precision, autocast, choose_device, choose_precision
from medml.networks.recipe import input_shape
from medml.records.batch import Prediction
from medml.records.scan import Volume
from medml.transforms.postprocessing import keep_largest
from medml.transforms.preprocessing import best_label, preprocess, restore, restore_probabilities

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
        self.network = self.package.network.to(self.device).eval()

    def predict(self, volume: Volume, *, detailed: bool = False) -> Prediction:
        """Segment or classify one canonical volume (C, I, J, K).

        Parameters
        ----------
        detailed : bool
            Whether a segmenter also gives the probability of each label at each voxel: 2 bytes each.

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
        logits = self._logits(torch.from_numpy(prepared.voxels))
        clock.append(time.perf_counter())
        if not bool(torch.isfinite(logits.sum())):
            raise MedmlError(f"the network gave NaN or infinite scores in {self.precision}; try precision fp32")
        mask = restore(logits, prepared, self.plan)
        if self.plan.keep_largest:
            mask = keep_largest(mask)
        uncertainty = mean_entropy(logits)
        clock.append(time.perf_counter())
        return Prediction(
            mask=mask,
            uncertainty=uncertainty,
            seconds=_steps(clock),
            label_probabilities=restore_probabilities(logits, prepared, self.plan) if detailed else None,
        )

    def _classify(self, volume: Volume) -> Prediction:
        clock = [time.perf_counter()]
        batch = torch.from_numpy(preprocess(volume, self.plan).voxels)[None]
        clock.append(time.perf_counter())
        try:
            scores = self._scores(batch, self.device)
        except torch.OutOfMemoryError:
            scores = self._on_cpu(batch)
        clock.append(time.perf_counter())
        if not bool(torch.isfinite(scores).all()):
            raise MedmlError(f"the network gave NaN or infinite scores in {self.precision}; try precision fp32")
        scaled = scores.double().cpu()[0] / self.package.calibration.temperature
        probabilities = torch.sigmoid(scaled) if self.plan.multi_label else torch.softmax(scaled, dim=0)
        clock.append(time.perf_counter())
        return Prediction(
            probabilities=probabilities.numpy(),
            uncertainty=_entropy_of(probabilities, multi_label=self.plan.multi_label),
            seconds=_steps(clock),
        )

    def _logits(self, image: torch.Tensor) -> torch.Tensor:
        """Return logits (L, I, J, K) of an image (C, I, J, K); short of memory, in smaller bites, same result."""
        batch = self._windows_at_once()
        while True:
            try:
                return self._slide(image, batch, self.device)
            except torch.OutOfMemoryError:
                if batch == 1:
                    return self._on_cpu(image)
                batch //= 2
                logger.warning("out of memory on %s; going on with %d windows at a time", self.device, batch)
                _free(self.device)

    def _on_cpu(self, image: torch.Tensor) -> torch.Tensor:
        logger.warning("out of memory on %s; this image is done on the CPU", self.device)
        _free(self.device)
        cpu = torch.device("cpu")
        self.network.to(cpu)
        try:
            return self._slide(image, 1, cpu) if self.plan.task == "segment" else self._scores(image, cpu)
        finally:
            self.network.to(self.device)

    def _slide(self, image: torch.Tensor, batch: int, device: torch.device) -> torch.Tensor:
        """Run the network window by window over ``image``; of 2D networks, slice by slice along K."""
        inputs = image.to(device)
        inputs = inputs.movedim(3, 0)[..., None] if self.plan.dims == 2 else inputs[None]
        logits = sliding_window_inference(
            inputs,
            roi_size=(*input_shape(self.plan), 1)[:3],
            sw_batch_size=batch,
            predictor=lambda windows: self._scores(windows, device),
            overlap=self.plan.overlap,
            mode="gaussian",
        )
        result: torch.Tensor = logits[..., 0].movedim(0, 3) if self.plan.dims == 2 else logits[0]  # type: ignore
        return result

    def _scores(self, batch: torch.Tensor, device: torch.device) -> torch.Tensor:
        """Return float32 scores of a batch (B, C, I, J, K), averaged over the plan's flips."""
        batch = batch.to(device)
        total = self._scores_of(batch, device)
        if self.plan.task == "classify" or not self.plan.tta_flips:
            return total
        flips = self.plan.tta_flips
        subsets = [s for n in range(1, len(flips) + 1) for s in itertools.combinations(flips, n)]
        for subset in subsets:
            axes = [axis + 2 for axis in subset]
            total.add_(torch.flip(self._scores_of(torch.flip(batch, axes), device), axes))
        return total.div_(len(subsets) + 1)

    def _scores_of(self, batch: torch.Tensor, device: torch.device) -> torch.Tensor:
        with autocast(device, self.precision):
            scores: torch.Tensor = run_network(self.network, batch, self.plan)
        return scores.float()

    def _windows_at_once(self) -> int:
        voxels = math.prod(input_shape(self.plan))
        return int(min(MOST_WINDOWS, max(1, WINDOW_VOXELS[self.device.type] // voxels)))


def mean_entropy(logits: torch.Tensor) -> float:
    """Return the mean entropy, as a share of the largest possible, of logits (L, I, J, K).

    Over the box of what is predicted as foreground; over everything when nothing is.
    """
    foreground = best_label(logits) > 0
    box = []
    for others in ((1, 2), (0, 2), (0, 1)):
        line = torch.nonzero(foreground.any(dim=others[1]).any(dim=others[0]))
        box.append(slice(int(line[0]), int(line[-1]) + 1) if len(line) else slice(None))
    inner = logits[:, box[0], box[1], box[2]]
    depth = max(1, SLAB_VOXELS // (inner.shape[0] * inner.shape[1] * inner.shape[2]))
    total = 0.0
    for slab in torch.split(inner, depth, dim=3):
        log = torch.log_softmax(slab.float(), dim=0)
        total -= float((log.exp() * log).sum(dtype=torch.float64))
    return total / (math.prod(inner.shape[1:]) * math.log(logits.shape[0]))


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
