"""Batch inference: reading, network and writing overlap; every scan ends in one ledger row.

A thread reads and prepares the next scans while the network runs in the caller's, and another one restores and writes
results. Queues between them are short, so that memory follows from the largest scans and not from their number.
"""

from __future__ import annotations

import logging
import queue
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from medml.errors import MedmlError, Refusal
from medml.inference.faults import check_storage, is_transient
from medml.io.files import sha256_file
from medml.records.batch import Job, LedgerRow, Prediction, Written
from medml.records.candidate import Candidate
from medml.records.scan import Outcome

logger = logging.getLogger(__name__)

PACKAGE = Path(__file__).parents[1]
WAITING = 1  # scans held between two threads; with the three being worked on, five volumes in memory at most
POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Stages:
    """What is done to each scan, in this order. A `Refusal` makes it refused, any other exception failed.

    Attributes
    ----------
    read : callable
        A candidate to a job: its voxels, its name, its digest.
    prepare : callable
        A job to what the network wants; in the thread that reads.
    infer : callable
        That to what the network says; in the caller's thread.
    restore : callable
        That to the prediction; in the thread that writes.
    write : callable
        Job and prediction to files.
    """

    read: Callable[[Candidate], Job]
    prepare: Callable[[Job], Any]
    infer: Callable[[Any], Any]
    restore: Callable[[Any], Prediction]
    write: Callable[[Job, Prediction], Written]


def run_batch(
    candidates: Iterable[Candidate | Outcome | None],
    stages: Stages,
    *,
    done: Mapping[str, LedgerRow],
    record: Callable[[LedgerRow], object],
    on_row: Callable[[LedgerRow], object] | None = None,
    model: str = "",
    model_digest: str = "",
) -> dict[str, int]:
    """Take every candidate through the model, in order; what fails is recorded with its reason and left behind.

    Parameters
    ----------
    candidates : iterable
        Candidates to run; refused outcomes become rows, ignored ones do not. May be lazy: it is drawn as work goes on.
        None says that there is nothing yet, and lets a batch that must stop do so.
    done : mapping
        Stamp or scan id to the row of work that is finished and intact (see `finished`); it is not done again.
    record : callable
        Stores a row, from the writing thread; an exception here ends the batch.
    on_row : callable
        Told of every row, those of earlier work included, from the caller's thread.

    Returns
    -------
    dict
        How many ended as ``done``, ``failed``, ``refused``, ``needs_review``, and ``skipped`` (done before).
    """
    batch = _Batch(stages, done, record, model, model_digest)
    counts: Counter[str] = Counter(done=0, failed=0, refused=0, needs_review=0, skipped=0)

    def tell(rows: Iterable[_Ended]) -> None:
        for ended in rows:
            counts["skipped" if ended.skipped else ended.row.status] += 1
            if on_row is not None:
                on_row(ended.row)

    batch.start(candidates)
    try:
        while batch.infer_next():
            tell(batch.ended_rows())
    finally:
        batch.finish()
        tell(batch.ended_rows())
    batch.raise_failure()
    return dict(counts)


def finished(rows: Iterable[LedgerRow], out: Path, model_digest: str) -> dict[str, LedgerRow]:
    """Return the rows of work that need not be done again, under both their stamp and their scan id.

    A row counts if the same model did it and every file it names is there with the same sha256.
    """
    intact = {}
    for row in rows:
        if row.status in ("done", "needs_review") and row.model_digest == model_digest and _intact(row, out):
            intact.update({key: row for key in (row.stamp, row.scan_id) if key})
    return intact


def _intact(row: LedgerRow, out: Path) -> bool:
    return all((out / path).is_file() and sha256_file(out / path) == digest for path, digest in row.outputs.items())


@dataclass(frozen=True, slots=True, eq=False)
class _Ended:
    """A row whose work is over; ``stored`` if the ledger has it already."""

    row: LedgerRow
    skipped: bool = False
    stored: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class _Read:
    job: Job
    ready: Any
    row: LedgerRow


@dataclass(frozen=True, slots=True, eq=False)
class _Inferred:
    job: Job
    answer: Any
    row: LedgerRow


