"""What the review's pages show of the worklist, and what is said after a decision."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

from medml.errors import NotFound, Refusal
from medml.io.nifti_write import nifti_bytes
from medml.pages.content import Cell, Section, Table, Tone
from medml.pages.review import SHOWN_VOXELS, CaseView, CaseWork, Page, WorkItem, case_page, list_page
from medml.pages.viewed import viewer_case
from medml.pages.viewer import ViewerCase
from medml.records.plan import Plan
from medml.records.review import Decision, Verdict
from pipelines.review import Item, ReviewDesk, Shown

TONES: dict[str, Tone] = {"accepted": "good", "replaced": "good", "rejected": "bad"}
MOST_FIGURES = 4
HIDDEN = ("review", "review_codes")
# Of a result's figures, those that are shown open.
FIRST = ("volume_ml_", "prob_", "predicted", "conformal", "uncertainty", "disagreement", "ood_")


class ReviewViews:
    """The pages of one person's review.

    Parameters
    ----------
    person : str
        Who decides.
    batch : str
        Only this batch; all of them if empty.
    """

    def __init__(self, desk: ReviewDesk, person: str, batch: str = "") -> None:
        self.desk, self.person, self.batch = desk, person, batch

    def worklist(self, *, everything: bool = False) -> Page:
        """Return the list of what waits, or of all that has a result."""
        found = self.desk.items(batch=self.batch, everything=True)
        waiting = [item for item in found if item.waits]
        shown = found if everything else waiting
        tabs = [
            (f"Waiting ({len(waiting)})", "/", not everything),
            (f"All results ({len(found)})", "/?all=1", everything),
        ]
        return list_page(
            [_work_item(item) for item in shown],
            title=f"{len(waiting)} results wait for a look",
            lead=f"Most doubtful first. Decisions are stored under the name {self.person}.",
            tabs=tabs,
        )

    def case(self, batch: str, scan: str, *, token: str, most: int) -> Page:
        """Return the page of one result."""
        item = self.desk.item(batch, scan)
        others = [_place(other) for other in self.desk.items(batch=self.batch) if _place(other) != _place(item)]
        decisions = self.desk.reviews.of(batch, scan)
        plan = self.desk.plan(item.row.model)
        before, after = self._neighbours(item, others)
        classify = plan.task == "classify"
        work = CaseWork(
            place=_place(item),
            token=token,
            seen=len(decisions),
            most=most,
            previous=before,
            next=after,
            classes=[plan.labels[value] for value in sorted(plan.labels)] if classify else (),
            several=plan.multi_label,
        )
        viewed, note = self._viewed(item)
        view = CaseView(
            title=f"Scan {scan[:12]}",
            kicker=f"{item.row.model} · {state(item).value}",
            reasons=reasons(item),
            viewed=viewed,
            note=note,
            sections=[_figures(item, plan), *_history(decisions)],
        )
        return case_page(view, work, list_place="/")

    def preview(self, batch: str, scan: str) -> bytes:
        """Return the preview of a result, as PNG."""
        item = self.desk.item(batch, scan)
        name = next((name for name in item.row.outputs if name.startswith("previews/")), None)
        if name is None:
            raise NotFound(f"scan {scan} has no preview")
        return (self.desk.folder(item) / name).read_bytes()

    def decide(self, batch: str, scan: str, verdict: str, **asked: Any) -> tuple[str, str]:
        """Store a decision; return what to say of it, and where to go on."""
        if verdict not in get_args(Verdict):
            raise ValueError(f"found the verdict {verdict!r}, expected one of {get_args(Verdict)}")
        item = self.desk.item(batch, scan)
        others = [_place(other) for other in self.desk.items(batch=self.batch) if _place(other) != _place(item)]
        _, notes = self.desk.decide(item, verdict, person=self.person, **asked)  # type: ignore[arg-type]
        _, after = self._neighbours(item, others)
        said = f"Scan {scan[:12]}: {verdict}, {len(others)} left."
        return " ".join([said, *(f"{note}." for note in notes)]), after or "/"

    def upload_folder(self) -> Path:
        """Return where uploads lie while they are looked at: private, on the disk of the home."""
        folder = self.desk.home.secrets / "uploads"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder

    def _neighbours(self, item: Item, others: Sequence[str]) -> tuple[str, str]:
        """Return the places before and after an item on the worklist, whether it waits itself or not."""
        order = self.desk.items(batch=self.batch, everything=True)
        mine = next((n for n, other in enumerate(order) if _place(other) == _place(item)), len(order))
        before = [place for place in map(_place, order[:mine]) if place in others]
        after = [place for place in map(_place, order[mine + 1 :]) if place in others]
        return before[-1] if before else "", after[0] if after else (before[0] if before else "")

    def _viewed(self, item: Item) -> tuple[ViewerCase | None, str]:
        with self.desk.one_at_a_time:  # one volume in memory, however many pages are open
            try:
                shown = self.desk.show(item)
            except (Refusal, NotFound) as error:
                return None, f"The image cannot be shown: {error}."
            return _viewer(item, shown), ""


def reasons(item: Item) -> list[str]:
    """Return why a person should look, a sentence each."""
    lines = str(item.row.result.get("review") or item.row.reason or "").splitlines()
    return [line for line in lines if line]


def age(item: Item, now: datetime | None = None) -> str:
    """Return how long ago a result was made, in words."""
    try:
        made = datetime.fromisoformat(item.row.finished or item.batch.created)
    except ValueError:
        return ""
    minutes = int(((now or datetime.now(UTC)) - made).total_seconds() // 60)
    for size, word in ((1440, "day"), (60, "hour"), (1, "minute")):
        if minutes >= size:
            count = minutes // size
            return f"{count} {word}{'s' if count > 1 else ''} ago"
    return "just now"


def state(item: Item) -> Cell:
    """Return where a result stands: the decision that counts, or what the ledger says."""
    if item.last is not None and not item.waits:
        return Cell(item.last.verdict, TONES[item.last.verdict])
    return Cell("needs review", "warn") if item.waits else Cell(item.row.status.replace("_", " "), "muted")


def _place(item: Item) -> str:
    return f"/case/{item.batch.batch_id}/{item.row.scan_id}"


def _work_item(item: Item) -> WorkItem:
    shown = any(name.startswith("previews/") for name in item.row.outputs)
    return WorkItem(
        name=item.row.scan_id[:12],
        place=_place(item),
        picture=f"/preview/{item.batch.batch_id}/{item.row.scan_id}.png" if shown else "",
        model=item.row.model,
        batch=item.batch.batch_id[:14],
        age=age(item),
        reasons=reasons(item),
        figures=_short_figures(item),
        state=state(item),
    )


def _short_figures(item: Item) -> list[str]:
    """Return the figures that matter most, in words."""
    result = item.row.result
    wanted = [name for name in result if name.startswith("volume_ml_") or name == "predicted"]
    found = [f"{_title(name)} {_shown(result[name])}" for name in wanted if result[name] is not None][:MOST_FIGURES]
    known = [(name, word) for name, word in (("uncertainty", "uncertainty"), ("ood_score", "unlike training"))]
    return found + [f"{word} {_shown(result[name])}" for name, word in known if result.get(name) is not None]


def _figures(item: Item, plan: Plan) -> Section:
    known = {name: v for name, v in item.row.result.items() if v is not None and name not in HIDDEN}
    rows = [(_title(name), value) for name, value in known.items() if name.startswith(FIRST)]
    rest = [(_title(name), value) for name, value in known.items() if not name.startswith(FIRST)]
    facts = [
        ("scan", item.row.scan_id),
        ("source", item.row.source),
        ("batch", item.batch.batch_id),
        ("model digest", item.row.model_digest[:16]),
        ("labels", ", ".join(plan.labels[value] for value in sorted(plan.labels) if value or plan.task == "classify")),
        ("predicted at", item.row.finished[:19].replace("T", " ")),
    ]
    tables = [Table(("Figure", "Value"), rows), Table(("Where it comes from", ""), facts)]
    tables += [Table(("Figure", "Value"), rest, caption="More figures", folded=True)] if rest else []
    return Section("What the model found", tables=tables)


def _history(decisions: Sequence[Decision]) -> list[Section]:
    if not decisions:
        return []
    rows = [
        (d.number, Cell(d.verdict, TONES[d.verdict]), d.person, d.decided[:19].replace("T", " "), d.reason)
        for d in reversed(decisions)
    ]
    table = Table(("No.", "Decision", "Person", "When (UTC)", "Reason"), rows)
    return [Section("Decisions", text=("The last one counts; none is ever removed.",), tables=(table,))]


def _viewer(item: Item, shown: Shown) -> ViewerCase:
    caption = "Reference: the corrected mask." if shown.correction is not None else ""
    return viewer_case(
        shown.found.reading.volume,
        shown.mask,
        shown.correction,
        name=item.row.scan_id[:12],
        caption=caption,
        labels=shown.plan.labels,
        pack=nifti_bytes,
        modality=shown.plan.modality,
        most=SHOWN_VOXELS,
    )


def _title(name: str) -> str:
    for prefix, short in (("volume_ml_", "mL "), ("voxels_", "voxels "), ("prob_", "p "), ("ood_", "unlike: ")):
        if name.startswith(prefix):
            return short + name.removeprefix(prefix).replace("_", " ")
    return name.replace("_", " ")


def _shown(value: str | int | float | None) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
