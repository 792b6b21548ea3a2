"""The ledger: one row per scan of every inference batch. The database is the truth; ``ledger.json`` is an export."""

from __future__ import annotations

from sqlalchemy import Connection, func, select, update

from medml.errors import ConfigError, NotFound
from medml.records.batch import LedgerRow, Status
from medml.records.record import Record
from medml.store import tables
from medml.store.database import Database, upsert, utc_now
from medml.store.leases import Lease, check_lease, owner_alive


class Batch(Record):
    """One inference run over many scans.

    Attributes
    ----------
    model : str
        Name and version of the model.
    source_request : str
        The opaque request id or source alias that says where the scans are.
    """

    batch_id: str
    model: str
    model_digest: str
    source_request: str = ""
    created: str


class Ledger:
    """The tables of batches and their rows."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def open_batch(self, batch_id: str, model: str, model_digest: str, source_request: str = "") -> Batch:
        """Return the batch of this id, made now if there is none.

        Raises
        ------
        ConfigError
            If the batch was opened with another model: its results would mix two models.
        """
        batch = Batch(
            batch_id=batch_id,
            model=model,
            model_digest=model_digest,
            source_request=source_request,
            created=utc_now(),
        )
        with self.database.transaction() as connection:
            upsert(connection, tables.batches, [batch.model_dump()])
            found = _batch(connection, batch_id)
        if found.model_digest != model_digest:
            raise ConfigError(
                f"batch {batch_id} was begun with model {found.model} ({found.model_digest[:12]}), found {model} "
                f"({model_digest[:12]}): a batch has one model; finish it with that one or choose another output"
            )
        return found

    def batches(self) -> list[Batch]:
        """Return every batch, oldest first."""
        query = select(tables.batches).order_by(tables.batches.c.created, tables.batches.c.batch_id)
        with self.database.reading() as connection:
            return [Batch.model_validate(dict(row)) for row in connection.execute(query).mappings()]

    def rows(self, batch_id: str) -> list[LedgerRow]:
        """Return the rows of a batch, by source and scan id."""
        table = tables.ledger
        query = select(table.c.record).where(table.c.batch_id == batch_id).order_by(table.c.row_key)
        with self.database.reading() as connection:
            return [LedgerRow.model_validate_json(record) for record in connection.execute(query).scalars()]

    def counts(self, batch_id: str) -> dict[Status, int]:
        """Return how many rows of a batch have each status that occurs."""
        table = tables.ledger
        query = (
            select(table.c.status, func.count().label("rows"))
            .where(table.c.batch_id == batch_id)
            .group_by(table.c.status)
        )
        with self.database.reading() as connection:
            rows = connection.execute(query.order_by(table.c.status))
            return {row.status: row.rows for row in rows}

    def record(self, batch_id: str, row: LedgerRow, *, lease: Lease | None = None) -> None:
        """Store the row of one scan, in place of an earlier one of the same source (or scan id, without a source).

        Raises
        ------
        LeaseLost
            If the lease was taken over: another process does this work now.
        NotFound
            If the batch was never opened.
        """
        values = {
            "batch_id": batch_id,
            "row_key": row.source or row.scan_id,
            "scan_id": row.scan_id,
            "status": row.status,
            "lease": "" if lease is None else lease.name,
            "token": 0 if lease is None else lease.token,
            "record": row.model_dump_json(),
            "updated": utc_now(),
        }
        replace = [key for key in values if key not in {"batch_id", "row_key"}]
        with self.database.transaction() as connection:
            if lease is not None:
                check_lease(connection, lease)
            _batch(connection, batch_id)
            upsert(connection, tables.ledger, [values], replace=replace)

    def requeue(self, batch_id: str) -> int:
        """Put rows that were running under nobody, or under a lease that fell, back to queued; return how many.

        To be called before a batch is resumed.
        """
        table = tables.ledger
        running = (table.c.batch_id == batch_id) & (table.c.status == "running")
        with self.database.transaction() as connection:
            left = [
                row
                for row in connection.execute(select(table).where(running)).mappings()
                if not _held(connection, row["lease"], row["token"])
            ]
            for row in left:
                record = LedgerRow.model_validate_json(row["record"]).model_copy(
                    update={"status": "queued", "started": ""}
                )
                key = (table.c.batch_id == batch_id) & (table.c.row_key == row["row_key"])
                values = {
                    "status": "queued",
                    "lease": "",
                    "token": 0,
                    "record": record.model_dump_json(),
                    "updated": utc_now(),
                }
                connection.execute(update(table).where(key).values(values))
        return len(left)


def _batch(connection: Connection, batch_id: str) -> Batch:
    row = connection.execute(select(tables.batches).where(tables.batches.c.batch_id == batch_id)).mappings().first()
    if row is None:
        raise NotFound(f"batch {batch_id} is not in the ledger; open it before its rows are recorded")
    return Batch.model_validate(dict(row))


def _held(connection: Connection, name: str, token: int) -> bool:
    """Say whether a lease still stands: same token, not released, not expired, its owner not known to be dead."""
    if not name:
        return False
    row = connection.execute(select(tables.leases).where(tables.leases.c.name == name)).mappings().first()
    if row is None or row["token"] != token or not row["owner"]:
        return False
    return bool(row["expires"] > utc_now()) and owner_alive(row["owner"]) is not False
