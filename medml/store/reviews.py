"""Decisions on results: rows are only added, and the last one on a scan of a batch counts."""

from __future__ import annotations

from sqlalchemy import insert, select
from sqlalchemy.exc import IntegrityError

from medml.errors import ConfigError
from medml.records.review import Decision
from medml.store import tables
from medml.store.database import Database


class Reviews:
    """The table of decisions."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def add(self, decision: Decision) -> None:
        """Store the next decision on a scan of a batch.

        Raises
        ------
        ConfigError
            If a decision of this number is there: somebody else decided in between.
        """
        row = {
            "batch_id": decision.batch_id,
            "scan_id": decision.scan_id,
            "number": decision.number,
            "verdict": decision.verdict,
            "record": decision.model_dump_json(),
            "decided": decision.decided,
        }
        try:
            with self.database.transaction() as connection:
                connection.execute(insert(tables.reviews).values(row))
        except IntegrityError:
            raise ConfigError(
                f"scan {decision.scan_id}: somebody else decided on it in between (decision {decision.number}); "
                "look at it again"
            ) from None

    def of(self, batch_id: str, scan_id: str) -> list[Decision]:
        """Return every decision on a scan of a batch, oldest first."""
        table = tables.reviews
        query = select(table.c.record).where(table.c.batch_id == batch_id, table.c.scan_id == scan_id)
        with self.database.reading() as connection:
            records = connection.execute(query.order_by(table.c.number)).scalars()
            return [Decision.model_validate_json(record) for record in records]

    def last(self, batch_id: str) -> dict[str, Decision]:
        """Return, by scan id, the decision that counts for each scan of a batch that somebody decided on."""
        table = tables.reviews
        query = select(table.c.scan_id, table.c.record).where(table.c.batch_id == batch_id).order_by(table.c.number)
        with self.database.reading() as connection:
            rows = connection.execute(query)
            return {str(scan_id): Decision.model_validate_json(record) for scan_id, record in rows}
