"""The ledger: one row per scan of every inference batch. The database is the truth; ``ledger.json`` is an export.

A scan is queued, then a worker claims its row under the worker's own lease, and closes it. Whoever lost the lease, or
whose row was given to somebody else meanwhile, is refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, RowMapping, Select, func, select, update

from medml.errors import ConfigError, NotFound
from medml.records.batch import LedgerRow, Status
from medml.records.record import Record
from medml.store import tables
from medml.store.database import Database, chunks, upsert, utc_now
from medml.store.leases import Lease, LeaseLost, check_lease, lease_stands

PAGE = 500
MOST_CRASHES = 2  # a scan whose worker died this often, the last time with no other scan beside it, is not tried again
MOST_ATTEMPTS = 20  # nor one that was begun so often and never ended, whoever died
FREE = {"lease": "", "token": 0}


class Batch(Record):
    """One inference run over many scans.

    Attributes
    ----------
    model : str
        Name and version of the model.
    source_request : str
        The opaque request id or source alias that says where the scans are.
    options : str
        JSON: what else the last run was asked, so that it can be asked again.
    state : str
        "listing" while scans are looked for, "listed" when all are known, "ended" when a run came to its end.
    """

    batch_id: str
    model: str
    model_digest: str
    source_request: str = ""
    created: str
    options: str = ""
    state: str = ""
    updated: str = ""


class Listed(Record):
    """A scan as it is put on the list: its key is unique in the batch, its number says where it stands."""

    key: str
    number: int
    row: LedgerRow


class Claim(Record):
    """A scan that a worker may work on now.

    Attributes
    ----------
    crashes : int
        How often a worker died with it: from one on, nothing else should be at risk beside it.
    """

    key: str
    number: int
    row: LedgerRow
    crashes: int


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

    def batch(self, batch_id: str) -> Batch:
        """Return one batch; `NotFound` if there is none of this id."""
        with self.database.reading() as connection:
            return _batch(connection, batch_id)

    def batches(self) -> list[Batch]:
        """Return every batch, oldest first."""
        query = select(tables.batches).order_by(tables.batches.c.created, tables.batches.c.batch_id)
        with self.database.reading() as connection:
            return [Batch.model_validate(dict(row)) for row in connection.execute(query).mappings()]

    def standing(self, batch_id: str) -> str:
        """Say how a batch stands: "running", "finished", or "interrupted" if scans wait and nobody works on them."""
        counts = self.counts(batch_id)
        with self.database.reading() as connection:
            batch = _batch(connection, batch_id)
            if lease_stands(connection, f"batch:{batch_id}"):
                return "running"
        return (
            "interrupted" if counts.get("queued") or counts.get("running") or batch.state == "listing" else "finished"
        )

    def rows(self, batch_id: str) -> list[LedgerRow]:
        """Return the rows of a batch, by source and scan id."""
        return list(self.each(batch_id))

    def each(self, batch_id: str) -> Iterator[LedgerRow]:
        """Yield the rows of a batch, a page in memory at a time."""
        table, last = tables.ledger, ""
        while True:
            query = select(table.c.row_key, table.c.record).where(table.c.batch_id == batch_id, table.c.row_key > last)
            with self.database.reading() as connection:
                page = connection.execute(query.order_by(table.c.row_key).limit(PAGE)).all()
            yield from (LedgerRow.model_validate_json(row.record) for row in page)
            if len(page) < PAGE:
                return
            last = page[-1].row_key

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

    def finished(self, batch_id: str, *, stamps: Sequence[str] = (), scan_ids: Sequence[str] = ()) -> list[LedgerRow]:
        """Return the rows of finished work whose stamp or scan id is among these."""
        table = tables.ledger
        found: list[str] = []
        with self.database.reading() as connection:
            for column, wanted in ((table.c.stamp, stamps), (table.c.scan_id, scan_ids)):
                for part in chunks([value for value in wanted if value], PAGE):
                    query = select(table.c.record).where(
                        table.c.batch_id == batch_id, column.in_(part), table.c.status.in_(("done", "needs_review"))
                    )
                    found += connection.execute(query.order_by(table.c.row_key)).scalars().all()
        return [LedgerRow.model_validate_json(record) for record in found]

    def record(self, batch_id: str, row: LedgerRow, *, lease: Lease | None = None) -> None:
        """Store the row of one scan, in place of an earlier one of the same source (or scan id, without a source).

        Raises
        ------
        LeaseLost
            If the lease was taken over: another process does this work now.
        NotFound
            If the batch was never opened.
        """
        key = row.source or row.scan_id
        held = FREE if lease is None else {"lease": lease.name, "token": lease.token}
        values = {"batch_id": batch_id, "row_key": key, **_columns(row), **held}
        replace = [name for name in values if name not in {"batch_id", "row_key"}]
        with self.database.transaction() as connection:
            if lease is not None:
                check_lease(connection, lease)
            _batch(connection, batch_id)
            upsert(connection, tables.ledger, [values], replace=replace)

    def begin(self, batch_id: str, *, source_request: str, options: str, lease: Lease) -> None:
        """Note that a run of a batch begins under the batch's lease; what nobody works on any more is queued again."""
        self._set(batch_id, lease, state="listing", source_request=source_request, options=options)
        self.requeue(batch_id)

    def mark(self, batch_id: str, state: str, *, lease: Lease) -> None:
        """Note how far a run is: "listed" or "ended"."""
        self._set(batch_id, lease, state=state)

    def enlist(self, batch_id: str, listed: Sequence[Listed], *, lease: Lease) -> None:
        """Put scans on the list, all or none, in place of earlier rows of the same keys.

        A scan that somebody works on right now is left to them. What was begun before and never ended keeps its
        number of attempts, so that a scan which kills its workers is not tried for ever; any other begins anew.
        """
        table = tables.ledger
        with self.database.transaction() as connection:
            check_lease(connection, lease)
            query = select(table).where(
                table.c.batch_id == batch_id, table.c.row_key.in_([entry.key for entry in listed])
            )
            earlier = {row["row_key"]: row for row in connection.execute(query.with_for_update()).mappings()}
            values = [
                {"batch_id": batch_id, "row_key": entry.key, **_enlisted(entry, earlier.get(entry.key))}
                for entry in listed
                if entry.key not in earlier or not _worked_on(connection, earlier[entry.key])
            ]
            names = [name for name in (values[0] if values else ()) if name not in {"batch_id", "row_key"}]
            upsert(connection, table, values, replace=names)

    def claim(self, batch_id: str, *, worker: Lease, run: Lease, alone: bool = True) -> Claim | None:
        """Give a worker the next scan that waits, or None if there is none to be had now.

        Parameters
        ----------
        worker : Lease
            The worker's own, under which it closes the row.
        run : Lease
            The batch's, under which this run goes on.
        alone : bool
            Whether the worker has no other scan in hand, and may be given one that a worker died with.

        Raises
        ------
        LeaseLost
            If the worker was silent for too long, or the run is over or another one has begun.
        """
        table, now = tables.ledger, utc_now()
        wanted = [table.c.batch_id == batch_id, table.c.status == "queued", table.c.not_before <= now]
        waiting = (
            select(table)
            .where(*wanted if alone else (*wanted, table.c.crashes == 0))
            .order_by(table.c.attempts, table.c.number)
            .limit(1)
            .with_for_update(skip_locked=True)
        )
        with self.database.transaction() as connection:
            check_lease(connection, worker)
            if not lease_stands(connection, run.name, run.token):
                raise LeaseLost(f"the run of {batch_id} is over, or its owner is gone; nothing more is begun for it")
            found = connection.execute(waiting).mappings().first()
            if found is None:
                return None
            attempts = found["attempts"] + 1
            row = LedgerRow.model_validate_json(found["record"]).model_copy(
                update={"status": "running", "started": now, "attempts": attempts}
            )
            held = {"lease": worker.name, "token": worker.token, "attempts": attempts}
            _update(connection, found, {**_columns(row), **held})
        return Claim(key=found["row_key"], number=found["number"], row=row, crashes=found["crashes"])

    def close(self, batch_id: str, key: str, row: LedgerRow, *, worker: Lease, wait_seconds: float = 0.0) -> None:
        """Store what became of a claimed scan; queued again, it waits for ``wait_seconds`` at least.

        Raises
        ------
        LeaseLost
            If the worker was silent for too long and the scan is somebody else's by now.
        """
        table = tables.ledger
        mine = (table.c.lease == worker.name) & (table.c.token == worker.token) & (table.c.status == "running")
        values = {**_columns(row), **FREE, "not_before": _after(wait_seconds) if wait_seconds else ""}
        with self.database.transaction() as connection:
            check_lease(connection, worker)
            here = (table.c.batch_id == batch_id) & (table.c.row_key == key)
            if connection.execute(update(table).where(here, mine).values(values)).rowcount != 1:
                raise LeaseLost(
                    f"scan {row.scan_id or '(unnamed)'} of {batch_id} is no longer {worker.owner}'s (token "
                    f"{worker.token}): it was given to another worker, whose result counts"
                )

    def put_back(self, batch_id: str, *, worker: Lease) -> int:
        """Queue again what a worker claimed and did not close, as if it had never been begun; return how many."""
        table = tables.ledger
        mine = (table.c.lease == worker.name) & (table.c.token == worker.token)
        with self.database.transaction() as connection:
            rows = connection.execute(_running(batch_id).where(mine)).mappings().all()
            for row in rows:
                _queue(connection, row, attempts=row["attempts"] - 1)
        return len(rows)

    def requeue(self, batch_id: str, *, crashed: bool = False) -> int:
        """Queue again what runs under nobody or under a lease that fell; return how many rows.

        Parameters
        ----------
        crashed : bool
            Its worker died while the run went on, so the scan may be why: `MOST_CRASHES` of that and it has failed.
        """
        with self.database.reading() as connection:
            left = [row for row in connection.execute(_running(batch_id)).mappings() if not _held(connection, row)]
        if not left:
            return 0
        with self.database.transaction() as connection:
            rows = connection.execute(_running(batch_id).with_for_update()).mappings().all()
            left = [row for row in rows if not _held(connection, row)]
            for row in left:
                crashes = row["crashes"] + crashed
                if crashes >= MOST_CRASHES or row["attempts"] >= MOST_ATTEMPTS:
                    _give_up(connection, row, crashes)
                else:
                    _queue(connection, row, crashes=crashes)
        return len(left)

    def _set(self, batch_id: str, lease: Lease, **values: str) -> None:
        table = tables.batches
        with self.database.transaction() as connection:
            check_lease(connection, lease)
            _batch(connection, batch_id)
            connection.execute(update(table).where(table.c.batch_id == batch_id).values(**values, updated=utc_now()))


