"""A worker of a batch: loads a model once, then claims scans from the ledger until none is left.

``python -m pipelines.worker LIST NUMBER DEVICE``; what else it needs to know lies beside the list of scans.
"""

from __future__ import annotations

import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from medml.errors import MedmlError
from medml.inference.batch import Stages, finished, run_batch
from medml.inference.listing import Listing, find_listing
from medml.interpreter import run_quickly
from medml.io.files import read_record, write_record
from medml.networks.monai_import import import_monai
from medml.records.batch import BatchMeta, BatchOptions, LedgerRow
from medml.records.candidate import Candidate
from medml.records.home import Home
from medml.records.record import Record
from medml.store.database import DatabaseBusy
from medml.store.leases import Lease, LeaseLost
from medml.store.ledger import Claim, Ledger
from pipelines.slots import LEASE_SECONDS, current_home, device_slot, worker_lease
from pipelines.stores import open_catalogue

T = TypeVar("T")

POLL_SECONDS = 0.2
ATTEMPTS = 4  # of a scan whose storage or network fails for a moment
WAIT_SECONDS = 5.0  # before the second; twice as long before each further one
BUSY_ATTEMPTS = 3
LOST, INTERRUPTED = 75, 130  # exit codes: another one is to be started; it was told to stop


class Work(Record):
    """What the workers of one run of a batch share.

    Attributes
    ----------
    run : Lease
        The batch's: with it the run ends.
    package, out : str
        Folders of the model and of the results.
    """

    run: Lease
    package: str
    out: str
    meta: BatchMeta
    options: BatchOptions
    lease_seconds: float = LEASE_SECONDS

    def leave(self, listing: Listing) -> None:
        """Write it where the workers look for it."""
        write_record(listing.folder / "work.json", self, mode=0o600)

    @property
    def batch_id(self) -> str:
        """The batch's name."""
        return self.meta.batch_id


def work_on(home: Home, name: str, number: int, device: str) -> None:
    """Work on the scans of a list until every one has ended, also those of workers that die meanwhile.

    Parameters
    ----------
    name : str
        The list's.
    number : int
        Which of the batch's workers this is.
    device : str
        "auto", "cpu" or "cuda:N"; of a GPU the slot is taken.

    Raises
    ------
    LeaseLost
        If the run is over, or this worker was silent for so long that its scans were given to others.
    """
    from medml.networks.precision import choose_device

    listing = find_listing(home, name)
    work = read_record(listing.folder / "work.json", Work)
    device = str(choose_device(device))
    if device == "cpu":
        _work(home, work, listing, number, device)
    else:
        with device_slot(device):
            _work(home, work, listing, number, device)


def _work(home: Home, work: Work, listing: Listing, number: int, device: str) -> None:
    from medml.networks.predictor import Predictor
    from pipelines.stages import make_stages

    predictor = Predictor(Path(work.package), device=device)
    stages = make_stages(home, Path(work.out), predictor, work.meta, **work.options.model_dump())
    do_scans(work, listing, number, stages)


def do_scans(work: Work, listing: Listing, number: int, stages: Stages) -> None:
    """Claim scans and take them through the stages until none is left; what is not finished is put back."""
    ledger = Ledger(open_catalogue(current_home()))
    with worker_lease(work.batch_id, number, work.lease_seconds) as lease:
        hands = Hands(ledger, work, listing, lease)
        try:
            run_batch(
                hands.candidates(),
                stages,
                done=Earlier(ledger, work),
                record=hands.close,
                on_row=hands.close_if_open,
                model=f"{work.meta.model}/{work.meta.version}",
                model_digest=work.meta.digest,
            )
        finally:
            ledger.put_back(work.batch_id, worker=lease)


