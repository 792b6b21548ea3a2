"""The first crosswalk, in its own database: scan id to source."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "x0001"
down_revision = None
branch_labels = ("crosswalk",)
depends_on = None


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "crosswalk",
        sa.Column("scan_id", sa.String(64), nullable=False),
        sa.Column("stamp", sa.String(64), nullable=False),
        sa.Column("locator", sa.Text, nullable=False),
        sa.Column("updated", sa.String(32), nullable=False),
        sa.PrimaryKeyConstraint("scan_id", name="pk_crosswalk"),
    )
    op.create_index("ix_crosswalk_stamp", "crosswalk", ["stamp"])


def downgrade() -> None:
    """Drop the table."""
    op.drop_table("crosswalk")
