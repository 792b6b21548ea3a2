"""What people decided about results: one decision after another, the last one counts."""

from __future__ import annotations

import hashlib
import json
from typing import Literal

from medml.records.batch import LedgerRow, Status
from medml.records.record import Record

Verdict = Literal["accepted", "rejected", "replaced"]


class Decision(Record):
    """One person's word on one result. Clinical side: it names the person, and a reason may name anything.

    Attributes
    ----------
    number : int
        1 for the first decision on this scan of this batch.
    person, decided : str
        Who, and when (UTC).
    model, model_digest : str
        Whose result it is.
    status_before : str
        What the ledger said of the row.
    result : str
        Digest of the result that was looked at; when the scan is predicted anew with another result, it waits again.
    correction : str
        Content digest of a corrected mask; empty otherwise.
    classes : tuple of str
        Corrected classes of a classifier's result.
    outputs : dict
        Path relative to OUT to sha256, of every file written for the decision.
    """

    batch_id: str
    scan_id: str
    number: int
    verdict: Verdict
    reason: str = ""
    person: str
    decided: str
    model: str = ""
    model_digest: str = ""
    status_before: Status
    result: str
    correction: str = ""
    classes: tuple[str, ...] = ()
    outputs: dict[str, str] = {}


def result_digest(row: LedgerRow) -> str:
    """Return what names a row's result: the sha256 of its mask file, or of what a classifier said."""
    if row.mask is not None and row.mask in row.outputs:
        return row.outputs[row.mask]
    said = {key: value for key, value in row.result.items() if key != "seconds"}
    return hashlib.sha256(json.dumps([row.input_digest, row.model_digest, said], sort_keys=True).encode()).hexdigest()
