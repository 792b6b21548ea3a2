"""Batch inference: reading, network and writing overlap; every scan ends in one ledger row."""

from __future__ import annotations

import logging
import queue
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from medml.errors import MedmlError, Refusal
from medml.io.files import sha256_file
from medml.records.batch import Job, LedgerRow, Prediction, Written
from medml.records.candidate import Candidate
from medml.records.scan import Outcome

logger = logging.getLogger(__name__)

WAITING = 1  # scans held between two stages; with the three being worked on, five volumes in memory at most
POLL_SECONDS = 0.1


def run_batch(
    candidates: Iterable[Candidate | Outcome],
    *,
    done: Mapping[str, LedgerRow],
    read: Callable[[Candidate], Job],
    predict: Callable[[Job], Prediction],
    write: Callable[[Job, Prediction], Written],
    record: Callable[[LedgerRow], object],
    on_row: Callable[[LedgerRow], object] | None = None,
    model: str = "",
    model_digest: str = "",
) -> dict[str, int]:
    """Take every candidate through the model, in order; what fails is recorded with its reason and left behind.

    The next scans are read in one thread while the network runs in the caller's, and results are written in another.

    Parameters
    ----------
    candidates : iterable
        Candidates to run; refused outcomes become rows, ignored ones do not. May be lazy: it is drawn as work goes on.
    done : mapping
        Stamp or scan id to the row of work that is finished and intact (see `finished`); it is not done again.
    read, predict, write : callable
        The stages. A `Refusal` makes the scan refused, any other exception makes it failed.
    record : callable
        Stores a row, from the writing thread; an exception here ends the batch.
    on_row : callable
        Told of every row, those of earlier work included, from the caller's thread.

    Returns
    -------
    dict
        How many ended as ``done``, ``failed``, ``refused``, ``needs_review``, and ``skipped`` (done before).
    """
    batch = _Batch(done, read, write, record, model, model_digest)
    counts: Counter[str] = Counter(done=0, failed=0, refused=0, needs_review=0, skipped=0)

    def tell(rows: Iterable[_Ended]) -> None:
        for ended in rows:
            counts["skipped" if ended.skipped else ended.row.status] += 1
            if on_row is not None:
                on_row(ended.row)

    batch.start(candidates)
    try:
        for item in batch.items():
            batch.hand_over(item.predicted(predict) if isinstance(item, _Read) else item)
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
class _Predicted:
    job: Job
    prediction: Prediction
    row: LedgerRow


@dataclass(frozen=True, slots=True, eq=False)
class _Read:
    job: Job
    row: LedgerRow

    def predicted(self, predict: Callable[[Job], Prediction]) -> _Predicted | _Ended:
        try:
            return _Predicted(self.job, predict(self.job), self.row)
        except Exception as error:
            return _Ended(_broken(self.row, error, "running the model"))


class _Batch:
    """The two threads and the bounded queues between the stages."""

    def __init__(
        self,
        done: Mapping[str, LedgerRow],
        read: Callable[[Candidate], Job],
        write: Callable[[Job, Prediction], Written],
        record: Callable[[LedgerRow], object],
        model: str,
        model_digest: str,
    ) -> None:
        self.done, self.read, self.write, self.record = done, read, write, record
        self.model, self.model_digest = model, model_digest
        self.to_network: queue.Queue[_Read | _Ended | None] = queue.Queue(WAITING)
        self.to_writer: queue.Queue[_Predicted | _Ended | None] = queue.Queue(WAITING)
        self.ended: queue.SimpleQueue[_Ended] = queue.SimpleQueue()
        self.stop = threading.Event()
        self.failure: BaseException | None = None
        self.threads: list[threading.Thread] = []

    def start(self, candidates: Iterable[Candidate | Outcome]) -> None:
        work = ((self._read_all, (candidates,), "read"), (self._write_all, (), "write"))
        self.threads = [threading.Thread(target=target, args=args, name=name) for target, args, name in work]
        for thread in self.threads:
            thread.start()

    def items(self) -> Iterable[_Read | _Ended]:
        """Yield what was read, in order, until there is no more or the batch must stop."""
        while (item := self._get(self.to_network)) is not None:
            yield item

    def hand_over(self, item: _Predicted | _Ended) -> None:
        self._put(self.to_writer, item)

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

    def _read_all(self, candidates: Iterable[Candidate | Outcome]) -> None:
        try:
            for candidate in candidates:
                if self.stop.is_set():
                    return
                item = self._read_one(candidate)
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
            job = self.read(candidate)
        except Exception as error:
            return _Ended(_broken(row, error, "reading the scan"))
        row = row.model_copy(update={"scan_id": job.scan_id, "input_digest": job.input_digest})
        earlier = self.done.get(job.scan_id)
        if earlier is not None and earlier.input_digest == job.input_digest:
            return _skipped(earlier, row)
        return _Read(job, row)

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
            while (item := self.to_writer.get()) is not None:
                ended = item if isinstance(item, _Ended) else _Ended(self._write_one(item))
                if not ended.stored:
                    self.record(ended.row)
                self.ended.put(ended)
        except BaseException as error:  # handed to the caller's thread, which raises it
            self._fail(error)

    def _write_one(self, item: _Predicted) -> LedgerRow:
        try:
            written = self.write(item.job, item.prediction)
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
    if isinstance(error, Refusal):
        return _closed(row, status="refused", code=error.code, reason=str(error))
    if isinstance(error, MedmlError):
        reason, code = str(error), "failed"
    else:
        memory = isinstance(error, MemoryError) or "memory" in str(error).lower()
        code = "memory" if memory else "failed"
        reason = f"{type(error).__name__} while {doing}{': out of memory' if memory else ''}"
    logger.warning("scan %s failed: %s while %s", row.scan_id or "(unnamed)", type(error).__name__, doing)
    return _closed(row, status="failed", code=code, reason=reason)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
