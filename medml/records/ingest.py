"""What one ingest did: the record behind ``reports/ingest-<UTC time>.json``."""

from __future__ import annotations

from medml.records.record import Record
from medml.records.scan import Finding, Outcome


class IngestCounts(Record):
    """How much was seen; files = accepted + refused + ignored.

    Attributes
    ----------
    files, accepted, refused, ignored : int
        Files on disk, by the outcome they stand in.
    scans : int
        Different scans that the sources hold now, new and known.
    labelled, unlabelled : int
        Scans with and without an annotation, a mask or a class; together ``scans``. The channels of a case whose
        mask lies with its first channel are labelled.
    known : int
        Scans that were in the catalogue already and were not read again.
    patients : int
        Different patients among ``scans``.
    """

    files: int = 0
    accepted: int = 0
    refused: int = 0
    ignored: int = 0
    scans: int = 0
    labelled: int = 0
    unlabelled: int = 0
    known: int = 0
    patients: int = 0


class IngestReport(Record):
    """Every file or series of one ingest with its outcome; names sources, so it is kept 0600.

    Attributes
    ----------
    collections : tuple of str
        One per source, in order, without repeats.
    outcomes : tuple of Outcome
        In the order of the walk; every file seen stands in exactly one.
    codes : dict
        ``"<outcome> <reason code>"`` to number of files.
    findings : dict
        Finding code to number of scans, series or files that show it.
    beside_others : dict
        Scan id to findings that only show beside other scans: outliers, the same picture under two patients.
    pictures : tuple of tuple of str
        Scan ids of each picture that several patients share, where a scan of this ingest is among them.
    columns_left : tuple of str
        Columns of tables that were not kept, because no allow-listed meaning is known for them.
    started, finished : str
        UTC, ISO 8601.
    """

    collections: tuple[str, ...]
    counts: IngestCounts
    codes: dict[str, int]
    findings: dict[str, int]
    beside_others: dict[str, tuple[Finding, ...]] = {}
    pictures: tuple[tuple[str, ...], ...] = ()
    columns_left: tuple[str, ...] = ()
    outcomes: tuple[Outcome, ...] = ()
    started: str
    finished: str

    @property
    def collection(self) -> str:
        """The collections as one text."""
        return ", ".join(self.collections)
