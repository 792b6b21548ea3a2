"""The worklist of results that a person should look at, and what becomes of a decision.

Nothing here is a Prefect flow: a person's name and reason are neither parameters nor results that a server keeps.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from medml.catalogue import reviewed
from medml.catalogue.archive import Archive
from medml.catalogue.corrections import read_correction
from medml.errors import ConfigError, NotFound, Refusal
from medml.io.files import sha256_file, write_json
from medml.records.batch import Job, LedgerRow
from medml.records.home import Home
from medml.records.labels import Author
from medml.records.plan import Plan
from medml.records.review import Decision, Verdict, result_digest
from medml.records.scan import Reviewed, Scan
from medml.store.catalogue import Catalogue
from medml.store.ledger import Batch, Ledger
from medml.store.reviews import Reviews
from pipelines import audit
from pipelines.review_sources import Found, batch_folder, find_image, parts_of, plan_of
from pipelines.stores import open_catalogue, open_crosswalk, open_pseudonyms

COLLECTION = "reviewed"
LONGEST_REASON = 1000  # characters


@dataclass(frozen=True, slots=True)
class Item:
    """One result on the worklist.

    Attributes
    ----------
    last : Decision or None
        The decision that counts; None while nobody decided.
    """

    batch: Batch
    row: LedgerRow
    last: Decision | None = None

    @property
    def waits(self) -> bool:
        """Whether a person should look and nobody has, at this result."""
        decided = self.last is not None and self.last.result == result_digest(self.row)
        return self.row.status == "needs_review" and not decided


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """What a person looks at.

    Attributes
    ----------
    mask, correction : ndarray of shape (I, J, K) or None
        The model's, and what a person made of it.
    """

    found: Found
    plan: Plan
    mask: np.ndarray | None
    correction: np.ndarray | None = None


class ReviewDesk:
    """Worklist and decisions of one home.

    Parameters
    ----------
    collection : str
        Where scans go that nobody ingested.
    """

    def __init__(self, home: Home, collection: str = COLLECTION) -> None:
        database = open_catalogue(home)
        self.home, self.collection = home, collection
        self.ledger, self.reviews = Ledger(database), Reviews(database)
        self.archive = Archive(home, Catalogue(database), open_crosswalk(home), open_pseudonyms(home))
        self.plan = cache(lambda model: plan_of(home, model))
        self.one_at_a_time = threading.Lock()

    def items(self, *, batch: str = "", everything: bool = False) -> list[Item]:
        """Return the results that wait for a look, most doubtful first; with ``everything`` all that have a result."""
        found = []
        for known in self.ledger.batches():
            if batch and known.batch_id != batch:
                continue
            last = self.reviews.last(known.batch_id)
            rows = (row for row in self.ledger.rows(known.batch_id) if row.status in ("done", "needs_review"))
            found += [Item(known, row, last.get(row.scan_id)) for row in rows]
        return sorted((item for item in found if everything or item.waits), key=_urgency)

    def item(self, batch: str, scan: str) -> Item:
        """Return one result; `NotFound` if there is none."""
        for item in self.items(batch=batch, everything=True) if batch else ():
            if item.row.scan_id == scan:
                return item
        raise NotFound(f"scan {scan} has no result in batch {batch}; medml review --all lists what has")

    def named(self, scan: str, batch: str = "") -> Item:
        """Return the one result whose scan id begins like this.

        Raises
        ------
        NotFound, ConfigError
            If there is none, or there are several.
        """
        found = [item for item in self.items(batch=batch, everything=True) if item.row.scan_id.startswith(scan)]
        if not found or not scan:
            raise NotFound(f"no result of a scan {scan!r}; medml review --all lists those there are")
        if len(found) > 1:
            listed = ", ".join(f"{item.row.scan_id} of {item.batch.batch_id}" for item in found[:4])
            raise ConfigError(f"{len(found)} results are of a scan {scan}…: {listed}; say which, with --batch")
        return found[0]

    def folder(self, item: Item) -> Path:
        """Return the batch's folder."""
        return batch_folder(self.home, item.batch.source_request, item.row)

    def show(self, item: Item) -> Shown:
        """Read image and masks of a result, each proved to be what the ledger says.

        Raises
        ------
        Refusal
            If image or mask are gone or changed.
        """
        plan = self.plan(item.row.model)
        found = find_image(self.archive, item.row, item.batch.source_request, len(plan.channels))
        if item.row.mask is None:
            return Shown(found, plan, None)
        out, last = self.folder(item), item.last
        mask = self._stored_mask(out, item.row.mask, item.row.outputs, found, plan)
        corrected = next((name for name in (last.outputs if last else {}) if name.endswith(".nii.gz")), None)
        if last is None or corrected is None:
            return Shown(found, plan, mask)
        return Shown(found, plan, mask, self._stored_mask(out, corrected, last.outputs, found, plan))

    def decide(
        self,
        item: Item,
        verdict: Verdict,
        *,
        person: str,
        reason: str = "",
        seen: int | None = None,
        mask: Path | None = None,
        classes: Sequence[str] = (),
    ) -> tuple[Decision, tuple[str, ...]]:
        """Store a decision and what follows from it: status in the DICOM report, annotation for the next dataset.

        Parameters
        ----------
        seen : int
            How many decisions the person knew of; None does not ask.
        mask : Path
            The corrected mask: NIfTI or DICOM SEG.
        classes : sequence of str
            The corrected classes of a classifier's result.

        Returns
        -------
        decision : Decision
        notes : tuple of str
            What could not be done, and why.

        Raises
        ------
        ConfigError
            If person or reason lack, or somebody else decided in between.
        Refusal
            If the correction does not fit the scan.
        """
        _check(verdict, person, reason, mask, classes)
        with self.one_at_a_time:
            before = self.reviews.of(item.batch.batch_id, item.row.scan_id)
            if seen is not None and seen != len(before):
                raise ConfigError(
                    f"scan {item.row.scan_id}: somebody else decided on it in between ({len(before)} decisions, "
                    f"{seen} were shown); look at it again"
                )
            work = _Work(self, item, verdict, person.strip(), reason.strip(), before)
            decision = work.done(mask, tuple(classes))
            self.reviews.add(decision)
        told = {"scan": item.row.scan_id, "batch": item.batch.batch_id, "number": decision.number}
        audit.record(self.home, f"review {verdict}", told)
        self._export(item)
        return decision, tuple(work.notes)

    def _stored_mask(self, out: Path, name: str, digests: dict[str, str], found: Found, plan: Plan) -> np.ndarray:
        path = out / name
        if not path.is_file() or sha256_file(path) != digests[name]:
            raise Refusal("mask_changed", f"{name} is gone or is not what was written; predict on the scan again")
        return read_correction(path, found.reading, plan.labels, first_locator(found))

    def _export(self, item: Item) -> None:
        """Write what counts of a batch beside its ledger, for whoever reads the folder."""
        last = self.reviews.last(item.batch.batch_id)
        values = [decision.model_dump(mode="json") for _, decision in sorted(last.items())]
        write_json(self.folder(item) / "reviews.json", values, 0o600)


