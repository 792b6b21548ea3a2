"""The stages of inference, put together for one worker: read a scan, ask the model, write what it found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from medml.inference.batch import Stages
from medml.records.batch import BatchMeta, Job, Prediction, Written
from medml.records.candidate import Candidate
from medml.records.home import Home
from pipelines.stores import open_crosswalk, open_pseudonyms

if TYPE_CHECKING:
    from medml.networks.predictor import Predictor

MOST_CAPTURES = 24
MOST_VIEWED = 16


def make_stages(
    home: Home,
    out: Path,
    predictor: Predictor,
    meta: BatchMeta,
    *,
    dicom: str = "binary",
    capture: bool = True,
    review: str = "default",
) -> Stages:
    """Return the stages of one model whose results go to ``out``.

    Parameters
    ----------
    dicom : str
        "binary", "labelmap" or "none": which DICOM SEG a DICOM source gets, besides the structured report.
    capture : bool
        Whether it gets pictures with the result drawn in, too; unless ``dicom`` is "none".
    review : str
        Name of a YAML in ``configs/review``: which results a person must look at.
    """
    prepare, infer, restore = predictor.stages()
    return Stages(
        read=_reader(home),
        prepare=lambda job: prepare(job.reading.volume),
        infer=infer,
        restore=restore,
        write=_writer(home, out, predictor, meta, dicom, capture, review),
    )


def _reader(home: Home) -> Callable[[Candidate], Job]:
    """Return the function that reads a candidate, names its scan and notes its origin in the private crosswalk."""
    from medml.io.files import content_digest
    from medml.store.crosswalk import Origin

    pseudonyms, crosswalk = open_pseudonyms(home), open_crosswalk(home)

    def read(candidate: Candidate) -> Job:
        reading = candidate.read()
        digest = content_digest(reading.volume)
        scan_id = pseudonyms.scan_id(candidate.identity, digest)
        patient = pseudonyms.patient(*candidate.patient)
        crosswalk.put([Origin(scan_id=scan_id, stamp=candidate.stamp, locator=candidate.locator, patient=patient)])
        return Job(
            scan_id=scan_id,
            source=candidate.source,
            reading=reading,
            input_digest=digest,
            locator=candidate.locator,
        )

    return read


def _writer(
    home: Home, out: Path, predictor: Predictor, meta: BatchMeta, dicom: str, capture: bool, review: str
) -> Callable[[Job, Prediction], Written]:
    """Return the function that writes masks, previews and DICOM objects."""
    from medml.records.labels import Author
    from medml.results.dicom_objects import DicomResults
    from medml.results.doubts import Standards
    from medml.results.outputs import write_outputs
    from pipelines.configs import load_doubt_limits

    author = Author(name=meta.model, version=meta.version, digest=meta.digest)
    objects = None
    if dicom != "none":
        name_uid, captures = open_pseudonyms(home).uid, MOST_CAPTURES if capture else 0
        objects = DicomResults(author, name_uid, dicom, captures=captures)  # type: ignore[arg-type]
    standards = Standards.of(predictor.package, load_doubt_limits(review))

    def write(job: Job, prediction: Prediction) -> Written:
        return write_outputs(
            out, job, prediction, predictor.plan, standards=standards, dicom=objects, shelf=MOST_VIEWED
        )

    return write
