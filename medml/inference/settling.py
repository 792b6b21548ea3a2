"""What is still being copied into a source is left for the next time, so that nothing is read by halves."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from medml.records.candidate import Candidate
from medml.records.scan import Outcome

WAITING = "waiting"


def settled(
    source: Path, found: Iterable[Candidate | Outcome], quiet_seconds: float, now: float | None = None
) -> Iterator[Candidate | Outcome]:
    """Yield what a walk found, but in place of what changed a moment ago an ignored outcome with the code ``waiting``.

    A candidate waits until nothing in its folders has changed for ``quiet_seconds``, as does a file that was refused:
    it may be half a file. What counts is when a file was written or renamed, not the time that a copying program sets.

    Parameters
    ----------
    source : Path
        What was walked.
    now : float, optional
        Seconds since 1970; default: when each item is looked at.
    """
    changes: dict[Path, float] = {}
    for item in found:
        if quiet_seconds <= 0 or (isinstance(item, Outcome) and item.outcome != "refused"):
            yield item
            continue
        folders = _folders(source, item)
        newest = max((_newest(folder, changes) for folder in folders), default=0.0)
        age = (time.time() if now is None else now) - newest
        if age >= quiet_seconds:
            yield item
            continue
        reason = (
            f"its folder changed {max(0.0, age):.0f} s ago, expected {quiet_seconds:g} s of quiet; the next run looks"
        )
        yield Outcome(source=item.source, files=item.files, outcome="ignored", code=WAITING, reason=reason)


def _folders(source: Path, item: Candidate | Outcome) -> set[Path]:
    """Return the folders that hold the files of an item."""
    if isinstance(item, Candidate):
        paths = [Path(path) for path, _, _ in item.seen]
    else:
        paths = [source / item.source.partition("#")[0]]
    return {path if path.is_dir() else path.parent for path in paths}


def _newest(folder: Path, known: dict[Path, float]) -> float:
    """Return when a folder or a file directly in it last changed; one that went meanwhile changed now."""
    if folder not in known:
        try:
            known[folder] = max([folder.stat().st_ctime, *(path.lstat().st_ctime for path in folder.iterdir())])
        except OSError:
            known[folder] = time.time()
    return known[folder]
