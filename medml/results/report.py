"""``report.html`` of a batch: what needs a look comes first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from medml.pages.content import Card, Cell, Picture, Section, Table, Tone
from medml.pages.shell import render
from medml.records.batch import BatchMeta, LedgerRow
from medml.results.tables import MODE, result_columns

MOST_PREVIEWS = 60
URGENCY = {"failed": 0, "refused": 1, "needs_review": 2, "done": 3}
TONES: dict[str, Tone] = {"failed": "bad", "refused": "warn", "needs_review": "warn", "done": "good"}


def write_batch_report(out: Path, rows: Sequence[LedgerRow], meta: BatchMeta) -> Path:
    """Write a page that needs no network: counts, what went wrong, results and previews, most uncertain first."""
    ordered = sorted(rows, key=_urgency)
    counts = Counter(row.status for row in rows)
    open_rows = [row for row in ordered if row.status != "done"]
    sections = [_problems(open_rows)] if open_rows else []
    good = [row for row in ordered if row.status in ("done", "needs_review")]
    if good:
        sections += [_results(good, meta), _previews(out, good)]
    return render(
        "page.html",
        out / "report.html",
        mode=MODE,
        title=f"{meta.model}: {len(rows)} scans",
        kicker="Batch report",
        lead="Masks and figures made by a model, not checked by a person.",
        facts=_facts(rows, meta),
        cards=[
            Card(status.replace("_", " "), str(counts[status]), tone=TONES[status] if counts[status] else "")
            for status in ("done", "needs_review", "refused", "failed")
            if counts[status] or status != "needs_review"
        ],
        sections=sections,
        restricted=True,
    )


def _urgency(row: LedgerRow) -> tuple[int, float, str]:
    uncertainty = row.result.get("uncertainty")
    return URGENCY.get(row.status, 0), -float(uncertainty) if uncertainty is not None else -1.0, row.source


def _facts(rows: Sequence[LedgerRow], meta: BatchMeta) -> list[tuple[str, str]]:
    facts = [
        ("Model", f"{meta.model} {meta.version}".strip()),
        ("Digest of the model", meta.digest[:16]),
        ("Labels", ", ".join(_named_labels(meta))),
        ("Started", _moment(meta.started)),
        ("Finished", _moment(meta.finished)),
        ("Files that are no scans", str(meta.ignored) if meta.ignored else ""),
    ]
    return [(name, value) for name, value in facts if value]


def _named_labels(meta: BatchMeta) -> list[str]:
    return [meta.labels[value] for value in sorted(meta.labels) if value != 0 or meta.task == "classify"]


def _moment(text: str) -> str:
    return text[:19].replace("T", " ") + " UTC" if text else ""


def _problems(rows: Sequence[LedgerRow]) -> Section:
    table = Table(
        ("Source", "Status", "Code", "Reason"),
        [
            (row.source, Cell(row.status.replace("_", " "), TONES.get(row.status, "")), row.code, row.reason)
            for row in rows
        ],
    )
    return Section("Needs attention", tables=(table,))


def _results(rows: Sequence[LedgerRow], meta: BatchMeta) -> Section:
    names = [name for name in result_columns(meta) if any(row.result.get(name) is not None for row in rows)]
    if any(name.startswith("volume_ml_") for name in names):
        names = [name for name in names if not name.startswith("voxels_")]
    columns = ("Source", "Scan", *(_heading(name) for name in names))
    body = [
        (row.source, row.scan_id[:8], *(row.result.get(name) for name in names), row.result.get("uncertainty"))
        for row in rows
    ]
    return Section(
        "Results",
        text=("Most uncertain first. Uncertainty is the mean entropy of the model's scores: 0 is sure, 1 is a guess.",),
        tables=(Table((*columns, "Uncertainty"), body),),
    )


def _heading(name: str) -> str:
    for prefix, short in (("volume_ml_", "mL "), ("voxels_", "voxels "), ("prob_", "p ")):
        if name.startswith(prefix):
            return short + name.removeprefix(prefix)
    return name


def _previews(out: Path, rows: Sequence[LedgerRow]) -> Section:
    pictures = []
    for row in rows[:MOST_PREVIEWS]:
        path = out / "previews" / f"{row.scan_id}.png"
        if path.relative_to(out).as_posix() in row.outputs and path.is_file():
            pictures.append(Picture(path.read_bytes(), _caption(row), kind="image"))
    left = len(rows) - MOST_PREVIEWS
    notes = (f"{left} more previews are in the folder previews.",) if left > 0 else ()
    return Section("Previews", pictures=tuple(pictures), notes=notes)


def _caption(row: LedgerRow) -> str:
    predicted = row.result.get("predicted")
    uncertainty = row.result.get("uncertainty")
    parts = [row.source, f"{predicted}" if predicted is not None else ""]
    parts.append(f"uncertainty {uncertainty:.3f}" if isinstance(uncertainty, float) else "")
    return " · ".join(part for part in parts if part)
