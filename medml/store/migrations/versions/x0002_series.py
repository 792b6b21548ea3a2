"""Scans are found by the pseudonym of their series, for annotations that come later."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "x0002"
down_revision = "x0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column and its index; scans stored before forget their stamp, so that the next ingest fills it."""
    op.add_column("crosswalk", sa.Column("series", sa.String(64), nullable=False, server_default=""))
    op.create_index("ix_crosswalk_series", "crosswalk", ["series"])
    op.execute("UPDATE crosswalk SET stamp = ''")


def downgrade() -> None:
    """Drop them."""
    op.drop_index("ix_crosswalk_series", "crosswalk")
    op.drop_column("crosswalk", "series")
