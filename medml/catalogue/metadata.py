"""Tables beside the scans: rows joined to files by a column that names the files, their cases or their patients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from medml.catalogue.class_labels import Classes, LabelColumns, class_columns, number_classes
from medml.catalogue.columns import columns_left
from medml.catalogue.tables import SUFFIXES, Table, read_table
from medml.catalogue.tree import Tree, folder_of, outcome_of, printable
from medml.errors import Refusal
from medml.records.scan import Finding, Outcome

PATIENT = ("patientid", "subjectid", "participantid", "patient", "subject", "participant", "pid")
STUDY = ("studyid", "study", "session", "sessionid", "visit", "studyuid", "studyinstanceuid")
FILE = (
    "file",
    "filename",
    "path",
    "filepath",
    "image",
    "imagepath",
    "imagefile",
    "imageindex",
    "imageid",
    "name",
    "case",
    "caseid",
    "id",
)
SHOWN = 20


@dataclass(frozen=True, slots=True)
class Metadata:
    """Rows of tables by the file they speak of.

    Attributes
    ----------
    rows : dict
        Relative path to row.
    labels : LabelColumns or None
        Where the rows hold classes.
    contested : frozenset of str
        Relative paths of which two rows give different classes; they get none.
    multi_label : bool
        Whether the table gives any number of classes.
    outcomes : list of Outcome
        The tables that were used or could not be read.
    """

    rows: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    labels: LabelColumns | None = None
    contested: frozenset[str] = frozenset()
    multi_label: bool = False
    outcomes: list[Outcome] = field(default_factory=list)

    def value(self, relative: str, meaning: str) -> str:
        """Return what a file's row says about "patient" or "study"; empty if nothing."""
        header = self.headers.get(meaning)
        return self.rows.get(relative, {}).get(header, "") if header else ""

    def classes(self) -> Classes:
        """Return the classes of the files whose rows give some."""
        found = {}
        for relative, row in self.rows.items():
            held = self.labels.of(row) if self.labels and relative not in self.contested else None
            if held is not None:
                found[relative] = held
        names = self.labels.names if self.labels else ()
        return number_classes(found, multi_label=self.multi_label, names=names)

    def facts(self, relative: str) -> dict[str, object]:
        """Return a file's row but for the columns with another meaning."""
        used = {*self.headers.values(), *(self.labels.headers if self.labels else ())}
        return {name: value for name, value in self.rows.get(relative, {}).items() if name not in used}


