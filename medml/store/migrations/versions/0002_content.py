"""Scans are found by their voxels, so that a copy of a source changes nothing."""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the index."""
    op.create_index("ix_scans_content", "scans", ["content"])


def downgrade() -> None:
    """Drop it."""
    op.drop_index("ix_scans_content", "scans")
