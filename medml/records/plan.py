"""What follows from a fingerprint: data that training and inference both obey."""

from __future__ import annotations

from typing import Literal

from medml.records.dataset import Task
from medml.records.record import Record


class Fingerprint(Record):
    """What the training cases of a dataset look like; nothing here comes from test cases.

    Attributes
    ----------
    shapes, spacings : tuple
        One entry per case measured, in (I, J, K) order; spacings is empty when unknown.
    intensity : tuple of dict
        Per channel: mean, std, p00_5, p99_5, min, max, over the foreground (segmenters) or the whole image.
    label_voxels : dict
        Label value to voxels counted (segmenters).
    class_counts : dict
        Class value to cases (classifiers).
    """

    task: Task
    cases: int
    modality: str
    geometry: Literal["mm", "none"]
    channels: tuple[str, ...]
    shapes: tuple[tuple[int, int, int], ...]
    spacings: tuple[tuple[float, float, float], ...] = ()
    intensity: tuple[dict[str, float], ...]
    label_voxels: dict[int, int] = {}
    class_counts: dict[int, int] = {}


class Normalisation(Record):
    """How one channel's intensities are scaled. ``clip_zscore`` clips to [low, high], then (x - mean) / std."""

    kind: Literal["zscore", "clip_zscore", "range"]
    low: float = 0.0
    high: float = 1.0
    mean: float = 0.0
    std: float = 1.0


class Augmentation(Record):
    """Random changes to training cases. Flips name world axes, and only where laterality is not a label.

    ``share`` is the share of cases that rotation, scale and translation move; intensities change in all. ``mix`` is
    the parameter of mixup's Beta distribution (classifiers): 0 mixes nothing.
    """

    rotate_deg: float = 15.0
    scale: float = 0.15
    translate: float = 0.0
    flip_axes: tuple[int, ...] = ()
    noise: float = 0.1
    contrast: float = 0.2
    brightness: float = 0.1
    blur: float = 0.0
    share: float = 1.0
    mix: float = 0.0


class Plan(Record):
    """Everything that training and inference need to know, computed from a fingerprint, overridable key by key.

    Attributes
    ----------
    dims : 2 or 3
        2 when every image has one slice.
    spacing_mm : tuple of float or None
        Target spacing in canonical (I, J, K) order; None leaves voxels as they are.
    size : tuple of int or None
        Classifiers: the fixed input shape (I, J, K), K = 1 in 2D, that every image is resized or padded to.
    patch : tuple of int or None
        Segmenters: patch and sliding-window shape (I, J, K), K = 1 in 2D.
    labels : dict
        Output channel to name; segmenters have background at 0. Output channel n is label value n.
    network : str
        A name in `medml.networks`; ``network_options`` are its keyword arguments.
    guided : bool
        Classifiers: masks of training cases teach a middle layer where to look; inference needs none.
    reasons : dict
        Key to one sentence: why this value.
    """

    task: Task
    dims: Literal[2, 3]
    modality: str
    channels: tuple[str, ...]
    labels: dict[int, str]
    multi_label: bool = False
    spacing_mm: tuple[float, float, float] | None = None
    crop_foreground: bool = False
    size: tuple[int, int, int] | None = None
    patch: tuple[int, int, int] | None = None
    normalisation: tuple[Normalisation, ...]
    network: str
    network_options: dict[str, str | int | float | bool | tuple[int, ...] | tuple[tuple[int, ...], ...]] = {}
    batch: int
    steps_per_epoch: int
    epochs: int
    minutes: float
    patience: int
    learning_rate: float
    weight_decay: float = 1e-4
    warmup_steps: int = 50
    loss: str
    class_weights: tuple[float, ...] | None = None
    foreground_share: float = 0.5
    guided: bool = False
    augmentation: Augmentation = Augmentation()
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    overlap: float = 0.5
    tta_flips: tuple[int, ...] = ()
    keep_largest: bool = False
    seed: int = 0
    reasons: dict[str, str] = {}


class TrainingJob(Record):
    """What the training child is told; a JSON file in the run folder.

    Attributes
    ----------
    scans : str
        The home's scans folder. cache : where preprocessed arrays go. run : where epochs.jsonl, checkpoints and
        finally ``package/`` are written.
    """

    dataset: str
    plan: str
    fold: int
    scans: str
    cache: str
    run: str
    device: str = "auto"


class Epoch(Record):
    """One line of ``epochs.jsonl``. ``metrics`` holds finite numbers only, e.g. train_loss, val_dice, val_auroc."""

    epoch: int
    step: int
    seconds: float
    learning_rate: float
    metrics: dict[str, float]
    best: bool
    note: str = ""