class _Work:
    """One decision being carried out: files first, then the annotation; the row comes last."""

    def __init__(
        self, desk: ReviewDesk, item: Item, verdict: Verdict, person: str, reason: str, before: list[Decision]
    ) -> None:
        self.desk, self.item, self.row = desk, item, item.row
        self.verdict, self.person, self.reason = verdict, person, reason
        self.plan = desk.plan(item.row.model)
        self.out = desk.folder(item)
        self.decided = datetime.now(UTC).replace(microsecond=0)
        self.notes: list[str] = []
        self.signed = self._signed(before)

    def done(self, mask: Path | None, classes: tuple[str, ...]) -> Decision:
        correction = ""
        if self.verdict == "rejected":
            outputs = self._status(rejected_because=self.reason)
            self._withdraw()
        elif self.verdict == "accepted":
            outputs = self._status()
            self._remember_accepted()
        elif mask is not None:
            outputs, correction = self._replace_mask(mask)
        else:
            values = self._values(classes)
            said = f"corrected to {', '.join(classes)}{f': {self.reason}' if self.reason else ''}"
            outputs = self._status(rejected_because=said)
            scan = self._scan(find_image_of(self))
            reviewed.keep_classes(self.desk.archive, scan, values, self._terms(), self._review())
        return Decision(
            batch_id=self.item.batch.batch_id,
            scan_id=self.row.scan_id,
            number=self.signed.number,
            verdict=self.verdict,
            reason=self.reason,
            person=self.person,
            decided=self.decided.isoformat(),
            model=self.row.model,
            model_digest=self.row.model_digest,
            status_before=self.row.status,
            result=result_digest(self.row),
            correction=correction,
            classes=classes,
            outputs=outputs,
        )

    def _signed(self, before: list[Decision]) -> Any:
        from medml.results.reviewed import Signed

        report = next((self.out / name for name in self.row.outputs if name.endswith(".sr.dcm")), None)
        newer = [self.out / name for decision in before for name in decision.outputs if name.endswith(".sr.dcm")]
        newest = next((path for path in reversed(newer) if path.is_file()), report)
        return Signed(
            scan_id=self.row.scan_id,
            number=len(before) + 1,
            person=self.person,
            decided=self.decided,
            name_uid=self.desk.archive.pseudonyms.uid,
            report=report,
            newest=newest if newest is not None and newest.is_file() else None,
        )

    def _status(self, *, rejected_because: str = "") -> dict[str, str]:
        from medml.results.reviewed import write_decision

        return write_decision(self.out, self.signed, rejected_because=rejected_because)

    def _remember_accepted(self) -> None:
        """Make an annotation of what was accepted; an image that is gone takes nothing from the decision."""
        try:
            shown = self.desk.show(self.item)
            scan = self._scan(shown.found)
        except Refusal as refusal:
            self.notes.append(f"no annotation for the next dataset: {refusal}")
            return
        if shown.mask is not None:
            reviewed.keep_mask(self.desk.archive, scan, shown.mask, self._terms(), self._review())
            return
        said = str(self.row.result.get("predicted") or "")
        values = self._values(tuple(name for name in said.split("; ") if name))
        reviewed.keep_classes(self.desk.archive, scan, values, self._terms(), self._review())

    def _replace_mask(self, path: Path) -> tuple[dict[str, str], str]:
        from medml.io.files import mask_digest
        from medml.results.reviewed import write_corrected

        if self.plan.task != "segment":
            raise ConfigError(f"scan {self.row.scan_id}: its model names classes; say the right ones instead of a mask")
        found = find_image_of(self)
        mask = read_correction(path, found.reading, self.plan.labels, first_locator(found))
        scan = self._scan(found)
        job = Job(self.row.scan_id, self.row.source, found.reading, self.row.input_digest, found.locator)
        name, _, version = self.row.model.partition("/")
        author = Author(name=name, version=version, digest=self.row.model_digest)
        outputs, lacking = write_corrected(self.out, self.signed, job, mask, self.plan, author)
        self.notes += [lacking] if lacking else []
        reviewed.keep_mask(self.desk.archive, scan, mask, self._terms(), self._review())
        return outputs, mask_digest(mask)

    def _scan(self, found: Found) -> Scan:
        """Return the catalogue's scan, entered now if nobody ingested it."""
        if found.scan is not None:
            return found.scan
        archive, request = self.desk.archive, self.item.batch.source_request
        parts = parts_of(archive, self.row, request, len(self.plan.channels))
        return reviewed.keep_scans(archive, parts, self.desk.collection)[0]

    def _withdraw(self) -> None:
        """Take back what an earlier decision made of this scan."""
        from medml.catalogue.reviewed import review_origin, withdraw_review

        archive = self.desk.archive
        origin = review_origin(self.row.model)
        known = archive.catalogue.by_id([self.row.scan_id]) or archive.catalogue.by_content([self.row.input_digest])
        for scan in known:
            mine = [a for a in archive.catalogue.annotations([scan.scan_id]) if a.origin == origin and a.review]
            if any(a.review is not None and a.review.base == result_digest(self.row) for a in mine):
                withdraw_review(archive, scan, self.row.model)

    def _values(self, classes: tuple[str, ...]) -> list[int]:
        values = {name: value for value, name in self.plan.labels.items()}
        if self.plan.task != "classify" or any(name not in values for name in classes):
            listed = ", ".join(self.plan.labels[value] for value in sorted(self.plan.labels))
            raise ConfigError(f"classes {', '.join(classes) or 'none'}: the model knows {listed}")
        if not self.plan.multi_label and len(classes) != 1:
            raise ConfigError(f"classes {', '.join(classes)}: expected exactly one")
        return sorted(values[name] for name in classes)

    def _terms(self) -> reviewed.Terms:
        return reviewed.Terms(self.plan.labels, self.plan.meanings, self.plan.multi_label)

    def _review(self) -> Reviewed:
        return Reviewed(
            verdict="accepted" if self.verdict == "accepted" else "replaced",
            reviewer=self.desk.archive.pseudonyms.group(f"reviewer {self.person}").replace("g-", "r-"),
            decided=self.decided.isoformat(),
            model=self.row.model,
            model_digest=self.row.model_digest,
            base=result_digest(self.row),
        )


