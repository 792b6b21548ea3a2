"""One page per scan: what was found, how usual it is, and why a person should look, if one should."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medml.pages.content import Card, Cell, Link, Picture, Section, Table, Value
from medml.pages.shell import render
from medml.records.batch import BatchMeta, LedgerRow
from medml.records.norms import ASPECTS
from medml.results.doubts import reasons_of
from medml.results.masks import named
from medml.results.measures import INTENSITIES

FOLDER = "scans"
VIEWER = "viewer.html"
MODE = 0o600
STATUS_WORDS = {
    "done": "done",
    "needs_review": "needs review",
    "failed": "failed",
    "refused": "refused",
    "not_selected": "not for this model",
}


def scan_page(
    out: Path, row: LedgerRow, meta: BatchMeta, *, viewed: bool = False, more: Sequence[Section] = ()
) -> Path:
    """Write ``scans/<scan id>.html`` of a result; it needs no network and no other file.

    Parameters
    ----------
    viewed : bool
        Whether the scan's voxels are in ``viewer.html``.
    more : sequence of Section
        What else there is to say, at the end.
    """
    sections = [*_why(row), *_look(out, row, viewed), *_found(row, meta), *_usual(row), *_files(row), *more]
    return render(
        "page.html",
        named(out, FOLDER, row.scan_id, ".html"),
        mode=MODE,
        title=row.source,
        kicker=f"One scan of {meta.model} {meta.version}".strip(),
        lead="Made by a model, not checked by a person.",
        facts=_facts(row, meta),
        cards=_cards(row, meta),
        sections=sections,
        restricted=True,
    )


def page_of(row: LedgerRow) -> str:
    """Return where a scan's page lies in its batch's folder; empty for scans without a result."""
    return f"{FOLDER}/{row.scan_id}.html" if row.scan_id and row.status in ("done", "needs_review") else ""


def preview_of(out: Path, row: LedgerRow) -> bytes | None:
    """Return the scan's preview, if it was written."""
    path = f"previews/{row.scan_id}.png"
    return (out / path).read_bytes() if path in row.outputs and (out / path).is_file() else None


def summary_of(row: LedgerRow, meta: BatchMeta) -> str:
    """Return what was found in a few words: the class, or the volume of each label."""
    predicted = row.result.get("predicted")
    if predicted is not None:
        return str(predicted) or "no class"
    parts = []
    for name in foreground(meta):
        volume, voxels = row.result.get(f"volume_ml_{name}"), row.result.get(f"voxels_{name}")
        if volume is not None:
            parts.append(f"{name} {float(volume):.4g} mL")
        elif voxels is not None:
            parts.append(f"{name} {voxels} voxels")
    return ", ".join(parts)


def foreground(meta: BatchMeta) -> list[str]:
    """Return the names of a model's labels, without the background of a segmenter."""
    return [meta.labels[value] for value in sorted(meta.labels) if value != 0 or meta.task == "classify"]


def moment(text: str) -> str:
    """Return an ISO time as people read it."""
    return text[:19].replace("T", " ") + " UTC" if text else ""


def _facts(row: LedgerRow, meta: BatchMeta) -> list[tuple[str, str]]:
    facts = [
        ("Scan", row.scan_id),
        ("Model", row.model or meta.model),
        ("Digest of the model", (row.model_digest or meta.digest)[:16]),
        ("Finished", moment(row.finished)),
    ]
    return [(name, value) for name, value in facts if value]


def _cards(row: LedgerRow, meta: BatchMeta) -> list[Card]:
    tone = "good" if row.status == "done" else "warn"
    cards = [Card("Status", STATUS_WORDS.get(row.status, row.status), tone=tone)]  # type: ignore[arg-type]
    if "predicted" in row.result:
        cards.append(Card("Predicted", summary_of(row, meta)))
    for name in foreground(meta)[:6]:
        volume = row.result.get(f"volume_ml_{name}")
        if volume is not None:
            cards.append(Card(name, f"{float(volume):.4g} mL"))
    uncertainty = row.result.get("uncertainty")
    if isinstance(uncertainty, float):
        cards.append(Card("Uncertainty", f"{uncertainty:.3f}", detail="0 is sure, 1 is a guess"))
    return cards


def _why(row: LedgerRow) -> list[Section]:
    reasons = [reason for _, reason in reasons_of(row)]
    if not reasons and row.status == "needs_review":
        reasons = [row.reason]
    return [Section("Why a person should look", notes=reasons)] if reasons else []


def _look(out: Path, row: LedgerRow, viewed: bool) -> list[Section]:
    links = [Link("Look through the voxels", f"../{VIEWER}#{row.scan_id}")] if viewed else []
    links += [Link("All scans of the batch", "../report.html")]
    png = preview_of(out, row)
    caption = "Three planes through the largest area found; the patient's left is on the right." if row.mask else ""
    pictures = [Picture(png, caption, f"Preview of {row.scan_id}", kind="image", wide=True)] if png else []
    return [Section("The scan", links=links, pictures=pictures)]


def _found(row: LedgerRow, meta: BatchMeta) -> list[Section]:
    result = row.result
    if meta.task == "classify":
        rows: list[tuple[Value, ...]] = [(name, result.get(f"prob_{name}")) for name in foreground(meta)]
        notes = []
        if result.get("conformal_set") is not None:
            share = float(result.get("conformal_coverage") or 0)
            notes = [
                f"Not ruled out, with the truth among them for {share:.0%} of patients: {result['conformal_set']}."
            ]
        return [Section("Probabilities", tables=[Table(("Class", "Probability"), rows)], notes=notes)]
    unit = str(result.get("unit") or "")
    heads = {"mean": "Mean", "sd": "SD", "min": "Least", "max": "Most", "p05": "5 %", "p50": "Median", "p95": "95 %"}
    columns = ("Label", "mL", "Voxels", *(f"{heads[kind]} {unit}".strip() for kind in INTENSITIES))
    body = [
        (name, *(result.get(f"{kind}_{name}") for kind in ("volume_ml", "voxels", *INTENSITIES)))
        for name in foreground(meta)
    ]
    return [Section("What was measured", tables=[Table(columns, body)])]


def _usual(row: LedgerRow) -> list[Section]:
    aspects = {name: row.result.get(f"ood_{name}") for name in ASPECTS}
    body: list[tuple[Value, ...]] = [
        (ASPECTS[name].capitalize(), Cell(value, "warn" if isinstance(value, float) and value > 1 else ""))
        for name, value in aspects.items()
        if value is not None
    ]
    if not body:
        return []
    text = ["Distance from the training data; 1 is as far from their middle as the farthest scan that the model knows."]
    share = row.result.get("ood_share")
    if isinstance(share, float):
        text.append(f"{share:.0%} of the scans that the model was validated on are nearer than this one.")
    return [Section("How usual the scan is", text, [Table(("Seen in", "Distance"), body)])]


def _files(row: LedgerRow) -> list[Section]:
    body = [(path, digest[:16]) for path, digest in sorted(row.outputs.items())]
    links = [Link("The mask (NIfTI)", f"../{row.mask}")] if row.mask else []
    table = Table(("File in the batch's folder", "sha256 begins"), body, f"{len(body)} files", folded=True)
    return [Section("Files", tables=[table], links=links)] if body else []
