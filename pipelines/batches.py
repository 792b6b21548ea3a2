"""Looks at the batches of inference, by their opaque names."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from medml.errors import ConfigError
from medml.records.home import Home
from pipelines.stores import open_catalogue
from pipelines.verb import VerbResult

if TYPE_CHECKING:
    from medml.store.ledger import Batch
    from pipelines.batch_run import Asked


def list_batches(home: Home) -> VerbResult:
    """Name every batch with its model, how far it is and how its scans ended."""
    from medml.store.ledger import Ledger

    ledger = Ledger(open_catalogue(home))
    batches = ledger.batches()
    rows = [("batch", "model", "begun", "state", "scans")]
    for batch in batches:
        counts = ledger.counts(batch.batch_id)
        told = ", ".join(f"{number} {status}" for status, number in sorted(counts.items()))
        rows.append((batch.batch_id, batch.model, batch.created[:16], ledger.standing(batch.batch_id), told))
    return VerbResult(verb="batch", ok=True, counts={"batches": len(batches)}, table=tuple(rows) if batches else ())


def show_batch(home: Home, batch_id: str) -> VerbResult:
    """Count a batch's scans by how they ended and why; no scan is named, ``ledger.json`` does that."""
    from medml.store.ledger import Ledger

    ledger = Ledger(open_catalogue(home))
    batch = ledger.batch(batch_id)
    reasons: Counter[tuple[str, str]] = Counter()
    for row in ledger.each(batch_id):
        if row.status not in ("done", "queued", "running"):
            reasons[row.status, row.code] += 1
    counts = ledger.counts(batch_id)
    return VerbResult(
        verb="batch",
        ok=not any(counts.get(status) for status in ("failed", "refused", "queued", "running")),
        counts={str(status): number for status, number in counts.items()},
        model=batch.model,
        summary={"state": ledger.standing(batch_id), "begun": batch.created, "changed": batch.updated},
        table=(
            ("status", "why", "scans"),
            *((status, code or "-", str(number)) for (status, code), number in reasons.most_common()),
        )
        if reasons
        else (),
    )


def asked_of(home: Home, batch_id: str) -> tuple[Batch, Asked]:
    """Return a batch and what its last run was asked.

    Raises
    ------
    ConfigError
        If it was made by a release that did not keep that.
    """
    from medml.store.ledger import Ledger
    from pipelines.batch_run import Asked

    batch = Ledger(open_catalogue(home)).batch(batch_id)
    if not batch.options or not batch.source_request:
        raise ConfigError(f"{batch_id} does not say what it was asked; run medml predict with its source and output")
    return batch, Asked.model_validate_json(batch.options)
