"""A home that was moved or copied: MLflow keeps absolute places of its files, and they are made to follow.

MLflow resolves a relative place against the folder its server or client happens to start in, so absolute ones are kept
and rewritten where the database lies elsewhere than when they were written.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from urllib.parse import unquote, urlparse

PLACES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "storage_location"),
)


def follow_home(database: Path, artifacts: Path) -> int:
    """Make a home's MLflow database name the artifacts beside it; return how many places were rewritten.

    Parameters
    ----------
    database : Path
        ``mlflow.db``, made by MLflow; one that is not there is left so.
    artifacts : Path
        ``mlartifacts`` of the same home.
    """
    if not database.exists():
        return 0
    new = artifacts.resolve()
    connection = sqlite3.connect(database, timeout=60)
    try:
        with connection:
            connection.execute("BEGIN IMMEDIATE")
            old = _written_for(connection)
            if old is None or old == new or old.name != new.name or not old.is_absolute():
                return 0
            return sum(_rewrite(connection, table, column, old, new) for table, column in PLACES)
    finally:
        connection.close()


def _written_for(connection: sqlite3.Connection) -> Path | None:
    """Return the folder of artifacts when the database was made: that of MLflow's own first experiment."""
    found = connection.execute("SELECT artifact_location FROM experiments WHERE experiment_id = 0").fetchone()
    if found is None:
        return None
    parts = urlparse(found[0])
    if parts.scheme not in ("", "file"):
        return None
    return Path(unquote(parts.path) if parts.scheme else found[0]).parent


def _rewrite(connection: sqlite3.Connection, table: str, column: str, old: Path, new: Path) -> int:
    """Replace the beginning of what a column holds, written as a path or as a URI."""
    changed = 0
    for before, after in ((f"{old}/", f"{new}/"), (f"{old.as_uri()}/", f"{new.as_uri()}/")):
        statement = f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?"  # noqa: S608
        changed += connection.execute(statement, (after, len(before) + 1, len(before), before)).rowcount
    return changed
