"""A home copied while it is in use, and put back in another place. Needs no flow.

A backup folder holds every file once, under the sha256 of its bytes, and one list for each backup: so a backup copies
what has changed, an interrupted one harms none before it, and damage is seen before anything is put back.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from medml.errors import ConfigError, MedmlError
from medml.io.files import read_record, sha256_file, sync_filesystem, sync_path, temporary_path, write_text
from medml.io.mentions import files_below
from medml.records.home import Home
from medml.records.record import Record
from pipelines.verb import VerbResult

LIST = re.compile(r"\d{8}T\d{12}Z-[0-9a-f]{12}\.json")
# A process's own, an engine's log (the copy of a database has it inside), or half written.
LEFT_OUT = ("-wal", "-shm", "-journal", ".lock", ".tmp", ".making", ".pid", ".sock")
# What servers that run now have noted of themselves.
RUNNING = {
    "prefect/server.json",
    "prefect/up.json",
    "prefect/serving.ready",
    "prefect/serving.go",
    "prefect/serving.error",
}
DATABASES = {"catalogue.pgdump": "MEDML_CATALOGUE_URL", "crosswalk.pgdump": "MEDML_CROSSWALK_URL"}
PART = 4 << 20


class Kept(Record):
    """One file of a backup."""

    sha256: str
    size: int
    mtime_ns: int
    mode: int


class Backup(Record):
    """The list of one backup.

    Attributes
    ----------
    files : dict
        Path in the home to what is kept of it.
    databases : dict
        PostgreSQL dumps by name.
    """

    made: str
    home: str
    secrets: bool
    files: dict[str, Kept]
    databases: dict[str, Kept] = {}


def backup(home: Home, place: Path, *, with_secrets: bool = True, keep: int = 0) -> VerbResult:
    """Copy a home; databases by their own means, first, so that every row's file is there.

    Parameters
    ----------
    keep : int
        How many backups stay, this one included; 0: all.

    Raises
    ------
    ConfigError
        If the place lies in the home, or holds something else.
    """
    _check_place(home, place)
    with _locked(place):
        before = {name: kept for path in backups(place)[-1:] for name, kept in read_list(path).files.items()}
        counts: Counter[str] = Counter()
        dumps = _dump_databases(place, with_secrets)
        names = _databases(home, with_secrets)
        copied = {name: _copy_database(place, home.root / name, counts) for name in names}
        for file in _files(home, with_secrets):
            name = file.relative_to(home.root).as_posix()
            kept = None if _is_database(file) else _copy(place, file, before.get(name), counts)
            if kept is not None:
                copied[name] = kept
        sync_filesystem(place)
        written = _write_list(
            place,
            Backup(
                made=datetime.now(UTC).isoformat(timespec="seconds"),
                home=str(home.root),
                secrets=with_secrets,
                files=copied,
                databases=dumps,
            ),
        )
        counts["removed"] = _prune(place, keep) if keep else 0
    return VerbResult(
        verb="backup",
        ok=True,
        counts={"files": len(copied), **{name: counts[name] for name in ("copied", "unchanged", "bytes", "removed")}},
        outputs={"backup": str(written)},
        notes=_words(with_secrets, dumps),
    )


def restore(place: Path, root: Path, *, which: str = "") -> VerbResult:
    """Put a backup back as a new home; every file is compared with its digest before the home gets its name.

    Parameters
    ----------
    which : str
        The name of a list, or its beginning; default: the newest.

    Raises
    ------
    ConfigError
        If there is no such backup, or the new home is not empty.
    MedmlError
        If the backup is damaged; nothing is put back.
    """
    lists = [path for path in backups(place) if path.name.startswith(which)]
    if not lists:
        raise ConfigError(f"{place}: no backup {which}there; it holds {len(backups(place))} backups".replace("  ", " "))
    if root.exists() and any(root.iterdir()):
        raise ConfigError(f"{root} is not empty; a backup is put back as a new home, choose another folder")
    found = read_list(lists[-1])
    if wrong := damage(place, found):
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise MedmlError(
            f"{lists[-1].name} cannot be put back, {len(wrong)} of its {len(found.files)} files are not what was "
            f"copied: {', '.join(wrong[:5])}{more}; take an earlier backup"
        )
    root.parent.mkdir(parents=True, exist_ok=True)
    staged = temporary_path(root)
    try:
        for name, kept in sorted(found.files.items()):
            _put_back(_object(place, kept.sha256), _checked(staged, name), kept)
        for name, kept in found.databases.items():
            _put_back(_object(place, kept.sha256), staged / "databases" / name, kept)
        for private in (staged / "secrets", staged / "audit"):
            if private.is_dir():
                private.chmod(0o700)
        sync_filesystem(staged)
        if root.exists():
            root.rmdir()
        staged.rename(root)
        sync_path(root.parent)
    except BaseException:
        shutil.rmtree(staged, ignore_errors=True)
        raise
    return VerbResult(
        verb="restore",
        ok=True,
        counts={"files": len(found.files)},
        outputs={"home": str(root)},
        summary={"made": found.made},
        notes=(*_load_databases(root, found), f"check it: medml --home {root} verify"),
    )


def backups(place: Path) -> list[Path]:
    """Return the lists in a backup folder, oldest first."""
    return sorted(path for path in (place / "backups").glob("*.json") if LIST.fullmatch(path.name))


def read_list(path: Path) -> Backup:
    """Return a list, proved by the digest in its name.

    Raises
    ------
    MedmlError
        If it was changed.
    """
    if sha256_file(path)[:12] != path.stem.rpartition("-")[2]:
        raise MedmlError(f"{path.name}: the list of the backup was changed; take an earlier one")
    return read_record(path, Backup)


def damage(place: Path, found: Backup) -> list[str]:
    """Return the names of files that a backup lacks or that are not what was copied."""
    good: dict[str, bool] = {}
    wrong = []
    for name, kept in sorted({**found.files, **found.databases}.items()):
        if kept.sha256 not in good:
            path = _object(place, kept.sha256)
            good[kept.sha256] = path.is_file() and sha256_file(path) == kept.sha256
        if not good[kept.sha256]:
            wrong.append(name)
    return wrong


def _check_place(home: Home, place: Path) -> None:
    if place.is_relative_to(home.root) or home.root.is_relative_to(place):
        raise ConfigError(f"{place}: a backup inside of its home, or around it, is none; choose a folder elsewhere")
    if place.exists() and any(place.iterdir()) and not (place / "backups").is_dir():
        raise ConfigError(f"{place} holds something else; choose a new or empty folder, or an earlier backup")
    for part in ("objects", "backups"):
        (place / part).mkdir(mode=0o700, parents=True, exist_ok=True)
    place.chmod(0o700)


def _files(home: Home, with_secrets: bool) -> Iterator[Path]:
    """Yield the files of a home that are kept; the cache is made again, and what is a process's own is left out."""
    for path in files_below(home.root):
        parts = path.relative_to(home.root).parts
        private = parts[0] == "secrets" and not with_secrets
        passing = any(part.endswith(LEFT_OUT) for part in parts) or "/".join(parts) in RUNNING
        if parts[0] != "cache" and not private and not passing:
            yield path