class _Batch:
    """The two threads and the bounded queues between the stages."""

    def __init__(
        self,
        stages: Stages,
        done: Mapping[str, LedgerRow],
        record: Callable[[LedgerRow], object],
        model: str,
        model_digest: str,
    ) -> None:
        self.stages, self.done, self.record = stages, done, record
        self.model, self.model_digest = model, model_digest
        self.to_network: queue.Queue[_Read | _Ended | None] = queue.Queue(WAITING)
        self.to_writer: queue.Queue[_Inferred | _Ended | None] = queue.Queue(WAITING)
        self.ended: queue.SimpleQueue[_Ended] = queue.SimpleQueue()
        self.stop = threading.Event()
        self.failure: BaseException | None = None
        self.threads: list[threading.Thread] = []

    def start(self, candidates: Iterable[Candidate | Outcome | None]) -> None:
        work = ((self._read_all, (candidates,), "read"), (self._write_all, (), "write"))
        self.threads = [threading.Thread(target=target, args=args, name=name) for target, args, name in work]
        for thread in self.threads:
            thread.start()

    def infer_next(self) -> bool:
        """Ask the network about the next scan, in order; False if there is no more or the batch must stop.

        Nothing of the scan is held here afterwards, nor by the threads while they wait for another.
        """
        item = self._get(self.to_network)
        if item is None:
            return False
        self._put(self.to_writer, self._infer_one(item) if isinstance(item, _Read) else item)
        return True

    def _infer_one(self, item: _Read) -> _Inferred | _Ended:
        try:
            return _Inferred(item.job, self.stages.infer(item.ready), item.row)
        except Exception as error:
            return _Ended(_broken(item.row, error, "running the model"))

    def ended_rows(self) -> Iterable[_Ended]:
        while not self.ended.empty():
            yield self.ended.get()

    def finish(self) -> None:
        """Stop reading, write what the network has finished, and wait for both threads."""
        self.stop.set()
        reader, writer = self.threads
        reader.join()
        while writer.is_alive():
            try:
                self.to_writer.put(None, timeout=POLL_SECONDS)
                break
            except queue.Full:
                continue
        writer.join()

    def raise_failure(self) -> None:
        if self.failure is not None:
            raise self.failure

    def _read_all(self, candidates: Iterable[Candidate | Outcome | None]) -> None:
        try:
            for candidate in candidates:
                if self.stop.is_set():
                    return
                item = None if candidate is None else self._read_one(candidate)
                if item is not None:
                    self._put(self.to_network, item)
            self._put(self.to_network, None)
        except BaseException as error:  # handed to the caller's thread, which raises it
            self._fail(error)

    def _read_one(self, candidate: Candidate | Outcome) -> _Read | _Ended | None:
        now = _now()
        if isinstance(candidate, Outcome):
            if candidate.outcome != "refused":
                return None
            row = self._row(candidate.source, now)
            return _Ended(_closed(row, status="refused", code=candidate.code, reason=candidate.reason))
        row = self._row(candidate.source, now, stamp=candidate.stamp)
        if candidate.stamp in self.done:
            return _skipped(self.done[candidate.stamp], row)
        try:
            job = self.stages.read(candidate)
        except Exception as error:
            return _Ended(_broken(row, error, "reading the scan"))
        row = row.model_copy(update={"scan_id": job.scan_id, "input_digest": job.input_digest})
        earlier = self.done.get(job.scan_id)
        if earlier is not None and earlier.input_digest == job.input_digest:
            return _skipped(earlier, row)
        try:
            return _Read(job, self.stages.prepare(job), row)
        except Exception as error:
            return _Ended(_broken(row, error, "preparing the scan"))

    def _row(self, source: str, now: str, *, stamp: str = "") -> LedgerRow:
        return LedgerRow(
            source=source,
            scan_id="",
            status="running",
            started=now,
            stamp=stamp,
            model=self.model,
            model_digest=self.model_digest,
        )

    def _write_all(self) -> None:
        try:
            while self._write_next():
                continue
        except BaseException as error:  # handed to the caller's thread, which raises it
            self._fail(error)

    def _write_next(self) -> bool:
        item = self.to_writer.get()
        if item is None:
            return False
        ended = item if isinstance(item, _Ended) else _Ended(self._write_one(item))
        if not ended.stored:
            self.record(ended.row)
        self.ended.put(ended)
        return True

    def _write_one(self, item: _Inferred) -> LedgerRow:
        try:
            prediction = self.stages.restore(item.answer)
        except Exception as error:
            return _broken(item.row, error, "restoring the result")
        try:
            written = self.stages.write(item.job, prediction)
        except Exception as error:
            return _broken(item.row, error, "writing the result")
        return _closed(
            item.row,
            status=written.status,
            reason=written.reason,
            mask=written.mask,
            outputs=written.outputs,
            result=written.result,
        )

    def _fail(self, error: BaseException) -> None:
        self.failure = self.failure or error
        self.stop.set()

    def _get(self, source: queue.Queue[_Read | _Ended | None]) -> _Read | _Ended | None:
        while not self.stop.is_set():
            try:
                return source.get(timeout=POLL_SECONDS)
            except queue.Empty:
                continue
        return None

    def _put(self, target: queue.Queue[Any], item: object) -> None:
        while not self.stop.is_set():
            try:
                target.put(item, timeout=POLL_SECONDS)
                return
            except queue.Full:
                continue


def _skipped(earlier: LedgerRow, row: LedgerRow) -> _Ended:
    """Return the earlier row under today's name and stamp; it is stored again only if those changed."""
    renamed = earlier.model_copy(update={"source": row.source, "stamp": row.stamp})
    return _Ended(renamed, skipped=True, stored=renamed == earlier)


def _closed(row: LedgerRow, **fields: object) -> LedgerRow:
    return row.model_copy(update={**fields, "finished": _now()})


def _broken(row: LedgerRow, error: Exception, doing: str) -> LedgerRow:
    """Close a row with what went wrong; texts that are not ours may name the patient and are left out."""
    check_storage(error)
    if is_transient(error):
        reason = f"{type(error).__name__} while {doing}: storage or network failed for a moment"
        return _closed(row, status="failed", code="transient", reason=reason)
    if isinstance(error, Refusal):
        return _closed(row, status="refused", code=error.code, reason=str(error))
    if isinstance(error, MedmlError):
        reason, code = str(error), "failed"
    else:
        memory = isinstance(error, MemoryError) or "memory" in str(error).lower()
        code = "memory" if memory else "failed"
        reason = f"{type(error).__name__} while {doing}{': out of memory' if memory else _place(error)}"
    what = f"{type(error).__name__} while {doing}{_place(error)}"
    logger.warning("scan %s failed: %s", row.scan_id or "(unnamed)", what)
    return _closed(row, status="failed", code=code, reason=reason)


def _place(error: Exception) -> str:
    """Return the line of ours that an unforeseen error came through: it names no patient, and says where to look."""
    frames = [(Path(frame.filename), frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    ours = [(path, line) for path, line in frames if path.is_relative_to(PACKAGE)]
    return f" ({ours[-1][0].relative_to(PACKAGE.parent)}, line {ours[-1][1]})" if ours else ""


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
