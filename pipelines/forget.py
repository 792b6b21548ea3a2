"""The erasure of a patient: what mentions them is found, removed, and marked where it was used. Needs no flow.

The order makes it safe to kill: a private note of what is to go, then the marks on datasets and models, then files,
then rows, then a search of the whole home, and the note goes last. Run again, it finishes what was begun.
"""

from __future__ import annotations

import os
import re
import secrets
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medml.errors import ConfigError, NotFound
from medml.records.erasure import Erasure
from medml.records.home import Home
from pipelines.erasing import Erasing, busy, outputs_outside, traces
from pipelines.stores import open_catalogue, open_crosswalk, open_pseudonyms
from pipelines.verb import VerbResult

if TYPE_CHECKING:
    from medml.io.files import Pseudonyms
    from medml.store.crosswalk import Crosswalk

PSEUDONYM = re.compile(r"p-[0-9a-f]{16}")


@dataclass(slots=True)
class Found:
    """A patient as the home knows them, and files of theirs that lie outside of it.

    Attributes
    ----------
    outside : set of str
        Source files that are not ours to remove.
    shared : set of str
        Source files that hold other patients too.
    """

    erasure: Erasure
    outside: set[str] = field(default_factory=set)
    shared: set[str] = field(default_factory=set)


def forget(home: Home, patients: Sequence[str], *, do: bool) -> VerbResult:
    """Erase patients given by their pseudonyms, and finish erasures that were interrupted; without ``do`` only count.

    Raises
    ------
    NotFound
        If the home knows none of them and nothing is left to finish.
    ConfigError
        If somebody is at work in the home.
    """
    begun = pending(home)
    wanted = {erasure.patient: Found(erasure) for erasure in begun}
    for patient in patients:
        found = find(home, patient)
        if found is not None:
            wanted[patient] = _joined(found, wanted.get(patient))
    if not wanted:
        raise NotFound(
            "the home has no scan, batch row or source of this patient; check the id and its --issuer "
            "(the collections' names and the DICOM issuers are tried when none is given)"
        )
    if do and (others := busy(home)):
        raise ConfigError(
            f"somebody is at work in this home ({', '.join(others[:5])}); wait until it is done or stop it, "
            "then erase: nothing may be written while it runs"
        )
    results = [_erase(home, found) if do else _count(home, found) for found in wanted.values()]
    counts: Counter[str] = Counter()
    for counted, _ in results:
        counts.update(counted)
    left = [path for _, remaining in results for path in remaining]
    return VerbResult(
        verb="forget",
        ok=not left,
        counts=dict(counts),
        summary={"patients": len(wanted), "done": do, **({"mentions left": len(left)} if do else {})},
        notes=(*_notes(wanted.values(), do), *(f"{path} still mentions the patient" for path in left)),
    )


def pseudonyms_of(home: Home, patient_id: str, issuer: str | None) -> list[str]:
    """Return the names that a patient may have here: under one issuer, or under each that a home can give."""
    from medml.store.catalogue import Catalogue

    pseudonyms = open_pseudonyms(home)
    if issuer is not None:
        return [pseudonyms.patient(issuer, patient_id)]
    collections = [item.name for item in Catalogue(open_catalogue(home)).collections()]
    issuers = ["", *collections, *(f"collection:{name}" for name in collections), *_dicom_issuers(home)]
    return [pseudonyms.patient(name, patient_id) for name in dict.fromkeys(issuers)]


def pending(home: Home) -> list[Erasure]:
    """Return the erasures that were begun and not finished."""
    from medml.io.files import read_record

    return [read_record(path, Erasure) for path in sorted(home.erasures.glob("*.json"))]


def find(home: Home, patient: str) -> Found | None:
    """Gather everything that stands for a patient alone; None if the home knows nothing of them."""
    from medml.datasets.erasure import datasets_of_patient
    from medml.store.catalogue import Catalogue

    catalogue, crosswalk = Catalogue(open_catalogue(home)), open_crosswalk(home)
    scans = catalogue.scans(patient=patient)
    scan_ids = (
        {scan.scan_id for scan in scans} | set(crosswalk.by_patient(patient)) | _unnamed(crosswalk, patient, home)
    )
    if not scan_ids:
        return None
    masks = {annotation.content for annotation in catalogue.annotations(scan_ids) if annotation.kind == "mask"}
    contents = {scan.content for scan in scans} | masks
    contents -= {scan.content for scan in catalogue.by_content(contents) if scan.patient != patient}
    scan_ids |= _predicted(home, contents)
    names = contents | {scan.study for scan in scans} | {scan.group for scan in scans}
    sources, uids, shared, places = _sources(crosswalk, scan_ids)
    names |= uids | {open_pseudonyms(home).group(uid) for uid in uids} | places
    erasure = Erasure(
        erasure_id=f"e-{secrets.token_hex(8)}",
        patient=patient,
        scan_ids=tuple(sorted(scan_ids)),
        names=tuple(sorted(names)),
        sources=tuple(sorted(sources)),
        outputs=tuple(map(str, outputs_outside(home))),
        datasets=tuple(
            sorted(path.stem for path, n in datasets_of_patient(home, scan_ids | contents, patient).items() if n)
        ),
    )
    inside = {source for source in sources if Path(source).is_relative_to(home.root)}
    return Found(erasure, {source for source in sources - inside if Path(source).exists()}, shared)


