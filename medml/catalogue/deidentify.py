"""A folder of DICOM files to a folder of de-identified ones; run again, it does only what is not done."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from medml.catalogue.audit import Audit
from medml.catalogue.config import IngestConfig
from medml.catalogue.quarantine import Quarantine, advice, risk_of
from medml.catalogue.tree import Tree, outcome_of, printable
from medml.errors import ConfigError, Refusal
from medml.io.confidentiality.dicom_file import Cleared, Source, clear, open_source, write_cleared
from medml.io.confidentiality.engine import Engine
from medml.io.confidentiality.options import DeidentifyConfig
from medml.io.confidentiality.tables import EDITION
from medml.io.files import (
    Pseudonyms,
    clear_disk_errors,
    sha256_file,
    sweep_temporary,
    sync_filesystem,
    sync_path,
    temporary_path,
    write_record,
)
from medml.records.deidentify import DeidentifyCounts, DeidentifyReport
from medml.records.home import Home
from medml.records.scan import Outcome

__all__ = ["DeidentifyConfig", "deidentify"]

GROUP_SIZE = 64


def deidentify(
    source: Path,
    out: Path,
    home: Home,
    pseudonyms: Pseudonyms,
    config: DeidentifyConfig | None = None,
    on_outcome: Callable[[Outcome], object] | None = None,
) -> DeidentifyReport:
    """De-identify every DICOM file below ``source`` by PS3.15 table E.1-1 into ``out``.

    Files are named by pseudonyms: ``<patient>/<study>/<series>/<file>.dcm``. The same input gives the same bytes. The
    source is only read. What may show a name in its pixels is held back until a person releases it.

    Parameters
    ----------
    source : Path
        A folder or a file.
    out : Path
        Made if absent; neither inside of the source nor around it.
    home : Home
        Where the quarantine, the audit and the report are kept, readable by their owner only.

    Returns
    -------
    DeidentifyReport
        Also written to ``reports/deidentify-<UTC time>.json``, 0600.

    Raises
    ------
    ConfigError
        If the source does not exist or is empty, or the folders overlap.
    MedmlError
        If ``out`` cannot be written to.
    """
    config = config or DeidentifyConfig()
    _check_folders(source, out)
    started = datetime.now(UTC)
    tree = Tree(source, IngestConfig())
    engine = Engine(config, pseudonyms)
    audit = Audit.opened(home.reports, tree.root, out.resolve(), config, pseudonyms)
    desk = _Desk(out.resolve(), audit, on_outcome, claimed=audit.claims(tree.left))
    quarantine = Quarantine(home.quarantine)
    for outcome in tree.ignored:
        desk.tell(outcome)
    held: dict[tuple[str, str], list[str]] = defaultdict(list)
    with clear_disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        for name in list(tree.left):
            _take(name, tree.path(name), engine, quarantine, desk, held)
        desk.flush()
        for outcome in _hold(held, tree, quarantine):
            desk.tell(outcome)
    return _report(home, config, desk, audit, started)


def _check_folders(source: Path, out: Path) -> None:
    if not source.exists():
        raise ConfigError(f"{source}: there is no such file or folder; check the path")
    inner, outer = out.resolve(), source.resolve()
    if inner.is_relative_to(outer) or outer.is_relative_to(inner):
        raise ConfigError(f"{out}: the output lies inside of the source, or around it; give a folder beside it")
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out}: found a file, expected a folder for the output")


def _take(
    name: str, path: Path, engine: Engine, quarantine: Quarantine, desk: _Desk, held: dict[tuple[str, str], list[str]]
) -> None:
    """De-identify one file; whatever is wrong with it costs this file only."""
    try:
        status = os.stat(path)
        if desk.is_done(name, status):
            return
        with open_source(path) as source:
            if source is None:
                desk.tell(outcome_of(printable(name), "ignored", "not_dicom", "no DICOM file"))
                return
            risk = _risk(source)
            if risk is not None and not quarantine.released(path):
                held[source.text(0x0020000E) or name, risk[0]].append(name)
                return
            cleared = clear(source, engine)
            desk.write(name, status, cleared, source, engine.pseudonyms)
    except Refusal as refusal:
        desk.tell(outcome_of(printable(name), "refused", refusal.code, str(refusal)))
    except FileNotFoundError:
        desk.tell(outcome_of(printable(name), "refused", "unreadable", "the file has gone while this ran"))
    except PermissionError as error:
        desk.tell(outcome_of(printable(name), "refused", "unreadable", f"it cannot be read ({error.strerror})"))


def _risk(source: Source) -> tuple[str, str] | None:
    return risk_of(
        sop_class=source.text(0x00080016),
        burned_in=source.text(0x00280301).upper(),
        conversion_type=source.text(0x00080064).upper(),
        photometric=source.text(0x00280004).upper(),
        modality=source.text(0x00080060).upper(),
    )


def _hold(held: dict[tuple[str, str], list[str]], tree: Tree, quarantine: Quarantine) -> Iterator[Outcome]:
    """Put what may show a name into quarantine, series by series."""
    for (_, code), names in held.items():
        entry = quarantine.hold(code, [tree.path(name) for name in names])
        reason = f"{len(names)} files of a series may show the patient's name in their pixels; {advice(entry)}"
        for name in names:
            yield outcome_of(printable(name), "refused", code, reason)


@dataclass(slots=True)
class _Ready:
    """A file that is written under a temporary name."""

    name: str
    temporary: Path
    target: Path
    line: dict[str, object]


@dataclass(slots=True)
class _Desk:
    """Where files are written, a group at a time: files, wait for the disk, names, audit lines."""

    out: Path
    audit: Audit
    on_outcome: Callable[[Outcome], object] | None
    outcomes: list[Outcome] = field(default_factory=list)
    group: list[_Ready] = field(default_factory=list)
    claimed: dict[str, str] = field(default_factory=dict)
    folders: set[Path] = field(default_factory=set)
    patients: set[str] = field(default_factory=set)

    def tell(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        if self.on_outcome is not None:
            self.on_outcome(outcome)

    def is_done(self, name: str, status: os.stat_result) -> bool:
        """Say whether an earlier run has written the file as it is now, and its output is there."""
        line = self.audit.done(name, status)
        if line is None:
            return False
        target = self.out / line["output"]
        if not target.is_file() or target.stat().st_size != line["bytes"]:
            return False
        self.claimed[line["output"]] = name
        self.patients.add(line["output"].partition("/")[0])
        self.audit.count(line["actions"])
        self.tell(outcome_of(printable(name), "accepted", "known", ""))
        return True

    def write(
        self, name: str, status: os.stat_result, cleared: Cleared, source: Source, pseudonyms: Pseudonyms
    ) -> None:
        """Write a file under a temporary name; a full group is given its names."""
        output = _output_name(cleared, pseudonyms)
        self.patients.add(cleared.patient)
        first = self.claimed.setdefault(output, name)
        target = self.out / output
        if first != name:
            self.flush()
            self._tell_copy(name, cleared, source, target)
            return
        if target.parent not in self.folders:
            target.parent.mkdir(parents=True, exist_ok=True)
            sweep_temporary(target.parent)
            self.folders.add(target.parent)
        temporary = temporary_path(target)
        size = write_cleared(cleared, source, temporary)
        actions = self.audit.actions(cleared.done)
        line = {
            "source": name,
            "size": status.st_size,
            "changed": status.st_mtime_ns,
            "output": output,
            "bytes": size,
            "actions": actions,
        }
        self.group.append(_Ready(name, temporary, target, line))
        if len(self.group) >= GROUP_SIZE:
            self.flush()

    def flush(self) -> None:
        """Make the group durable, then give it its names, then write its lines of the audit."""
        ready, self.group = self.group, []
        if not ready:
            return
        if not sync_filesystem(self.out):
            for item in ready:
                sync_path(item.temporary)
        for item in ready:
            os.replace(item.temporary, item.target)
        for folder in {item.target.parent for item in ready}:
            sync_path(folder)
        self.audit.write([item.line for item in ready])
        for item in ready:
            self.tell(outcome_of(printable(item.name), "accepted", "written", ""))

    def _tell_copy(self, name: str, cleared: Cleared, source: Source, target: Path) -> None:
        """Compare with the file that has the name already: a copy is counted, a conflict refused."""
        temporary = temporary_path(target)
        write_cleared(cleared, source, temporary)
        try:
            same = sha256_file(temporary) == sha256_file(target)
        finally:
            temporary.unlink(missing_ok=True)
        if same:
            self.tell(outcome_of(printable(name), "accepted", "duplicate", "an exact copy of another file"))
            return
        reason = "its SOP instance UID is that of another file with other content; keep the right one"
        self.tell(outcome_of(printable(name), "refused", "conflicting_duplicates", reason))


def _output_name(cleared: Cleared, pseudonyms: Pseudonyms) -> str:
    series = pseudonyms.file(f"series {cleared.series_uid}")[:16]
    study = pseudonyms.file(f"study {cleared.study_uid}")[:16]
    return f"{cleared.patient}/s-{study}/r-{series}/{pseudonyms.file(cleared.sop_uid)}.dcm"


def _report(home: Home, config: DeidentifyConfig, desk: _Desk, audit: Audit, started: datetime) -> DeidentifyReport:
    codes = Counter[str]()
    for outcome in desk.outcomes:
        codes[f"{outcome.outcome} {outcome.code}"] += outcome.files
    accepted = {code: codes[f"accepted {code}"] for code in ("written", "known", "duplicate")}
    held = sum(o.files for o in desk.outcomes if o.outcome == "refused" and "medml release" in o.reason)
    refused = sum(o.files for o in desk.outcomes if o.outcome == "refused") - held
    finished = datetime.now(UTC)
    report = DeidentifyReport(
        edition=EDITION,
        options=config.options,
        counts=DeidentifyCounts(
            files=codes.total(),
            held=held,
            refused=refused,
            ignored=sum(o.files for o in desk.outcomes if o.outcome == "ignored"),
            patients=len(desk.patients),
            **accepted,
        ),
        codes=dict(sorted(codes.items())),
        actions=audit.summary(),
        outcomes=tuple(desk.outcomes),
        audit=str(audit.path),
        started=started.isoformat(timespec="milliseconds"),
        finished=finished.isoformat(timespec="milliseconds"),
    )
    write_record(report_path(home, report), report, mode=0o600)
    return report


def report_path(home: Home, report: DeidentifyReport) -> Path:
    """Return where a report is kept."""
    time = datetime.fromisoformat(report.finished).strftime("%Y%m%dT%H%M%S.%f")[:-3]
    return home.reports / f"deidentify-{time}Z.json"
