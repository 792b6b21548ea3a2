"""Sources to scans: read, named, written, then entered in the catalogue; rerunning changes nothing."""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

from medml.catalogue.columns import keep_columns
from medml.catalogue.config import IngestConfig, collection_of
from medml.catalogue.report import Counted, Tally, write_report
from medml.catalogue.scans import Work, annotated, make_work
from medml.catalogue.tree import outcome_of
from medml.catalogue.walk import find_scans, licence_of
from medml.errors import ConfigError, MedmlError, Refusal
from medml.io.files import Pseudonyms
from medml.io.scans import read_scan, write_scans
from medml.records.candidate import Candidate
from medml.records.home import Home
from medml.records.ingest import IngestReport
from medml.records.scan import Outcome
from medml.store.catalogue import Catalogue
from medml.store.crosswalk import Crosswalk, Origin

__all__ = ["IngestConfig", "find_scans", "ingest", "keep_columns"]

logger = logging.getLogger(__name__)

CHUNK = 256
GROUP_SIZE = 64
GROUP_BYTES = 128 << 20
MAX_WORKERS = 2

Entry = Outcome | Work


def ingest(
    sources: Sequence[Path],
    home: Home,
    catalogue: Catalogue,
    crosswalk: Crosswalk,
    pseudonyms: Pseudonyms,
    config: IngestConfig | None = None,
    on_outcome: Callable[[Outcome], object] | None = None,
) -> IngestReport:
    """Read every scan of the sources into the home and its catalogue.

    A scan's folder is written and durable before its row is; up to 64 scans share one commit. A scan whose files and
    facts have not changed since an earlier ingest is not read again.

    Parameters
    ----------
    sources : sequence of Path
        Files and folders; all are checked to exist before any is read.
    on_outcome : callable
        Told each outcome once it is final, in the order of the walk.

    Returns
    -------
    IngestReport
        Also written to ``reports/ingest-<UTC time>.json``, 0600.

    Raises
    ------
    ConfigError
        If a source does not exist, is empty or cannot be read.
    MedmlError
        If the home cannot be written to.
    """
    config = config or IngestConfig()
    if not sources:
        raise ConfigError("no source given; expected at least one file or folder of scans")
    for source in sources:
        if not source.exists():
            raise ConfigError(f"{source}: there is no such file or folder; check the path")
    started = datetime.now(UTC)
    tally = Tally(on_outcome)
    collections = list(dict.fromkeys(collection_of(source, config) for source in sources))
    for source in sources:
        name = collection_of(source, config)
        desk = _Desk(home, catalogue, crosswalk, pseudonyms, name, tally)
        with ThreadPoolExecutor(_workers(config), thread_name_prefix="ingest") as pool:
            for entry in _in_order(pool, desk, find_scans(source, config), _workers(config) + 1):
                desk.add(entry)
            desk.flush()
        if tally.knows(name):
            catalogue.add_collection(name, config.licence or licence_of(source, config), config.consent)
    report = tally.report(tuple(collections), started, datetime.now(UTC))
    write_report(home, report)
    return report


def _workers(config: IngestConfig) -> int:
    return config.workers or min(MAX_WORKERS, len(os.sched_getaffinity(0)))


def _in_order(
    pool: ThreadPoolExecutor, desk: _Desk, items: Iterable[Candidate | Outcome], ahead: int
) -> Iterator[Entry]:
    """Read candidates a few ahead, so that memory holds few volumes, and yield entries in the order of the walk."""
    waiting: deque[Outcome | Future[Entry]] = deque()
    reading = 0
    for item in desk.recognised(items):
        if isinstance(item, Outcome):
            waiting.append(item)
        else:
            waiting.append(pool.submit(_read, item, desk.collection, desk.pseudonyms))
            reading += 1
        while waiting and (reading > ahead or isinstance(waiting[0], Outcome)):
            first = waiting.popleft()
            reading -= not isinstance(first, Outcome)
            yield first if isinstance(first, Outcome) else first.result()
    for first in waiting:
        yield first if isinstance(first, Outcome) else first.result()


def _read(candidate: Candidate, collection: str, pseudonyms: Pseudonyms) -> Entry:
    """Read one candidate; whatever is wrong with it costs this candidate only."""
    try:
        return make_work(candidate, collection, pseudonyms)
    except Refusal as refusal:
        return outcome_of(candidate.source, "refused", refusal.code, str(refusal), files=candidate.files)
    except MemoryError:
        reason = "there is not enough memory to read it; give the machine more, or fewer workers"
        return outcome_of(candidate.source, "refused", "memory", reason, files=candidate.files)
    except OSError as error:
        reason = f"the file cannot be read ({error.strerror}); it may have gone while this ran"
        return outcome_of(candidate.source, "refused", "unreadable", reason, files=candidate.files)
    except MedmlError:
        raise
    except Exception as error:
        # Decoders raise whatever they like on damaged files. The text may quote the file, so only its kind is kept.
        logger.warning("a candidate could not be read: %s", type(error).__name__)
        reason = f"the file could not be decoded ({type(error).__name__}); it is damaged or of an unusual kind"
        return outcome_of(candidate.source, "refused", "undecodable", reason, files=candidate.files)


