"""The first catalogue: collections, scans, annotations, batches, ledger, leases."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = ("catalogue",)
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    _collections_and_scans()
    _annotations()
    _batches_and_ledger()
    op.create_table(
        "leases",
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("owner", sa.String(255), nullable=False),
        sa.Column("token", sa.Integer, nullable=False),
        sa.Column("expires", sa.String(32), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_leases"),
    )


def downgrade() -> None:
    """Drop the tables."""
    for table in ("leases", "ledger", "batches", "annotations", "scans", "collections"):
        op.drop_table(table)


def _collections_and_scans() -> None:
    op.create_table(
        "collections",
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("licence", sa.Text, nullable=False),
        sa.Column("consent", sa.Text, nullable=False),
        sa.Column("added", sa.String(32), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_collections"),
    )
    op.create_table(
        "scans",
        sa.Column("scan_id", sa.String(64), nullable=False),
        sa.Column("collection", sa.String(255), nullable=False),
        sa.Column("patient", sa.String(255), nullable=False),
        sa.Column("study", sa.String(255), nullable=False),
        sa.Column("group", sa.String(255), nullable=False),
        sa.Column("channel", sa.Integer, nullable=False),
        sa.Column("modality", sa.String(64), nullable=False),
        sa.Column("geometry", sa.String(16), nullable=False),
        sa.Column("content", sa.String(64), nullable=False),
        sa.Column("record", sa.Text, nullable=False),
        sa.Column("added", sa.String(32), nullable=False),
        sa.Column("updated", sa.String(32), nullable=False),
        sa.PrimaryKeyConstraint("scan_id", name="pk_scans"),
        sa.ForeignKeyConstraint(["collection"], ["collections.name"], name="fk_scans_collection"),
    )
    op.create_index("ix_scans_collection", "scans", ["collection"])
    op.create_index("ix_scans_patient", "scans", ["patient"])


def _annotations() -> None:
    op.create_table(
        "annotations",
        sa.Column("scan_id", sa.String(64), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("origin", sa.String(255), nullable=False),
        sa.Column("content", sa.String(64), nullable=False),
        sa.Column("record", sa.Text, nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("updated", sa.String(32), nullable=False),
        sa.PrimaryKeyConstraint("scan_id", "kind", "origin", name="pk_annotations"),
        sa.ForeignKeyConstraint(
            ["scan_id"],
            ["scans.scan_id"],
            name="fk_annotations_scan_id",
            ondelete="CASCADE",
        ),
    )


def _batches_and_ledger() -> None:
    op.create_table(
        "batches",
        sa.Column("batch_id", sa.String(255), nullable=False),
        sa.Column("model", sa.String(255), nullable=False),
        sa.Column("model_digest", sa.String(64), nullable=False),
        sa.Column("source_request", sa.String(255), nullable=False),
        sa.Column("created", sa.String(32), nullable=False),
        sa.PrimaryKeyConstraint("batch_id", name="pk_batches"),
    )
    op.create_table(
        "ledger",
        sa.Column("batch_id", sa.String(255), nullable=False),
        sa.Column("row_key", sa.Text, nullable=False),
        sa.Column("scan_id", sa.String(64), nullable=False),
        sa.Column("status", sa.String(32), nullable=False),
        sa.Column("lease", sa.String(255), nullable=False),
        sa.Column("token", sa.Integer, nullable=False),
        sa.Column("record", sa.Text, nullable=False),
        sa.Column("updated", sa.String(32), nullable=False),
        sa.PrimaryKeyConstraint("batch_id", "row_key", name="pk_ledger"),
        sa.ForeignKeyConstraint(
            ["batch_id"],
            ["batches.batch_id"],
            name="fk_ledger_batch_id",
            ondelete="CASCADE",
        ),
    )
    op.create_index("ix_ledger_scan_id", "ledger", ["scan_id"])
