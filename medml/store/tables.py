"""The tables of the two databases. `migrations/versions` builds them; a test holds both equal."""

from dataclasses import dataclass

from sqlalchemy import Column, ForeignKey, Index, Integer, MetaData, String, Table, Text

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
}

catalogue_metadata = MetaData(naming_convention=NAMING)
crosswalk_metadata = MetaData(naming_convention=NAMING)


@dataclass(frozen=True, slots=True)
class Schema:
    """Which tables a database holds.

    Attributes
    ----------
    branch : str
        Its branch label among the migrations.
    head : str
        The revision that this release writes; known here so that opening an up-to-date database needs no Alembic.
    """

    branch: str
    head: str
    metadata: MetaData


CATALOGUE = Schema(branch="catalogue", head="0004", metadata=catalogue_metadata)
CROSSWALK = Schema(branch="crosswalk", head="x0003", metadata=crosswalk_metadata)

collections = Table(
    "collections",
    catalogue_metadata,
    Column("name", String(255), primary_key=True),
    Column("licence", Text, nullable=False),
    Column("consent", Text, nullable=False),
    Column("added", String(32), nullable=False),
)

scans = Table(
    "scans",
    catalogue_metadata,
    Column("scan_id", String(64), primary_key=True),
    Column("collection", String(255), ForeignKey("collections.name"), nullable=False),
    Column("patient", String(255), nullable=False),
    Column("study", String(255), nullable=False),
    Column("group", String(255), nullable=False),
    Column("channel", Integer, nullable=False),
    Column("modality", String(64), nullable=False),
    Column("geometry", String(16), nullable=False),
    Column("content", String(64), nullable=False),
    Column("record", Text, nullable=False),
    Column("added", String(32), nullable=False),
    Column("updated", String(32), nullable=False),
    Index("ix_scans_collection", "collection"),
    Index("ix_scans_patient", "patient"),
    Index("ix_scans_content", "content"),
)

annotations = Table(
    "annotations",
    catalogue_metadata,
    Column(
        "scan_id",
        String(64),
        ForeignKey("scans.scan_id", ondelete="CASCADE"),
        primary_key=True,
    ),
    Column("kind", String(16), primary_key=True),
    Column("origin", String(255), primary_key=True),
    Column("content", String(64), nullable=False),
    Column("record", Text, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("updated", String(32), nullable=False),
)

batches = Table(
    "batches",
    catalogue_metadata,
    Column("batch_id", String(255), primary_key=True),
    Column("model", String(255), nullable=False),
    Column("model_digest", String(64), nullable=False),
    Column("source_request", String(255), nullable=False),
    Column("created", String(32), nullable=False),
    Column("options", Text, nullable=False, server_default=""),
    Column("state", String(16), nullable=False, server_default=""),
    Column("updated", String(32), nullable=False, server_default=""),
)

ledger = Table(
    "ledger",
    catalogue_metadata,
    Column(
        "batch_id",
        String(255),
        ForeignKey("batches.batch_id", ondelete="CASCADE"),
        primary_key=True,
    ),
    Column("row_key", Text, primary_key=True),
    Column("scan_id", String(64), nullable=False),
    Column("status", String(32), nullable=False),
    Column("lease", String(255), nullable=False),
    Column("token", Integer, nullable=False),
    Column("record", Text, nullable=False),
    Column("updated", String(32), nullable=False),
    Column("number", Integer, nullable=False, server_default="0"),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("crashes", Integer, nullable=False, server_default="0"),
    Column("not_before", String(32), nullable=False, server_default=""),
    Column("stamp", String(64), nullable=False, server_default=""),
    Index("ix_ledger_scan_id", "scan_id"),
    Index("ix_ledger_status", "batch_id", "status", "attempts", "number"),
    Index("ix_ledger_stamp", "batch_id", "stamp"),
)

reviews = Table(
    "reviews",
    catalogue_metadata,
    Column("batch_id", String(255), ForeignKey("batches.batch_id", ondelete="CASCADE"), primary_key=True),
    Column("scan_id", String(64), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("verdict", String(16), nullable=False),
    Column("record", Text, nullable=False),
    Column("decided", String(32), nullable=False),
    Index("ix_reviews_scan_id", "scan_id"),
)

leases = Table(
    "leases",
    catalogue_metadata,
    Column("name", String(255), primary_key=True),
    Column("owner", String(255), nullable=False),
    Column("token", Integer, nullable=False),
    Column("expires", String(32), nullable=False),
)

crosswalk = Table(
    "crosswalk",
    crosswalk_metadata,
    Column("scan_id", String(64), primary_key=True),
    Column("stamp", String(64), nullable=False),
    Column("locator", Text, nullable=False),
    Column("updated", String(32), nullable=False),
    Column("series", String(64), nullable=False, server_default=""),
    Column("patient", String(64), nullable=False, server_default=""),
    Index("ix_crosswalk_stamp", "stamp"),
    Index("ix_crosswalk_series", "series"),
    Index("ix_crosswalk_patient", "patient"),
)
