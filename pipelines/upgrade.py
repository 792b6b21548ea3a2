"""Databases made by an older version: copied aside first, then brought up to date, before anything is served."""

from __future__ import annotations

import importlib.util
import logging
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from medml.errors import ConfigError, MedmlError
from medml.records.home import Home
from medml.store.snapshot import copy_sqlite
from pipelines.settings import child_environment
from pipelines.stores import open_catalogue

logger = logging.getLogger(__name__)

# Database of a home: whose migrations it follows, and where that package keeps them.
MIGRATIONS = {
    "catalogue.db": ("medml", "store/migrations/versions"),
    "mlflow.db": ("mlflow", "store/db_migrations/versions"),
    "prefect/prefect.db": ("prefect", "server/database/_migrations/versions/sqlite"),
}
_REVISION = re.compile(r"^revision\b[^=\n]*=\s*[\"']([^\"']+)", re.MULTILINE)
_BUILT_ON = re.compile(r"^down_revision\b[^=\n]*=\s*(\([^)]*\)|[^\n]*)", re.MULTILINE)


def upgrade(home: Home) -> Path | None:
    """Copy the home's databases aside and bring them up to date, if one of them is older than its program.

    Returns
    -------
    Path or None
        The folder of copies; None where nothing had to be done.

    Raises
    ------
    ConfigError
        If a database was made by a newer version.
    MedmlError
        If an upgrade fails; the copies are there to go back to.
    """
    old = [name for name in MIGRATIONS if (home.root / name).exists() and is_behind(home.root / name, folder_of(name))]
    if not old:
        return None
    aside = home.root / "before_upgrade" / datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    aside.mkdir(mode=0o700, parents=True)
    for name in MIGRATIONS:
        if (home.root / name).exists():
            copy_sqlite(home.root / name, aside / Path(name).name)
    logger.warning("upgrading %s; copies of the databases are in %s", ", ".join(old), aside)
    if "mlflow.db" in old:
        _upgrade_mlflow(home, aside)
    if "catalogue.db" in old:
        open_catalogue(home)
    return aside  # Prefect's server upgrades its own when it starts


def is_behind(database: Path, migrations: Path) -> bool:
    """Say whether there are migrations that a database has not seen; one that was never made up to date has no say.

    Raises
    ------
    ConfigError
        If the database has seen one that is not there: it belongs to a newer version.
    """
    seen = set(_revisions(database))
    known: set[str] = set()
    built_on: set[str] = set()
    for script in migrations.glob("*.py"):
        text = script.read_text(encoding="utf-8")
        known.update(_REVISION.findall(text))
        built_on.update(item for part in _BUILT_ON.findall(text) for item in re.findall(r"[\"']([^\"']+)", part))
    if foreign := sorted(seen - known):
        raise ConfigError(
            f"{database} was made by a newer version (it is at {', '.join(foreign)}, of the {len(known)} migrations "
            "known here none): install that version again, or restore a backup of before the upgrade"
        )
    return bool(seen & built_on)


def folder_of(name: str) -> Path:
    """Return where the migrations of one of the home's databases lie; nothing is imported."""
    package, folder = MIGRATIONS[name]
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise MedmlError(f"{package} is not installed, so {name} cannot be upgraded; run make setup")
    return Path(found.submodule_search_locations[0]) / folder


def _revisions(database: Path) -> Iterator[str]:
    connection = sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", uri=True, timeout=60)
    try:
        if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'").fetchone():
            yield from (str(row[0]) for row in connection.execute("SELECT version_num FROM alembic_version"))
    finally:
        connection.close()


def _upgrade_mlflow(home: Home, aside: Path) -> None:
    command = [sys.executable, "-m", "mlflow", "db", "upgrade", home.mlflow_url]
    done = subprocess.run(command, env=child_environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise MedmlError(f"mlflow db upgrade failed ({last}); copies of before are in {aside}")
