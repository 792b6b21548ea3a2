"""What follows from a fingerprint: data that training and inference both obey."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from medml.records.dataset import Task
from medml.records.labels import LabelMeaning
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
    boxes : tuple
        Shape of each measured volume's foreground box: what is brighter than air.
    label_cases : dict
        Label value to measured cases that hold it (segmenters).
    units : tuple of str
        Units that the cases state, such as g/mL for SUV; "" where one states none.
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
    boxes: tuple[tuple[int, int, int], ...] = ()
    label_cases: dict[int, int] = {}
    units: tuple[str, ...] = ()


class Normalisation(Record):
    """How one channel's intensities are scaled. ``clip_zscore`` clips to [low, high], then (x - mean) / std."""

    kind: Literal["zscore", "clip_zscore", "range"]
    low: float = 0.0
    high: float = 1.0
    mean: float = 0.0
    std: float = 1.0


class Augmentation(Record):
    """Random changes to training cases. Flips name world axes, and only where laterality is not a label.

    Each ``…_share`` is the share of cases that its change touches; the sizes are the largest, reached evenly from none
    unless said otherwise. Intensities are those after normalisation, of about unit scale.

    Attributes
    ----------
    rotate_deg, scale, scale_each, shear, translate : float
        Angle about every axis in the plane of which voxels are not too coarse; factor 1 - scale to 1 + scale, that of
        each axis by ``scale_each`` more; tangent of a shear; share of the extent.
    elastic, elastic_distance : float
        Standard deviation of an elastic displacement, and how far apart the displaced points are, in voxels of the
        finest axis. Space does not fold while the first is at most about an eighth of the second.
    share : float
        Of cases moved: by rotation, scale, shear, translation and elasticity at once.
    noise : float
        Standard deviation of Gaussian noise.
    contrast, brightness : float
        Factor about the mean of each channel; what is added to it.
    gamma : float
        exp of -gamma to gamma is the power that the range of a channel is raised to; its mean and spread are kept. A
        third of these cases is inverted before and after.
    blur : float
        Standard deviation of a Gaussian in voxels, of 0.25 at least.
    low_resolution : float
        Fewest voxels kept along each axis, as a share, when a coarser scan is simulated: 1 simulates none.
    mix : float
        Parameter of mixup's Beta distribution (classifiers): 0 mixes nothing.
    """

    rotate_deg: float = 15.0
    scale: float = Field(0.15, ge=0, lt=1)
    scale_each: float = Field(0.0, ge=0, lt=1)
    shear: float = Field(0.0, ge=0, lt=1)
    translate: float = 0.0
    elastic: float = Field(0.0, ge=0)
    elastic_distance: float = Field(16.0, gt=0)
    flip_axes: tuple[int, ...] = ()
    share: float = 1.0
    noise: float = 0.1
    noise_share: float = 1.0
    contrast: float = 0.2
    contrast_share: float = 1.0
    brightness: float = 0.1
    brightness_share: float = 1.0
    gamma: float = Field(0.0, ge=0)
    gamma_share: float = 0.3
    blur: float = 0.0
    blur_share: float = 0.2
    low_resolution: float = Field(1.0, gt=0, le=1)
    low_resolution_share: float = 0.25
    mix: float = 0.0


