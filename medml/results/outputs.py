"""Everything that is written for one scan."""

from __future__ import annotations

from pathlib import Path

from medml.io.files import sha256_file
from medml.records.batch import Job, Prediction, Written
from medml.records.plan import Plan
from medml.results.dicom_objects import DicomResults, write_dicom
from medml.results.masks import write_mask
from medml.results.previews import write_preview
from medml.results.tables import result_row


def write_outputs(
    out: Path,
    job: Job,
    prediction: Prediction,
    plan: Plan,
    *,
    threshold: float | None = None,
    previews: bool = True,
    dicom: DicomResults | None = None,
) -> Written:
    """Write mask, preview and DICOM objects of one scan into ``out`` and say what was written, with digests.

    Parameters
    ----------
    threshold : float or None
        Binary classifiers: the probability from which the second class is called present.
    dicom : DicomResults or None
        How results of DICOM sources become DICOM too; None: they do not.
    """
    files = []
    mask_path = None
    if prediction.mask is not None:
        mask_path = write_mask(out, job.scan_id, prediction.mask, job.reading.grid)
        files.append(mask_path)
    reason = ""
    if dicom is not None:
        objects, reason = write_dicom(out, job, prediction, plan, dicom)
        files += objects
    if previews:
        files.append(write_preview(out, job.scan_id, job.reading.volume, prediction.mask, plan))
    return Written(
        mask=None if mask_path is None else mask_path.relative_to(out).as_posix(),
        outputs={path.relative_to(out).as_posix(): sha256_file(path) for path in files},
        result=result_row(job, prediction, plan, threshold=threshold),
        reason=reason,
    )