def _is_database(path: Path) -> bool:
    from medml.store.snapshot import is_sqlite

    return path.suffix == ".db" and is_sqlite(path)


def _databases(home: Home, with_secrets: bool) -> list[str]:
    return [path.relative_to(home.root).as_posix() for path in _files(home, with_secrets) if _is_database(path)]


def _copy_database(place: Path, path: Path, counts: Counter[str]) -> Kept:
    from medml.store.snapshot import copy_sqlite

    staged = temporary_path(place / "objects" / path.name)
    try:
        copy_sqlite(path, staged)
        return _take(place, staged, stat.S_IMODE(path.stat().st_mode), counts)
    finally:
        staged.unlink(missing_ok=True)


def _dump_databases(place: Path, with_secrets: bool) -> dict[str, Kept]:
    from medml.store.snapshot import dump_postgresql, is_postgresql

    dumps = {}
    for name, variable in DATABASES.items():
        url = os.environ.get(variable, "")
        if not is_postgresql(url) or (name.startswith("crosswalk") and not with_secrets):
            continue
        staged = temporary_path(place / "objects" / name)
        try:
            dump_postgresql(url, staged)
            dumps[name] = _take(place, staged, 0o600, Counter())
        finally:
            staged.unlink(missing_ok=True)
    return dumps


