"""What a home can do without: shown first, with its size and age, and removed only when asked. Needs no flow."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from medml.io.mentions import files_below, remove, states
from medml.records.home import Home
from pipelines.stores import open_catalogue
from pipelines.verb import VerbResult

DAY = 86400.0
MOST_ROWS = 40


@dataclass(frozen=True, slots=True)
class Waste:
    """Something that may go.

    Attributes
    ----------
    used : float
        When it was last read or written, seconds since the epoch.
    """

    kind: str
    path: Path
    bytes: int
    used: float

    @property
    def days(self) -> float:
        """How long it has not been used."""
        return max(0.0, (time.time() - self.used) / DAY)


def clean(home: Home, *, days: float, cache_gb: float | None, batches: bool, do: bool) -> VerbResult:
    """Remove what can be made again and was not used for some days; without ``do`` only show it.

    Parameters
    ----------
    days : float
        What was used since then stays.
    cache_gb : float or None
        Of the cache, remove what was used longest ago until no more than this is left, however young it is.
    batches : bool
        Results of batches too, which are not made again by themselves.
    """
    used = in_use(home)
    found = [item for item in _cache(home) if not _is_used(item.path, used)]
    kept = sum(1 for item in _cache(home) if _is_used(item.path, used))
    chosen = [item for item in found if item.days >= days] + _over(found, cache_gb, days)
    chosen += [item for item in (*_logs(home), *_fetched(home)) if item.days >= days]
    chosen += list(_orphans(home))
    if batches:
        chosen += [item for item in _batches(home) if item.days >= days and item.path.name not in used]
    for item in chosen if do else ():
        remove(item.path)
    counts: Counter[str] = Counter()
    for item in chosen:
        counts[item.kind] += 1
    notes = [] if do or not chosen else ["nothing was removed; add --yes to remove it"]
    notes += [f"{kept} cached datasets are in use and stay"] if kept else []
    return VerbResult(
        verb="clean",
        ok=True,
        counts={**counts, "bytes": sum(item.bytes for item in chosen)},
        summary={"removed": do},
        table=_table(home, chosen),
        notes=tuple(notes),
    )


def in_use(home: Home) -> set[str]:
    """Return names that nobody may remove: datasets of trainings under way, batches under way, what is mapped."""
    from medml.store.erasure import at_work

    leases = at_work(open_catalogue(home))
    names = {name.partition(":")[2] for name in leases if name.startswith("batch:")}
    if leases:
        for job in home.runs.rglob("job.json"):
            names.add(Path(json.loads(job.read_text(encoding="utf-8"))["dataset"]).stem)
    return names | _mapped(home.cache)


def _mapped(cache: Path) -> set[str]:
    """Return the datasets whose arrays a process of this machine has mapped or open."""
    found = set()
    for maps in Path("/proc").glob("[0-9]*/maps"):
        try:
            text = maps.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue  # it ended, or it is another user's, who cannot read a home of ours
        for line in text.splitlines():
            place = line.partition("/")
            path = Path(f"/{place[2]}") if place[1] else None
            if path is not None and path.is_relative_to(cache):
                found.add(path.relative_to(cache).parts[0])
    return found


def _opened() -> set[str]:
    """Return the files that processes of this machine have open."""
    found = set()
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            found.add(os.readlink(link))
        except OSError:
            continue  # closed meanwhile, or another user's
    return found


def _is_used(path: Path, used: set[str]) -> bool:
    return path.parent.name in used


def _cache(home: Home) -> Iterator[Waste]:
    """Yield the preprocessed arrays of each plan; they are made again when a training wants them."""
    for folder in sorted(home.cache.glob("*/*")):
        yield from _waste("cached arrays", folder)


def _over(found: list[Waste], cache_gb: float | None, days: float) -> list[Waste]:
    """Return the younger ones that were used longest ago, as many as are above the size that may stay."""
    if cache_gb is None:
        return []
    young = sorted((item for item in found if item.days < days), key=lambda item: item.used)
    above = sum(item.bytes for item in young) - cache_gb * 1e9
    chosen = []
    for item in young:
        if above <= 0:
            break
        chosen.append(item)
        above -= item.bytes
    return chosen


def _logs(home: Home) -> Iterator[Waste]:
    """Yield logs that no server writes to any more, and the texts of errors."""
    written = _opened()
    for path in files_below(home.logs):
        if str(path) in written:
            continue
        kind = "error texts" if path.parent.name == "errors" else "logs"
        yield from _waste(kind, path)


def _fetched(home: Home) -> Iterator[Waste]:
    """Yield packages that were fetched from a tracking server, and are fetched again when they are wanted."""
    for folder in sorted((home.mlartifacts / "fetched").glob("*")):
        yield from _waste("fetched packages", folder)


def _orphans(home: Home) -> Iterator[Waste]:
    """Yield what killed processes left under temporary names; whose owner lives stays."""
    from medml.io.files import is_abandoned

    for parent, folders, files in os.walk(home.root):
        for name in sorted([*folders, *files]):
            path = Path(parent, name)
            if name.startswith(".") and name.endswith(".tmp") and is_abandoned(path):
                yield from _waste("left by killed processes", path)
        folders[:] = [name for name in folders if not name.endswith(".tmp")]


def _batches(home: Home) -> Iterator[Waste]:
    for folder in sorted(path for path in home.batches.glob("*") if path.is_dir()):
        yield from _waste("batches", folder)


def _waste(kind: str, path: Path) -> Iterator[Waste]:
    """Yield a file or folder with its size and age, unless it went while it was looked at."""
    inside = list(states(path))
    with suppress(FileNotFoundError):
        known = inside or [path.lstat()]  # an empty folder has an age of its own
        used = max(max(state.st_mtime, state.st_atime) for state in known)
        yield Waste(kind, path, sum(state.st_size for state in inside), used)


def _table(home: Home, chosen: list[Waste]) -> tuple[tuple[str, ...], ...]:
    if not chosen:
        return ()
    rows = sorted(chosen, key=lambda item: -item.bytes)
    shown = [
        (item.kind, str(item.path.relative_to(home.root)), f"{item.bytes / 1e6:.1f} MB", f"{item.days:.0f} days")
        for item in rows[:MOST_ROWS]
    ]
    if len(rows) > MOST_ROWS:
        left = rows[MOST_ROWS:]
        shown.append((f"{len(left)} more", "", f"{sum(item.bytes for item in left) / 1e6:.1f} MB", ""))
    return (("what", "where", "size", "not used for"), *shown)