def reasons(rows: Iterable[LedgerRow]) -> dict[tuple[Status, str], int]:
    """Count rows that were not done, by status and code, the commonest first."""
    found = Counter((row.status, row.code) for row in rows if row.status not in ("done", "queued", "running"))
    return dict(found.most_common())


def _columns(row: LedgerRow) -> dict[str, Any]:
    return {
        "scan_id": row.scan_id,
        "status": row.status,
        "stamp": row.stamp,
        "record": row.model_dump_json(),
        "updated": utc_now(),
    }


def _enlisted(entry: Listed, earlier: RowMapping | None) -> dict[str, Any]:
    """Return the columns of a scan that is put on the list."""
    unended = earlier is not None and earlier["status"] == "queued" and earlier["stamp"] == entry.row.stamp
    attempts, crashes = (earlier["attempts"], earlier["crashes"]) if earlier is not None and unended else (0, 0)
    row = entry.row if entry.row.status != "queued" else entry.row.model_copy(update={"attempts": attempts})
    counted = {"attempts": attempts, "crashes": crashes}
    return {**_columns(row), **FREE, "number": entry.number, "not_before": "", **counted}


def _worked_on(connection: Connection, row: RowMapping) -> bool:
    return row["status"] == "running" and _held(connection, row)


def _held(connection: Connection, row: RowMapping) -> bool:
    return lease_stands(connection, row["lease"], row["token"])


