"""The catalogue: every accepted scan and what is known about it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic_core import from_json
from sqlalchemy import Connection, delete, func, select

from medml.errors import ConfigError
from medml.records.record import Record
from medml.records.scan import Annotation, Column, Scan
from medml.store import tables
from medml.store.database import Database, chunks, upsert, utc_now

FIELDS = (
    "scan_id",
    "collection",
    "patient",
    "study",
    "group",
    "channel",
    "modality",
    "geometry",
    "content",
)
COMPARED = ("scan_id", "collection", "patient", "modality", "content")
ROWS = 1000


class Collection(Record):
    """What one source brought in.

    Attributes
    ----------
    scans : int
        How many scans it has.
    """

    name: str
    licence: str = ""
    consent: str = ""
    scans: int = 0


@dataclass(frozen=True, slots=True)
class Compared:
    """What a scan is compared with others by, as in its `Scan`."""

    scan_id: str
    collection: str
    patient: str
    modality: str
    content: str
    quality: Mapping[str, float]
    likeness: str


class Catalogue:
    """The tables of collections, scans and annotations."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def add(self, scans: Iterable[Scan], annotations: Iterable[Annotation] = ()) -> None:
        """Store scans and annotations in one transaction; adding the same again changes nothing.

        A scan with the id of an earlier one replaces it; an annotation replaces the one of the same scan, kind and
        origin, and its revision grows. Collections not known yet are made, without licence.
        """
        scans, annotations, now = list(scans), list(annotations), utc_now()
        found = [{"name": name, "licence": "", "consent": "", "added": now} for name in {s.collection for s in scans}]
        scan_rows = {scan.scan_id: _scan_row(scan, now) for scan in scans}
        annotation_rows = {(a.scan_id, a.kind, a.origin): _annotation_row(a, now) for a in annotations}
        with self.database.transaction() as connection:
            upsert(connection, tables.collections, found)
            upsert(
                connection,
                tables.scans,
                list(scan_rows.values()),
                replace=[*FIELDS[1:], "record", "updated"],
                changed="record",
            )
            upsert(
                connection,
                tables.annotations,
                list(annotation_rows.values()),
                replace=["content", "record", "updated"],
                changed="record",
                bump="revision",
            )

    def add_collection(self, name: str, licence: str = "", consent: str = "") -> None:
        """Store a collection's licence and consent note; an empty one keeps what is there."""
        row = {"name": name, "licence": licence, "consent": consent, "added": utc_now()}
        replace = [key for key in ("licence", "consent") if row[key]]
        with self.database.transaction() as connection:
            upsert(connection, tables.collections, [row], replace=replace)

    def collections(self) -> list[Collection]:
        """Return every collection with its number of scans, by name."""
        table = tables.collections
        count = select(func.count()).where(tables.scans.c.collection == table.c.name).scalar_subquery()
        query = select(table.c.name, table.c.licence, table.c.consent, count.label("scans")).order_by(table.c.name)
        with self.database.reading() as connection:
            return [Collection.model_validate(dict(row)) for row in connection.execute(query).mappings()]

    def known(self, scan_ids: Iterable[str]) -> set[str]:
        """Return those of ``scan_ids`` that are in the catalogue."""
        column = tables.scans.c.scan_id
        found: set[str] = set()
        with self.database.reading() as connection:
            for chunk in chunks(list(scan_ids)):
                found.update(connection.execute(select(column).where(column.in_(chunk))).scalars())
        return found

    def by_id(self, scan_ids: Iterable[str]) -> list[Scan]:
        """Return those of these scans that are in the catalogue, by scan id."""
        return self._records(tables.scans.c.scan_id, scan_ids)

    def by_content(self, contents: Iterable[str]) -> list[Scan]:
        """Return the scans that hold these voxels (`Scan.content`), by scan id."""
        return self._records(tables.scans.c.content, contents)

    def scans(self, **select_: Column) -> list[Scan]:
        """Return the scans for which every key has its value, by collection, patient, group and channel.

        Parameters
        ----------
        **select_
            A field of `Scan` (collection, patient, modality, …) or a key of its ``columns``, and the value wanted;
            numbers may be given as text.

        Raises
        ------
        ConfigError
            If no scan of the catalogue has a key.
        """
        table = tables.scans
        fields = {key: value for key, value in select_.items() if key in FIELDS}
        columns = {key: value for key, value in select_.items() if key not in FIELDS}
        query = select(table.c.record).order_by(
            table.c.collection,
            table.c.patient,
            table.c.group,
            table.c.channel,
            table.c.scan_id,
        )
        for key, value in fields.items():
            wanted = _channel(value) if key == "channel" else str(value)
            query = query.where(table.c[key] == wanted)
        with self.database.reading() as connection:
            found = [Scan.model_validate_json(record) for record in connection.execute(query).scalars()]
            absent = [key for key in columns if not any(key in scan.columns for scan in found)]
            if absent:
                _check_keys(connection, absent)
        return [scan for scan in found if all(_same(scan.columns.get(key), value) for key, value in columns.items())]

    def compared(self) -> list[Compared]:
        """Return what all scans are compared by, by scan id: a tenth of the time and memory of the scans."""
        table = tables.scans
        query = select(*(table.c[name] for name in COMPARED), table.c.record).order_by(table.c.scan_id)
        found: list[Compared] = []
        with self.database.reading() as connection:
            for row in connection.execute(query.execution_options(yield_per=ROWS)).mappings():
                rest = from_json(row["record"])
                fields = {name: row[name] for name in COMPARED}
                found.append(Compared(**fields, quality=rest.get("quality", {}), likeness=rest.get("likeness", "")))
        return found

    def annotations(self, scan_ids: Iterable[str]) -> list[Annotation]:
        """Return what is known about these scans, by scan id, kind and origin."""
        table = tables.annotations
        query = select(table.c.record).order_by(table.c.scan_id, table.c.kind, table.c.origin)
        found: list[Annotation] = []
        with self.database.reading() as connection:
            for chunk in chunks(sorted(set(scan_ids))):
                rows: Sequence[str] = connection.execute(query.where(table.c.scan_id.in_(chunk))).scalars().all()
                found.extend(Annotation.model_validate_json(record) for record in rows)
        return found

    def withdraw(self, scan_id: str, origin: str) -> int:
        """Take away what one origin says about a scan; return how many annotations that was."""
        table = tables.annotations
        with self.database.transaction() as connection:
            result = connection.execute(delete(table).where(table.c.scan_id == scan_id, table.c.origin == origin))
        return int(result.rowcount)

    def _records(self, column: Any, values: Iterable[str]) -> list[Scan]:
        query = select(tables.scans.c.record).order_by(tables.scans.c.scan_id)
        found: list[Scan] = []
        with self.database.reading() as connection:
            for chunk in chunks(sorted(set(values))):
                records = connection.execute(query.where(column.in_(chunk))).scalars()
                found.extend(Scan.model_validate_json(record) for record in records)
        return found


