"""The private crosswalk: which source a scan came from. Its own database, readable by the owner only."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from medml.errors import NotFound
from medml.store import tables
from medml.store.database import chunks, open_database, upsert, utc_now


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a scan came from.

    Attributes
    ----------
    stamp : str
        sha256 over relative paths, sizes and modification times of its files.
    locator : dict
        JSON-able and private: absolute paths, ordered SOP instance UIDs, positions, transform.
    series : str
        Pseudonym of its DICOM series; empty if it has none.
    patient : str
        Pseudonym of its patient; empty of a scan that was stored by an earlier release.
    """

    scan_id: str
    stamp: str
    locator: Mapping[str, Any]
    series: str = ""
    patient: str = ""


class Crosswalk:
    """Scan id to source locator, and source stamp to scan id."""

    def __init__(self, url: str) -> None:
        self.database = open_database(url, schema=tables.CROSSWALK)

    def put(self, origins: Iterable[Origin]) -> None:
        """Store where scans came from, all in one transaction; the same again changes only the time."""
        now = utc_now()
        rows = {
            origin.scan_id: {
                "scan_id": origin.scan_id,
                "stamp": origin.stamp,
                "locator": json.dumps(origin.locator),
                "series": origin.series,
                "patient": origin.patient,
                "updated": now,
            }
            for origin in origins
        }
        with self.database.transaction() as connection:
            upsert(
                connection,
                tables.crosswalk,
                list(rows.values()),
                replace=["stamp", "locator", "series", "patient", "updated"],
            )

    def by_stamp(self, stamps: Iterable[str]) -> dict[str, str]:
        """Return stamp to scan id for those stamps that are known; the scan stored last if several share one."""
        table = tables.crosswalk
        query = select(table.c.stamp, table.c.scan_id).order_by(table.c.updated, table.c.scan_id)
        found: dict[str, str] = {}
        with self.database.reading() as connection:
            for chunk in chunks(list(stamps)):
                rows = connection.execute(query.where(table.c.stamp.in_(chunk)))
                found.update({str(stamp): str(scan_id) for stamp, scan_id in rows})
        return found

    def by_series(self, series: Iterable[str]) -> list[str]:
        """Return the ids of the scans made of these series, given by their pseudonyms; in order."""
        table = tables.crosswalk
        wanted = sorted({name for name in series if name})
        found: set[str] = set()
        with self.database.reading() as connection:
            for chunk in chunks(wanted):
                rows = connection.execute(select(table.c.scan_id).where(table.c.series.in_(chunk)))
                found.update(str(scan_id) for scan_id in rows.scalars())
        return sorted(found)

    def by_patient(self, patient: str) -> list[str]:
        """Return the ids of the scans of a patient, given by its pseudonym; in order."""
        table = tables.crosswalk
        query = select(table.c.scan_id).where(table.c.patient == patient).order_by(table.c.scan_id)
        with self.database.reading() as connection:
            return [str(scan_id) for scan_id in connection.execute(query).scalars()]

    def locators(self) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """Yield scan id, patient and locator of every source, by scan id."""
        table = tables.crosswalk
        query = select(table.c.scan_id, table.c.patient, table.c.locator).order_by(table.c.scan_id)
        with self.database.reading() as connection:
            for row in connection.execute(query.execution_options(yield_per=1000)):
                yield str(row[0]), str(row[1]), json.loads(row[2])

    def locator(self, scan_id: str) -> dict[str, Any]:
        """Return the locator of a scan.

        Raises
        ------
        NotFound
            If the crosswalk does not know the scan.
        """
        table = tables.crosswalk
        with self.database.reading() as connection:
            text = connection.execute(select(table.c.locator).where(table.c.scan_id == scan_id)).scalar()
        if text is None:
            raise NotFound(
                f"scan {scan_id}: the crosswalk does not know its source; it was ingested with another crosswalk, "
                "so ingest the source again"
            )
        locator: dict[str, Any] = json.loads(text)
        return locator


def paths_in(value: Any) -> Iterator[str]:
    """Yield the absolute paths of files that a locator names; folders hold other files too and are left out."""
    if isinstance(value, str):
        if value.startswith("/") and not os.path.isdir(value):
            yield value.partition("#")[0]
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from paths_in(inner)
