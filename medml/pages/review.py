"""The pages of the review: a worklist, and one case with its viewer and the buttons to decide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache

from medml.pages.content import Cell, Section
from medml.pages.shell import TEMPLATES, digest_of, fill, stylesheet
from medml.pages.viewer import ViewerCase, pack_case, viewer_scripts

SHOWN_VOXELS = 40_000_000  # of an image on a page that does not leave the machine: a CT as it is


@dataclass(frozen=True, slots=True)
class WorkItem:
    """One line of the worklist.

    Attributes
    ----------
    place : str
        Where its case is.
    picture : str
        Where its preview is; empty if it has none.
    """

    name: str
    place: str
    picture: str
    model: str
    batch: str
    age: str
    reasons: Sequence[str]
    figures: Sequence[str]
    state: Cell


@dataclass(frozen=True, slots=True)
class CaseWork:
    """What the case page's script needs to know.

    Attributes
    ----------
    token : str
        Proves that a decision comes from this page.
    seen : int
        How many decisions the page shows.
    most : int
        Largest file that is taken, in bytes.
    """

    place: str
    token: str
    seen: int
    most: int
    previous: str = ""
    next: str = ""
    classes: Sequence[str] = ()
    several: bool = False


@dataclass(frozen=True, slots=True)
class Page:
    """HTML, and the policy that its answer is sent with."""

    html: str
    policy: str


@dataclass(frozen=True, slots=True, eq=False)
class CaseView:
    """What the case page shows.

    Attributes
    ----------
    viewed : ViewerCase or None
        Image and masks; None where there is no image.
    note : str
        Why there is none.
    """

    title: str
    kicker: str
    reasons: Sequence[str]
    viewed: ViewerCase | None
    note: str = ""
    sections: Sequence[Section] = field(default_factory=tuple)


def list_page(items: Sequence[WorkItem], *, title: str, lead: str, tabs: Sequence[tuple[str, str, bool]]) -> Page:
    """Return the worklist.

    Parameters
    ----------
    tabs : sequence of (text, place, here)
        Ways to other lists.
    """
    scripts = [_script()]
    digests = [digest_of(script) for script in scripts]
    html = fill(
        "review.html",
        title=title,
        kicker="Review",
        lead=lead,
        restricted=True,
        items=items,
        tabs=tabs,
        empty="Nothing waits for a look.",
        scripts=scripts,
        script_digests=digests,
    )
    return Page(html, _policy(digests))


def case_page(view: CaseView, work: CaseWork, *, list_place: str) -> Page:
    """Return the page of one case."""
    viewer = viewer_scripts() if view.viewed is not None else []
    scripts = [_script(), *viewer]
    digests = [digest_of(script) for script in scripts]
    html = fill(
        "review_case.html",
        title=view.title,
        kicker=view.kicker,
        lead="",
        restricted=True,
        reasons=view.reasons,
        image_note=view.note,
        sections=view.sections,
        list_place=list_place,
        previous=work.previous,
        next=work.next,
        classes=work.classes,
        several=work.several,
        work={name: getattr(work, name) for name in ("place", "token", "seen", "most", "previous", "next")},
        scripts=scripts,
        script_digests=digests,
        cases=[] if view.viewed is None else [pack_case(view.viewed)],
    )
    return Page(html, _policy(digests))


def _policy(script_digests: Sequence[str]) -> str:
    """Return the header of the page: what its own policy says, and what only a header can."""
    scripts, style = " ".join(f"'sha256-{digest}'" for digest in script_digests), digest_of(stylesheet())
    return (
        f"default-src 'none'; img-src 'self' data:; style-src 'sha256-{style}'; script-src {scripts}; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


@cache
def _script() -> str:
    return (TEMPLATES / "review.js").read_text(encoding="utf-8")