def _take(place: Path, staged: Path, mode: int, counts: Counter[str]) -> Kept:
    """Give a staged file its place among the objects."""
    status = staged.stat()
    digest = sha256_file(staged)
    target = _object(place, digest)
    if target.exists():
        counts["unchanged"] += 1
    else:
        target.parent.mkdir(mode=0o700, exist_ok=True)
        staged.chmod(0o600)
        staged.replace(target)
        counts["copied"] += 1
        counts["bytes"] += status.st_size
    return Kept(sha256=digest, size=status.st_size, mtime_ns=status.st_mtime_ns, mode=mode)


def _copy(place: Path, path: Path, before: Kept | None, counts: Counter[str]) -> Kept | None:
    """Copy a file unless its size and time are those of the last backup; None if it is gone meanwhile."""
    try:
        status = path.stat()
        known = before is not None and (before.size, before.mtime_ns) == (status.st_size, status.st_mtime_ns)
        if before is not None and known and _object(place, before.sha256).exists():
            counts["unchanged"] += 1
            return before.model_copy(update={"mode": stat.S_IMODE(status.st_mode)})
        staged = place / "objects" / f".{secrets.token_hex(8)}.tmp"
        try:
            digest, size = _copy_bytes(path, staged)
            target = _object(place, digest)
            if not target.exists():
                target.parent.mkdir(mode=0o700, exist_ok=True)
                staged.replace(target)
        finally:
            staged.unlink(missing_ok=True)
    except FileNotFoundError:
        return None
    counts["copied"] += 1
    counts["bytes"] += size
    return Kept(sha256=digest, size=size, mtime_ns=status.st_mtime_ns, mode=stat.S_IMODE(status.st_mode))


def _copy_bytes(path: Path, out: Path) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as source, os.fdopen(os.open(out, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
        while part := source.read(PART):
            digest.update(part)
            size += len(part)
            file.write(part)
    return digest.hexdigest(), size


def _object(place: Path, digest: str) -> Path:
    return place / "objects" / digest[:2] / digest


def _write_list(place: Path, made: Backup) -> Path:
    text = json.dumps(made.model_dump(mode="json"), sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    path = place / "backups" / f"{datetime.now(UTC):%Y%m%dT%H%M%S%fZ}-{digest}.json"
    write_text(path, text, 0o600)
    return path


def _prune(place: Path, keep: int) -> int:
    """Remove all lists but the newest, then the objects that no list names; return how many files went."""
    for path in backups(place)[:-keep]:
        path.unlink()
    named = {
        kept.sha256
        for path in backups(place)
        for found in [read_list(path)]
        for kept in (*found.files.values(), *found.databases.values())
    }
    left = [path for path in files_below(place / "objects") if path.name not in named]
    for path in left:
        path.unlink()
    return len(left)


def _put_back(source: Path, out: Path, kept: Kept) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, out)
    out.chmod(kept.mode)
    os.utime(out, ns=(kept.mtime_ns, kept.mtime_ns))


def _checked(root: Path, name: str) -> Path:
    """Return where a file of a list goes; it cannot lead out of the home.

    Raises
    ------
    MedmlError
        If it would.
    """
    parts = Path(name).parts
    if Path(name).is_absolute() or ".." in parts or not parts:
        raise MedmlError(f"the backup names a file outside of the home ({name!r}); its list was tampered with")
    return root / name


def _load_databases(root: Path, found: Backup) -> list[str]:
    """Fill the PostgreSQL databases that the environment names; say what is left to do for the others."""
    from medml.store.snapshot import is_postgresql, load_postgresql

    notes = []
    for name in sorted(found.databases):
        variable = DATABASES[name]
        if is_postgresql(url := os.environ.get(variable, "")):
            load_postgresql(url, root / "databases" / name)
            notes.append(f"{name} was loaded into the database of {variable}")
        else:
            notes.append(f"{variable} names no PostgreSQL database: load databases/{name} by pg_restore, then set it")
    if not found.secrets:
        notes.append("the backup was made without secrets: put secrets/pseudonym.key back, or patients get new names")
    return notes


def _words(with_secrets: bool, dumps: dict[str, Kept]) -> tuple[str, ...]:
    said = (
        "it holds the pseudonym key and the crosswalk, not encrypted (0600): keep it as safe as the home"
        if with_secrets
        else "secrets were left out: keep secrets/pseudonym.key elsewhere, without it patients get new names"
    )
    return (said, *(f"{name} is a PostgreSQL dump" for name in dumps))


@contextmanager
def _locked(place: Path) -> Iterator[None]:
    with (place / "backup.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"{place}: another backup is writing to it; wait until it is done") from None
        yield
