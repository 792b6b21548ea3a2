"""Where staged scans are put in their places and entered in the catalogue, a group at a time."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from medml.catalogue.dicom_annotations import Archive, series_name
from medml.catalogue.report import Counted, Tally
from medml.catalogue.staging import Entry, Ready
from medml.errors import MedmlError, NotFound
from medml.io.scans import Staged, place_scans, read_scan, update_record
from medml.records.candidate import Candidate
from medml.records.scan import Outcome, Scan
from medml.store.crosswalk import Crosswalk, Origin

CHUNK = 256
GROUP_SIZE = 64
GROUP_BYTES = 128 << 20


@dataclass(slots=True)
class Desk:
    """Takes what the walk and the readers give, in order, and tells the tally what became of it.

    What is in the catalogue already changes nothing: neither files nor rows. A scan is in if its id is (for DICOM, the
    UIDs and the voxels), whatever folder or collection it comes from this time; or, for files that name no patient, if
    the same voxels with the same labels are in as another collection's scan.
    """

    archive: Archive
    collection: str
    tally: Tally
    group: list[Entry] = field(default_factory=list)
    ready: int = 0
    held: int = 0
    stored: set[str] = field(default_factory=set)

    def recognised(self, items: Iterable[Candidate | Outcome]) -> Iterator[Candidate | Outcome]:
        """Turn candidates that an earlier ingest has read into outcomes "known"; ask for many at once."""
        stream = iter(items)
        while chunk := list(islice(stream, CHUNK)):
            stamps = [item.stamp for item in chunk if isinstance(item, Candidate)]
            found = self.archive.crosswalk.by_stamp(stamps) if stamps else {}
            present = self.archive.catalogue.known(found.values()) if found else set()
            labelled = {a.scan_id for a in self.archive.catalogue.annotations(present)} if present else set()
            for item in chunk:
                scan_id = found.get(item.stamp) if isinstance(item, Candidate) else None
                if isinstance(item, Candidate) and scan_id is not None and scan_id in present:
                    yield self._known(item, scan_id, scan_id in labelled)
                else:
                    yield item

    def add(self, entry: Entry) -> None:
        """Take an entry; a full group is written."""
        self.group.append(entry)
        if isinstance(entry, Ready):
            self.ready += 1
            self.held += entry.bytes
        if self.ready >= GROUP_SIZE or self.held >= GROUP_BYTES or len(self.group) >= 4 * CHUNK:
            self.flush()

    def flush(self) -> None:
        """Put the group's folders in their places, then enter its rows, then tell its outcomes."""
        entries, self.group, self.ready, self.held = self.group, [], 0, 0
        found = [entry for entry in entries if isinstance(entry, Ready)]
        before = {scan.scan_id: scan for scan in self.archive.catalogue.by_id(entry.scan_id for entry in found)}
        twins = find_twins(self.archive, [entry for entry in found if entry.scan_id not in before])
        placing = [entry for entry in found if entry.scan_id not in twins]
        placed = place_scans(self.archive.home, [entry.staged for entry in placing])
        changed = self._enter(placed, before)
        # After the catalogue: a stamp that is known says that everything about the scan is in.
        fresh = {entry.scan_id: entry for entry in reversed(placing) if self._to_remember(entry, before)}
        if fresh:
            self.archive.crosswalk.put([self._origin(entry) for entry in fresh.values()])
        for entry in entries:
            if isinstance(entry, Outcome):
                self.tally.add(entry)
            elif entry.scan_id in twins:
                self._tell_duplicate(entry, twins[entry.scan_id])
            else:
                self._tell(entry, before.get(entry.scan_id), changed)

    def tell_annotation(self, outcome: Outcome) -> None:
        """Take the outcome of an annotation; its scans are counted as labelled, if this ingest has seen them."""
        for scan in self.archive.catalogue.by_id(set(outcome.scan_ids) & self.stored):
            self._count(scan, True)
        self.tally.add(outcome)

    def _enter(self, placed: list[Staged], before: Mapping[str, Scan]) -> set[str]:
        """Enter what is new or has changed in one transaction; return the ids that it is about."""
        scans, labels = [], []
        stored = {(a.scan_id, a.kind, a.origin): a for a in self.archive.catalogue.annotations(before)}
        for staged in placed:
            old = before.get(staged.scan.scan_id)
            if old is None:
                scans.append(staged.scan)
            elif old.collection == self.collection and old != staged.scan:
                update_record(self.archive.home, staged.scan)
                scans.append(staged.scan)
            labels += [a for a in staged.annotations if stored.get((a.scan_id, a.kind, a.origin)) != a]
        if scans or labels:
            self.archive.catalogue.add(scans, labels)
        return {scan.scan_id for scan in scans} | {label.scan_id for label in labels}

    def _to_remember(self, entry: Ready, before: Mapping[str, Scan]) -> bool:
        """Say whether the crosswalk is to name this source: the first one that a scan came from, while it is there."""
        if entry.scan_id in self.stored or entry.scan_id not in before:
            return entry.scan_id not in self.stored
        if before[entry.scan_id].collection != self.collection:
            return False
        try:
            first = first_file(self.archive.crosswalk.locator(entry.scan_id))
        except NotFound:
            return True
        return first == first_file(entry.locator) or not os.path.exists(first)

    def _origin(self, entry: Ready) -> Origin:
        series = series_name(self.archive.pseudonyms, str(entry.locator.get("series_uid", "")))
        return Origin(entry.scan_id, entry.stamp, entry.locator, series, entry.staged.scan.patient)

    def _tell(self, entry: Ready, before: Scan | None, changed: set[str]) -> None:
        code, reason = "accepted", ""
        if entry.scan_id in self.stored:
            code, reason = "duplicate", "the same scan as an earlier one of this source"
        elif before is not None and before.collection != self.collection:
            code, reason = "duplicate", f"the same scan as one of the collection {before.collection}"
        elif before is not None:
            code = "known"
            reason = "its labels or facts have changed" if entry.scan_id in changed else "its source was written again"
        self.stored.add(entry.scan_id)
        self._count(before or entry.staged.scan, bool(entry.staged.annotations))
        self.tally.add(_accepted(entry.source, entry.count, code, reason, entry.staged.scan))

    def _tell_duplicate(self, entry: Ready, twin: Scan) -> None:
        shutil.rmtree(entry.staged.folder)
        reason = f"the same voxels and labels as a scan of the collection {twin.collection}"
        self._count(twin, bool(entry.staged.annotations))
        self.tally.add(_accepted(entry.source, entry.count, "duplicate", reason, twin))

    def _known(self, candidate: Candidate, scan_id: str, labelled: bool) -> Candidate | Outcome:
        """Return the outcome of a scan that is in already; the candidate where its folder has gone."""
        try:
            scan = read_scan(self.archive.home.scans, scan_id)
        except MedmlError:
            return candidate
        self.stored.add(scan_id)
        self._count(scan, labelled)
        return _accepted(candidate.source, candidate.files, "known", "", scan)

    def _count(self, scan: Scan, labelled: bool) -> None:
        self.tally.note(scan.scan_id, Counted(scan.collection, scan.patient, scan.group, scan.channel, labelled))


