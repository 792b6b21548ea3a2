"""What a result was made of, found again: its batch's folder, its image, its model's words."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medml.errors import ConfigError, NotFound, Refusal
from medml.records.batch import LedgerRow
from medml.records.candidate import Candidate, Reading
from medml.records.home import Home
from medml.records.plan import Plan
from medml.records.scan import Scan
from pipelines.requests import resolve_source

if TYPE_CHECKING:
    from medml.catalogue.archive import Archive
    from medml.catalogue.quarantine import Quarantine


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """The image of a result.

    Attributes
    ----------
    scan : Scan or None
        Its record, if the catalogue has it.
    """

    reading: Reading
    locator: Mapping[str, Any]
    scan: Scan | None = None


def batch_folder(home: Home, source_request: str, row: LedgerRow) -> Path:
    """Return the folder that holds a row's files, by the files themselves.

    Raises
    ------
    NotFound
        If neither where the batch was asked to write nor any folder of the home has them.
    """
    places = []
    try:
        request = resolve_source(home, source_request)
        places += [Path(request["output"])] if request.get("output") else []
    except ConfigError:
        pass  # an alias that is gone: its batch may still lie in the home
    places += sorted(home.batches.iterdir()) if home.batches.is_dir() else []
    for place in places:
        if row.outputs and all((place / name).is_file() for name in row.outputs):
            return place
    raise NotFound(
        f"scan {row.scan_id}: the files of its result are not where the batch wrote them; "
        "put the folder back, or predict again"
    )


def plan_of(home: Home, model: str) -> Plan:
    """Return the plan of a registered model, given as NAME/version; nothing of the network is read."""
    from medml.io.files import read_record
    from medml.registry import models
    from medml.registry.tracking import Tracker

    return read_record(models.resolve(Tracker.of(home), model).package_path / "plan.json", Plan)


def find_image(archive: Archive, row: LedgerRow, source_request: str, channels: int) -> Found:
    """Return the image of a result: the catalogue's copy, or the source read again and proved to be the same.

    Raises
    ------
    Refusal
        ``source_gone`` or ``source_changed``.
    """
    from medml.catalogue.reviewed import stored_scan
    from medml.io.files import content_digest
    from medml.io.scans import read_image

    locator = _locator(archive, row.scan_id)
    if channels == 1:
        dicom = locator.get("kind") == "dicom"
        scan = stored_scan(archive, row.scan_id, row.input_digest, dicom=dicom)
        if scan is not None:
            return Found(Reading(read_image(archive.home.scans, scan.scan_id), scan.source_grid), locator, scan)
    candidate, _ = _again(archive, row, locator, source_request, channels)
    reading = candidate.read()
    if content_digest(reading.volume) != row.input_digest:
        raise Refusal(
            "source_changed", "the source holds another image than the one that was read; predict on it again"
        )
    return Found(reading, locator)


def parts_of(archive: Archive, row: LedgerRow, source_request: str, channels: int) -> list[Candidate]:
    """Return the channels of a result's source as ingest would read them; images held in quarantine are none.

    Raises
    ------
    Refusal
        As `find_image`, and ``held_back`` if its pixels may show a name.
    """
    from medml.catalogue.quarantine import Quarantine

    locator = _locator(archive, row.scan_id)
    _, seen = _again(archive, row, locator, source_request, channels)
    quarantine = Quarantine(archive.home.quarantine)
    try:
        _, parts = _again(archive, row, locator, source_request, channels, quarantine)
    except Refusal:
        raise Refusal(
            "held_back",
            f"{len(seen)} images of the scan may show a name in their pixels; look at them and let them through with "
            "medml release, then decide again",
        ) from None
    return parts


def _again(
    archive: Archive,
    row: LedgerRow,
    locator: Mapping[str, Any],
    source_request: str,
    channels: int,
    quarantine: Quarantine | None = None,
) -> tuple[Candidate, list[Candidate]]:
    """Walk to where a scan came from; return it as inference saw it, and the candidates that it is made of."""
    from medml.inference.channels import join_channels

    found: list[Candidate] = []

    def noted() -> Iterator[Candidate]:
        for candidate in _walk(archive.home, locator, source_request, quarantine):
            found.append(candidate)
            yield candidate

    for item in join_channels(noted(), channels):
        if isinstance(item, Candidate) and (item.stamp == row.stamp or _plain(item.locator) == locator):
            parts = item.locator.get("channels", [item.locator])
            return item, [part for part in found if any(part.locator == own for own in parts)]
    raise Refusal(
        "source_gone", "the image is not where it was read; put it back, or ingest it: then the catalogue has a copy"
    )


def _walk(
    home: Home, locator: Mapping[str, Any], source_request: str, quarantine: Quarantine | None
) -> Iterator[Candidate]:
    """Yield what lies where a DICOM series was read, or in a batch's sources, whose names are part of its scans."""
    from medml.catalogue.config import IngestConfig
    from medml.catalogue.walk import find_all

    first = locator.get("channels", [locator])[0]
    roots: list[Path] = []
    if first.get("kind") == "dicom":
        folders = [os.path.dirname(path) for part in locator.get("channels", [locator]) for path in part["files"]]
        roots = [Path(os.path.commonpath(folders))]
    else:
        try:
            roots = [Path(source) for source in resolve_source(home, source_request)["sources"]]
        except ConfigError as error:
            raise Refusal("source_gone", f"where the batch's scans lay is not known any more: {error}") from None
    for root in roots:
        if root.exists():
            yield from (item for item in find_all(root, IngestConfig(), quarantine) if isinstance(item, Candidate))


def _locator(archive: Archive, scan_id: str) -> dict[str, Any]:
    try:
        return archive.crosswalk.locator(scan_id)
    except NotFound:
        return {}


def _plain(locator: Mapping[str, Any]) -> Any:
    """Return a locator as the crosswalk gives it back."""
    return json.loads(json.dumps(locator))
