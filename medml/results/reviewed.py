"""What is written for a person's decision, beside what the model wrote: ``review/<scan id>-<number>.…``.

Nothing is overwritten: the ledger's digests of the model's files hold for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np

from medml.errors import Refusal
from medml.geometry import to_source
from medml.io.files import sha256_file, write_atomic
from medml.io.nifti import write_on_grid
from medml.records.batch import Job, Prediction
from medml.records.labels import Author
from medml.records.plan import Plan
from medml.results.dicom_objects import label_meanings, measures_of
from medml.results.masks import named

FOLDER = "review"


@dataclass(frozen=True, slots=True)
class Signed:
    """Who decided what, when: what files written for a decision are named after and say.

    Attributes
    ----------
    number : int
        Of the decision, among those on this scan.
    report, newest : Path or None
        The model's DICOM SR, and the one that counts so far; None where there is none.
    """

    scan_id: str
    number: int
    person: str
    decided: datetime
    name_uid: Callable[[str], str]
    report: Path | None = None
    newest: Path | None = None

    def path(self, out: Path, suffix: str) -> Path:
        """Return where a file of this decision lies."""
        return named(out, FOLDER, f"{self.scan_id}-{self.number}", suffix)

    def uid(self, what: str) -> str:
        """Return the UID of an object of this decision."""
        return self.name_uid(f"review {self.scan_id} {self.number} {self.decided.isoformat()} {what}")


def write_decision(out: Path, signed: Signed, *, rejected_because: str = "") -> dict[str, str]:
    """Write the model's report anew with the decision in its status; nothing where there was no report.

    Returns
    -------
    dict
        Path relative to OUT to sha256.
    """
    if signed.report is None or not signed.report.is_file():
        return {}
    from medml.io.sr_amend import amended_report, read_report

    report = read_report(signed.report)
    newest = report if signed.newest is None else read_report(signed.newest)
    data = amended_report(
        report,
        sop_uid=signed.uid("sr"),
        decided=signed.decided,
        accepted_by="" if rejected_because else signed.person,
        rejected_because=rejected_because,
        predecessor=newest,
    )
    path = signed.path(out, ".sr.dcm")
    write_atomic(path, data.save_as, mode=0o600)
    return _digests(out, [path])


def write_corrected(
    out: Path, signed: Signed, job: Job, mask: np.ndarray, plan: Plan, author: Author
) -> tuple[dict[str, str], str]:
    """Write a corrected mask: on the source's grid, and for DICOM sources as SEG with a verified report of its volumes.

    Parameters
    ----------
    mask : ndarray of shape (I, J, K), uint8
        On the canonical grid.

    Returns
    -------
    outputs : dict
        Path relative to OUT to sha256.
    reason : str
        Why there is no DICOM, if there is none; empty for sources that were none themselves.
    """
    path = signed.path(out, ".nii.gz")
    write_on_grid(path, mask, job.reading.grid)
    path.chmod(0o600)
    locator = _first(job.locator)
    if locator.get("kind") != "dicom":
        return _digests(out, [path]), ""
    try:
        return _digests(out, [path, *_objects(out, signed, job, mask, plan, author)]), ""
    except Refusal as refusal:
        return _digests(out, [path]), f"no DICOM SEG and SR of the correction: {refusal}"


def _objects(out: Path, signed: Signed, job: Job, mask: np.ndarray, plan: Plan, author: Author) -> list[Path]:
    from medml.io.dicom_sources import read_sources
    from medml.io.seg_write import segmentation
    from medml.io.sr_amend import amended_report, person_name, read_report
    from medml.io.sr_write import measurement_report

    sources, meanings = read_sources(_first(job.locator)), label_meanings(plan)
    segments = segmentation(
        to_source(mask, job.reading.grid),
        sources,
        meanings,
        author,
        uids=(signed.uid("seg series"), signed.uid("seg")),
        corrected=True,
    )
    newest = None if signed.newest is None else read_report(signed.newest)
    series = signed.uid("sr series") if newest is None else str(newest.SeriesInstanceUID)
    report = measurement_report(
        measures_of(job, Prediction(mask=mask), plan),
        sources,
        meanings,
        author,
        uids=(series, signed.uid("sr")),
        device_uid=signed.name_uid(f"device {author.digest}"),
        segments=segments,
        accepted_by=person_name(signed.person),
    )
    if newest is not None:
        report = amended_report(
            report,
            sop_uid=signed.uid("sr"),
            decided=signed.decided,
            accepted_by=signed.person,
            predecessor=newest,
        )
    paths = []
    for suffix, data in ((".seg.dcm", segments), (".sr.dcm", report)):
        path = signed.path(out, suffix)
        write_atomic(path, data.save_as, mode=0o600)
        paths.append(path)
    return paths


def _first(locator: Mapping[str, object]) -> Mapping[str, object]:
    """Return the locator of the first channel, on whose grid the result lies."""
    parts = locator.get("channels")
    return parts[0] if isinstance(parts, list | tuple) and parts else locator


def _digests(out: Path, paths: list[Path]) -> dict[str, str]:
    return {path.relative_to(out).as_posix(): sha256_file(path) for path in paths}
