"""What the training cases of a dataset look like: shapes, spacings, intensities, labels."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medml.errors import ConfigError
from medml.io.scans import read_image, read_mask
from medml.records.dataset import Case, Dataset
from medml.records.plan import Fingerprint
from medml.records.scan import Volume
from medml.transforms.preprocessing import foreground_box, foreground_threshold, stack_channels

MEASURED_CASES = 200
SAMPLED_VOXELS = 10_000
READERS = 2
LARGE = 200_000  # voxels: of smaller volumes two readers mostly wait for each other, and take half as long again

ReadImage = Callable[[Path, str], Volume]
ReadMask = Callable[[Path, str, str], Volume]


@dataclass(frozen=True, slots=True, eq=False)
class _Measured:
    """One case.

    Attributes
    ----------
    samples : ndarray of shape (C, N)
        Intensities of voxels drawn from the foreground (segmenters) or the whole image.
    lowest, highest : ndarray of shape (C,)
        Over all these voxels, not only those drawn.
    label_voxels : ndarray of shape (number of labels,)
    box : tuple of int
        Shape of the foreground's box.
    """

    samples: np.ndarray
    lowest: np.ndarray
    highest: np.ndarray
    label_voxels: np.ndarray
    box: tuple[int, int, int]


def fingerprint(
    dataset: Dataset,
    scans: Path,
    *,
    fold: int = 0,
    cases: int = MEASURED_CASES,
    read_image: ReadImage = read_image,
    read_mask: ReadMask = read_mask,
) -> Fingerprint:
    """Measure the training cases of one fold; test and validation cases are not looked at.

    Parameters
    ----------
    scans : Path
        The home's scans folder.
    cases : int
        How many cases are read at most, the same ones in every home; classes are counted over all.

    Raises
    ------
    ConfigError
        If the fold leaves nothing to train on.
    """
    training = dataset.cases_of("train", fold=fold)
    if not training:
        raise ConfigError(f"dataset {dataset.name}: fold {fold} leaves no case to train on; choose another fold")
    # Ordered by digest, which is as good as a random draw.
    chosen = sorted(training, key=lambda case: case.digest)[:cases]

    def measure(case: Case) -> _Measured:
        return _measure(case, dataset, scans, read_image, read_mask)

    large = sum(math.prod(case.shape) for case in chosen) >= LARGE * len(chosen)
    with ThreadPoolExecutor(READERS if large else 1) as pool:
        measured = list(pool.map(measure, chosen))
    spacings = tuple(case.spacing_mm for case in chosen if case.spacing_mm is not None)
    voxels = np.sum([item.label_voxels for item in measured], axis=0)
    counted = Counter(value for case in training for value in case.classes or ())
    return Fingerprint(
        task=dataset.task,
        cases=len(training),
        modality=dataset.modality,
        geometry=dataset.geometry,
        channels=dataset.channels,
        shapes=tuple(case.shape for case in chosen),
        spacings=spacings if dataset.geometry == "mm" and len(spacings) == len(chosen) else (),
        intensity=_intensity(measured, len(dataset.channels)),
        label_voxels={value: int(voxels[value]) for value in dataset.labels} if dataset.task == "segment" else {},
        class_counts={value: counted[value] for value in dataset.labels} if dataset.task == "classify" else {},
        boxes=tuple(item.box for item in measured),
        label_cases={value: sum(bool(item.label_voxels[value]) for item in measured) for value in dataset.labels}
        if dataset.task == "segment"
        else {},
        units=tuple(sorted({str(case.columns.get("unit") or "") for case in training})),
    )


def _measure(case: Case, dataset: Dataset, scans: Path, read_image: ReadImage, read_mask: ReadMask) -> _Measured:
    volume = stack_channels([read_image(scans, scan_id) for scan_id in case.scans])
    channels = volume.voxels.reshape(volume.voxels.shape[0], -1).astype(np.float32, copy=False)
    label_voxels = np.zeros(max(dataset.labels) + 1, dtype=np.int64)
    where = np.arange(0)
    if dataset.task == "segment" and case.mask is not None:
        mask = read_mask(scans, case.scans[0], case.mask).voxels[0]
        for slab in mask:  # counting makes 64-bit copies, so slab by slab
            label_voxels += np.bincount(slab.reshape(-1), minlength=label_voxels.size)[: label_voxels.size]
        where = np.flatnonzero(mask)
    if where.size:
        channels = channels[:, where]
    # Seeded by content: the same voxels are drawn in every home, whatever the order of cases.
    generator = np.random.default_rng(int(case.digest[:16], 16))
    drawn = (
        generator.integers(channels.shape[1], size=SAMPLED_VOXELS)
        if channels.shape[1] > SAMPLED_VOXELS
        else slice(None)
    )
    finite = np.isfinite(channels)
    return _Measured(
        samples=channels[:, drawn],
        lowest=np.min(channels, axis=1, where=finite, initial=np.inf),
        highest=np.max(channels, axis=1, where=finite, initial=-np.inf),
        label_voxels=label_voxels,
        box=_box_shape(volume, dataset.modality),
    )


def _box_shape(volume: Volume, modality: str) -> tuple[int, int, int]:
    i, j, k = volume.voxels.shape[1:]
    found = foreground_box(volume, foreground_threshold(modality)) if k > 1 else None
    if found is None:
        return i, j, k
    (i0, j0, k0), (i1, j1, k1) = found
    return i1 - i0, j1 - j0, k1 - k0


def _intensity(measured: Sequence[_Measured], channels: int) -> tuple[dict[str, float], ...]:
    """Return the statistics of each channel over all cases; zeros where no value is finite."""
    found = []
    for channel in range(channels):
        values = np.concatenate([item.samples[channel] for item in measured]).astype(np.float64)
        values = values[np.isfinite(values)]
        if not values.size:
            values = np.zeros(1)
        lowest, highest = ([item.lowest[channel] for item in measured], [item.highest[channel] for item in measured])
        low, high = np.percentile(values, (0.5, 99.5))
        found.append(
            {
                "mean": float(values.mean()),
                "std": float(values.std()),
                "p00_5": float(low),
                "p99_5": float(high),
                "min": min((float(v) for v in lowest if np.isfinite(v)), default=0.0),
                "max": max((float(v) for v in highest if np.isfinite(v)), default=0.0),
            }
        )
    return tuple(found)
