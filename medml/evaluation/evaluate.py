"""Evaluation, case by case: one table from which averages, intervals, subgroups and figures derive."""

from __future__ import annotations

import logging
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import pandas as pd

from medml.errors import MedmlError, Refusal
from medml.evaluation.detection import lesion_scores
from medml.evaluation.names import foreground, label_keys
from medml.evaluation.summary import TOLERANCE_MM, choose_threshold, summarise
from medml.geometry import spacing_of
from medml.io.scans import read_image, read_mask
from medml.metrics.conformal import prediction_sets
from medml.metrics.overlap import overlaps, volume_ml
from medml.metrics.surface import label_surface_scores
from medml.records.batch import Prediction
from medml.records.calibration import Calibration
from medml.records.dataset import Case
from medml.records.plan import Plan
from medml.records.scan import Volume
from medml.transforms.preprocessing import stack_channels

__all__ = ["Predicts", "case_table", "choose_threshold", "read_case", "summarise"]

Part = Literal["train", "validation", "test"]
Row = dict[str, Any]
logger = logging.getLogger(__name__)


class Predicts(Protocol):
    """What evaluation needs of a predictor: `medml.networks.predictor.Predictor` is one."""

    @property
    def plan(self) -> Plan:
        """The plan that the model was trained by."""

    def predict(self, volume: Volume, *, detailed: bool = False) -> Prediction:
        """Return what the model says about one volume."""


def case_table(
    predictor: Predicts,
    cases: Sequence[Case],
    scans: Path,
    labels: Mapping[int, str],
    *,
    part: Part,
    calibration: Calibration | None = None,
    on_case: Callable[[str, str], None] | None = None,
) -> pd.DataFrame:
    """Predict every case and compare it with its reference; one row per case, whatever happens to it.

    Parameters
    ----------
    predictor : Predicts
        Gives a mask or class probabilities for a volume.
    cases : sequence of Case
        The cases of one part of a dataset.
    scans : Path
        The home's scans folder.
    labels : mapping of int to str
        Label value to name.
    calibration : Calibration
        The package's; its promises are kept or broken in ``conformal_set`` and ``outer_missed_<label>``.
    on_case : callable
        Told (case id, status) after each case.

    Returns
    -------
    DataFrame
        ``case_id, patient, part, status ("done" or "failed"), reason, seconds, peak_memory_mb`` (of this process until
        then), the case's columns, and

        * segmenters, per label: ``dice_, iou_, hd95_, nsd_, assd_, volume_ml_, reference_ml_, missed_, false_<label>``
          and ``dice``, their mean; without known spacing no column in mm or mL. Lesion by lesion
          (`medml.metrics.lesions`): ``lesions_found_<label>``, how sure the model was of each lesion of the reference,
          separated by blanks, "-" for a missed one, and ``lesions_false_<label>``. ``outer_missed_<label>``: the share
          of the reference outside the outer mask.
        * classifiers: ``prob_<class>``, ``truth``, ``predicted`` (the most probable class), ``correct``; with several
          classes at once ``truth_<class>``, 0 or 1; else ``conformal_set``, the classes not ruled out.
    """
    keys = label_keys(labels)
    rows = []
    for case in cases:
        row: Row = {"case_id": case.case_id, "patient": case.patient, "part": part}
        truth = _truth(case, labels, keys, predictor.plan)
        started = time.perf_counter()
        try:
            result = _score(predictor, case, scans, labels, keys, calibration or Calibration())
            row |= {"status": "done", "reason": ""}
        except Exception as error:
            # One case must not stop the others; it is counted, named by its id, and shown in every report.
            result = {}
            reason = str(error) if isinstance(error, MedmlError) else f"{type(error).__name__}: {error}"
            row |= {"status": "failed", "reason": reason}
            logger.warning("case %s failed: %s", case.case_id, type(error).__name__)
        row["seconds"] = time.perf_counter() - started
        row["peak_memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        columns = {name: value for name, value in case.columns.items() if name not in {**row, **truth, **result}}
        rows.append({**row, **columns, **truth, **result})
        if on_case:
            on_case(case.case_id, str(row["status"]))
    base = ["case_id", "patient", "part", "status", "reason", "seconds", "peak_memory_mb"]
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=base)


