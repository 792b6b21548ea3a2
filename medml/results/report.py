"""``report.html`` of a batch: what needs a look comes first; a page per scan; a viewer of the worst."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from medml.pages.content import Card, Cell, Link, Section, Strip, Table, Tile, Tone
from medml.pages.shell import render
from medml.pages.strips import strip
from medml.pages.viewer import write_viewer
from medml.records.batch import BatchMeta, LedgerRow
from medml.results.doubts import reasons_of
from medml.results.scan_page import FOLDER, MODE, VIEWER, foreground, moment, page_of, preview_of, scan_page, summary_of
from medml.results.shelf import drop_others, shelved, worry

MOST_TILES = 18
FOLD_ABOVE = 100
MOST_COLUMNS = 8  # labels with a column of their own
URGENCY = {"failed": 0, "refused": 1, "needs_review": 2, "done": 3}
TONES: dict[str, Tone] = {"failed": "bad", "refused": "warn", "needs_review": "warn", "done": "good"}
CODES = {"uncertain": "uncertain", "undecided": "undecided", "unlike": "unlike training", "implausible": "implausible"}


def write_batch_report(out: Path, rows: Sequence[LedgerRow], meta: BatchMeta) -> Path:
    """Write ``report.html``, ``viewer.html`` and a page per scan, none of which needs a network.

    Counts, what went wrong, what a person should look at, results; most doubted and most uncertain first. Pages and
    voxels of scans that are not in ``rows`` are removed.
    """
    ordered = sorted(rows, key=_urgency)
    good = [row for row in ordered if page_of(row)]
    viewed = _view(out, good, meta)
    for row in good:
        scan_page(out, row, meta, viewed=row.scan_id in viewed)
    _remove_other_pages(out, good)
    counts = Counter[str](row.status for row in rows)
    return render(
        "page.html",
        out / "report.html",
        mode=MODE,
        title=f"{meta.model}: {len(rows)} scans",
        kicker="Batch report",
        lead="Masks and figures made by a model, not checked by a person.",
        facts=_facts(meta),
        cards=_cards(counts),
        sections=_sections(out, ordered, good, viewed, meta),
        restricted=True,
    )


def _urgency(row: LedgerRow) -> tuple[int, float, str]:
    return URGENCY.get(row.status, 0), -worry(row.result), row.source


def _view(out: Path, good: Sequence[LedgerRow], meta: BatchMeta) -> set[str]:
    """Write the viewer of the scans on the shelf and return which it shows; without any there is none."""
    drop_others(out, {row.scan_id for row in good})
    cases = shelved(out)
    (out / VIEWER).unlink(missing_ok=True)
    if not cases:
        return set()
    title = f"Scans of {meta.model} that need a look most"
    count = write_viewer(out / VIEWER, cases, title=title, kicker="Viewer", restricted=True)
    return {case.key for case in cases[:count]}


def _remove_other_pages(out: Path, good: Sequence[LedgerRow]) -> None:
    wanted = {f"{row.scan_id}.html" for row in good}
    for path in (out / FOLDER).glob("*.html"):
        if path.name not in wanted:
            path.unlink()


def _facts(meta: BatchMeta) -> list[tuple[str, str]]:
    facts = [
        ("Model", f"{meta.model} {meta.version}".strip()),
        ("Digest of the model", meta.digest[:16]),
        ("Labels", ", ".join(foreground(meta))),
        ("Started", moment(meta.started)),
        ("Finished", moment(meta.finished)),
        ("Files that are no scans", str(meta.ignored) if meta.ignored else ""),
    ]
    return [(name, value) for name, value in facts if value]


def _cards(counts: Counter[str]) -> list[Card]:
    order = ["done", "needs_review", "refused", "failed"]
    order += sorted(status for status in counts if status not in order)
    return [
        Card(status.replace("_", " "), str(counts[status]), tone=TONES.get(status, "muted") if counts[status] else "")
        for status in order
        if counts[status] or status != "needs_review"
    ]


def _sections(
    out: Path, ordered: Sequence[LedgerRow], good: Sequence[LedgerRow], viewed: set[str], meta: BatchMeta
) -> list[Section]:
    lost = [row for row in ordered if not page_of(row) and row.status != "not_selected"]
    passed = [row for row in ordered if row.status == "not_selected"]
    doubted = [row for row in good if row.status == "needs_review"]
    sections = [
        *([_lost("Not done", lost)] if lost else []),
        *([_doubted(doubted)] if doubted else []),
        *([_pictures(out, good, viewed, meta), _results(good, meta)] if good else []),
        *([_lost("Not for this model", passed)] if passed else []),
    ]
    return sections


def _lost(title: str, rows: Sequence[LedgerRow]) -> Section:
    body = [
        (row.source, Cell(row.status.replace("_", " "), TONES.get(row.status, "")), row.code, row.reason)
        for row in rows
    ]
    columns = ("Source", "Status", "Code", "Reason")
    return Section(title, tables=(Table(columns, body, f"{len(body)} scans", folded=len(body) > FOLD_ABOVE),))


def _doubted(rows: Sequence[LedgerRow]) -> Section:
    body = [
        (
            Cell(row.source, file=page_of(row)),
            "\n".join(reason for _, reason in reasons_of(row)) or row.reason,
            row.result.get("uncertainty"),
        )
        for row in rows
    ]
    table = Table(("Source", "Why", "Uncertainty"), body, f"{len(body)} scans", folded=len(body) > FOLD_ABOVE)
    return Section("A person should look at these", tables=(table,))


def _results(rows: Sequence[LedgerRow], meta: BatchMeta) -> Section:
    columns = _shown_columns(rows, meta)
    body = [(Cell(row.source, file=page_of(row)), *(row.result.get(name) for name in columns)) for row in rows]
    table = Table(
        ("Source", *columns.values()), body, f"{len(body)} scans, those that need a look first", len(body) > FOLD_ABOVE
    )
    notes = ["Every figure of every scan is in results.csv and results.parquet, beside this page."]
    text = (
        "Uncertainty is the mean entropy of the model's scores: 0 is sure, 1 is a guess. Unlike training: 1 is as far "
        "from the middle of the training data as the farthest scan that the model knows.",
    )
    return Section("Results", text, (table,), strips=_strips(rows, columns), notes=notes)


def _shown_columns(rows: Sequence[LedgerRow], meta: BatchMeta) -> dict[str, str]:
    """Return the columns of ``results.csv`` that the page shows, with their headings; those with a value at all."""
    names = foreground(meta)[:MOST_COLUMNS]
    if meta.task == "classify":
        shown = {"predicted": "Predicted", **{f"prob_{name}": f"p {name}" for name in names}}
        shown["conformal_set"] = "Not ruled out"
    else:
        known = any(row.result.get(f"volume_ml_{name}") is not None for row in rows for name in names)
        kind, unit = ("volume_ml", "mL") if known else ("voxels", "voxels")
        shown = {f"{kind}_{name}": f"{unit} {name}" for name in names}
        if any(row.result.get("unit") == "HU" for row in rows):
            shown |= {f"mean_{name}": f"HU {name}" for name in names[: MOST_COLUMNS // 2]}
    shown |= {"uncertainty": "Uncertainty", "ood_score": "Unlike training"}
    return {name: head for name, head in shown.items() if any(row.result.get(name) is not None for row in rows)}


def _strips(rows: Sequence[LedgerRow], columns: dict[str, str]) -> list[Strip]:
    """Return how the shown numbers are spread over the scans, so that the unusual one is seen."""
    strips = []
    for name, head in columns.items():
        values = [float(value) for row in rows if isinstance(value := row.result.get(name), int | float)]
        drawn = strip({"all scans": values}, label=head) if len(values) > 3 and not name.startswith("prob_") else None
        strips += [drawn] if drawn is not None else []
    return strips


def _pictures(out: Path, rows: Sequence[LedgerRow], viewed: set[str], meta: BatchMeta) -> Section:
    tiles = []
    for row in rows[:MOST_TILES]:
        png = preview_of(out, row)
        if png is not None:
            tiles.append(_tile(png, row, meta))
    links = [Link(f"Look through the voxels of {len(viewed)} of them in {VIEWER}", VIEWER)] if viewed else []
    left = len(rows) - MOST_TILES
    notes = [f"{left} more have a page each; the names in the tables below lead there."] if left > 0 else []
    return Section("Those that need a look most", tiles=tiles, links=links, notes=notes)


def _tile(png: bytes, row: LedgerRow, meta: BatchMeta) -> Tile:
    value = row.result.get("uncertainty")
    lines = [summary_of(row, meta), f"uncertainty {float(value):.3f}" if value is not None else ""]
    codes = dict.fromkeys(code for code, _ in reasons_of(row))
    tags = [Cell(CODES.get(code, code), "warn") for code in codes]
    wide = 2 if row.mask else 1
    return Tile(png, row.source, [line for line in lines if line], tags, f"Preview of {row.source}", wide, page_of(row))
