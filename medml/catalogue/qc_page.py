"""The quality page of an ingest: what came of every file, findings with the worst first, pictures, distributions.

For the operator (0600): refused sources are named by their path relative to SRC. Scans are named by their ids.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medml.catalogue.previews import preview_jpeg
from medml.catalogue.quality import slice_axis_of
from medml.catalogue.quality_rules import RULES, SEVERITIES
from medml.catalogue.report import all_findings, by_severity, page_path
from medml.errors import MedmlError
from medml.io.files import sync_path
from medml.io.scans import PREVIEW_FILE, read_image, read_mask
from medml.pages.content import Bar, Card, Cell, Section, Strip, Table, Tile, Tone
from medml.pages.shell import render
from medml.pages.strips import strip
from medml.records.home import Home
from medml.records.ingest import IngestReport
from medml.records.scan import Finding, Outcome, Scan

if TYPE_CHECKING:
    from medml.store.catalogue import Catalogue

MODE = 0o600
MOST_ROWS = 300
MOST_GROUPS = 8
TONES: dict[str, Tone] = {"error": "bad", "warning": "warn", "info": "muted"}
OUTCOMES: dict[str, Tone] = {"refused": "bad", "ignored": "muted", "accepted": "good"}
MEASURES: tuple[tuple[str, Callable[[Scan], float | None]], ...] = (
    ("Pixel size (mm)", lambda scan: _in_plane(scan)[0]),
    ("Distance of slices (mm)", lambda scan: _in_plane(scan)[1]),
    ("Voxels along the longest axis", lambda scan: max(scan.shape)),
    ("Slices", lambda scan: scan.shape[_slices(scan)] if scan.shape[2] > 1 else None),
    ("Median value", lambda scan: scan.quality.get("p50")),
    ("99th percentile of the values", lambda scan: scan.quality.get("p99")),
    ("Signal to noise", lambda scan: scan.quality.get("snr")),
    ("Contrast (deviation / mean)", lambda scan: scan.quality.get("contrast")),
)


def write_qc_page(
    home: Home, report: IngestReport, scans: Sequence[Scan], catalogue: Catalogue, *, work: Path, shown: int = 60
) -> Path:
    """Write ``reports/qc-<UTC time>.html``: one file that needs no network and no scripts.

    Parameters
    ----------
    scans : sequence of Scan
        The scans of the report.
    work : Path
        A folder of this home that is swept when its owner is killed; the page is made there and renamed.
    shown : int
        Most scans in the contact sheet, those with the worst findings first.
    """
    ordered = _worst_first(scans, report)
    sections = [_accounting(report, catalogue), *_left_out(report), _findings(report, ordered)]
    sections += [_sheet(home, ordered, catalogue, shown)] if scans and shown else []
    sections += [_distributions(scans)] if scans else []
    counts = report.counts
    path = page_path(home, report)
    made = render(
        "page.html",
        work / path.name,
        mode=MODE,
        title=f"Ingest of {report.collection}",
        kicker="Quality page",
        lead=f"{counts.scans} scans of {counts.patients} patients. Checked by rules, not by a person.",
        facts=[("Started", _moment(report.started)), ("Finished", _moment(report.finished))],
        cards=_cards(report),
        sections=sections,
        restricted=True,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    made.replace(path)
    sync_path(path.parent)
    return path


Judged = tuple[Scan, tuple[Finding, ...]]


def _worst_first(scans: Sequence[Scan], report: IngestReport) -> list[Judged]:
    """Return scans with all their findings, by the number of errors, of warnings, of the rest.

    Scans that show one picture stand together, where the worst of them belongs, so that they can be compared.
    """
    picture_of = {scan_id: group[0] for group in report.pictures for scan_id in group}

    def badness(judged: Judged) -> tuple[tuple[int, ...], str, str]:
        found = Counter(item.severity for item in judged[1])
        scan_id = judged[0].scan_id
        return tuple(-found[severity] for severity in SEVERITIES), picture_of.get(scan_id, scan_id), scan_id

    by_outcome: dict[str, list[Finding]] = defaultdict(list)
    for outcome in report.outcomes:
        for scan_id in outcome.scan_ids:
            by_outcome[scan_id] += outcome.findings
    with_all = []
    for scan in scans:
        # An annotation that came by itself has an outcome of its own.
        later = [item for item in by_outcome[scan.scan_id] if item not in scan.findings]
        with_all.append((scan, (*scan.findings, *later, *report.beside_others.get(scan.scan_id, ()))))
    worst: dict[str, tuple[tuple[int, ...], str, str]] = {}
    for judged in with_all:
        key = picture_of.get(judged[0].scan_id, judged[0].scan_id)
        worst[key] = min(badness(judged), worst.get(key, badness(judged)))
    return sorted(
        with_all, key=lambda judged: (worst[picture_of.get(judged[0].scan_id, judged[0].scan_id)], badness(judged))
    )


def _cards(report: IngestReport) -> list[Card]:
    counts, found = report.counts, by_severity(report)
    errors, warnings, notes = (found.get(severity, Counter()).total() for severity in SEVERITIES)
    tone: Tone = "bad" if errors else "warn" if warnings else "good"
    return [
        Card("Files seen", f"{counts.files:,}", f"{counts.scans:,} scans, {counts.labelled:,} labelled"),
        Card("Accepted", f"{counts.accepted:,}", f"{counts.known:,} scans known before", "good"),
        Card("Refused", f"{counts.refused:,}", "with a reason each", "bad" if counts.refused else ""),
        Card("Ignored", f"{counts.ignored:,}", "no scans", "muted"),
        Card("Errors, warnings", f"{errors:,}, {warnings:,}", f"and {notes:,} notes on quality", tone),
    ]


def _accounting(report: IngestReport, catalogue: Catalogue) -> Section:
    counts = report.counts
    parts = [(name, getattr(counts, name), OUTCOMES[name]) for name in ("accepted", "refused", "ignored")]
    total = f"{counts.files:,} file{'' if counts.files == 1 else 's'}"
    sums = " + ".join(f"{number:,} {name}" for name, number, _ in parts)
    bars = (Bar(f"{total} = {sums}", parts),) if counts.files else ()
    examples: dict[tuple[str, str], Outcome] = {}
    files = Counter[tuple[str, str]]()
    for outcome in report.outcomes:
        examples.setdefault((outcome.outcome, outcome.code), outcome)
        files[outcome.outcome, outcome.code] += outcome.files
    order = list(OUTCOMES)
    keys = sorted(files, key=lambda key: (order.index(key[0]), -files[key], key[1]))
    rows = [
        (Cell(key[0], OUTCOMES[key[0]]), key[1], files[key], _short(examples[key].reason) or _plainly(key[1]))
        for key in keys
    ]
    known = {item.name: item for item in catalogue.collections()}
    terms = [
        (name, known[name].scans, known[name].licence or "not stated", known[name].consent or "not stated")
        for name in report.collections
        if name in known
    ]
    tables = [Table(("Outcome", "Reason code", "Files", "What was found, expected, and to be done (first case)"), rows)]
    if terms:
        tables.append(Table(("Collection", "Scans in all", "Licence", "Consent"), terms))
    if report.columns_left:
        rows_left = [(name,) for name in report.columns_left]
        tables.append(Table(("Columns of tables that were not kept",), rows_left, "Columns not kept", folded=True))
    return Section("What came of every file", bars=bars, tables=tables)


def _plainly(code: str) -> str:
    told = {
        "accepted": "read, checked and stored",
        "known": "in the catalogue before; not read again",
        "annotation": "masks or classes of accepted scans",
    }
    return told.get(code, "")


def _left_out(report: IngestReport) -> list[Section]:
    """List refused sources; ignored ones are folded."""
    tables = []
    for outcome, folded in (("refused", False), ("ignored", True)):
        found = [item for item in report.outcomes if item.outcome == outcome]
        if not found:
            continue
        rows = [(item.source, item.code, item.files, _short(item.reason)) for item in found[:MOST_ROWS]]
        caption = f"{outcome.capitalize()}: {_shown(len(rows), len(found), 'sources')}"
        tables.append(Table(("Source", "Reason code", "Files", "Reason"), rows, caption, folded or len(rows) > 12))
    return [Section("Refused and ignored sources", tables=tables)] if tables else []


def _findings(report: IngestReport, ordered: Sequence[Judged]) -> Section:
    examples: dict[str, Finding] = {}
    for item in all_findings(report):
        examples.setdefault(item.code, item)
    rows = [
        (
            Cell(severity, TONES[severity]),
            code,
            number,
            RULES[code].meaning if code in RULES else _example(examples[code].message, number),
            examples[code].advice,
        )
        for severity, codes in by_severity(report).items()
        for code, number in codes.most_common()
    ]
    if not rows:
        return Section("Findings", text=("Nothing was found.",))
    each = [
        (scan.scan_id[:8], Cell(item.severity, TONES[item.severity]), item.code, item.message)
        for scan, found in ordered
        for item in sorted(found, key=lambda item: SEVERITIES.index(item.severity))
    ]
    tables = [Table(("Severity", "Code", "Times", "What it means", "What to do"), rows)]
    caption = f"By scan, worst first: {_shown(min(len(each), MOST_ROWS), len(each), 'findings')}"
    if each:
        tables.append(Table(("Scan", "Severity", "Code", "What was found"), each[:MOST_ROWS], caption, folded=True))
    return Section("Findings", tables=tables, notes=("docs/quality.md gives the threshold of each code.",))


def _example(message: str, number: int) -> str:
    """Return the message of one finding, marked as one of several where it holds numbers of its own."""
    return f"such as: {message}" if number > 1 and re.search(r"\d", message) else message


def _sheet(home: Home, ordered: Sequence[Judged], catalogue: Catalogue, shown: int) -> Section:
    chosen = ordered[:shown]
    masks: dict[str, list[str]] = defaultdict(list)
    for annotation in catalogue.annotations(scan.scan_id for scan, _ in chosen):
        if annotation.file:
            masks[annotation.scan_id].append(annotation.file)
    tiles = [tile for scan, found in chosen if (tile := _tile(home, scan, found, masks[scan.scan_id]))]
    text = [f"{_shown(len(tiles), len(ordered), 'scans').capitalize()}, worst findings first."]
    if any(tile.across == 3 for tile in tiles):
        text.append(
            "Axial, coronal and sagittal, to scale; the patient's left is on the right of the picture. Masks are "
            "outlined, and the planes cut through their largest areas."
        )
    lost = len(chosen) - len(tiles)
    notes = (f"{lost} scans could not be drawn: run medml verify.",) if lost else ()
    return Section("Contact sheet", text=text, tiles=tiles, notes=notes)


def _tile(home: Home, scan: Scan, found: Sequence[Finding], masks: Sequence[str]) -> Tile | None:
    size = " x ".join(str(n) for n in scan.shape if n > 1 or scan.shape[2] > 1)
    lines = [f"{scan.modality}, {size}"]
    if scan.spacing_mm:
        lines.append(f"{' x '.join(f'{side:.3g}' for side in scan.spacing_mm[: 3 if scan.shape[2] > 1 else 2])} mm")
    worst = sorted(found, key=lambda item: SEVERITIES.index(item.severity))
    times = Counter((item.code, item.severity) for item in worst)
    tags = [
        Cell(f"{code.replace('_', ' ')}{f' x {number}' if number > 1 else ''}", TONES[severity])
        for (code, severity), number in times.items()
    ]
    try:
        picture = _picture(home, scan, masks)
    except MedmlError:
        return None
    across = 3 if scan.shape[2] > 1 else 1
    return Tile(picture, scan.scan_id[:8], lines, tags, f"scan {scan.scan_id[:8]}", across)


def _picture(home: Home, scan: Scan, masks: Sequence[str]) -> bytes:
    """Return the stored preview, or draw a small image from its files."""
    stored = home.scan_folder(scan.scan_id) / PREVIEW_FILE
    if stored.is_file():
        return stored.read_bytes()
    volume = read_image(home.scans, scan.scan_id)
    labels = [read_mask(home.scans, scan.scan_id, file).voxels[0] for file in masks]
    return preview_jpeg(volume, labels, modality=scan.modality)


def _distributions(scans: Sequence[Scan]) -> Section:
    several = len({scan.collection for scan in scans}) > 1
    groups: dict[str, list[Scan]] = defaultdict(list)
    for scan in scans:
        groups[f"{scan.collection[:12]} {scan.modality}" if several else scan.modality].append(scan)
    chosen = dict(sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))[:MOST_GROUPS])
    strips: list[Strip] = []
    alike: list[tuple[str, str]] = []
    for label, measure in MEASURES:
        values = {
            name: [float(v) for scan in found if (v := measure(scan)) is not None] for name, found in chosen.items()
        }
        flat = [value for found in values.values() for value in found]
        if flat and np.ptp(flat) < 1e-6 * max(1.0, abs(flat[0])):
            alike.append((label, f"{flat[0]:.4g}"))
        elif (found := strip({name: v for name, v in values.items() if v}, label=label)) is not None:
            strips.append(found)
    text = ["Each point is a scan, the box holds the middle half, the line is the median."] if strips else []
    if alike:
        text.append("The same in all scans: " + ", ".join(f"{label.lower()} {value}" for label, value in alike) + ".")
    left = len(groups) - len(chosen)
    notes = (f"{left} smaller groups are not drawn.",) if left > 0 else ()
    return Section("Distributions", text=text, strips=strips, notes=notes)


def _in_plane(scan: Scan) -> tuple[float | None, float | None]:
    """Return the smaller pixel side and the distance of slices, in mm; None where there is none."""
    if scan.spacing_mm is None:
        return None, None
    axis = _slices(scan)
    pixel = min(side for n, side in enumerate(scan.spacing_mm) if n != axis)
    return pixel, scan.spacing_mm[axis] if scan.shape[axis] > 1 else None


def _slices(scan: Scan) -> int:
    return slice_axis_of(scan.spacing_mm, scan.source_grid.axes.index(2))


def _shown(shown: int, total: int, noun: str) -> str:
    return f"all {total:,} {noun}" if shown == total else f"{shown:,} of {total:,} {noun}"


def _short(text: str, most: int = 400) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _moment(text: str) -> str:
    return text[:19].replace("T", " ") + " UTC"
