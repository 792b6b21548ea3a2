"""The audit of a de-identification: one JSON line per file, which attributes and which action, no values.

It is also what a later run goes by: a file with a line, whose output is there, is not done again. Operator side, 0600.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Container, Iterable, Sequence
from pathlib import Path
from typing import Any, Self

from medml.errors import MedmlError
from medml.io.confidentiality.options import DeidentifyConfig
from medml.io.confidentiality.tables import EDITION
from medml.io.files import Pseudonyms, sync_path

# Of what is done to files; a change of it does all of them again.
RULES = 1


class Audit:
    """Lines of one source, output, key and choice of options.

    Parameters
    ----------
    path : Path
        Made when first written to.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines: dict[str, dict[str, Any]] = {}
        self._actions: dict[str, tuple[str, ...]] = {}
        self._ids: dict[tuple[str, ...], str] = {}
        self._files = Counter[str]()
        self._new: list[str] = []
        self._read()

    @classmethod
    def opened(cls, folder: Path, source: Path, out: Path, config: DeidentifyConfig, pseudonyms: Pseudonyms) -> Self:
        """Open the audit that belongs to a source and an output under these options and this key."""
        what = (str(source), str(out), config.model_dump_json(), pseudonyms.file("audit"), EDITION, str(RULES))
        name = hashlib.sha256("\0".join(what).encode("utf-8", "surrogateescape")).hexdigest()[:16]
        return cls(folder / f"deidentify-{name}.jsonl")

    def done(self, name: str, status: os.stat_result) -> dict[str, Any] | None:
        """Return the line of a file as it is now, None if there is none."""
        line = self._lines.get(name)
        if line is None or line["size"] != status.st_size or line["changed"] != status.st_mtime_ns:
            return None
        return line

    def claims(self, names: Container[str]) -> dict[str, str]:
        """Return which output belongs to which of these sources."""
        return {line["output"]: name for name, line in self._lines.items() if name in names}

    def actions(self, done: Iterable[str]) -> str:
        """Return the id under which a set of attributes and actions stands in the audit, and count a file for it.

        The files of a series have the same, so it is written once.
        """
        key = tuple(done)
        known = self._ids.get(key)
        if known is None:
            unique = tuple(sorted(set(key)))
            known = hashlib.sha256("\n".join(unique).encode()).hexdigest()[:12]
            self._ids[key] = known
            if known not in self._actions:
                self._actions[known] = unique
                self._new.append(known)
        self._files[known] += 1
        return known

    def count(self, actions: str) -> None:
        """Count a file that an earlier run has written."""
        self._files[actions] += 1

    def write(self, lines: Sequence[dict[str, Any]]) -> None:
        """Append lines and wait until they are on the disk."""
        records: list[dict[str, Any]] = [{"id": name, "attributes": self._actions[name]} for name in self._new]
        self._new = []
        text = "".join(json.dumps(record, ensure_ascii=True) + "\n" for record in (*records, *lines))
        first = not self.path.exists()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_CREAT | os.O_APPEND | os.O_WRONLY | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "ab") as file:
            file.write(text.encode("ascii"))
            file.flush()
            os.fsync(file.fileno())
        if first:
            sync_path(self.path.parent)

    def summary(self) -> dict[str, int]:
        """Return in how many files each attribute was treated in which way."""
        counts = Counter[str]()
        for name, files in self._files.items():
            for action in self._actions.get(name, ()):
                counts[action] += files
        return dict(sorted(counts.items()))

    def _read(self) -> None:
        """Read the lines of earlier runs; a last line that a kill cut short is dropped."""
        if not self.path.is_file():
            return
        data = self.path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) != len(data):
            os.truncate(self.path, len(whole))
        for number, text in enumerate(whole.splitlines(), 1):
            try:
                record = json.loads(text)
                if "attributes" in record:
                    self._actions[record["id"]] = tuple(record["attributes"])
                else:
                    self._lines[record["source"]] = record
            except (ValueError, KeyError, TypeError):
                raise MedmlError(
                    f"{self.path.name}: line {number} is damaged; move the file away, and every file is done again"
                ) from None
