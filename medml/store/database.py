"""Open a database: one writer at a time, durable commits, the newest tables."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import sqlite3
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, Pool, Table, create_engine, event, inspect, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DatabaseError, OperationalError

from medml.errors import ConfigError, MedmlError
from medml.store.tables import CATALOGUE, Schema

BUSY_SECONDS = 20.0
CHUNK = 1000
NETWORK_FILESYSTEMS = {
    "afs",
    "beegfs",
    "ceph",
    "cifs",
    "davfs",
    "gpfs",
    "lustre",
    "ncpfs",
    "nfs",
    "nfs4",
    "panfs",
    "smb3",
    "smbfs",
} | {
    f"fuse.{kind}"
    for kind in (
        "ceph",
        "davfs2",
        "gcsfuse",
        "glusterfs",
        "goofys",
        "rclone",
        "s3fs",
        "sshfs",
    )
}
MIGRATIONS = Path(__file__).parent / "migrations"

T = TypeVar("T")


class DatabaseBusy(MedmlError):
    """Others kept the database to themselves for too long; trying again may help."""


_engines: weakref.WeakSet[Engine] = weakref.WeakSet()
_of_the_parent: list[Pool] = []


@dataclass(frozen=True, slots=True)
class Database:
    """An open database.

    Attributes
    ----------
    name : str
        The URL without its password, for messages.
    """

    engine: Engine
    name: str

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Write: all of it is committed at the end, or nothing. Holds SQLite's one write lock; do no file work here."""
        with _explained(self.name), self.engine.begin() as connection:
            yield connection

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Read one consistent state, without keeping writers out."""
        with _explained(self.name), self.engine.connect() as connection:
            reader = connection.execution_options(reading=True)
            with reader.begin():
                yield reader

    def close(self) -> None:
        """Close the pooled connections; the database opens them again when used."""
        self.engine.dispose()


def open_database(url: str, *, schema: Schema = CATALOGUE) -> Database:
    """Open a database and bring its tables up to date.

    Parameters
    ----------
    url : str
        ``sqlite:////absolute/path.db`` or ``postgresql://user:password@host/name``. A new SQLite file is readable by
        its owner only.

    Raises
    ------
    ConfigError
        If the URL is not one of these, SQLite would lie on a network file system, or the database was written by a
        newer release.
    MedmlError
        If the database cannot be reached, is locked or damaged.
    """
    address = _address(url)
    name = address.render_as_string(hide_password=True)
    path = Path(str(address.database)).absolute() if address.get_backend_name() == "sqlite" else None
    if path is not None:
        _make_file(path)
    database = Database(_postgresql_engine(address) if path is None else _sqlite_engine(address), name)
    _engines.add(database.engine)
    with _explained(name):
        if schema.head not in _revisions(database):
            _migrate(database, schema, path)
    return database


def upsert(
    connection: Connection,
    table: Table,
    rows: Sequence[Mapping[str, Any]],
    *,
    replace: Sequence[str] = (),
    changed: str | None = None,
    bump: str | None = None,
) -> None:
    """Insert rows; where the primary key exists, replace some columns, or leave the row if there is none to replace.

    Parameters
    ----------
    replace : sequence of str
        Columns taken from the new row.
    changed : str
        Replace only where this column differs, so that a repeated row is no change.
    bump : str
        An integer column that grows by one when the row is replaced.
    """
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    statement: Any = insert(table)
    keys = [column.name for column in table.primary_key]
    if replace:
        values = {name: statement.excluded[name] for name in replace}
        if bump is not None:
            values[bump] = table.c[bump] + 1
        condition = None if changed is None else table.c[changed] != statement.excluded[changed]
        statement = statement.on_conflict_do_update(index_elements=keys, set_=values, where=condition)
    else:
        statement = statement.on_conflict_do_nothing(index_elements=keys)
    # Every process locks rows in the same order, so that two never wait for each other.
    ordered = sorted(rows, key=lambda row: tuple(row[key] for key in keys))
    for chunk in chunks(ordered):
        connection.execute(statement, [dict(row) for row in chunk])


def chunks(values: Sequence[T], size: int = CHUNK) -> Iterator[Sequence[T]]:
    """Cut a sequence into parts that fit the parameters of one statement."""
    for start in range(0, len(values), size):
        yield values[start : start + size]


def utc_now() -> str:
    """Return the time, UTC, ISO 8601 with microseconds: as text it sorts by time."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def filesystem_of(path: Path, mounts: str) -> str:
    """Return the type of the file system that holds ``path``; ``mounts`` is the text of ``/proc/mounts``.

    Parameters
    ----------
    path : Path
        Absolute, links resolved; need not exist.
    """
    best, kind = -1, ""
    for line in mounts.splitlines():
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        point = Path(re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), fields[1]))
        # A later mount on the same point hides the earlier one.
        if len(point.parts) >= best and (path == point or point in path.parents):
            best, kind = len(point.parts), fields[2]
    return kind


