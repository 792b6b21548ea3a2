"""One candidate to a staged scan folder, or to the reason why not; in a limited process or in this one."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from medml.catalogue.dicom_annotations import Drawing, draw, stage_masks
from medml.catalogue.quality_rules import QualityLimits
from medml.catalogue.scans import make_work
from medml.catalogue.tree import outcome_of
from medml.errors import MedmlError, Refusal
from medml.io.files import Pseudonyms, clear_disk_errors
from medml.io.scans import Staged, stage_scan
from medml.records.candidate import Candidate
from medml.records.scan import Annotation, Outcome, Scan

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Ready:
    """A candidate whose scan is staged.

    Attributes
    ----------
    source, count, stamp, locator
        From the candidate; ``count`` is its number of files.
    bytes : int
        How large they are.
    """

    source: str
    count: int
    stamp: str
    locator: Mapping[str, Any]
    staged: Staged
    bytes: int = 0

    @property
    def scan_id(self) -> str:
        """The private name of the scan."""
        return self.staged.scan.scan_id


_ANNOTATIONS = TypeAdapter(tuple[Annotation, ...])

Entry = Outcome | Ready
Job = Candidate | Drawing


def ready(candidate: Job, staged: Staged) -> Ready:
    """Join what was staged with what the candidate says."""
    return Ready(candidate.source, candidate.files, candidate.stamp, candidate.locator, staged, candidate.bytes)


def as_json(found: Outcome | Staged) -> dict[str, Any]:
    """Return a result as it travels between processes: nothing that comes from a reader is unpickled."""
    if isinstance(found, Outcome):
        return {"outcome": found.model_dump(mode="json")}
    annotations = [annotation.model_dump(mode="json") for annotation in found.annotations]
    return {"scan": found.scan.model_dump(mode="json"), "annotations": annotations}


def from_json(job: Job, folder: Path, found: Mapping[str, Any]) -> Entry:
    """Return the entry of a job whose files a reader has put into ``folder``."""
    if "outcome" in found:
        return Outcome.model_validate(found["outcome"])
    scan = Scan.model_validate(found["scan"])
    return ready(job, Staged(folder, scan, _ANNOTATIONS.validate_python(found["annotations"])))


def refused(candidate: Job, code: str, reason: str) -> Outcome:
    """Return the outcome of a candidate that cannot be used."""
    return outcome_of(candidate.source, "refused", code, reason, files=candidate.files)


def stage(
    job: Job, folder: Path, collection: str, pseudonyms: Pseudonyms, limits: QualityLimits | None = None
) -> Outcome | Staged:
    """Read a candidate, or draw an annotation, and write its files; whatever is wrong with it costs it alone.

    Parameters
    ----------
    folder : Path
        Where the files go; must not exist.
    limits : QualityLimits
        Thresholds of the quality findings; the defaults if None.

    Raises
    ------
    MedmlError
        If the home cannot be written to.
    """
    try:
        if isinstance(job, Drawing):
            drawn = draw(job)
            check_unchanged(job)
            with _writing(folder):
                return stage_masks(job, drawn, folder)
        files = make_work(job, collection, pseudonyms, limits).files
        check_unchanged(job)
        with _writing(folder):
            return stage_scan(folder, files)
    except Refusal as refusal:
        return refused(job, refusal.code, str(refusal))
    except MemoryError:
        reason = "there is not enough memory to read it; raise memory_gb, give the machine more, or take fewer workers"
        return refused(job, "memory", reason)
    except OSError as error:
        reason = f"the file cannot be read ({error.strerror}); it may have gone while this ran"
        return refused(job, "unreadable", reason)
    except MedmlError:
        raise
    except Exception as error:
        # Decoders raise whatever they like on damaged files. The text may quote the file, so only its kind is kept.
        logger.warning("a candidate could not be read: %s", type(error).__name__)
        reason = f"the file could not be decoded ({type(error).__name__}); it is damaged or of an unusual kind"
        return refused(job, "undecodable", reason)
    except BaseException as error:
        # A panic of a decoder written in Rust passes `except Exception`.
        if type(error).__module__ != "pyo3_runtime":
            raise
        return refused(job, "undecodable", "the decoder gave up (a panic); the file is damaged")


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Tell an error of the home, which ends the ingest, from one of the source, which costs one scan."""
    try:
        with clear_disk_errors(folder):
            yield
    except OSError as error:
        if error.filename is not None and not str(error.filename).startswith(str(folder)):
            raise
        raise MedmlError(
            f"the home cannot be written to ({error.strerror}); nothing is half written, "
            "check its permissions and its disk, then run again"
        ) from None


def check_unchanged(job: Job) -> None:
    """Refuse a job whose files, or the folders they lie in, have changed since the walk saw them.

    Raises
    ------
    Refusal
        ``source_changed``.
    """
    for path, size, changed in job.seen:
        try:
            status = os.stat(path)
        except FileNotFoundError:
            status = None
        if status is None or status.st_mtime_ns != changed or (size >= 0 and status.st_size != size):
            raise Refusal(
                "source_changed",
                "a file of it was changed, added or removed while this ran; "
                "wait until the source is complete, then ingest it again",
            )
