"""Tables beside the scans: rows joined to files by a column that names the files, their cases or their patients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from medml.catalogue.columns import columns_left
from medml.catalogue.tables import SUFFIXES, Table, read_table
from medml.catalogue.tree import Tree, outcome_of, printable
from medml.errors import Refusal
from medml.records.scan import Finding, Outcome

PATIENT = ("patientid", "subjectid", "participantid", "patient", "subject", "participant", "pid")
STUDY = ("studyid", "study", "session", "sessionid", "visit", "studyuid", "studyinstanceuid")
LABEL = ("label", "class", "classname", "category", "diagnosis", "target", "valuetopredict")
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
    "id",
)


@dataclass(frozen=True, slots=True)
class Metadata:
    """Rows of tables by the file they speak of.

    Attributes
    ----------
    rows : dict
        Relative path to row.
    outcomes : list of Outcome
        The tables that were used or could not be read.
    """

    rows: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    outcomes: list[Outcome] = field(default_factory=list)

    def value(self, relative: str, meaning: str) -> str:
        """Return what a file's row says about "patient", "study" or "label"; empty if nothing."""
        header = self.headers.get(meaning)
        return self.rows.get(relative, {}).get(header, "") if header else ""

    def facts(self, relative: str) -> dict[str, object]:
        """Return a file's row but for the columns with another meaning."""
        used = set(self.headers.values())
        return {name: value for name, value in self.rows.get(relative, {}).items() if name not in used}


def join(tree: Tree, keys: Mapping[str, Sequence[str]]) -> Metadata:
    """Find the table in the root whose rows speak of the most of these files.

    Parameters
    ----------
    keys : mapping
        Relative path to every text that may name the file in a table: its path, name, stem, case, patient.
    """
    best: tuple[int, str, Table, str] | None = None
    outcomes: list[Outcome] = []
    for name in [name for name in tree.named(*SUFFIXES) if "/" not in name]:
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
    for meaning, aliases in (("patient", PATIENT), ("study", STUDY), ("label", LABEL)):
        found = table.header(*aliases)
        if found:
            headers[meaning] = found
    rows, repeated = _by_key(table, header)
    joined = {
        relative: next(rows[key] for key in wanted if key in rows)
        for relative, wanted in keys.items()
        if any(key in rows for key in wanted)
    }
    outcomes.append(_described(tree, name, table, headers, len(joined), repeated))
    return Metadata(joined, headers, outcomes)


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


def _by_key(table: Table, header: str) -> tuple[dict[str, dict[str, str]], int]:
    """Return the first row of each key, and how many keys come again with other facts."""
    rows: dict[str, dict[str, str]] = {}
    repeated = set()
    for row in table.rows:
        if row[header] and rows.setdefault(row[header], row) != row:
            repeated.add(row[header])
    return rows, len(repeated)


def _described(tree: Tree, name: str, table: Table, headers: Mapping[str, str], joined: int, repeated: int) -> Outcome:
    findings = left_findings(table, list(headers.values()))
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
    reason = f"read as metadata: {joined} files joined to {len(table.rows)} rows"
    outcome = outcome_of(printable(name), "ignored", "metadata", reason, files=tree.take([name]))
    return outcome.model_copy(update={"findings": findings})
