"""What an ingest did: counted while it runs, written for the operator, summed up for a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from medml.io.files import write_record
from medml.records.home import Home
from medml.records.ingest import IngestCounts, IngestReport
from medml.records.scan import Outcome


@dataclass(frozen=True, slots=True)
class Counted:
    """What is counted of a scan; names are pseudonyms."""

    collection: str
    patient: str
    group: str
    channel: int
    labelled: bool


class Tally:
    """Outcomes and scans as they come in.

    Parameters
    ----------
    on_outcome : callable or None
        Told each outcome.
    """

    def __init__(self, on_outcome: Callable[[Outcome], object] | None = None) -> None:
        self.outcomes: list[Outcome] = []
        self._tell = on_outcome
        self._scans: dict[str, Counted] = {}

    def add(self, outcome: Outcome) -> None:
        """Count an outcome."""
        self.outcomes.append(outcome)
        if self._tell is not None:
            self._tell(outcome)

    def note(self, scan_id: str, counted: Counted) -> None:
        """Count a scan, once however often it comes."""
        before = self._scans.get(scan_id)
        labelled = counted.labelled or (before is not None and before.labelled)
        self._scans[scan_id] = replace(counted, labelled=labelled)

    def knows(self, collection: str) -> bool:
        """Say whether a scan of the collection has come in."""
        return any(found.collection == collection for found in self._scans.values())

    def report(self, collections: tuple[str, ...], started: datetime, finished: datetime) -> IngestReport:
        """Sum up."""
        codes = Counter[str]()
        for outcome in self.outcomes:
            codes[f"{outcome.outcome} {outcome.code}"] += outcome.files
        found = [finding for outcome in self.outcomes for finding in outcome.findings]
        columns = sorted({finding.message for finding in found if finding.code == "column_left"})
        return IngestReport(
            collections=collections,
            counts=self._counts(),
            codes=dict(sorted(codes.items())),
            findings=dict(sorted(Counter(f.code for f in found if f.code != "column_left").items())),
            columns_left=tuple(columns),
            outcomes=tuple(self.outcomes),
            started=started.isoformat(timespec="milliseconds"),
            finished=finished.isoformat(timespec="milliseconds"),
        )

    def _counts(self) -> IngestCounts:
        files = Counter[str]()
        for outcome in self.outcomes:
            files[outcome.outcome] += outcome.files
        scans = self._scans.values()
        groups = {scan.group for scan in scans if scan.labelled}
        labelled = sum(scan.labelled or (scan.channel > 0 and scan.group in groups) for scan in scans)
        return IngestCounts(
            files=files.total(),
            accepted=files["accepted"],
            refused=files["refused"],
            ignored=files["ignored"],
            scans=len(self._scans),
            labelled=labelled,
            unlabelled=len(self._scans) - labelled,
            known=sum(outcome.code == "known" for outcome in self.outcomes),
            patients=len({scan.patient for scan in scans}),
        )


def write_report(home: Home, report: IngestReport) -> Path:
    """Write ``reports/ingest-<UTC time>.json``, readable by the owner only; return its path."""
    path = report_path(home, report)
    write_record(path, report, mode=0o600)
    return path


def report_path(home: Home, report: IngestReport) -> Path:
    """Return where a report is kept."""
    time = datetime.fromisoformat(report.finished).strftime("%Y%m%dT%H%M%S.%f")[:-3]
    return home.reports / f"ingest-{time}Z.json"


def summary_lines(report: IngestReport, *, names: int = 10) -> list[str]:
    """Return a short text for the operator: counts by code, what was refused and what needs a look.

    Parameters
    ----------
    names : int
        How many refused or flagged sources are named; the report has them all.
    """
    counts = report.counts
    parts = f"{counts.accepted} accepted + {counts.refused} refused + {counts.ignored} ignored"
    kinds = f"{counts.labelled} labelled, {counts.unlabelled} unlabelled, {counts.known} known before"
    lines = [
        f"collection  {report.collection}",
        f"files       {counts.files} seen = {parts}",
        f"scans       {counts.scans} ({kinds}) of {counts.patients} patients",
    ]
    lines += [f"  {number:>7} files  {code}" for code, number in report.codes.items()]
    lines += [f"  {number:>7} times  finding {code}" for code, number in report.findings.items()]
    if report.columns_left:
        lines.append(f"columns not kept: {', '.join(report.columns_left)}")
    refused = [o for o in report.outcomes if o.outcome == "refused"]
    told = [f"refused: {_clean(o.source)}: {_clean(o.reason)} ({o.code})" for o in refused]
    flagged = [(o, f) for o in report.outcomes for f in o.findings if f.severity == "warning"]
    told += [f"warning: {_clean(o.source)}: {_clean(f.message)} ({f.code})" for o, f in flagged]
    lines += told[:names]
    if len(told) > names:
        lines.append(f"… and {len(told) - names} more in the report")
    return lines


def _clean(text: str) -> str:
    """Return text that cannot steer a terminal."""
    return "".join(c if c.isprintable() else "?" for c in text)