def find_twins(archive: Archive, entries: Sequence[Ready]) -> dict[str, Scan]:
    """Return, by scan id, the stored scans that entries without an identity of their own repeat.

    A DICOM series is known by its UIDs. For the others, the same voxels and labels in another collection, or from the
    same file, are the same scan; within one collection the same picture may well stand for two patients. The channels
    of a case stay together: they are repeated all or none.
    """
    nameless = [entry for entry in entries if entry.locator.get("kind") != "dicom"]
    stored: dict[str, list[Scan]] = {}
    for scan in archive.catalogue.by_content(entry.staged.scan.content for entry in nameless):
        stored.setdefault(scan.content, []).append(scan)
    labels: dict[str, set[tuple[str, str]]] = {}
    for label in archive.catalogue.annotations(scan.scan_id for scans in stored.values() for scan in scans):
        labels.setdefault(label.scan_id, set()).add((label.kind, label.content))
    found: dict[str, Scan] = {}
    for entry in nameless:
        wanted = {(label.kind, label.content) for label in entry.staged.annotations}
        for scan in stored.get(entry.staged.scan.content, ()):
            if (
                wanted <= labels.get(scan.scan_id, set())
                and archive.home.scan_folder(scan.scan_id).is_dir()
                and (scan.collection != entry.staged.scan.collection or _same_file(archive.crosswalk, scan, entry))
            ):
                found[entry.scan_id] = scan
                break
    alone = {entry.staged.scan.group for entry in entries if entry.scan_id not in found}
    groups = {entry.scan_id: entry.staged.scan.group for entry in entries}
    return {scan_id: twin for scan_id, twin in found.items() if groups[scan_id] not in alone}


def first_file(locator: Mapping[str, Any]) -> str:
    """Return one path that stands for where a scan came from, with its place inside an archive."""
    path = locator.get("image") or next(iter(locator.get("files", ())), "")
    return f"{path}" if "index" not in locator else f"{path}#{locator.get('split')}/{locator['index']}"


def _same_file(crosswalk: Crosswalk, scan: Scan, entry: Ready) -> bool:
    try:
        return first_file(crosswalk.locator(scan.scan_id)) == first_file(entry.locator)
    except NotFound:
        return False


def _accepted(source: str, files: int, code: str, reason: str, scan: Scan) -> Outcome:
    return Outcome(
        source=source,
        files=files,
        outcome="accepted",
        code=code,
        reason=reason,
        scan_ids=(scan.scan_id,),
        findings=scan.findings,
    )
