"""Logs that do not grow without end: the file of a running process is copied away and emptied."""

from __future__ import annotations

import shutil
from pathlib import Path

MOST_BYTES = 20_000_000
KEPT = 5


def rotate(folder: Path, *, most_bytes: int = MOST_BYTES, kept: int = KEPT) -> list[Path]:
    """Turn logs that have grown too large into ``name.log.1``, older ones into ``.2`` and so on; return which.

    Processes append to an open file, so it stays the same file: its content is copied, then cut to nothing. A line
    written in between is lost, which takes a few milliseconds of every 20 MB.
    """
    large = [log for log in sorted(folder.glob("*.log")) if log.stat().st_size > most_bytes]
    for log in large:
        for number in range(kept - 1, 0, -1):
            older = log.with_name(f"{log.name}.{number}")
            if older.exists():
                older.replace(log.with_name(f"{log.name}.{number + 1}"))
        shutil.copyfile(log, log.with_name(f"{log.name}.1"))
        with log.open("r+b") as file:
            file.truncate(0)
    return large
