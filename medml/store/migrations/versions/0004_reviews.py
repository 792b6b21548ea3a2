"""What people decided about results of a batch."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "reviews",
        sa.Column("batch_id", sa.String(255), nullable=False),
        sa.Column("scan_id", sa.String(64), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("verdict", sa.String(16), nullable=False),
        sa.Column("record", sa.Text, nullable=False),
        sa.Column("decided", sa.String(32), nullable=False),
        sa.PrimaryKeyConstraint("batch_id", "scan_id", "number", name="pk_reviews"),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.batch_id"], name="fk_reviews_batch_id", ondelete="CASCADE"),
    )
    op.create_index("ix_reviews_scan_id", "reviews", ["scan_id"])


def downgrade() -> None:
    """Drop it."""
    op.drop_table("reviews")
