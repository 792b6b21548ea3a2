"""Files that mention a patient: found, and made to mention nobody, whatever stage wrote them.

A row of a table or a report goes as a whole; a page or a picture cannot be shortened and is removed.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from medml.io.files import dump_json, sync_path, write_atomic, write_text

LINES = {".jsonl", ".csv", ".txt"}
LOGS = {".log"}
PART = 64 << 20
_GONE = object()


class Mentions:
    """The names of a patient, to be looked for.

    Parameters
    ----------
    names : iterable of str
        Each stands for the patient alone: scan ids, pseudonyms, UIDs, digests. Words of fewer than eight letters would
        be found everywhere and are left out.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.names = frozenset(name for name in names if len(name) >= 8)
        self._bytes = tuple(sorted(name.encode() for name in self.names))

    def in_bytes(self, data: bytes) -> bool:
        """Say whether bytes hold one of the names."""
        return any(name in data for name in self._bytes)

    def in_text(self, text: str) -> bool:
        """Say whether a text holds one of the names."""
        return any(name in text for name in self.names)

    def in_file(self, path: Path) -> bool:
        """Say whether a file holds one of the names, in its name or its bytes; one that is gone holds none."""
        if self.in_text(path.name):
            return True
        longest = max(map(len, self._bytes), default=0)
        try:
            file = path.open("rb")
        except FileNotFoundError:  # servers and databases remove files of theirs while others are looked through
            return False
        with file:
            before = b""
            while part := file.read(PART):
                if self.in_bytes(before + part):
                    return True
                before = part[-longest:]
        return False


def files_below(folder: Path) -> Iterator[Path]:
    """Yield the regular files below a folder, in order; links are not followed."""
    for parent, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            path = Path(parent, name)
            try:
                if stat.S_ISREG(path.lstat().st_mode):
                    yield path
            except FileNotFoundError:
                continue


def states(path: Path) -> Iterator[os.stat_result]:
    """Yield the states of a file, or of the regular files below a folder; what goes meanwhile is passed over."""
    for file in files_below(path) if path.is_dir() else (path,):
        with suppress(FileNotFoundError):
            yield file.lstat()


def strike(path: Path, mentions: Mentions) -> bool:
    """Make a file mention nobody: rows go, and what has no rows is removed; say whether it is still there.

    Known are JSON, lines (CSV, JSON lines, text), logs that a server may be writing, and Parquet.
    """
    suffix = path.suffix.lower()
    if mentions.in_text(path.name):
        return _remove(path)
    if suffix == ".json":
        return _strike_json(path, mentions)
    if suffix in LINES:
        return _strike_lines(path, mentions)
    if suffix in LOGS:
        return _strike_log(path, mentions)
    if suffix == ".parquet":
        return _strike_parquet(path, mentions)
    return _remove(path)


def remove(path: Path) -> None:
    """Remove a file, or a folder with all it holds, durably; one that is gone is gone."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    if path.parent.is_dir():
        sync_path(path.parent)


def pruned(value: Any, mentioned: Callable[[str], bool]) -> Any:
    """Return a JSON value without what mentions a patient.

    Of a list the elements go, of an object the keys. An element that is an object goes as a whole when a plain value
    of it mentions the patient, or a list of it has nothing else. Rows of one list that name the same ``source`` as a
    row that goes, or a place below it, go too: files that were refused beside a scan have no scan id.
    """
    kept = _pruned(value, mentioned)
    return None if kept is _GONE else kept


def _pruned(value: Any, mentioned: Callable[[str], bool]) -> Any:
    if isinstance(value, str):
        return _GONE if mentioned(value) else value
    if isinstance(value, list):
        return _without_rows(value, mentioned)
    if not isinstance(value, dict):
        return value
    kept: dict[str, Any] = {}
    for key, inner in value.items():
        if mentioned(key):
            continue
        left = _pruned(inner, mentioned)
        if left is _GONE:
            return _GONE
        kept[key] = left
    return kept


def _without_rows(rows: list[Any], mentioned: Callable[[str], bool]) -> Any:
    left = [_pruned(row, mentioned) for row in rows]
    gone = [row for row, kept in zip(rows, left, strict=True) if kept is _GONE]
    places = [row["source"] for row in gone if isinstance(row, dict) and row.get("source") not in (None, "", ".")]
    found = [kept for kept in left if kept is not _GONE and not _beside(kept, places)]
    if rows and not found and all(isinstance(row, str) for row in rows):
        return _GONE
    return found


def _beside(row: Any, places: list[str]) -> bool:
    """Say whether a row's source is one of these places, or lies below one."""
    source = row.get("source") if isinstance(row, dict) else None
    return isinstance(source, str) and any(
        source == place or source.startswith((f"{place}/", f"{place}#")) for place in places
    )


def _strike_json(path: Path, mentions: Mentions) -> bool:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return _remove(path)
    kept = _pruned(value, mentions.in_text)
    if kept is _GONE:
        return _remove(path)
    write_text(path, dump_json(kept), _mode(path))
    return True


def _strike_lines(path: Path, mentions: Mentions) -> bool:
    lines = path.read_bytes().splitlines(keepends=True)
    kept = [line for line in lines if not mentions.in_bytes(line)]
    write_atomic(path, lambda temporary: temporary.write_bytes(b"".join(kept)), mode=_mode(path))
    return True


def _strike_log(path: Path, mentions: Mentions) -> bool:
    """Shorten a log where it lies: a server that appends to it must not go on writing to a file without a name."""
    with path.open("r+b") as file:
        kept = [line for line in file if not mentions.in_bytes(line)]
        file.seek(0)
        file.writelines(kept)
        file.truncate()
        file.flush()
        os.fsync(file.fileno())
    return True


def _strike_parquet(path: Path, mentions: Mentions) -> bool:
    import pyarrow.parquet as parquet

    table = parquet.read_table(path)
    rows = table.to_pylist()
    kept = [not any(isinstance(value, str) and mentions.in_text(value) for value in row.values()) for row in rows]
    left = table.filter(kept)
    write_atomic(path, lambda temporary: parquet.write_table(left, temporary), mode=_mode(path))
    return True


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def _remove(path: Path) -> bool:
    remove(path)
    return False
