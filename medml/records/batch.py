"""Batch inference: jobs, predictions, and one ledger row per scan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from medml.records.candidate import Reading
from medml.records.record import Record

Status = Literal["queued", "running", "done", "failed", "refused", "not_selected", "needs_review"]


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """What a model says about one volume.

    Attributes
    ----------
    mask : ndarray of shape (I, J, K), uint8
        Labels on the volume's own (canonical) grid; None for a classifier.
    probabilities : ndarray of shape (number of classes,)
        Calibrated class probabilities; None for a segmenter.
    uncertainty : float
        Segmenter: mean entropy in [0, 1] over the predicted foreground's box; classifier: normalised entropy.
    seconds : dict
        Wall time per step: preprocess, network, restore.
    label_probabilities : ndarray of shape (L, I, J, K), float16
        Segmenters that were asked for details: of each label, on the volume's own grid.
    uncertainty_maps : dict of ndarray of shape (I, J, K), float16
        Segmenters that were asked for details, on the volume's own grid, in [0, 1] of the largest possible entropy:
        ``entropy`` of the mean probabilities (all uncertainty), and ``disagreement``, what of it comes from members
        and mirrored views that differ (their mutual information); the latter only where there are several.
    disagreement : float
        The same for the whole case: mean over the predicted foreground's box of segmenters, of a
        classifier's probabilities before calibration. NaN where one network answers alone.
    unlike : dict
        How far the scan is from the training data in each aspect of `records.norms.ASPECTS`; 1 is as far as the
        farthest scan that the model knows. Empty where a package does not say.
    unlike_share : float
        Share of validation scans that are nearer, in the aspect that is farthest; NaN where unknown.
    """

    mask: np.ndarray | None = None
    probabilities: np.ndarray | None = None
    uncertainty: float = float("nan")
    seconds: dict[str, float] = field(default_factory=dict)
    label_probabilities: np.ndarray | None = None
    uncertainty_maps: dict[str, np.ndarray] = field(default_factory=dict)
    disagreement: float = float("nan")
    unlike: dict[str, float] = field(default_factory=dict)
    unlike_share: float = float("nan")


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """One scan that was read and named, ready for the network.

    Attributes
    ----------
    source : str
        Relative to SRC.
    input_digest : str
        Content digest of the canonical volume.
    locator : mapping
        Where it came from, as the private crosswalk has it; names the patient's files.
    """

    scan_id: str
    source: str
    reading: Reading
    input_digest: str = ""
    locator: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Written:
    """What writing the result of one scan gave; the fields are those of `LedgerRow`."""

    mask: str | None = None
    outputs: dict[str, str] = field(default_factory=dict)
    result: dict[str, str | int | float | None] = field(default_factory=dict)
    status: Status = "done"
    reason: str = ""


class BatchOptions(Record):
    """How the results of a batch are written; kept with every row, for other options make other files.

    Attributes
    ----------
    dicom : str
        Which DICOM SEG a DICOM source gets, besides the structured report; "none": neither.
    capture : bool
        Whether it gets pictures with the result drawn in, too; unless ``dicom`` is "none".
    review : str
        Name of a YAML in ``configs/review``: which results a person must look at.
    """

    dicom: Literal["binary", "labelmap", "none"] = "binary"
    capture: bool = True
    review: str = "default"


class BatchMeta(Record):
    """What a batch's tables and report say about it as a whole.

    Attributes
    ----------
    labels : dict
        The plan's labels; background of a segmenter included.
    ignored : int
        Files seen that are no scans, such as notes and thumbnails.
    """

    model: str
    version: str = ""
    digest: str = ""
    task: Literal["segment", "classify"]
    labels: dict[int, str]
    batch_id: str = ""
    started: str = ""
    finished: str = ""
    ignored: int = 0


class LedgerRow(Record):
    """One scan of one batch. ``source`` is relative to SRC; the row never leaves the clinical side.

    Attributes
    ----------
    stamp : str
        The candidate's stamp when it was read: the same stamp means the same files.
    mask : str
        Path relative to OUT, ``masks/<scan id>.nii.gz``.
    outputs : dict
        Path relative to OUT to sha256, of every file written for the scan.
    result : dict
        The scan's row of ``results.csv``.
    options : str
        How results were written; other options make other files, so the scan is done again.
    attempts : int
        How often work on it began.
    """

    source: str
    scan_id: str
    status: Status
    reason: str = ""
    code: str = ""
    mask: str | None = None
    input_digest: str = ""
    model: str = ""
    model_digest: str = ""
    outputs: dict[str, str] = {}
    result: dict[str, str | int | float | None] = {}
    started: str = ""
    finished: str = ""
    stamp: str = ""
    options: str = ""
    attempts: int = 0
