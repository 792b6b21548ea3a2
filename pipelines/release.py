"""The release of images that were held back because their pixels may show a name; needs no flow."""

from __future__ import annotations

from medml.records.home import Home
from pipelines.verb import VerbResult


def release(home: Home, names: list[str], *, by: str, note: str) -> VerbResult:
    """Let held-back files through, or list what is held back if no name is given."""
    from medml.catalogue.quarantine import Quarantine

    quarantine = Quarantine(home.quarantine)
    released = quarantine.release(names, by=by, note=note) if names else []
    waiting = quarantine.waiting()
    advice = ["run ingest or deidentify again; they take what was released"] if released else []
    if waiting and not names:
        advice.append("the reports of ingest and deidentify name the files of each id; look at them before a release")
    return VerbResult(
        verb="release",
        ok=True,
        counts={"released": len(released), "waiting": len(waiting)},
        summary={entry.id: f"{len(entry.files)} files, {entry.code}, since {entry.held}" for entry in waiting},
        notes=tuple(advice),
    )
