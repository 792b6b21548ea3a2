"""One scan's result as DICOM objects for its PACS: a segmentation, and a report of what was measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from medml.errors import Refusal
from medml.geometry import to_source
from medml.io.files import write_atomic
from medml.records.batch import Job, Prediction
from medml.records.labels import Author, LabelMeaning, Measure
from medml.records.plan import Plan
from medml.results.masks import named


@dataclass(frozen=True, slots=True)
class DicomResults:
    """How results become DICOM.

    Attributes
    ----------
    kind : "binary" or "labelmap"
        Of the SEG; most viewers read only binary ones.
    name_uid : callable
        Text to UID, always the same one: `Pseudonyms.uid`.
    accepted_by : str
        The person who accepted the result; empty while nobody looked.
    """

    author: Author
    name_uid: Callable[[str], str]
    kind: Literal["binary", "labelmap"] = "binary"
    accepted_by: str = ""


def write_dicom(
    out: Path, job: Job, prediction: Prediction, plan: Plan, results: DicomResults
) -> tuple[tuple[Path, ...], str]:
    """Write ``dicom/<scan id>.seg.dcm`` and ``.sr.dcm`` into the study of the source.

    Returns
    -------
    paths : tuple of Path
        What was written; a classifier has no SEG.
    reason : str
        Why there is no DICOM, if there is none; empty for sources that were none themselves.
    """
    locator = _first(job.locator)
    if locator.get("kind") != "dicom":
        return (), ""
    from medml.io.dicom_sources import read_sources  # with its codes of all of DICOM a second's import
    from medml.io.seg_write import segmentation
    from medml.io.sr_write import measurement_report

    meanings = label_meanings(plan)
    try:
        sources = read_sources(locator)
        segments = None
        if prediction.mask is not None:
            segments = segmentation(
                to_source(prediction.mask, job.reading.grid),
                sources,
                meanings,
                results.author,
                uids=_uids(job, results, "seg"),
                kind=results.kind,
            )
        report = measurement_report(
            measures_of(job, prediction, plan),
            sources,
            meanings,
            results.author,
            uids=_uids(job, results, f"sr {results.accepted_by}"),
            device_uid=results.name_uid(f"device {results.author.digest}"),
            segments=segments,
            accepted_by=results.accepted_by,
        )
    except Refusal as refusal:
        return (), f"no DICOM objects: {refusal}"
    paths = []
    for data, suffix in ((segments, ".seg.dcm"), (report, ".sr.dcm")):
        if data is not None:
            path = named(out, "dicom", job.scan_id, suffix)
            write_atomic(path, lambda temporary, data=data: data.save_as(temporary), mode=0o600)  # type: ignore[misc]
            paths.append(path)
    return tuple(paths), ""


def label_meanings(plan: Plan) -> dict[int, LabelMeaning]:
    """Return what each label means to others; background of a segmenter is not said."""
    shown = [value for value in sorted(plan.labels) if value != 0 or plan.task == "classify"]
    known = {value: plan.meanings.get(value, LabelMeaning()) for value in shown}
    return {value: known[value].model_copy(update={"name": plan.labels[value]}) for value in shown}


def measures_of(job: Job, prediction: Prediction, plan: Plan) -> list[Measure]:
    """Return volumes in mL, for CT also means in HU of what was found, or the probabilities of classes."""
    if prediction.probabilities is not None:
        shares = prediction.probabilities.tolist()
        return [
            Measure(label=label, kind="probability", value=round(shares[label], 6)) for label in sorted(plan.labels)
        ]
    volume, mask = job.reading.volume, prediction.mask
    if mask is None or volume.geometry != "mm":
        return []
    voxel_ml = abs(float(np.linalg.det(volume.affine[:3, :3]))) / 1000
    measures = []
    for label in sorted(plan.labels):
        if label == 0:
            continue
        inside = mask == label
        count = int(inside.sum())
        measures.append(Measure(label=label, kind="volume", value=round(count * voxel_ml, 4)))
        if count and plan.modality == "CT":
            mean = float(volume.voxels[0][inside].mean(dtype=np.float64))
            measures.append(Measure(label=label, kind="mean", value=round(mean, 2)))
    return measures


def _first(locator: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the locator of the first channel, on whose grid the result lies."""
    parts = locator.get("channels")
    return parts[0] if parts else locator


def _uids(job: Job, results: DicomResults, what: str) -> tuple[str, str]:
    """Return series and instance: the same for the same input and model, so that a rerun sends nothing new."""
    text = f"{job.scan_id} {job.input_digest} {results.author.digest} {results.kind} {what}"
    return results.name_uid(f"series {text}"), results.name_uid(f"instance {text}")
