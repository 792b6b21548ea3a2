"""One scan's result as DICOM objects for its PACS: a segmentation, and a report of what was measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from medml.errors import Refusal
from medml.geometry import to_source
from medml.io.files import write_atomic
from medml.records.batch import Job, Prediction
from medml.records.labels import Author, LabelMeaning, Measure
from medml.records.plan import Plan
from medml.results.captures import capture_pictures
from medml.results.masks import named
from medml.results.measures import LabelMeasures, measure_labels


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
    captures : int
        Pictures with the result drawn in, at most, for viewers that read no SEG; 0: none.
    """

    author: Author
    name_uid: Callable[[str], str]
    kind: Literal["binary", "labelmap"] = "binary"
    accepted_by: str = ""
    captures: int = 0


def write_dicom(
    out: Path,
    job: Job,
    prediction: Prediction,
    plan: Plan,
    results: DicomResults,
    *,
    measures: Mapping[int, LabelMeasures] | None = None,
) -> tuple[tuple[Path, ...], str]:
    """Write ``dicom/<scan id>.seg.dcm``, ``.sr.dcm`` and ``.sc-001.dcm``, … into the study of the source.

    What has no place for a SEG, such as a radiograph, may still get captures.

    Parameters
    ----------
    measures : mapping or None
        What `measure_labels` gave for this very mask; None: it is measured here.

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
    except Refusal as refusal:
        return (), f"no DICOM objects: {refusal}"
    objects, reason = dict[str, Any](), ""
    try:
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
            objects[".seg.dcm"] = segments
        objects[".sr.dcm"] = measurement_report(
            measures_of(job, prediction, plan, measures),
            sources,
            meanings,
            results.author,
            uids=_uids(job, results, f"sr {results.accepted_by}"),
            device_uid=results.name_uid(f"device {results.author.digest}"),
            segments=segments,
            accepted_by=results.accepted_by,
        )
    except Refusal as refusal:
        objects, reason = {}, f"no DICOM SEG and SR: {refusal}"
    for number, data in enumerate(_captures(job, prediction, plan, results, sources), start=1):
        objects[f".sc-{number:03d}.dcm"] = data
    paths = []
    for suffix, data in objects.items():
        path = named(out, "dicom", job.scan_id, suffix)
        write_atomic(path, lambda temporary, data=data: data.save_as(temporary), mode=0o600)  # type: ignore[misc]
        paths.append(path)
    return tuple(paths), reason


def label_meanings(plan: Plan) -> dict[int, LabelMeaning]:
    """Return what each label means to others; background of a segmenter is not said."""
    shown = [value for value in sorted(plan.labels) if value != 0 or plan.task == "classify"]
    known = {value: plan.meanings.get(value, LabelMeaning()) for value in shown}
    return {value: known[value].model_copy(update={"name": plan.labels[value]}) for value in shown}


def measures_of(
    job: Job, prediction: Prediction, plan: Plan, measures: Mapping[int, LabelMeasures] | None = None
) -> list[Measure]:
    """Return volumes in mL, for CT also means in HU of what was found, or the probabilities of classes."""
    if prediction.probabilities is not None:
        shares = prediction.probabilities.tolist()
        return [
            Measure(label=label, kind="probability", value=round(shares[label], 6)) for label in sorted(plan.labels)
        ]
    if prediction.mask is None or job.reading.volume.geometry != "mm":
        return []
    found = []
    for label, measured in (measures or measure_labels(job, prediction.mask, plan)).items():
        found.append(Measure(label=label, kind="volume", value=measured.volume_ml or 0.0))
        if plan.modality == "CT" and measured.intensity:
            found.append(Measure(label=label, kind="mean", value=round(measured.intensity["mean"], 2)))
    return found


def _captures(job: Job, prediction: Prediction, plan: Plan, results: DicomResults, sources: Any) -> Iterator[Any]:
    """Yield one secondary capture per picture, each beside the source slice it shows."""
    if not results.captures:
        return
    from medml.io.capture_write import secondary_capture

    series, _ = _uids(job, results, "sc")
    header = sources.images[0]
    data = None
    pictures = capture_pictures(job, prediction, plan, results.author, header, most=results.captures)
    for number, picture in enumerate(pictures, start=1):
        data = secondary_capture(
            picture.pixels,
            sources,
            results.author,
            place=picture.place,
            zoom=picture.zoom,
            uids=(series, _uids(job, results, f"sc {picture.place}")[1]),
            number=number,
            like=data,
        )
        yield data


def _first(locator: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the locator of the first channel, on whose grid the result lies."""
    parts = locator.get("channels")
    return parts[0] if parts else locator


def _uids(job: Job, results: DicomResults, what: str) -> tuple[str, str]:
    """Return series and instance: the same for the same input and model, so that a rerun sends nothing new."""
    text = f"{job.scan_id} {job.input_digest} {results.author.digest} {results.kind} {what}"
    return results.name_uid(f"series {text}"), results.name_uid(f"instance {text}")