def refuse_network_filesystem(path: Path, mounts: str) -> None:
    """Raise `ConfigError` if ``path`` lies on a network file system, where SQLite's locks do not hold."""
    kind = filesystem_of(path.resolve(), mounts)
    if kind in NETWORK_FILESYSTEMS:
        raise ConfigError(
            f"{path} lies on a network file system ({kind}), where SQLite's locks are not safe and its write-ahead log "
            "does not work: choose a home on a local disk, or a PostgreSQL database if several machines write"
        )


def _address(url: str) -> URL:
    try:
        address = make_url(url)
    except ArgumentError:
        raise ConfigError(
            "the database URL cannot be read; expected sqlite:////absolute/path.db or postgresql://user@host/name"
        ) from None
    backend = address.get_backend_name()
    if backend not in {"sqlite", "postgresql"}:
        raise ConfigError(f"found a {backend} database URL; expected sqlite or postgresql")
    if backend == "sqlite" and address.database in {None, "", ":memory:"}:
        raise ConfigError("an SQLite database in memory would be lost; expected sqlite:////absolute/path.db")
    return address.set(drivername="postgresql+psycopg") if address.drivername == "postgresql" else address


def _make_file(path: Path) -> None:
    mounts = Path("/proc/mounts")
    if mounts.exists():
        refuse_network_filesystem(path, mounts.read_text(encoding="utf-8", errors="replace"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            # Not opened: closing it again would drop the locks of every connection that this process has to it.
            if not os.access(path, os.R_OK | os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            return
        # SQLite gives its log and shared-memory files the mode of the database.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be opened for writing ({error.strerror}); check the path and its rights"
        ) from None


def _sqlite_engine(address: URL) -> Engine:
    engine = create_engine(address, connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False})

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # the driver must not begin or commit by itself
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        reading = connection.get_execution_options().get("reading", False)
        connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")

    return engine


def _postgresql_engine(address: URL) -> Engine:
    try:
        return create_engine(address, pool_pre_ping=True)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"a PostgreSQL URL needs the package {error.name}, which is not installed: pip install 'medml[postgresql]'"
        ) from None


def _revisions(database: Database) -> set[str]:
    with database.reading() as connection:
        if not inspect(connection).has_table("alembic_version"):
            return set()
        return {str(row[0]) for row in connection.execute(text("SELECT version_num FROM alembic_version"))}


def _migrate(database: Database, schema: Schema, path: Path | None) -> None:
    """Bring the tables up to date, one process at a time; ``path`` is the SQLite file, None for PostgreSQL."""
    if path is None:
        with database.transaction() as connection:
            connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('medml migrations'))"))
            _upgrade(connection, schema, database.name)
        return
    with path.with_name(path.name + ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # Switching to the write-ahead log does not wait for other connections; hence the file lock.
        raw = database.engine.raw_connection()
        raw.cursor().execute("PRAGMA journal_mode=WAL")
        raw.close()
        with database.transaction() as connection:
            _upgrade(connection, schema, database.name)


def _upgrade(connection: Connection, schema: Schema, name: str) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    newer = set(MigrationContext.configure(connection).get_current_heads()) - known
    if newer:
        raise ConfigError(
            f"{name} was written by a newer medml: its tables are at revision {', '.join(sorted(newer))}, this release "
            f"knows them up to {schema.head}; upgrade medml, or choose another database"
        )
    command.upgrade(config, f"{schema.branch}@head")


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Turn what a user can act on into a message of ours."""
    try:
        yield
    except (OperationalError, sqlite3.OperationalError) as error:
        cause = str(getattr(error, "orig", error)).strip()
        if "locked" in cause or "busy" in cause or "deadlock" in cause:
            raise DatabaseBusy(
                f"{name} was locked by another process for more than {BUSY_SECONDS:.0f} s; "
                "see which process holds it, then run the command again"
            ) from None
        raise MedmlError(
            f"{name} cannot be used: {cause}; check that it exists, can be written and has space"
        ) from None
    except DatabaseError as error:
        if "malformed" in str(error.orig) or "not a database" in str(error.orig):
            raise MedmlError(
                f"{name} is damaged ({error.orig}); restore it from a backup, or move it away and ingest again"
            ) from None
        raise


def _forget_connections() -> None:
    # A forked child must not share its parent's connections, nor close them: SQLite may then lose the parent's locks.
    for engine in list(_engines):
        _of_the_parent.append(engine.pool)
        engine.dispose(close=False)


os.register_at_fork(after_in_child=_forget_connections)
