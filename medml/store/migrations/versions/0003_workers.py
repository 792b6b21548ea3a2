"""Scans of a batch wait in the ledger for the workers that share them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add what a resumed batch and its workers need to know."""
    for name, kind in (("options", sa.Text()), ("state", sa.String(16)), ("updated", sa.String(32))):
        op.add_column("batches", sa.Column(name, kind, nullable=False, server_default=""))
    for name in ("number", "attempts", "crashes"):
        op.add_column("ledger", sa.Column(name, sa.Integer, nullable=False, server_default="0"))
    for name, length in (("not_before", 32), ("stamp", 64)):
        op.add_column("ledger", sa.Column(name, sa.String(length), nullable=False, server_default=""))
    op.create_index("ix_ledger_status", "ledger", ["batch_id", "status", "attempts", "number"])
    op.create_index("ix_ledger_stamp", "ledger", ["batch_id", "stamp"])


def downgrade() -> None:
    """Drop it."""
    op.drop_index("ix_ledger_stamp", "ledger")
    op.drop_index("ix_ledger_status", "ledger")
    for name in ("stamp", "not_before", "crashes", "attempts", "number"):
        op.drop_column("ledger", name)
    for name in ("updated", "state", "options"):
        op.drop_column("batches", name)