def _predicted(home: Home, contents: set[str]) -> set[str]:
    """Return scans of batches that hold the very voxels of the patient, under whatever name they were found."""
    from medml.store.ledger import Ledger

    ledger = Ledger(open_catalogue(home))
    rows = (row for batch in ledger.batches() for row in ledger.rows(batch.batch_id))
    return {row.scan_id for row in rows if row.input_digest in contents and row.scan_id}


def _unnamed(crosswalk: Crosswalk, patient: str, home: Home) -> set[str]:
    """Return scans of a patient that an earlier release stored for a batch, known by the headers of their files."""
    pseudonyms = open_pseudonyms(home)
    return {
        scan_id
        for scan_id, owner, locator in crosswalk.locators()
        if not owner and locator.get("kind") == "dicom" and _patient_in(locator, pseudonyms) == patient
    }


def _patient_in(locator: dict[str, Any], pseudonyms: Pseudonyms) -> str:
    from medml.catalogue.series import patient_of
    from medml.io.dicom import read_header

    for path in map(Path, locator.get("files", ())):
        header = read_header(path) if path.is_file() else None
        if header is not None:
            return pseudonyms.patient(*patient_of(header))
    return ""


def _sources(crosswalk: Crosswalk, scan_ids: set[str]) -> tuple[set[str], set[str], set[str], set[str]]:
    """Return a patient's own source files, UIDs of studies and series, files shared with others, and own places.

    A place is a folder that holds nobody else's files, else a file: what a text says when it speaks of the patient.
    """
    from medml.store.crosswalk import paths_in

    mine: set[str] = set()
    others: set[str] = set()
    uids: set[str] = set()
    for scan_id, _, locator in crosswalk.locators():
        if scan_id.startswith("annotation-"):
            continue
        paths = set(paths_in(locator))
        if scan_id not in scan_ids:
            others |= paths
            continue
        mine |= paths
        uids |= {str(locator[key]) for key in ("study_uid", "series_uid") if locator.get(key)}
    used = {os.path.dirname(path) for path in others}
    folders = {path: os.path.dirname(path) for path in mine - others}
    places = {path if folder in used else f"{folder}/" for path, folder in folders.items()}
    return mine - others, uids, mine & others, places


def _dicom_issuers(home: Home) -> set[str]:
    """Return the issuers that the headers of known sources name, one file for each study."""
    from medml.io.dicom import read_header

    first: dict[str, Path] = {}
    for _, _, locator in open_crosswalk(home).locators():
        if locator.get("kind") == "dicom" and locator.get("files"):
            first.setdefault(str(locator.get("study_uid", "")), Path(locator["files"][0]))
    headers = (read_header(path) for path in first.values() if path.is_file())
    return {header.issuer for header in headers if header is not None}


def _joined(found: Found, begun: Found | None) -> Found:
    """Add what an interrupted erasure knew, for its rows may be gone already."""
    if begun is None:
        return found
    now, before = found.erasure, begun.erasure
    both = {
        key: tuple(sorted({*getattr(before, key), *getattr(now, key)}))
        for key in ("scan_ids", "names", "sources", "outputs", "datasets")
    }
    return Found(before.model_copy(update=both), found.outside, found.shared)


def _count(home: Home, found: Found) -> tuple[dict[str, int], list[Path]]:
    return Erasing(home, found.erasure).count(), []


def _erase(home: Home, found: Found) -> tuple[dict[str, int], list[Path]]:
    """Do it; the note goes only when nothing mentions the patient any more."""
    from medml.io.files import write_record
    from medml.io.mentions import remove
    from pipelines.audit import record

    erasure = found.erasure
    note = home.erasures / f"{erasure.erasure_id}.json"
    note.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_record(note, erasure, mode=0o600)
    day = datetime.now(UTC).date().isoformat()
    erasing = Erasing(home, erasure)
    counts = erasing.count()
    erasing.do(f"Data of a patient that this used were erased on request on {day}.")
    left = traces(home, erasing.mentions, skip=note)
    if not left:
        remove(note)
    record(home, "forget", {"erasure": erasure.erasure_id, **counts}, outcome="failed" if left else "done")
    return counts, left


def _notes(wanted: Iterable[Found], do: bool) -> list[str]:
    outside = sum(len(found.outside) for found in wanted)
    shared = sum(len(found.shared) for found in wanted)
    notes = [] if do else ["nothing was changed; add --yes to erase"]
    if outside:
        notes.append(
            f"{outside} source files lie outside of the home and are not touched: remove them where they are, "
            "or the next ingest brings the patient back"
        )
    if shared:
        notes.append(f"{shared} source files hold other patients too and are not touched")
    notes.append("backups, exports and copies that were made elsewhere are not reached: see docs/housekeeping.md")
    return notes
