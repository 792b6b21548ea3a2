"""Run a packaged network on volumes: weights are loaded once, the result is on the volume's own grid."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from medml.errors import ConfigError, MedmlError
from medml.geometry import spacing_of
from medml.networks.build import run_network
from medml.networks.ensemble import Ensemble, entropy_of
from medml.networks.familiarity import FeatureTap, compare, measure
from medml.networks.heap import keep_freed_memory
from medml.networks.package import Package, load_package
from medml.networks.precision import Precision, autocast, choose_device, choose_precision
from medml.networks.recipe import input_shape
from medml.networks.uncertainty import entropy_share, foreground_box, mean_entropy
from medml.networks.windows import slide
from medml.records.batch import Prediction
from medml.records.scan import Volume
from medml.transforms.postprocessing import keep_largest
from medml.transforms.preprocessing import Prepared, preprocess
from medml.transforms.restoring import restore, restore_probabilities, restore_values

logger = logging.getLogger(__name__)

WINDOW_VOXELS = {"cpu": 1 << 21, "cuda": 1 << 23}
MOST_WINDOWS = 16
CPU = torch.device("cpu")
Given = TypeVar("Given")
Made = TypeVar("Made")


@dataclass(frozen=True, slots=True, eq=False)
class Ready:
    """A volume as the network wants it.

    Attributes
    ----------
    measured : dict
        What `familiarity.compare` compares; empty where the package knows nothing to compare with.
    """

    prepared: Prepared
    measured: dict[str, np.ndarray] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """What the network said of a volume, still on its own grid and device.

    Attributes
    ----------
    scores : tensor of shape (L, I, J, K) or (L,)
        Logits of a segmenter; of a classifier.
    single : tensor of shape (I, J, K) or ()
        Mean entropy of the single answers in nats, where there are several or details were asked for.
    prepared : Prepared
        Without its voxels.
    """

    scores: torch.Tensor
    single: torch.Tensor | None
    prepared: Prepared
    detailed: bool
    unlike: dict[str, float]
    unlike_share: float
    seconds: dict[str, float]


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
        if self.device.type == "cpu":
            keep_freed_memory()
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
        layer = self.package.norms.layer if self.package.norms else ""
        self.tap = FeatureTap(self.package.network, layer, len(self.ensemble.views))

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
        return self.restore(self.infer(self.prepare(volume), detailed=detailed))

    def prepare(self, volume: Volume) -> Ready:
        """Bring a volume to the network's grid: the first third of `predict`, on the CPU."""
        start = time.perf_counter()
        with torch.inference_mode():
            prepared = preprocess(volume, self.plan)
            measured = {}
            if self.package.norms is not None:
                spacing = spacing_of(volume.affine) if volume.geometry == "mm" else None
                measured = measure(torch.from_numpy(prepared.voxels), prepared.shape, spacing, self.plan.dims)
        return Ready(prepared, measured, {"preprocess": time.perf_counter() - start})

    def infer(self, ready: Ready, *, detailed: bool = False) -> Answer:
        """Ask the network: the second third of `predict`; never by two threads at once."""
        start = time.perf_counter()
        prepared, segments = ready.prepared, self.plan.task == "segment"
        image = torch.from_numpy(prepared.voxels)
        with_entropy = detailed or self.ensemble.voices > 1
        self.tap.take()  # what explanations said is no part of this volume
        with torch.inference_mode():
            if segments:
                found = self._logits(image, body=prepared.body, with_entropy=with_entropy)
            else:
                found = self._class_scores(image[None], with_entropy=with_entropy)
            labels = len(self.plan.labels)
            scores, single = found[:labels], found[labels] if with_entropy else None
            if not bool(torch.isfinite(scores.sum())):
                raise MedmlError(f"the network gave NaN or infinite scores in {self.precision}; try precision fp32")
            unlike, share = self._unlike(ready)
        seconds = ready.seconds | {"network": time.perf_counter() - start}
        return Answer(scores, single, prepared.without_voxels(), detailed, unlike, share, seconds)

    def restore(self, answer: Answer) -> Prediction:
        """Bring an answer to the volume's own grid: the last third of `predict`."""
        return self._tidied(self._on_own_grid(answer))

    def stages(self) -> tuple[Callable[[Volume], Ready], Callable[[Ready], Any], Callable[[Any], Prediction]]:
        """Return `prepare`, `infer` and `restore` for threads that work beside each other, one each.

        On a CPU those beside the network compute with one thread, so that they do not crowd it out. On a GPU they have
        half of the cores, and scores are restored before they are handed over: milliseconds there, and their memory
        is free again.
        """
        threads = torch.get_num_threads()
        if self.device.type == "cpu":
            return (
                _with_threads(1, self.prepare),
                _with_threads(threads, self.infer),
                _with_threads(1, self.restore),
            )
        beside = max(1, threads // 2)
        return (
            _with_threads(beside, self.prepare),
            _with_threads(threads, lambda ready: self._on_own_grid(self.infer(ready))),
            _with_threads(beside, self._tidied),
        )

    def logits(self, image: torch.Tensor) -> torch.Tensor:
        """Return a segmenter's scores (L, I, J, K) of a preprocessed image (C, I, J, K)."""
        with torch.inference_mode():
            return self._logits(image)

    def _on_own_grid(self, answer: Answer) -> Prediction:
        start = time.perf_counter()
        with torch.inference_mode():
            if self.plan.task == "classify":
                prediction = self._classified(answer)
            else:
                try:
                    prediction = self._segmented(answer)
                except torch.OutOfMemoryError:
                    logger.warning("out of memory on %s; its scores are restored on the CPU", self.device)
                    single = None if answer.single is None else answer.single.to(CPU)
                    prediction = self._segmented(replace(answer, scores=answer.scores.to(CPU), single=single))
        seconds = answer.seconds | {"restore": time.perf_counter() - start}
        return replace(prediction, unlike=answer.unlike, unlike_share=answer.unlike_share, seconds=seconds)

    def _segmented(self, answer: Answer) -> Prediction:
        logits, single, prepared = answer.scores, answer.single, answer.prepared
        disagreement = math.nan
        if single is not None and self.ensemble.voices > 1:
            box = foreground_box(logits)
            disagreement = float(
                self._uncertainty_maps(logits[(slice(None), *box)], single[box])["disagreement"].mean()
            )
        prediction = Prediction(
            mask=restore(logits, prepared, self.plan),
            uncertainty=mean_entropy(logits),
            disagreement=disagreement,
        )
        if single is None or not answer.detailed:
            return prediction
        maps = self._uncertainty_maps(logits, single)
        return replace(
            prediction,
            label_probabilities=restore_probabilities(logits, prepared, self.plan),
            uncertainty_maps={name: restore_values(values, prepared) for name, values in maps.items()},
        )

    def _tidied(self, prediction: Prediction) -> Prediction:
        """Do what is left to the CPU."""
        if prediction.mask is None or not self.plan.keep_largest:
            return prediction
        start = time.perf_counter()
        mask = keep_largest(prediction.mask)
        restoring = prediction.seconds["restore"] + time.perf_counter() - start
        return replace(prediction, mask=mask, seconds=prediction.seconds | {"restore": restoring})

    def _uncertainty_maps(self, logits: torch.Tensor, single: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return maps (I, J, K) in [0, 1] of what `Prediction.uncertainty_maps` holds, on the network's grid."""
        most = math.log(len(self.plan.labels))
        total = entropy_of(logits, multi_label=False, dim=0) / most
        if self.ensemble.voices == 1:
            return {"entropy": total}
        return {"entropy": total, "disagreement": (total - single / most).clamp(0, 1)}

    def _classified(self, answer: Answer) -> Prediction:
        scores = answer.scores.double().cpu()
        scaled = scores / self.package.calibration.temperature
        probabilities = torch.sigmoid(scaled) if self.plan.multi_label else torch.softmax(scaled, dim=0)
        return Prediction(
            probabilities=probabilities.numpy(),
            uncertainty=entropy_share(probabilities, multi_label=self.plan.multi_label),
            disagreement=math.nan if answer.single is None else self._disagreement(scores, float(answer.single)),
        )

    def _disagreement(self, scores: torch.Tensor, single: float) -> float:
        """Return how much of a classifier's entropy comes from members that differ, before calibration."""
        most = math.log(2 if self.plan.multi_label else len(self.plan.labels))
        if self.ensemble.voices == 1 or most == 0:
            return math.nan
        total = float(entropy_of(scores, multi_label=self.plan.multi_label, dim=0))
        return min(1.0, max(0.0, (total - single) / most))

    def _unlike(self, ready: Ready) -> tuple[dict[str, float], float]:
        """Return how unlike its training data the model finds a scan, from what the network was just heard to say."""
        features = self.tap.take()
        if self.package.norms is None:
            return {}, math.nan
        return compare(
            self.package.norms, ready.measured if features is None else ready.measured | {"features": features}
        )

    def _class_scores(self, batch: torch.Tensor, *, with_entropy: bool) -> torch.Tensor:
        try:
            return self._scores(batch, self.device, with_entropy=with_entropy)[0]
        except torch.OutOfMemoryError:
            with self._moved_to_cpu():
                return self._scores(batch, CPU, with_entropy=with_entropy)[0]

    def _logits(
        self, image: torch.Tensor, *, body: np.ndarray | None = None, with_entropy: bool = False
    ) -> torch.Tensor:
        """Return logits (L, I, J, K) of an image (C, I, J, K); short of memory, in smaller bites, same result."""
        batch, keep_on = self._windows_at_once(), self.device
        while True:
            try:
                return self._slide(image, batch, self.device, keep_on=keep_on, body=body, with_entropy=with_entropy)
            except torch.OutOfMemoryError:
                self.tap.take()
                if batch > 1:
                    batch //= 2
                    logger.warning("out of memory on %s; going on with %d windows at a time", self.device, batch)
                elif keep_on != CPU:
                    keep_on = CPU
                    logger.warning("out of memory on %s; scores are kept on the CPU", self.device)
                else:
                    break
                _free(self.device)
        with self._moved_to_cpu():
            return self._slide(image, 1, CPU, keep_on=CPU, body=body, with_entropy=with_entropy)

    @contextmanager
    def _moved_to_cpu(self) -> Iterator[None]:
        logger.warning("out of memory on %s; this image is done on the CPU", self.device)
        _free(self.device)
        self.ensemble.to(CPU)
        try:
            yield
        finally:
            self.ensemble.to(self.device)

    def _slide(
        self,
        image: torch.Tensor,
        batch: int,
        device: torch.device,
        *,
        keep_on: torch.device,
        body: np.ndarray | None,
        with_entropy: bool,
    ) -> torch.Tensor:
        """Run the network window by window over ``image``; of 2D networks, slice by slice along K."""
        flat = self.plan.dims == 2
        inputs = image.to(device)
        inputs = inputs.movedim(3, 0)[..., None] if flat else inputs[None]
        wanted = None
        if body is not None:
            wanted = torch.from_numpy(body)
            wanted = wanted.movedim(2, 0)[..., None] if flat else wanted[None]
        with autocast(device, self.precision):  # around all windows: weights are converted once
            logits = slide(
                inputs,
                (*input_shape(self.plan), 1)[:3],
                lambda windows: self._scores(windows, device, with_entropy=with_entropy),
                channels=len(self.plan.labels) + with_entropy,
                overlap=self.plan.overlap,
                batch=batch,
                keep_on=keep_on,
                wanted=wanted,
            )
        return logits[..., 0].movedim(0, 3) if flat else logits[0]

    def _scores(self, batch: torch.Tensor, device: torch.device, *, with_entropy: bool = False) -> torch.Tensor:
        """Return float32 scores of a batch (B, C, I, J, K); ``with_entropy`` as in `Ensemble.with_entropy`."""
        with autocast(device, self.precision):
            ask = self.ensemble.with_entropy if with_entropy else self.ensemble
            scores: torch.Tensor = run_network(ask, batch.to(device), self.plan)
        return scores.float()

    def _windows_at_once(self) -> int:
        voxels = math.prod(input_shape(self.plan))
        return int(min(MOST_WINDOWS, max(1, WINDOW_VOXELS[self.device.type] // voxels)))


def _with_threads(count: int, work: Callable[[Given], Made]) -> Callable[[Given], Made]:
    """Return ``work`` done with so many threads of torch in whichever thread calls it."""

    def run(given: Given) -> Made:
        torch.set_num_threads(count)
        return work(given)

    return run


def _free(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
