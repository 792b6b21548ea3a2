"""Sources are found by the pseudonym of their patient, so that the scans of a batch can be erased too."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "x0003"
down_revision = "x0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column and its index; scans stored before have none, and are found by the catalogue or by their files."""
    op.add_column("crosswalk", sa.Column("patient", sa.String(64), nullable=False, server_default=""))
    op.create_index("ix_crosswalk_patient", "crosswalk", ["patient"])


def downgrade() -> None:
    """Drop them."""
    op.drop_index("ix_crosswalk_patient", "crosswalk")
    op.drop_column("crosswalk", "patient")