def _scan_row(scan: Scan, now: str) -> dict[str, str | int]:
    row: dict[str, str | int] = {key: getattr(scan, key) for key in FIELDS}
    return row | {"record": scan.model_dump_json(), "added": now, "updated": now}


def _annotation_row(annotation: Annotation, now: str) -> dict[str, str | int]:
    return {
        "scan_id": annotation.scan_id,
        "kind": annotation.kind,
        "origin": annotation.origin,
        "content": annotation.content,
        "record": annotation.model_dump_json(),
        "revision": 1,
        "updated": now,
    }


def _channel(value: Column) -> int:
    try:
        return int(str(value))
    except ValueError:
        raise ConfigError(f"select: channel is {value!r}; expected a whole number, 0 for the first channel") from None


def _check_keys(connection: Connection, keys: list[str]) -> None:
    """Raise unless each key is a column of some scan; only asked when the selection itself has no such column."""
    records = connection.execute(select(tables.scans.c.record)).scalars()
    existing = {key for record in records for key in Scan.model_validate_json(record).columns}
    unknown = [key for key in keys if key not in existing]
    if unknown:
        columns = ", ".join(sorted(existing)) or "none"
        raise ConfigError(
            f"select: the catalogue has no column {', '.join(unknown)}; it has the fields {', '.join(FIELDS)} "
            f"and the columns {columns}"
        )


def _same(found: Column, wanted: Column) -> bool:
    if found is None or wanted is None or found == wanted:
        return found == wanted
    if isinstance(found, int | float):
        try:
            return float(found) == float(wanted)
        except ValueError:
            return False
    return str(found) == str(wanted)
