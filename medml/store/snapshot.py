"""Copies of databases that are in use: each one state, whatever is written meanwhile."""

from __future__ import annotations

import os
import sqlite3
import subprocess
from pathlib import Path

from sqlalchemy.engine import URL, make_url

from medml.errors import ConfigError, MedmlError

SQLITE = b"SQLite format 3\x00"


def is_sqlite(path: Path) -> bool:
    """Say whether a file is an SQLite database."""
    with path.open("rb") as file:
        return file.read(len(SQLITE)) == SQLITE


def copy_sqlite(source: Path, out: Path) -> None:
    """Copy an SQLite database by its own backup, its log included; writers are not kept out for long.

    Raises
    ------
    MedmlError
        If the database is damaged.
    """
    out.unlink(missing_ok=True)
    reading = sqlite3.connect(f"{source.resolve().as_uri()}?mode=ro", uri=True, timeout=60)
    writing = sqlite3.connect(out)
    try:
        reading.backup(writing)
        found = writing.execute("PRAGMA quick_check").fetchone()[0]
    except sqlite3.DatabaseError as error:
        raise MedmlError(f"{source.name} cannot be copied ({error}); see medml verify, restore a backup") from None
    finally:
        reading.close()
        writing.close()
    if found != "ok":
        raise MedmlError(f"{source.name} is damaged ({found}); restore it from an earlier backup")


def dump_postgresql(url: str, out: Path) -> None:
    """Write a PostgreSQL database to a file by ``pg_dump``, which sees one state of it.

    Raises
    ------
    ConfigError
        If ``pg_dump`` is not installed.
    MedmlError
        If it fails.
    """
    _run(["pg_dump", "--format=custom", "--no-owner", "--no-privileges", f"--file={out}"], url)


def load_postgresql(url: str, dump: Path) -> None:
    """Fill an empty PostgreSQL database from a dump, wholly or not at all.

    Raises
    ------
    MedmlError
        If the database has these tables already, or cannot be written to.
    """
    database = f"--dbname={make_url(url).database}"
    _run(["pg_restore", "--single-transaction", "--exit-on-error", "--no-owner", database, str(dump)], url)


def is_postgresql(url: str) -> bool:
    """Say whether a database URL is PostgreSQL's."""
    return url.startswith("postgresql")


def _run(command: list[str], url: str) -> None:
    environment = {**os.environ, **_environment(make_url(url))}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise ConfigError(f"{command[0]} is not installed; install the PostgreSQL client of your server") from None
    if done.returncode:
        raise MedmlError(f"{command[0]} failed: {done.stderr.strip().splitlines()[-1:] or ['no reason given']}")


def _environment(address: URL) -> dict[str, str]:
    """Return the address as libpq's variables: on a command line, others would see the password."""
    query = {key: value if isinstance(value, str) else value[0] for key, value in address.query.items()}
    found = {
        "PGHOST": address.host or query.get("host"),
        "PGPORT": str(address.port) if address.port else query.get("port"),
        "PGUSER": address.username,
        "PGPASSWORD": address.password,
        "PGDATABASE": address.database,
        "PGOPTIONS": query.get("options"),
        "PGSSLMODE": query.get("sslmode"),
    }
    return {key: str(value) for key, value in found.items() if value}