class Hands:
    """The scans that a worker has claimed and not closed yet."""

    def __init__(self, ledger: Ledger, work: Work, listing: Listing, lease: Lease) -> None:
        self.ledger, self.work, self.listing, self.lease = ledger, work, listing, lease
        self.options = work.options.model_dump_json()
        self._open: list[tuple[Candidate, Claim]] = []
        self._lock = threading.Lock()

    def candidates(self) -> Iterator[Candidate | None]:
        """Yield scans as they are claimed, and None while there is none to be had but others may still fall to us."""
        while True:
            claim = patiently(self._claim)
            if claim is not None:
                candidate = self.listing.candidate(claim.number)
                with self._lock:
                    self._open.append((candidate, claim))
                yield candidate
            elif not self._open and self._over():
                return
            else:
                time.sleep(POLL_SECONDS)
                yield None

    def close(self, row: LedgerRow) -> None:
        """Store what became of a scan; one that a passing fault ended goes back on the list for a while."""
        claim = self._claim_of(row)
        row = row.model_copy(update={"options": row.options or self.options, "attempts": claim.row.attempts})
        wait = 0.0
        if row.code == "transient" and claim.row.attempts < ATTEMPTS:
            wait = WAIT_SECONDS * 2 ** (claim.row.attempts - 1)
            row = row.model_copy(update={"status": "queued", "started": "", "finished": ""})
        patiently(lambda: self.ledger.close(self.work.batch_id, claim.key, row, worker=self.lease, wait_seconds=wait))
        with self._lock:
            self._open = [entry for entry in self._open if entry[1] is not claim]

    def close_if_open(self, row: LedgerRow) -> None:
        """Do so if it was not done yet: a row that is as it was is not stored by the batch."""
        if any(candidate.source == row.source and candidate.stamp == row.stamp for candidate, _ in self._open):
            self.close(row)

    def _claim(self) -> Claim | None:
        # A scan whose worker died is tried with nothing beside it, so that the next death tells which one it was.
        if any(claim.crashes for _, claim in self._open):
            return None
        return self.ledger.claim(self.work.batch_id, worker=self.lease, run=self.work.run, alone=not self._open)

    def _claim_of(self, row: LedgerRow) -> Claim:
        with self._lock:
            return next(
                claim
                for candidate, claim in self._open
                if (candidate.source, candidate.stamp) == (row.source, row.stamp)
            )

    def _over(self) -> bool:
        if self.ledger.batch(self.work.batch_id).state == "listing":
            return False
        counts = self.ledger.counts(self.work.batch_id)
        return not counts.get("queued") and not counts.get("running")


class Earlier(Mapping[str, LedgerRow]):
    """Finished work by scan id, looked up when asked: content that lay elsewhere before is not done again."""

    def __init__(self, ledger: Ledger, work: Work) -> None:
        self.ledger, self.work = ledger, work

    def __getitem__(self, scan_id: str) -> LedgerRow:
        rows = self.ledger.finished(self.work.batch_id, scan_ids=[scan_id])
        return still_finished(rows, self.work)[scan_id]

    def __iter__(self) -> Iterator[str]:
        return iter(still_finished(self.ledger.each(self.work.batch_id), self.work))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def still_finished(rows: Iterator[LedgerRow] | list[LedgerRow], work: Work) -> dict[str, LedgerRow]:
    """Return the rows whose work holds for these options, by stamp and scan id; see `finished`."""
    options = work.options.model_dump_json()
    return finished((row for row in rows if row.options in ("", options)), Path(work.out), work.meta.digest)


def patiently(call: Callable[[], T]) -> T:
    """Call, and again if the database was busy for too long."""
    for _ in range(BUSY_ATTEMPTS - 1):
        try:
            return call()
        except DatabaseBusy as error:
            logging.getLogger(__name__).warning("%s; trying again", error)
    return call()


def main() -> int:
    """Run a worker; the last line of its output says why it stopped."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    for handler in logging.getLogger().handlers:  # libraries log what they read, such as the UIDs of a patient's images
        handler.addFilter(lambda record: record.name.partition(".")[0] in ("medml", "pipelines", "__main__"))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the flow, which got it too, says when to stop
    signal.signal(signal.SIGTERM, _interrupt)
    name, number, device = sys.argv[1:]
    try:
        import_monai()
        work_on(current_home(), name, int(number), device)
    except KeyboardInterrupt:
        return INTERRUPTED
    except LeaseLost as error:
        print(error, file=sys.stderr)
        return LOST
    except MedmlError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _interrupt(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(run_quickly(main))
