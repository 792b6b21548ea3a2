"""Everything that is written for one scan."""

from __future__ import annotations

from pathlib import Path

from medml.io.files import sha256_file
from medml.records.batch import Job, Prediction, Written
from medml.records.plan import Plan
from medml.results.dicom_objects import DicomResults, write_dicom
from medml.results.doubts import Standards
from medml.results.masks import write_mask
from medml.results.measures import measure_labels
from medml.results.previews import write_preview
from medml.results.shelf import keep_if_among_worst
from medml.results.tables import result_row


def write_outputs(
    out: Path,
    job: Job,
    prediction: Prediction,
    plan: Plan,
    *,
    standards: Standards | None = None,
    previews: bool = True,
    dicom: DicomResults | None = None,
    shelf: int = 0,
) -> Written:
    """Write mask, preview and DICOM objects of one scan into ``out`` and say what was written, with digests.

    Parameters
    ----------
    standards : Standards or None
        What the package promises and when a person must look; a result in doubt gets the status ``needs_review``.
    dicom : DicomResults or None
        How results of DICOM sources become DICOM too; None: they do not.
    shelf : int
        Of how many scans, those that need a look most, the viewer of the batch report shall hold the voxels.
    """
    files = []
    mask_path, measures = None, None
    if prediction.mask is not None:
        mask_path = write_mask(out, job.scan_id, prediction.mask, job.reading.grid)
        files.append(mask_path)
        measures = measure_labels(job, prediction.mask, plan)
    reason = ""
    if dicom is not None:
        objects, reason = write_dicom(out, job, prediction, plan, dicom, measures=measures)
        files += objects
    if previews:
        files.append(write_preview(out, job.scan_id, job.reading.volume, prediction.mask, plan))
    result = result_row(job, prediction, plan, standards, measures=measures)
    doubts = str(result["review"] or "").replace("\n", " ")
    if shelf:
        keep_if_among_worst(out, job, prediction, plan, result, most=shelf)
    return Written(
        mask=None if mask_path is None else mask_path.relative_to(out).as_posix(),
        outputs={path.relative_to(out).as_posix(): sha256_file(path) for path in files},
        result=result,
        status="needs_review" if doubts else "done",
        reason=" ".join(text for text in (doubts, reason) if text),
    )