def _running(batch_id: str) -> Select[Any]:
    table = tables.ledger
    return select(table).where(table.c.batch_id == batch_id, table.c.status == "running").order_by(table.c.row_key)


def _queue(connection: Connection, row: RowMapping, **counted: int) -> None:
    attempts = counted.get("attempts", row["attempts"])
    record = LedgerRow.model_validate_json(row["record"]).model_copy(
        update={"status": "queued", "started": "", "attempts": attempts}
    )
    _update(connection, row, {**_columns(record), **FREE, **counted})


def _give_up(connection: Connection, row: RowMapping, crashes: int) -> None:
    reason = (
        f"its worker died {crashes} times" if crashes >= MOST_CRASHES else f"it was begun {row['attempts']} times"
    ) + " and the scan was never finished; look at the scan and at the worker's log, then run the batch again"
    record = LedgerRow.model_validate_json(row["record"]).model_copy(
        update={"status": "failed", "code": "poison", "reason": reason, "finished": utc_now()}
    )
    _update(connection, row, {**_columns(record), **FREE, "crashes": crashes})


def _update(connection: Connection, row: RowMapping, values: dict[str, Any]) -> None:
    table = tables.ledger
    here = (table.c.batch_id == row["batch_id"]) & (table.c.row_key == row["row_key"])
    connection.execute(update(table).where(here).values(values))


def _batch(connection: Connection, batch_id: str) -> Batch:
    row = connection.execute(select(tables.batches).where(tables.batches.c.batch_id == batch_id)).mappings().first()
    if row is None:
        raise NotFound(f"batch {batch_id} is not in the ledger; open it before its rows are recorded")
    return Batch.model_validate(dict(row))


def _after(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat(timespec="microseconds")
