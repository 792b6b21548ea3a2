"""Progress a person can follow: a bar on a terminal, a line now and then elsewhere. Written to stderr."""

from __future__ import annotations

import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

SECONDS_BETWEEN_LINES = 15.0


class Bar(ABC):
    """What a stage is handed to report with."""

    @abstractmethod
    def update(self, done: int, total: int | None = None, note: str = "") -> None:
        """Say how far the work is."""

    def counter(self, total: int | None = None, note: str = "") -> Callable[[], None]:
        """Return a function that moves the bar by one."""
        done = count(1)
        return lambda: self.update(next(done), total, note)


@contextmanager
def progress_bar(title: str) -> Iterator[Bar]:
    """Show one bar for one piece of work."""
    if not sys.stderr.isatty():
        yield _Lines(title)
        return
    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("[dim]{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=False) as progress:
        yield _Rich(progress, title)


@contextmanager
def quiet_bar(title: str) -> Iterator[Bar]:
    """Report one of several pieces of work that run at once: a line now and then, on a terminal too."""
    yield _Lines(title)


class _Rich(Bar):
    def __init__(self, progress: Progress, title: str) -> None:
        self._progress = progress
        self._task = progress.add_task(title, total=None, note="")

    def update(self, done: int, total: int | None = None, note: str = "") -> None:
        self._progress.update(self._task, completed=done, total=total, note=note)


class _Lines(Bar):
    def __init__(self, title: str) -> None:
        self._title = title
        self._last = time.monotonic()

    def update(self, done: int, total: int | None = None, note: str = "") -> None:
        now = time.monotonic()
        if now - self._last < SECONDS_BETWEEN_LINES:
            return
        self._last = now
        of = f"/{total}" if total else ""
        print(f"{self._title}: {done}{of}{'  ' + note if note else ''}", file=sys.stderr, flush=True)
