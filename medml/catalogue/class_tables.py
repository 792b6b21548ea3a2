"""A table of classes by patient, study or series: given to the scans that are in the catalogue, by their pseudonyms."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from medml.catalogue.archive import AnnotationFile, Archive, series_name
from medml.catalogue.class_labels import (
    Classes,
    LabelColumns,
    class_columns,
    classes_digest,
    label_columns,
    number_classes,
)
from medml.catalogue.metadata import load, unmatched_rows
from medml.catalogue.tables import SUFFIXES, Table
from medml.catalogue.tree import Tree, outcome_of, printable
from medml.errors import Refusal
from medml.io.scans import Staged, place_scans, work_folder
from medml.records.scan import Annotation, Outcome, Scan

PATIENT = ("patientid", "patient", "subjectid", "subject", "participantid", "pid")
ISSUER = ("issuerofpatientid", "issuer")
STUDY = ("studyinstanceuid", "studyuid")
SERIES = ("seriesinstanceuid", "seriesuid")
GROUP_SIZE = 64


@dataclass(frozen=True, slots=True)
class _Found:
    """What the rows say about scans.

    Attributes
    ----------
    classes : dict
        Scan id to class names.
    rows : dict
        Scan id to the first row that spoke of it.
    unmatched : list of int
        Rows of which no scan is in the catalogue.
    conflicts : dict
        Row to the earlier row that says something else about one of its scans.
    """

    classes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    unmatched: list[int] = field(default_factory=list)
    conflicts: dict[int, int] = field(default_factory=dict)


def is_class_table(tree: Tree, name: str) -> bool:
    """Say whether a table gives classes to patients, studies or series, rather than free text or nothing."""
    return _class_table(tree, name) is not None


def take_class_tables(tree: Tree) -> Iterator[AnnotationFile]:
    """Take the tables of classes that are left in a tree."""
    for name in tree.named(*SUFFIXES):
        table = _class_table(tree, name)
        if table is not None:
            path = tree.path(name)
            tree.take([name])
            yield AnnotationFile(printable(name), path, "classes", tree.stamp([path]), table=table)


def give_classes(file: AnnotationFile, archive: Archive) -> Iterator[Outcome]:
    """Give the classes of a table to the scans it names; yield its outcome, and one for each row in conflict.

    A row speaks of the scans of its series; of its study, if it names no series; of its patient, if it names neither.
    Scans of which two rows say different things get nothing.
    """
    table = file.table
    columns = None if table is None else label_columns(table)
    if table is None or columns is None:
        return
    scans = {scan.scan_id: scan for scan in archive.catalogue.scans()}
    found = _match(table, columns, _Index(scans, archive, file.issuers))
    for row, earlier in found.conflicts.items():
        reason = f"row {row}: says something else about a scan than row {earlier}; the scan gets neither, correct one"
        yield outcome_of(file.source, "refused", "conflicting_labels", reason, files=0)
    if not found.classes:
        reason = f"none of its {len(table.rows)} rows names a scan of this source or of the catalogue by its own ids"
        yield outcome_of(file.source, "refused", "no_row_matched", reason)
        return
    classes = number_classes(found.classes, multi_label=columns.multi_label(table.rows), names=columns.names)
    annotations = [_annotation(scan_id, classes) for scan_id in sorted(classes.values)]
    _store(annotations, scans, archive)
    reason = f"read as classes of {len(annotations)} scans, from {len(table.rows) - len(found.unmatched)} rows"
    outcome = outcome_of(file.source, "accepted", "class_table", reason)
    advice = "ingest their images first, or correct the ids; add IssuerOfPatientID where ids have issuers"
    findings = (unmatched_rows(found.unmatched, len(table.rows), advice),) if found.unmatched else ()
    yield outcome.model_copy(update={"findings": findings, "scan_ids": tuple(a.scan_id for a in annotations)})


def _class_table(tree: Tree, name: str) -> Table | None:
    try:
        table = load(tree, name)
    except Refusal:
        return None
    known = table.header(*SERIES, *STUDY, *PATIENT) is not None
    return table if known and class_columns(table, max_classes=tree.config.max_classes) else None


class _Index:
    """Scans by the pseudonyms of their patients, studies and series."""

    def __init__(self, scans: Mapping[str, Scan], archive: Archive, issuers: tuple[str, ...]) -> None:
        self._archive, self._issuers, self._scans = archive, issuers, scans
        self._names: dict[str, list[str]] = defaultdict(list)
        for scan in scans.values():
            self._names[scan.patient].append(scan.scan_id)
            self._names[scan.study].append(scan.scan_id)

    def scans_of(self, *, series: str, study: str, patient: str, issuer: str) -> list[str]:
        """Return the ids of the scans of a series; else of a study; else of a patient of any known issuer."""
        pseudonyms = self._archive.pseudonyms
        if series:
            found = self._archive.crosswalk.by_series([series_name(pseudonyms, series)])
            return [scan_id for scan_id in found if scan_id in self._scans]
        if study:
            return list(self._names.get(pseudonyms.study(study), ()))
        issuers = [issuer] if issuer else self._issuers
        names = {pseudonyms.patient(name, patient) for name in issuers} if patient else set()
        return [scan_id for name in sorted(names) for scan_id in self._names.get(name, ())]


def _match(table: Table, columns: LabelColumns, index: _Index) -> _Found:
    headers = {
        "series": table.header(*SERIES),
        "study": table.header(*STUDY),
        "patient": table.header(*PATIENT),
        "issuer": table.header(*ISSUER),
    }
    found = _Found()
    contested: set[str] = set()
    for number, row in enumerate(table.rows, start=2):
        held = columns.of(row)
        if held is None:
            continue
        ids = {key: row[header] if header else "" for key, header in headers.items()}
        scan_ids = index.scans_of(**ids)
        if not scan_ids:
            found.unmatched.append(number)
        for scan_id in scan_ids:
            if set(found.classes.setdefault(scan_id, held)) != set(held):
                found.conflicts.setdefault(number, found.rows[scan_id])
                contested.add(scan_id)
            found.rows.setdefault(scan_id, number)
    for scan_id in contested:
        del found.classes[scan_id]
    return found


def _annotation(scan_id: str, classes: Classes) -> Annotation:
    values = classes.values[scan_id]
    question = classes_digest((), classes.names)[:8]
    return Annotation(
        scan_id=scan_id,
        kind="class",
        labels=classes.names,
        classes=values,
        multi_label=classes.multi_label,
        origin=f"table-{question}",
        content=classes_digest(values, classes.names),
    )


def _store(annotations: list[Annotation], scans: Mapping[str, Scan], archive: Archive) -> None:
    """Add annotations to their scans' folders, then to the catalogue."""
    there = [a for a in annotations if archive.home.scan_folder(a.scan_id).is_dir()]
    for first in range(0, len(there), GROUP_SIZE):
        group = there[first : first + GROUP_SIZE]
        with work_folder(archive.home) as work:
            staged = []
            for number, annotation in enumerate(group):
                folder = work / str(number)
                folder.mkdir()
                staged.append(Staged(folder, scans[annotation.scan_id], (annotation,)))
            place_scans(archive.home, staged)
        archive.catalogue.add([], group)