def join(tree: Tree, keys: Mapping[str, Sequence[str]], *, folder: str = "") -> Metadata:
    """Find the table in a folder whose rows speak of the most of these files.

    Parameters
    ----------
    keys : mapping
        Relative path to every text that may name the file in a table: its path, name, stem, case, patient.
    folder : str
        Where the table lies; the root by default.
    """
    best: tuple[int, str, Table, str] | None = None
    outcomes: list[Outcome] = []
    for name in [name for name in tree.named(*SUFFIXES) if folder_of(name) == folder]:
        try:
            table = load(tree, name)
        except Refusal as refusal:
            outcomes.append(outcome_of(printable(name), "refused", refusal.code, str(refusal), files=tree.take([name])))
            continue
        for header in table.headers:
            values = {row[header] for row in table.rows}
            count = sum(any(key in values for key in wanted) for wanted in keys.values())
            named = header == table.header(*FILE, *PATIENT)
            if (count >= max(1, len(keys) // 10) or (named and count)) and (best is None or count > best[0]):
                best = (count, name, table, header)
    if best is None:
        return Metadata(outcomes=outcomes)
    count, name, table, header = best
    headers = {"file": header}
    for meaning, aliases in (("patient", PATIENT), ("study", STUDY)):
        found = table.header(*aliases)
        if found:
            headers[meaning] = found
    labels = class_columns(table, max_classes=tree.config.max_classes)
    rows = _by_key(table, header, labels)
    used = {relative: next((key for key in wanted if key in rows.first), None) for relative, wanted in keys.items()}
    joined = {relative: rows.first[key] for relative, key in used.items() if key is not None}
    contested = frozenset(relative for relative, key in used.items() if key in rows.contested)
    outcomes += _conflicts(name, rows.contested)
    unmatched = [number for key, number in rows.numbers.items() if key not in set(used.values())]
    outcomes.append(_described(tree, name, table, (headers, labels), len(joined), rows.repeated, unmatched))
    multi_label = labels is not None and labels.multi_label(table.rows)
    return Metadata(joined, headers, labels, contested, multi_label, outcomes)


def load(tree: Tree, name: str) -> Table:
    """Read a table of the tree within the configured caps."""
    return read_table(tree.path(name), max_bytes=tree.config.max_table_bytes, max_rows=tree.config.max_table_rows)


def left_findings(table: Table, used: Sequence[str]) -> tuple[Finding, ...]:
    """Return one finding per column that is not kept; its message is the column's name."""
    advice = "no meaning is known for it; it stays in the source"
    return tuple(
        Finding(code="column_left", severity="info", message=name, advice=advice)
        for name in columns_left(table.headers, used)
    )


def unused(tree: Tree) -> Iterator[str]:
    """Yield the tables that nobody has taken."""
    yield from tree.named(*SUFFIXES)


@dataclass(slots=True)
class _Rows:
    """A table by the column that names files.

    Attributes
    ----------
    first : dict
        Key to its first row.
    numbers : dict
        Key to the number of that row; the header is row 1.
    repeated : int
        How many keys come again with other facts.
    contested : dict
        Key to the numbers of two rows that give it different classes.
    """

    first: dict[str, dict[str, str]] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)
    repeated: int = 0
    contested: dict[str, tuple[int, int]] = field(default_factory=dict)


def _by_key(table: Table, header: str, labels: LabelColumns | None) -> _Rows:
    rows = _Rows()
    again: set[str] = set()
    for number, row in enumerate(table.rows, start=2):
        key = row[header]
        if not key:
            continue
        first = rows.first.setdefault(key, row)
        rows.numbers.setdefault(key, number)
        if first == row:
            continue
        again.add(key)
        if labels is not None and set(labels.of(first) or ()) != set(labels.of(row) or ()):
            rows.contested.setdefault(key, (rows.numbers[key], number))
    rows.repeated = len(again)
    return rows


def _conflicts(name: str, contested: Mapping[str, tuple[int, int]]) -> list[Outcome]:
    reason = "rows {} and {} name the same key but different classes; it gets neither, correct one"
    return [
        outcome_of(printable(name), "refused", "conflicting_labels", reason.format(*numbers), files=0)
        for numbers in contested.values()
    ]


def _described(
    tree: Tree,
    name: str,
    table: Table,
    columns: tuple[Mapping[str, str], LabelColumns | None],
    joined: int,
    repeated: int,
    unmatched: list[int],
) -> Outcome:
    headers, labels = columns
    findings = left_findings(table, [*headers.values(), *(labels.headers if labels else ())])
    if repeated:
        findings += (
            Finding(
                code="rows_repeated",
                severity="warning",
                message=f"{repeated} keys have several rows; the first row counts",
                numbers={"keys": float(repeated)},
                advice="keep one row per file",
            ),
        )
    if unmatched:
        findings += (unmatched_rows(unmatched, len(table.rows)),)
    reason = f"read as metadata: {joined} files joined to {len(table.rows)} rows"
    outcome = outcome_of(printable(name), "ignored", "metadata", reason, files=tree.take([name]))
    return outcome.model_copy(update={"findings": findings})


def unmatched_rows(
    rows: Sequence[int], total: int, advice: str = "ingest their images too, or correct them"
) -> Finding:
    """Return the finding about rows that speak of nothing that is there, by their numbers."""
    listed = ", ".join(str(row) for row in rows[:SHOWN]) + (" …" if len(rows) > SHOWN else "")
    return Finding(
        code="rows_unmatched",
        severity="info",
        message=f"{len(rows)} of {total} rows name nothing that is there: rows {listed}",
        numbers={"rows": float(len(rows))},
        advice=advice,
    )