@dataclass(slots=True)
class _Desk:
    """Where entries are turned into folders and rows, a group at a time."""

    home: Home
    catalogue: Catalogue
    crosswalk: Crosswalk
    pseudonyms: Pseudonyms
    collection: str
    tally: Tally
    group: list[Entry] = field(default_factory=list)
    works: int = 0
    held: int = 0
    stored: set[str] = field(default_factory=set)

    def recognised(self, items: Iterable[Candidate | Outcome]) -> Iterator[Candidate | Outcome]:
        """Turn candidates that an earlier ingest has read into outcomes "known"; ask for many at once."""
        stream = iter(items)
        while chunk := list(islice(stream, CHUNK)):
            stamps = [item.stamp for item in chunk if isinstance(item, Candidate)]
            found = self.crosswalk.by_stamp(stamps) if stamps else {}
            present = self.catalogue.known(found.values()) if found else set()
            labelled = {a.scan_id for a in self.catalogue.annotations(present)} if present else set()
            for item in chunk:
                scan_id = found.get(item.stamp) if isinstance(item, Candidate) else None
                if isinstance(item, Candidate) and scan_id is not None and scan_id in present:
                    yield self._known(item, scan_id, scan_id in labelled)
                else:
                    yield item

    def add(self, entry: Entry) -> None:
        """Take an entry; a full group is written."""
        self.group.append(entry)
        if isinstance(entry, Work):
            self.works += 1
            self.held += entry.files.volume.voxels.nbytes
        if self.works >= GROUP_SIZE or self.held >= GROUP_BYTES or len(self.group) >= 4 * CHUNK:
            self.flush()

    def flush(self) -> None:
        """Write the group's folders, then its rows, then tell its outcomes."""
        entries, self.group, self.works, self.held = self._write(self.group), [], 0, 0
        works = [entry for entry in entries if isinstance(entry, Work)]
        if works:
            self.catalogue.add([work.files.scan for work in works], [a for w in works for a in w.files.annotations])
            fresh = {work.scan_id: work for work in reversed(works) if work.scan_id not in self.stored}
            # After the catalogue: a stamp that is known says that everything about the scan is in.
            self.crosswalk.put([Origin(work.scan_id, work.stamp, work.locator) for work in fresh.values()])
        for entry in entries:
            self._tell(entry)

    def _write(self, entries: list[Entry]) -> list[Entry]:
        """Write the folders; if one is refused, each is tried by itself."""
        ready = [annotated(entry, self.home) if isinstance(entry, Work) else entry for entry in entries]
        try:
            write_scans(self.home, [entry.files for entry in ready if isinstance(entry, Work)])
            return ready
        except Refusal:
            return [self._write_alone(entry) for entry in ready]

    def _write_alone(self, entry: Entry) -> Entry:
        if isinstance(entry, Outcome):
            return entry
        try:
            write_scans(self.home, [entry.files])
        except Refusal as refusal:
            return outcome_of(entry.source, "refused", refusal.code, str(refusal), files=entry.count)
        return entry

    def _tell(self, entry: Entry) -> None:
        if isinstance(entry, Outcome):
            self.tally.add(entry)
            return
        again = entry.scan_id in self.stored
        self.stored.add(entry.scan_id)
        scan = entry.files.scan
        outcome = Outcome(
            source=entry.source,
            files=entry.count,
            outcome="accepted",
            code="duplicate" if again else "accepted",
            reason="the same scan as an earlier one of this source" if again else "",
            scan_ids=(entry.scan_id,),
            findings=scan.findings,
        )
        labelled = bool(entry.files.annotations)
        counted = Counted(self.collection, scan.patient, scan.group, scan.channel, labelled)
        self.tally.note(entry.scan_id, counted)
        self.tally.add(outcome)

    def _known(self, candidate: Candidate, scan_id: str, labelled: bool) -> Candidate | Outcome:
        """Return the outcome of a scan that is in already; the candidate where its folder has gone."""
        try:
            scan = read_scan(self.home.scans, scan_id)
        except MedmlError:
            return candidate
        self.stored.add(scan_id)
        self.tally.note(scan_id, Counted(self.collection, scan.patient, scan.group, scan.channel, labelled))
        return Outcome(
            source=candidate.source,
            files=candidate.files,
            outcome="accepted",
            code="known",
            scan_ids=(scan_id,),
            findings=scan.findings,
        )
