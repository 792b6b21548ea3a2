"""Who did what and when: one line for each verb, chained by hashes so that a line that was changed or removed shows.

``audit/audit.jsonl`` (0600) only grows. A line holds the operating system's user, the verb, opaque ids and the outcome,
never a path or a patient. Flows tell by Prefect's hooks, so what a schedule runs is there too.
"""

from __future__ import annotations

import fcntl
import getpass
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Literal

from medml.records.home import Home
from medml.records.record import Record
from pipelines.verb import VerbResult

Outcome = Literal["begun", "done", "failed"]
# Verbs that are no flows and change something, or let a person decide.
LOOKS = frozenset(
    {"release", "review", "clean", "backup", "restore", "rollback", "schedule", "deploy", "pacs", "batch", "recover"}
)
FIRST = "0" * 64
LONGEST = 1 << 16  # bytes of a line


class Entry(Record):
    """One line.

    Attributes
    ----------
    details : dict
        Opaque ids and counts.
    previous, digest : str
        sha256 of the line before, and of this line without its own.
    """

    number: int
    time: str
    who: str
    verb: str
    outcome: Outcome
    details: dict[str, str | int | float | bool | None] = {}
    previous: str
    digest: str = ""


def record(home: Home, verb: str, details: Mapping[str, Any], *, outcome: Outcome = "done") -> None:
    """Add a line, durably, before the next process can."""
    plain = {key: value for key, value in details.items() if isinstance(value, str | int | float | bool)}
    with _opened(home) as file:
        last = _last(file)
        entry = Entry(
            number=last.number + 1 if last else 1,
            time=datetime.now(UTC).isoformat(timespec="milliseconds"),
            who=_user(),
            verb=verb,
            outcome=outcome,
            details=plain,
            previous=last.digest if last else FIRST,
        )
        file.seek(0, os.SEEK_END)
        file.write(entry.model_copy(update={"digest": _digest(entry)}).model_dump_json().encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
        (home.audit / "audit.head").write_text(f"{entry.number}\n", encoding="utf-8")


def record_result(home: Home, result: VerbResult) -> None:
    """Add a line for a verb that is no flow, if it is one that changes something."""
    if result.verb in LOOKS:
        record(home, result.verb, dict(result.counts), outcome="done" if result.ok else "failed")


def entries(home: Home) -> list[Entry]:
    """Return every line, oldest first."""
    path = _place(home)
    if not path.exists():
        return []
    return [Entry.model_validate_json(line) for line in path.read_text(encoding="utf-8").splitlines()]


def check(home: Home) -> list[str]:
    """Return one sentence for each place where a line was changed, removed or put in."""
    wrong, before = [], None
    for entry in (found := entries(home)):
        if entry.digest != _digest(entry):
            wrong.append(f"line {entry.number} was changed after it was written")
        if entry.previous != (before.digest if before else FIRST):
            wrong.append(f"before line {entry.number} lines were removed, changed or put in")
        before = entry
    head = home.audit / "audit.head"
    written = int(head.read_text(encoding="utf-8")) if head.exists() else 0
    last = found[-1].number if found else 0
    if last < written:
        wrong.append(f"the last {written - last} lines were removed")
    return wrong


def show(home: Home, *, last: int) -> VerbResult:
    """Return the newest lines as a table, and what is wrong with the chain."""
    found, wrong = entries(home), check(home)
    rows = [
        (entry.time[:19], entry.who, entry.verb, entry.outcome, ", ".join(f"{k} {v}" for k, v in entry.details.items()))
        for entry in found[-last:]
    ]
    return VerbResult(
        verb="audit",
        ok=not wrong,
        counts={"lines": len(found), "wrong": len(wrong)},
        outputs={"audit": str(_place(home))} if found else {},
        table=(("when (UTC)", "who", "what", "outcome", "details"), *rows) if rows else (),
        notes=tuple(wrong),
    )


def flow_begins(flow: Any, run: Any, state: Any) -> None:
    """Prefect's hook: a flow begins."""
    _tell(flow, run, "begun")


def flow_ends(flow: Any, run: Any, state: Any) -> None:
    """Prefect's hook: a flow ended, well or not."""
    _tell(flow, run, "done" if state.is_completed() else "failed")


AUDITED: dict[str, Any] = {
    "on_running": [flow_begins],
    "on_completion": [flow_ends],
    "on_failure": [flow_ends],
    "on_crashed": [flow_ends],
    "on_cancellation": [flow_ends],
}


def _tell(flow: Any, run: Any, outcome: Outcome) -> None:
    home = Home(Path(os.environ["MEDML_HOME"]))
    record(home, flow.name, {"run": str(run.id), **(run.parameters or {})}, outcome=outcome)


def _place(home: Home) -> Path:
    return home.audit / "audit.jsonl"


@contextmanager
def _opened(home: Home) -> Iterator[IO[bytes]]:
    path = _place(home)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file


def _last(file: IO[bytes]) -> Entry | None:
    """Return the last whole line; what a full disk left of a line is cut off."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - LONGEST))
    whole, _, half = file.read().rpartition(b"\n")
    if half:
        file.truncate(size - len(half))
    lines = whole.splitlines()
    return Entry.model_validate_json(lines[-1]) if lines else None


def _digest(entry: Entry) -> str:
    body = json.dumps(entry.model_dump(mode="json", exclude={"digest"}), sort_keys=True)
    return hashlib.sha256(body.encode()).hexdigest()


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"
