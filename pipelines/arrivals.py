"""What lies in the inbox and is complete: nothing in it has changed for a while.

Names in an inbox may be patients', so what is announced is a request id, and what is remembered lies in
HOME/secrets. An arrival is announced again until a run of its flow has come to an end: events can get lost when a
server is killed, and flows find done work by themselves.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from medml.io.files import read_record, write_record
from medml.records.home import Home
from medml.records.record import Record
from pipelines.configs import config_folder
from pipelines.requests import known_sources, write_request

AGAIN_SECONDS = 120.0
LOOK_AGAIN_SECONDS = 600.0
MOST_TRIES = 5


class Arrival(Record):
    """One folder or file of the inbox, as one trigger sees it.

    Attributes
    ----------
    marks : str
        Digest of the names, sizes and times of its files.
    since : float
        When it was first seen so, in seconds since 1970.
    request : str
        The request id it was announced as; empty before.
    sent : float
        When it was announced last.
    tries : int
        How often it was.
    settled : float
        When its flow had ended; 0 before.
    """

    marks: str
    since: float
    request: str = ""
    sent: float = 0.0
    tries: int = 0
    settled: float = 0.0


class Arrivals(Record):
    """What ``secrets/arrivals-TRIGGER.json`` holds: entries of the inbox by their path in it."""

    entries: dict[str, Arrival] = {}


def look(home: Home, trigger: str, quiet_seconds: float, now: float) -> list[str]:
    """Look at the inbox once; return the request ids that are to be announced now.

    Parameters
    ----------
    now : float
        Seconds since 1970.
    """
    known = read_arrivals(home, trigger).entries
    seen = {}
    inbox = known_sources(home)["inbox"]
    for entry in _entries(inbox):
        name = entry.relative_to(inbox).as_posix()
        before = known.get(name)
        if before and before.settled and now - before.settled < LOOK_AGAIN_SECONDS:
            seen[name] = before
        else:
            seen[name] = _seen_again(home, entry, before, quiet_seconds, now)
    if seen != known:
        write_record(_file(home, trigger), Arrivals(entries=seen), mode=0o600)
    return [item.request for item in seen.values() if item.request and item.sent == now]


def settle(home: Home, trigger: str, ended: set[str], under_way: set[str], now: float) -> None:
    """Note which requests' flows have ended, and that others are still under way and need no second announcement."""
    known = read_arrivals(home, trigger).entries
    changed = {}
    for name, item in known.items():
        if item.request in ended and not item.settled:
            changed[name] = item.model_copy(update={"settled": now})
        elif item.request in under_way:
            changed[name] = item.model_copy(update={"sent": now - 1})
    if changed:
        write_record(_file(home, trigger), Arrivals(entries=known | changed), mode=0o600)


def read_arrivals(home: Home, trigger: str) -> Arrivals:
    """Return what is remembered of the inbox."""
    path = _file(home, trigger)
    return read_record(path, Arrivals) if path.exists() else Arrivals()


def _seen_again(home: Home, entry: Path, before: Arrival | None, quiet_seconds: float, now: float) -> Arrival:
    marks = _marks(entry)
    if before is None or before.marks != marks:
        return Arrival(marks=marks, since=now)
    if before.settled:
        return before.model_copy(update={"settled": now})
    if now - before.since < quiet_seconds or before.tries >= MOST_TRIES:
        return before
    if before.request and now - before.sent < AGAIN_SECONDS * 2 ** (before.tries - 1):
        return before
    request = before.request or write_request(home, "arrive", sources=[str(entry)])
    return before.model_copy(update={"request": request, "sent": now, "tries": before.tries + 1})


def _entries(inbox: Path) -> Iterator[Path]:
    """Yield what lies directly in the inbox, and each study in the folders that a PACS or a listener fills.

    Hidden entries are somebody's half-written ones.
    """
    archives = {path.stem for kind in ("pacs", "listeners") for path in (config_folder() / kind).glob("*.yaml")}
    for entry in _shown(inbox):
        yield from _shown(entry) if entry.name in archives else [entry]


def _shown(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if not path.name.startswith(".") and not path.is_symlink())


def _marks(entry: Path) -> str:
    """Return a digest of all names, sizes and times below an entry; one that vanishes meanwhile changes it."""
    digest = hashlib.sha256()
    for folder, folders, files in os.walk(entry) if entry.is_dir() else [(str(entry.parent), [], [entry.name])]:
        folders.sort()
        for name in sorted(files):
            try:
                state = os.stat(Path(folder) / name, follow_symlinks=False)
            except FileNotFoundError:
                continue
            digest.update(f"{folder}\0{name}\0{state.st_size}\0{state.st_mtime_ns}\0".encode())
    return digest.hexdigest()


def _file(home: Home, trigger: str) -> Path:
    return home.secrets / f"arrivals-{trigger}.json"
