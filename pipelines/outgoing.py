"""Which DICOM objects of a batch may go to a PACS, by its ledger and by what people decided."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from medml.records.batch import LedgerRow
from medml.records.review import Decision, result_digest


@dataclass(slots=True)
class Outgoing:
    """Objects that may go, path relative to the batch's folder to sha256, and how many scans are held back and why."""

    wanted: dict[str, str] = field(default_factory=dict)
    waiting: int = 0
    rejected: int = 0


def outgoing(folder: Path, sent: Mapping[str, str], *, unreviewed: bool = False) -> Outgoing:
    """Read ``ledger.json`` and ``reviews.json`` of a batch.

    An accepted result goes with its verified report; in place of a replaced one the correction goes; of a rejected one
    nothing goes, unless the result is there already: then the report that withdraws it follows.

    Parameters
    ----------
    sent : mapping
        What the PACS has acknowledged before.
    unreviewed : bool
        Whether results that wait for a person go as well.
    """
    decisions = _decisions(folder)
    result = Outgoing()
    for row in _rows(folder):
        objects = _dicom(row.outputs)
        decision = decisions.get(row.scan_id)
        if decision is not None and decision.result == result_digest(row):
            _decided(result, decision, objects, sent)
        elif row.status == "done" or (row.status == "needs_review" and unreviewed):
            result.wanted |= objects
        elif row.status == "needs_review" and objects:
            result.waiting += 1
    return result


def _decided(result: Outgoing, decision: Decision, objects: dict[str, str], sent: Mapping[str, str]) -> None:
    if decision.verdict == "accepted":
        result.wanted |= objects
    if decision.verdict != "rejected" or sent.keys() & objects.keys():
        result.wanted |= _dicom(decision.outputs)
    else:
        result.rejected += 1


def _rows(folder: Path) -> list[LedgerRow]:
    text = (folder / "ledger.json").read_text(encoding="utf-8")
    return [LedgerRow.model_validate(row) for row in json.loads(text)]


def _decisions(folder: Path) -> dict[str, Decision]:
    path = folder / "reviews.json"
    if not path.exists():
        return {}
    found = [Decision.model_validate(item) for item in json.loads(path.read_text(encoding="utf-8"))]
    return {decision.scan_id: decision for decision in found}


def _dicom(outputs: Mapping[str, str]) -> dict[str, str]:
    return {name: digest for name, digest in outputs.items() if name.endswith(".dcm")}
