"""Run by Alembic: migrate over the connection, and inside the transaction, that `store.database` hands over."""

from __future__ import annotations

from alembic import context

connection = context.config.attributes["connection"]
# SQLite rolls DDL back as PostgreSQL does, once the driver no longer commits by itself (see `database.py`).
context.configure(connection=connection, transactional_ddl=True)
context.run_migrations()
