"""One run of a batch: its scans are listed, workers do them, and it waits until every one has ended."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any, Literal

from medml.inference.listing import new_listing
from medml.io.files import sweep_temporary
from medml.records.batch import BatchMeta, BatchOptions
from medml.records.home import Home
from medml.records.record import Record
from medml.store.ledger import Ledger
from pipelines.crew import Crew, local_crew, share_devices, task_crew
from pipelines.enlisting import Enlisting
from pipelines.progress import Bar, progress_bar
from pipelines.slots import batch_lease, device_slot
from pipelines.worker import Work

POLL_SECONDS = 0.5
CLUSTER_WORKERS = 2
Submit = Callable[[str, int, str], Any]


class Asked(Record):
    """What a run is asked besides model and source; see `predict`. Kept with the batch, so that it can be resumed."""

    output: str | None = None
    device: str = "auto"
    dicom: Literal["binary", "labelmap", "none"] = "binary"
    capture: bool = True
    review: str = "default"
    selection: str | None = None
    quiet_seconds: float = 0.0
    workers: int | None = None
    runner: Literal["local", "dask"] = "local"
    runner_address: str | None = None


class BatchRun:
    """One run of a batch: the scans are listed while the workers begin, then it waits for every one to end."""

    def __init__(
        self,
        home: Home,
        ledger: Ledger,
        meta: BatchMeta,
        package: Path,
        out: Path,
        source: str,
        asked: Asked,
    ) -> None:
        self.home, self.ledger, self.meta, self.package, self.out = home, ledger, meta, package, out
        self.source, self.asked = source, asked
        self.options = BatchOptions(dicom=asked.dicom, capture=asked.capture, review=asked.review)

    def work(self, sources: list[Path], channels: int, submit: Submit | None = None) -> Enlisting:
        """List and do all there is; the result says what was found.

        Parameters
        ----------
        submit : callable, optional
            Starts a worker elsewhere, given the list's name, the worker's number and its device; returns a future.
            Default: workers are processes of this machine.
        """
        batch_id, asked = self.meta.batch_id, self.asked
        cluster = ("auto",) * (asked.workers or CLUSTER_WORKERS)
        devices = cluster if submit else share_devices(asked.device, asked.workers)
        with ExitStack() as held:
            lease = held.enter_context(batch_lease(batch_id))
            if devices[0] == "cpu":
                held.enter_context(device_slot("cpu"))
            self.ledger.begin(batch_id, source_request=self.source, options=asked.model_dump_json(), lease=lease)
            listing = held.enter_context(new_listing(self.home))
            work = Work(run=lease, package=str(self.package), out=str(self.out), meta=self.meta, options=self.options)
            work.leave(listing)
            enlisting = Enlisting(self.ledger, work, listing, asked.selection, asked.quiet_seconds)
            name = listing.folder.name
            crew: AbstractContextManager[Crew]
            crew = task_crew(submit, name, devices) if submit else local_crew(self.home, name, devices, batch_id)
            with progress_bar("predicting") as bar, crew as workers:
                for _ in enlisting.pages(sources, channels):
                    self._look(workers, bar)
                self.ledger.mark(batch_id, "listed", lease=lease)
                while self._look(workers, bar):
                    time.sleep(POLL_SECONDS)
            for folder in (self.out, *(path for path in self.out.glob("*") if path.is_dir())):
                sweep_temporary(folder)  # what killed workers had half written
            self.ledger.mark(batch_id, "ended", lease=lease)
        return enlisting

    def export(self) -> None:
        """Write ``ledger.json``, also of a run that was interrupted; the database remains the truth."""
        from medml.results.tables import write_ledger

        write_ledger(self.out, self.ledger.rows(self.meta.batch_id))

    def _look(self, workers: Crew, bar: Bar) -> bool:
        """Look after the workers and their scans, and say whether any scan is still to end."""
        batch_id = self.meta.batch_id
        self.ledger.requeue(batch_id, crashed=True)
        counts = Counter(self.ledger.counts(batch_id))
        waiting = counts["queued"] + counts["running"]
        ended = counts.total() - waiting
        bar.update(ended, counts.total())
        workers.look(ended, waiting)
        return waiting > 0