def find_image_of(work: _Work) -> Found:
    """Return the image that a decision is about."""
    return find_image(work.desk.archive, work.row, work.item.batch.source_request, len(work.plan.channels))


def first_locator(found: Found) -> Any:
    """Return where the first channel came from, on whose grid the result lies."""
    parts = found.locator.get("channels")
    return parts[0] if parts else found.locator


def _check(verdict: Verdict, person: str, reason: str, mask: Path | None, classes: Sequence[str]) -> None:
    if not person.strip():
        raise ConfigError("nobody is named as the person who decides; say who, with --by")
    if verdict == "rejected" and not reason.strip():
        raise ConfigError("the reason is empty; say why the result is rejected")
    if len(reason) > LONGEST_REASON:
        raise ConfigError(f"the reason has {len(reason)} characters, expected at most {LONGEST_REASON}")
    if verdict == "replaced" and (mask is None) == (not classes):
        raise ConfigError("nothing to replace the result by; give a corrected mask, or the right classes")


def _urgency(item: Item) -> tuple[bool, int, float, float, str]:
    result = item.row.result
    doubts = len(str(result.get("review_codes") or "").split())
    return (
        not item.waits,
        -doubts,
        -_number(result.get("ood_score")),
        -_number(result.get("uncertainty")),
        item.row.scan_id,
    )


def _number(value: str | int | float | None) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