class Plan(Record):
    """Everything that training and inference need to know, computed from a fingerprint, overridable key by key.

    Attributes
    ----------
    dims : 2 or 3
        2 when every image has one slice.
    spacing_mm : tuple of float or None
        Target spacing in canonical (I, J, K) order; None leaves voxels as they are.
    anchor : str
        What stays in place when the spacing changes: the centre of the first voxel ("voxel"), or the outer edges of
        the image ("edges"), as nnU-Net resamples.
    orientation : str
        Where the network's I, J and K point: "RAS", or with other directions ("LAS", "LPS") for weights that learned
        from files whose axes ran so. Axes never change places.
    size : tuple of int or None
        Classifiers: the fixed input shape (I, J, K), K = 1 in 2D, that every image is resized or padded to.
    patch : tuple of int or None
        Segmenters: patch and sliding-window shape (I, J, K), K = 1 in 2D.
    labels : dict
        Output channel to name; segmenters have background at 0. Output channel n is label value n.
    meanings : dict
        Label value to its code, category and colour for DICOM results; labels without one get a code of our own.
    network : str
        A name in `medml.networks`; ``network_options`` are its keyword arguments.
    pretrained : str
        Where the first weights come from: a registered model (NAME@alias, NAME/version), the folder of a package or of
        a MONAI bundle, or a file of weights. Empty: random ones.
    memory_gb : float
        What one training step is estimated to need, in GB of 10^9 bytes; 0 in plans from before.
    guided : bool
        Classifiers: masks of training cases teach a middle layer where to look; inference needs none.
    accumulate : int
        Pieces that a batch is worked through in, one after the other; gradients add up over the whole batch.
    gradient_clip : float
        Longest gradient (its norm over all weights) that a step follows; a longer one is scaled down.
    average_span : float
        What is validated and kept is the average of the weights over this share of the steps so far; 0: the last ones.
    compile : str
        "auto" tries torch.compile where the budget is long enough to earn its cost back, and keeps it if it is faster.
    skip_air : bool
        Segmenters: windows in which nothing is brighter than air (CT -500 HU, else 0) are not asked; they are
        background. For labels that never lie in air alone.
    deterministic : bool
        Two trainings with one seed on one machine give identical weights. Training then ends with its epochs: minutes,
        which differ from run to run, do not count.
    starts : int
        Trainings from different starts that make one model, unless the experiment names ``seeds``; each takes
        ``minutes`` at most.
    reasons : dict
        Key to one sentence: why this value.
    """

    task: Task
    dims: Literal[2, 3]
    modality: str
    channels: tuple[str, ...]
    labels: dict[int, str]
    meanings: dict[int, LabelMeaning] = {}
    multi_label: bool = False
    spacing_mm: tuple[float, float, float] | None = None
    anchor: Literal["voxel", "edges"] = "voxel"
    orientation: str = Field("RAS", pattern="^[RL][AP][SI]$")
    crop_foreground: bool = False
    size: tuple[int, int, int] | None = None
    patch: tuple[int, int, int] | None = None
    normalisation: tuple[Normalisation, ...]
    network: str
    network_options: dict[str, str | int | float | bool | tuple[int, ...] | tuple[tuple[int, ...], ...]] = {}
    pretrained: str = ""
    batch: int
    memory_gb: float = 0.0
    steps_per_epoch: int
    epochs: int
    minutes: float
    patience: int
    learning_rate: float
    weight_decay: float = 1e-4
    optimiser: Literal["adamw", "sgd"] = "adamw"
    schedule: Literal["cosine", "poly"] = "cosine"
    warmup_steps: int = 50
    accumulate: int = Field(1, ge=1)
    gradient_clip: float = Field(1.0, gt=0)
    average_span: float = Field(0.1, ge=0, le=1)
    compile: Literal["auto", "never", "always"] = "auto"
    deterministic: bool = False
    loss: str
    class_weights: tuple[float, ...] | None = None
    foreground_share: float = 0.5
    guided: bool = False
    augmentation: Augmentation = Augmentation()
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    overlap: float = 0.5
    tta_flips: tuple[int, ...] = ()
    skip_air: bool = False
    keep_largest: bool = False
    seed: int = 0
    starts: int = Field(1, ge=1)
    reasons: dict[str, str] = {}


class Member(Record):
    """One training of a model: the fold it is validated on, and which start it has.

    Attributes
    ----------
    seed : int
        0 begins as the plan says; n adds n to the plan's seed.
    """

    fold: int
    seed: int = 0

    @property
    def name(self) -> str:
        """What people call it."""
        return f"fold {self.fold}, seed {self.seed}"


class Trained(Member):
    """A finished training, and the folder of its package."""

    package: str


class TrainingJob(Record):
    """What the training child is told; a JSON file in the run folder.

    Attributes
    ----------
    members : tuple of Trained
        Given: nothing is trained; these become one package, calibrated out of fold.
    keep : bool
        Whether a package is wanted; a tuning's trial only needs its epochs.
    pretrained : str
        Where the weights that ``plan.pretrained`` names lie: a folder or a file. Empty: random ones.
    processes : int
        How many train together on this machine, a GPU each; over one, torchrun starts them.
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
    processes: int = Field(1, ge=1)
    members: tuple[Trained, ...] = ()
    keep: bool = True
    pretrained: str = ""


class Epoch(Record):
    """One line of ``epochs.jsonl``. ``metrics`` holds finite numbers only, e.g. train_loss, val_dice, val_auroc."""

    epoch: int
    step: int
    seconds: float
    learning_rate: float
    metrics: dict[str, float]
    best: bool
    note: str = ""


class Point(Record):
    """One line of ``steps.jsonl``: what a few steps were like. ``metrics`` holds finite numbers only."""

    step: int
    seconds: float
    metrics: dict[str, float]