def read_case(case: Case, scans: Path) -> tuple[Volume, np.ndarray | None]:
    """Return the channels of a case as one volume and its mask (I, J, K), None if it has none."""
    volume = stack_channels([read_image(scans, scan_id) for scan_id in case.scans])
    if case.mask is None:
        return volume, None
    return volume, read_mask(scans, case.case_id, case.mask).voxels[0]


def _truth(case: Case, labels: Mapping[int, str], keys: Mapping[int, str], plan: Plan) -> Row:
    """Return what is known of a case's classes; it stands in the table even if the case cannot be predicted."""
    if plan.task != "classify" or case.classes is None:
        return {}
    row: Row = {"truth": "; ".join(labels[value] for value in sorted(case.classes))}
    if plan.multi_label:
        row |= {f"truth_{keys[value]}": int(value in case.classes) for value in labels}
    return row


def _score(
    predictor: Predicts,
    case: Case,
    scans: Path,
    labels: Mapping[int, str],
    keys: Mapping[int, str],
    calibration: Calibration,
) -> Row:
    volume, reference = read_case(case, scans)
    prediction = predictor.predict(volume, detailed=predictor.plan.task == "segment")
    seconds = {"seconds": sum(prediction.seconds.values())} if prediction.seconds else {}
    if predictor.plan.task == "segment":
        if reference is None or prediction.mask is None:
            raise Refusal("no_reference", "the case has no reference mask, so its prediction cannot be scored")
        scores = _score_mask(prediction.mask, reference, volume, labels, keys)
        return seconds | scores | lesion_scores(prediction, reference, foreground(labels), keys, calibration.outer)
    if case.classes is None or prediction.probabilities is None:
        raise Refusal("no_reference", "the case has no class label, so its prediction cannot be scored")
    return seconds | _score_classes(prediction.probabilities, case.classes, predictor.plan, labels, keys, calibration)


def _score_mask(
    mask: np.ndarray, reference: np.ndarray, volume: Volume, labels: Mapping[int, str], keys: Mapping[int, str]
) -> Row:
    """Return the scores of one case, label by label."""
    spacing = spacing_of(volume.affine) if volume.geometry == "mm" else None
    counts = overlaps(mask, reference, sorted(foreground(labels)))
    surfaces = label_surface_scores(mask, reference, list(counts), spacing, TOLERANCE_MM) if spacing is not None else {}
    row: Row = {}
    for value, count in counts.items():
        key = keys[value]
        row[f"dice_{key}"], row[f"iou_{key}"] = count.dice, count.iou
        if spacing is not None:
            surface = surfaces[value]
            row[f"hd95_{key}"], row[f"nsd_{key}"], row[f"assd_{key}"] = surface.hd95, surface.nsd, surface.assd
            row[f"volume_ml_{key}"] = volume_ml(count.prediction, spacing)
            row[f"reference_ml_{key}"] = volume_ml(count.reference, spacing)
        row[f"missed_{key}"], row[f"false_{key}"] = int(count.missed), int(count.false)
    defined = [count.dice for count in counts.values() if not np.isnan(count.dice)]
    if spacing is not None:
        extent = np.array(volume.voxels.shape[1:]) * spacing
        row["diagonal_mm"] = float(np.linalg.norm(extent))
    return {"dice": float(np.mean(defined)) if defined else float("nan"), **row}


def _score_classes(
    probabilities: np.ndarray,
    classes: tuple[int, ...],
    plan: Plan,
    labels: Mapping[int, str],
    keys: Mapping[int, str],
    calibration: Calibration,
) -> Row:
    """Return probabilities and decisions of one case; output n of the network is label value n."""
    values = sorted(labels)
    if len(probabilities) != values[-1] + 1:
        raise Refusal(
            "classes",
            f"the model gives {len(probabilities)} probabilities, the dataset has {len(values)} classes up to "
            f"{values[-1]}; evaluate it on a dataset with the classes it was trained on",
        )
    row: Row = {f"prob_{keys[value]}": float(probabilities[value]) for value in values}
    if plan.multi_label:
        decided = {value for value in values if probabilities[value] >= 0.5}
    else:
        decided = {max(values, key=lambda value: probabilities[value])}
    row["predicted"] = "; ".join(labels[value] for value in sorted(decided))
    row["correct"] = int(decided == set(classes))
    if calibration.quantile is not None and not plan.multi_label:
        inside = prediction_sets(probabilities[np.newaxis, values], calibration.quantile)[0]
        row["conformal_set"] = "; ".join(labels[value] for value, held in zip(values, inside, strict=True) if held)
    return row
