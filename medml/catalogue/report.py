"""What an ingest did: counted while it runs, written for the operator, summed up for a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from medml.catalogue.policies import others_than_refuse
from medml.catalogue.quality_collection import collection_findings, same_pictures
from medml.catalogue.quality_rules import SEVERITIES, QualityLimits
from medml.io.files import write_record
from medml.records.home import Home
from medml.records.ingest import IngestCounts, IngestReport
from medml.records.scan import Finding, Outcome, Scan

if TYPE_CHECKING:
    from medml.store.catalogue import Catalogue


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
            started=started.isoformat(timespec="microseconds"),
            finished=finished.isoformat(timespec="microseconds"),
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


def with_neighbours(
    report: IngestReport, catalogue: Catalogue, limits: QualityLimits
) -> tuple[IngestReport, list[Scan]]:
    """Add what only shows beside the other scans of the catalogue; return the scans of the report as well, by id."""
    ids = {scan_id for outcome in report.outcomes for scan_id in outcome.scan_ids}
    if not ids:
        return report, []
    everything = catalogue.compared()
    pictures = same_pictures(everything, limits=limits, wanted=ids)
    found = collection_findings(everything, pictures, limits=limits)
    beside = {scan_id: items for scan_id, items in found.items() if scan_id in ids}
    counts = Counter(report.findings) + Counter(item.code for items in beside.values() for item in items)
    changes = {"beside_others": beside, "pictures": pictures, "findings": dict(sorted(counts.items()))}
    return report.model_copy(update=changes), catalogue.by_id(ids)


def write_report(home: Home, report: IngestReport) -> Path:
    """Write ``reports/ingest-<UTC time>.json``, readable by the owner only; return its path."""
    path = report_path(home, report)
    write_record(path, report, mode=0o600)
    return path


def report_path(home: Home, report: IngestReport) -> Path:
    """Return where a report is kept."""
    return home.reports / f"ingest-{_time_of(report)}.json"


def page_path(home: Home, report: IngestReport) -> Path:
    """Return where the quality page of a report is kept."""
    return home.reports / f"qc-{_time_of(report)}.html"


def by_severity(report: IngestReport) -> dict[str, Counter[str]]:
    """Return severity to finding codes with how often each was found; the worst first, the commonest first."""
    found: dict[str, Counter[str]] = {severity: Counter() for severity in SEVERITIES}
    for item in all_findings(report):
        found[item.severity][item.code] += 1
    return {severity: codes for severity, codes in found.items() if codes}


def all_findings(report: IngestReport) -> list[Finding]:
    """Return every finding of a report, but for the columns that were not kept."""
    found = [item for outcome in report.outcomes for item in outcome.findings if item.code != "column_left"]
    return found + [item for items in report.beside_others.values() for item in items]


def summary_lines(report: IngestReport, *, most: int = 5) -> list[str]:
    """Return a short text for the operator: counts, and the commonest refusals and findings with what to do.

    Parameters
    ----------
    most : int
        How many refusals and findings are told; the page has them all.
    """
    counts = report.counts
    parts = f"{counts.accepted} accepted + {counts.refused} refused + {counts.ignored} ignored"
    kinds = f"{counts.labelled} labelled, {counts.unlabelled} unlabelled, {counts.known} known before"
    lines = [
        f"collection  {report.collection}",
        f"files       {counts.files} seen = {parts}",
        f"scans       {counts.scans} ({kinds}) of {counts.patients} patients",
    ]
    lines += _refusals(report, most)
    lines += _findings(report, most)
    if report.columns_left:
        lines.append(f"columns not kept: {_clean(', '.join(report.columns_left))}")
    return lines


def _refusals(report: IngestReport, most: int) -> list[str]:
    """Say of each common reason how many files it cost, with one example."""
    examples: dict[str, Outcome] = {}
    files = Counter[str]()
    for outcome in report.outcomes:
        if outcome.outcome == "refused":
            examples.setdefault(outcome.code, outcome)
            files[outcome.code] += outcome.files
    told = [
        f"refused {number} ({code}){_where(examples[code])}: {_clean(examples[code].reason)}{_other_policies(code)}"
        for code, number in files.most_common(most)
    ]
    return told + ([f"… and {len(files) - most} more reasons on the page"] if len(files) > most else [])


def _where(outcome: Outcome) -> str:
    """Name the source of an outcome, unless it is all of SRC."""
    return "" if outcome.source == "." else f", such as {_clean(outcome.source)}"


def _other_policies(code: str) -> str:
    """Name the policy that could take what is refused, where there is one."""
    others = others_than_refuse(code)
    return f"; or ingest with --set policies.{code}={'|'.join(others)}" if others else ""


def _findings(report: IngestReport, most: int) -> list[str]:
    """Say of each common finding how often it was made, and what to do; the harmless ones are only counted."""
    found = by_severity(report)
    serious = [
        (severity, *item) for severity in SEVERITIES[:2] for item in found.get(severity, Counter()).most_common()
    ]
    advice = {item.code: item.advice for item in all_findings(report)}
    told = [
        f"{severity} {code} ({number}){f': {_clean(advice[code])}' if advice[code] else ''}"
        for severity, code, number in serious[:most]
    ]
    if len(serious) > most:
        told.append(f"… and {len(serious) - most} more kinds of findings on the page")
    if "info" in found:
        told.append(f"info: {', '.join(f'{code} {number}' for code, number in found['info'].most_common(most))}")
    return told


def _time_of(report: IngestReport) -> str:
    return datetime.fromisoformat(report.finished).strftime("%Y%m%dT%H%M%S.%f") + "Z"


def _clean(text: str) -> str:
    """Return text that cannot steer a terminal."""
    return "".join(c if c.isprintable() else "?" for c in text)
