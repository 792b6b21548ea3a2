"""Rows of a patient, removed from a database so that no copy of them is left in its file."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from sqlalchemy import Connection, MetaData, delete, select, update

from medml.store import tables
from medml.store.crosswalk import Crosswalk
from medml.store.database import Database, chunks, utc_now
from medml.store.leases import owner_alive


def at_work(database: Database) -> list[str]:
    """Return the names of the leases that somebody who is not known to be dead holds now."""
    table = tables.leases
    query = select(table.c.name, table.c.owner).where(table.c.owner != "", table.c.expires > utc_now())
    with database.reading() as connection:
        rows = connection.execute(query.order_by(table.c.name)).all()
    return [str(name) for name, owner in rows if owner_alive(owner) is not False]


def count_rows(database: Database, scan_ids: Collection[str], patient: str) -> dict[str, int]:
    """Return how many rows of each table of the catalogue's database are about a patient; tables without are left out.

    Every table that has a column ``scan_id`` or ``patient`` is asked, whatever it is for.
    """
    with database.reading() as connection:
        found = {
            table.name: len(connection.execute(select(*table.primary_key).where(condition)).all())
            for table, condition in _owned(tables.catalogue_metadata, scan_ids, patient)
        }
    return {name: count for name, count in found.items() if count}


def erase_rows(
    database: Database, scan_ids: Collection[str], patient: str, ledger_keys: Mapping[str, Iterable[str]] | None = None
) -> int:
    """Remove the rows of a patient from every table of the catalogue's database; return how many there were.

    Parameters
    ----------
    ledger_keys : mapping
        Batch id to row keys: sources that were refused have no scan id to be found by.
    """
    removed = 0
    with database.transaction() as connection:
        for table, condition in _owned(tables.catalogue_metadata, scan_ids, patient):
            removed += connection.execute(delete(table).where(condition)).rowcount
        for batch_id, keys in (ledger_keys or {}).items():
            table = tables.ledger
            for part in chunks(sorted(keys)):
                mine = (table.c.batch_id == batch_id) & table.c.row_key.in_(part)
                removed += connection.execute(delete(table).where(mine)).rowcount
    return removed


def erase_sources(crosswalk: Crosswalk, scan_ids: Collection[str], patient: str) -> int:
    """Remove a patient's scans from the crosswalk, and from the lists of what an annotation's file was drawn on."""
    gone, removed = set(scan_ids), 0
    table = tables.crosswalk
    with crosswalk.database.transaction() as connection:
        for owned, condition in _owned(tables.crosswalk_metadata, scan_ids, patient):
            removed += connection.execute(delete(owned).where(condition)).rowcount
        rows = connection.execute(select(table.c.scan_id, table.c.locator).where(table.c.locator.contains('"scans"')))
        for name, locator in rows.all():
            removed += _shorten(connection, name, json.loads(locator), gone)
    return removed


def compact(database: Database) -> None:
    """Write a database's file anew without what was deleted; SQLite's log is emptied too.

    Deleted rows otherwise stay in free pages and in the log, where a search of the file finds them.
    """
    raw = database.engine.raw_connection()
    try:
        if database.engine.dialect.name == "postgresql":
            raw.driver_connection.autocommit = True  # type: ignore[union-attr]
            raw.cursor().execute("VACUUM FULL")
        else:
            raw.cursor().execute("VACUUM")
            raw.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        raw.close()


def _owned(metadata: MetaData, scan_ids: Collection[str], patient: str) -> list[tuple[Any, Any]]:
    """Return every table that says whose its rows are, children first, and the condition of the patient's rows."""
    found = []
    for table in reversed(metadata.sorted_tables):
        conditions = []
        if "patient" in table.c and patient:
            conditions.append(table.c.patient == patient)
        if "scan_id" in table.c:
            conditions += [table.c.scan_id.in_(part) for part in chunks(sorted(scan_ids))]
        if conditions:
            condition = conditions[0]
            for other in conditions[1:]:
                condition = condition | other
            found.append((table, condition))
    return found


def _shorten(connection: Connection, name: str, locator: dict[str, Any], gone: set[str]) -> int:
    """Take erased scans out of an annotation's locator; remove the row if none is left. Return how many were taken."""
    scans = [str(scan_id) for scan_id in locator.get("scans", ())]
    left = [scan_id for scan_id in scans if scan_id not in gone]
    if len(left) == len(scans):
        return 0
    mine = tables.crosswalk.c.scan_id == name
    if left:
        # The digests of its structures cannot be told apart by scan; without them the next ingest reads the file anew.
        value = json.dumps({**locator, "scans": left, "contents": []})
        connection.execute(update(tables.crosswalk).where(mine).values(locator=value, stamp=""))
    else:
        connection.execute(delete(tables.crosswalk).where(mine))
    return len(scans) - len(left)
