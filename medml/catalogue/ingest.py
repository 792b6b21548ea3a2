"""Sources to scans: read, named, written, then entered in the catalogue; rerunning changes nothing."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

from medml.catalogue.config import IngestConfig, collection_of
from medml.catalogue.desk import Desk
from medml.catalogue.dicom_annotations import AnnotationFile, Archive, annotate
from medml.catalogue.quarantine import Quarantine
from medml.catalogue.report import Tally, with_neighbours, write_report
from medml.catalogue.shards import Shard, collect_shard, shard_folder, write_shard
from medml.catalogue.staging import Entry, Job
from medml.catalogue.walk import find_all, licence_of
from medml.catalogue.worker import Allowance
from medml.catalogue.workers import Workers
from medml.errors import ConfigError, MedmlError
from medml.io.files import Pseudonyms, clear_disk_errors, sweep_temporary
from medml.io.scans import work_folder
from medml.records.candidate import Candidate
from medml.records.home import Home
from medml.records.ingest import IngestReport
from medml.records.scan import Outcome
from medml.store.catalogue import Catalogue
from medml.store.crosswalk import Crosswalk

MAX_WORKERS = 2
LEAST_MEMORY = 2 << 30
BATCH_SIZE = 32
BATCH_BYTES = 1 << 20
# A shard is worth a task of the flow's engine and a way to another machine.
SHARD_SIZE = 512
SHARD_BYTES = 256 << 20
SHARDS_AHEAD = 16

Batch = list[Candidate | Outcome]
# Begins to read jobs; what it returns waits for their entries.
Start = Callable[[Sequence[Job]], Callable[[], list[Entry]]]
# Begins to read a shard, given by its name; what it returns waits for that.
Submit = Callable[[str], Callable[[], object]]


def ingest(
    sources: Sequence[Path],
    home: Home,
    catalogue: Catalogue,
    crosswalk: Crosswalk,
    pseudonyms: Pseudonyms,
    config: IngestConfig | None = None,
    on_outcome: Callable[[Outcome], object] | None = None,
    submit: Submit | None = None,
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

    submit : callable
        Has a shard, given by its name, read elsewhere by `shards.read_shard`; its result is waited for. By default the
        scans are read on this machine.

    Returns
    -------
    IngestReport
        Also written to ``reports/ingest-<UTC time>.json``, with a quality page ``qc-<UTC time>.html``; both 0600.

    Raises
    ------
    ConfigError
        If a source does not exist, is empty or cannot be read.
    MedmlError
        If the home cannot be written to.
    """
    # Here, because inference walks sources as well and needs no pages.
    from medml.catalogue.qc_page import write_qc_page

    config = config or IngestConfig()
    if not sources:
        raise ConfigError("no source given; expected at least one file or folder of scans")
    for source in sources:
        if not source.exists():
            raise ConfigError(f"{source}: there is no such file or folder; check the path")
    started = datetime.now(UTC)
    tally = Tally(on_outcome)
    collections = list(dict.fromkeys(collection_of(source, config) for source in sources))
    archive = Archive(home, catalogue, crosswalk, pseudonyms)
    with _explained(home), work_folder(home) as work:
        for folder in (home.reports, home.secrets):
            sweep_temporary(folder)
        for source in sources:
            name = collection_of(source, config)
            allowed = allowance(config)
            with Workers(work, name, pseudonyms, allowed, isolated=config.isolated, limits=config.quality) as workers:
                _ingest_one(source, config, workers, Desk(archive, name, tally), submit)
            if tally.knows(name):
                catalogue.add_collection(name, config.licence or licence_of(source, config), config.consent)
        report = tally.report(tuple(collections), started, datetime.now(UTC))
        report, scans = with_neighbours(report, catalogue, config.quality)
        write_report(home, report)
        write_qc_page(home, report, scans, catalogue, work=work, shown=config.quality.shown_scans)
    return report


@contextmanager
def _explained(home: Home) -> Iterator[None]:
    """Turn what the file system refuses into a message of ours."""
    try:
        with clear_disk_errors(home.root):
            yield
    except OSError as error:
        raise MedmlError(
            f"the ingest stopped ({error.strerror}); nothing is half written: "
            "check the permissions and the disk of the home and the sources, then run again"
        ) from error


