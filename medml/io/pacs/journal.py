"""What was done, one line each, on the disk before the next begins: what a rerun need not do again."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from medml.io.files import sync_path


@dataclass(frozen=True, slots=True)
class Journal:
    """A file of lines, each a key and a value; of equal keys the last one holds. Mode 0600.

    A line that a crash cut short is no line.
    """

    path: Path

    def read(self) -> dict[str, str]:
        """Return every key with its last value."""
        if not self.path.exists():
            return {}
        found = {}
        for line in self.path.read_bytes().split(b"\n")[:-1]:
            try:
                key, value = json.loads(line)
            except ValueError:
                continue  # cut short by a crash, and the next line began in it
            found[str(key)] = str(value)
        return found

    def add(self, key: str, value: str) -> None:
        """Add a line; it is durable on return."""
        new = not self.path.exists()
        if new:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
        try:
            size = os.fstat(descriptor).st_size
            broken = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
            os.write(descriptor, b"\n" * broken + json.dumps([key, value]).encode() + b"\n")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if new:
            sync_path(self.path.parent)