def allowance(config: IngestConfig) -> Allowance:
    """Return what one reading process may take."""
    memory = int(config.memory_gb * (1 << 30)) or available_memory() * 3 // 4 // worker_count(config)
    return Allowance(max(memory, LEAST_MEMORY), config.seconds_per_scan)


def worker_count(config: IngestConfig) -> int:
    """Return how many processes read at once."""
    return config.workers or min(MAX_WORKERS, len(os.sched_getaffinity(0)))


def available_memory() -> int:
    """Return the memory of the machine, or of the control group this runs in, in bytes."""
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    group = Path("/sys/fs/cgroup/memory.max")
    text = group.read_text().strip() if group.exists() else "max"
    return min(physical, int(text)) if text.isdecimal() else physical


def _ingest_one(source: Path, config: IngestConfig, workers: Workers, desk: Desk, submit: Submit | None) -> None:
    """Read the images of a source, then what was drawn on them."""
    drawn: list[AnnotationFile] = []
    quarantine = Quarantine(desk.archive.home.quarantine)
    items = desk.recognised(_without(find_all(source, config, quarantine), drawn))
    with ExitStack() as stack:
        if submit is None:
            size, bytes_, ahead = BATCH_SIZE, BATCH_BYTES, 2 * worker_count(config)
            pool = stack.enter_context(ThreadPoolExecutor(worker_count(config), thread_name_prefix="ingest"))
            start: Start = lambda jobs: pool.submit(workers.read, jobs).result  # noqa: E731
        else:
            size, bytes_, ahead = SHARD_SIZE, SHARD_BYTES, SHARDS_AHEAD
            start = _elsewhere(submit, stack.enter_context(shard_folder(desk.archive.home)), workers, config)
        try:
            for entry in _in_order(start, batches(items, size=size, held_bytes=bytes_), ahead):
                desk.add(entry)
            desk.flush()
        except BaseException:
            workers.stop()
            raise
    archive = desk.archive
    for outcome in annotate(drawn, archive, workers.read):
        desk.tell_annotation(outcome)


def _elsewhere(submit: Submit, folder: Path, workers: Workers, config: IngestConfig) -> Start:
    """Return what has candidates read as a shard, by a process that `submit` knows."""
    home, numbers = Home(folder.parent.parent), count()

    def start(jobs: Sequence[Job]) -> Callable[[], list[Entry]]:
        shard = Shard(
            workers.work.name, workers.collection, allowance(config), config.isolated, config.quality, tuple(jobs)
        )
        name = write_shard(folder, next(numbers), shard)
        wait = submit(name)

        def result() -> list[Entry]:
            wait()
            return collect_shard(home, name, shard)

        return result

    return start


def _without(
    items: Iterable[Candidate | Outcome | AnnotationFile], drawn: list[AnnotationFile]
) -> Iterator[Candidate | Outcome]:
    """Pass on what can be read at once, and put the annotations, which need their images first, on a list."""
    for item in items:
        if isinstance(item, AnnotationFile):
            drawn.append(item)
        else:
            yield item


def _in_order(start: Start, batches: Iterable[Batch], ahead: int) -> Iterator[Entry]:
    """Have batches of candidates read, a few ahead, and yield entries in the order of the walk."""
    waiting: deque[tuple[Batch, Callable[[], list[Entry]]]] = deque()
    for batch in batches:
        waiting.append((batch, start([item for item in batch if isinstance(item, Candidate)])))
        if len(waiting) > ahead:
            yield from _merged(*waiting.popleft())
    while waiting:
        yield from _merged(*waiting.popleft())


def batches(items: Iterable[Candidate | Outcome], *, size: int, held_bytes: int) -> Iterator[Batch]:
    """Cut the walk into batches: one large scan, or many small ones, which then share a round trip."""
    batch: Batch = []
    held = 0
    for item in items:
        batch.append(item)
        held += item.bytes if isinstance(item, Candidate) else 0
        if held >= held_bytes or len(batch) >= size:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch


def _merged(batch: Batch, result: Callable[[], list[Entry]]) -> Iterator[Entry]:
    entries = iter(result())
    for item in batch:
        yield item if isinstance(item, Outcome) else next(entries)
