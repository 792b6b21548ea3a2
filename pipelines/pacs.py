"""Flows: images from a PACS to the inbox, results back to it, and both with the models between.

Flows name a PACS, a query and a selection, never a patient: what a query asks lies in ``configs/pacs`` or a request.
"""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from prefect import flow

from medml.errors import ConfigError
from medml.records.home import Home
from pipelines.archives import inbox_of, load_pacs, open_archive, open_landing, read_query
from pipelines.artifacts import told
from pipelines.audit import AUDITED
from pipelines.outgoing import outgoing
from pipelines.predict import predict_scans
from pipelines.progress import progress_bar
from pipelines.requests import read_request, write_request
from pipelines.selections import joined, load_selection
from pipelines.slots import batch_lease, current_home, pacs_slot
from pipelines.tasks import step
from pipelines.verb import VerbResult

if TYPE_CHECKING:
    from medml.io.pacs.pull import Pulled

MOST_REASONS = 5


@flow(name="pacs pull", flow_run_name="pull {query} from {pacs}", persist_result=False, **AUDITED)
def pacs_pull(pacs: str, query: str) -> VerbResult:
    """Fetch series from a PACS into the inbox; what is there is not fetched again.

    Parameters
    ----------
    pacs : str
        A YAML of ``configs/pacs``.
    query : str
        One of its queries, or a request id.
    """
    return told(pull_series(pacs, query))


@flow(name="pacs push", flow_run_name="push {batch} to {pacs}", persist_result=False, **AUDITED)
def pacs_push(pacs: str, batch: str, unreviewed: bool = False) -> VerbResult:
    """Send the DICOM objects of a batch to a PACS; what it acknowledged is not sent again.

    Parameters
    ----------
    pacs : str
        A YAML of ``configs/pacs``.
    batch : str
        Name of the batch's folder below ``batches``, or a request id.
    unreviewed : bool
        Also what waits for a person's review.
    """
    return told(push_results(pacs, batch, unreviewed))


@flow(name="pacs round", flow_run_name="{query} of {pacs}", persist_result=False, **AUDITED)
def pacs_round(
    pacs: str,
    query: str,
    selection: str | None = None,
    model: str | None = None,
    device: str = "auto",
    unreviewed: bool = False,
) -> VerbResult:
    """Pull, predict, push: what was done before is skipped, and what fails at one end does not stop the rest.

    Parameters
    ----------
    pacs, query : str
        See `pacs_pull`.
    selection : str, optional
        A YAML of ``configs/selection``: which models, and at what they look.
    model : str, optional
        In place of a selection: one model, for every series.
    """
    if bool(selection) == bool(model):
        raise ConfigError("expected a selection or a model, one of both; e.g. --selection abdomen_ct")
    parts = {"pull": pull_series(pacs, query)}
    source = write_request(current_home(), "pacs", sources=[str(inbox_of(current_home(), pacs))])
    models = [choice.model for choice in load_selection(selection).models] if selection else [model or ""]
    for name in models:
        found = predict_scans(name, source, f"pacs {pacs} {name}", device, selection=selection)
        parts[f"predict {name}"] = found
        parts[f"push {name}"] = push_results(pacs, Path(found.outputs["ledger"]).parent.name, unreviewed)
    whole = joined("pacs", parts)
    return told(whole)


@step("pull series")
def pull_series(pacs: str, query: str) -> VerbResult:
    """Find and fetch; see `medml.io.pacs.pull.pull`."""
    from medml.io.pacs.pull import pull

    home = current_home()
    config = load_pacs(pacs)
    asked = read_query(home, config, pacs, query).query(datetime.now().date())
    landing, journal = open_landing(home, pacs)
    with batch_lease(f"pacs-{pacs}"), pacs_slot(pacs), progress_bar("pulling") as bar:
        count = bar.counter()
        archive = open_archive(home, config)
        ended = pull(archive, archive.find(asked), landing, journal, lambda pulled: count())
    return _pulled(ended, inbox_of(home, pacs))


@step("push results")
def push_results(pacs: str, batch: str, unreviewed: bool) -> VerbResult:
    """Send what `outgoing` lets go; see `medml.io.pacs.push.push`."""
    from medml.io.pacs.journal import Journal
    from medml.io.pacs.push import push

    home = current_home()
    folder = batch_folder(home, batch)
    journal = Journal(folder / f".sent-{pacs}.jsonl")
    going = outgoing(folder, journal.read(), unreviewed=unreviewed)
    with batch_lease(f"push-{pacs}-{folder.name}"), pacs_slot(pacs), progress_bar("pushing") as bar:
        count = bar.counter()
        pushed = push(open_archive(home, load_pacs(pacs)), folder, going.wanted, journal, lambda: count())
    reasons = Counter(pushed.failed.values())
    counts = {"sent": pushed.sent, "known": pushed.known, "not_sent": len(pushed.failed), "held": going.waiting}
    counts["rejected"] = going.rejected
    notes = [f"{number} not sent: {reason}" for reason, number in reasons.most_common(MOST_REASONS)]
    if going.waiting:
        notes.append(f"the results of {going.waiting} scans wait for review and were not sent; see medml review")
    return VerbResult(verb="pacs", ok=not pushed.failed, counts=_shown(counts, "sent"), notes=tuple(notes))


def batch_folder(home: Home, batch: str) -> Path:
    """Return the folder that a batch's name or a request stands for.

    Raises
    ------
    ConfigError
        If there is none, or the batch has not come to an end yet.
    """
    folder = Path(read_request(home, batch)["batch"]) if batch.startswith("req-") else home.batches / batch
    if not batch.startswith("req-") and (Path(batch).name != batch or not batch.startswith("batch-")):
        raise ConfigError(f"batch {batch!r}: expected the name of a folder in {home.batches}, batch-…")
    if not (folder / "ledger.json").is_file():
        raise ConfigError(f"{folder}: there is no ledger.json; run the batch to its end, then push")
    return folder


def _pulled(ended: list[Pulled], folder: Path) -> VerbResult:
    counts: Counter[str] = Counter()
    for outcome in ended:
        counts[outcome.status] += 1
    reasons = Counter(outcome.reason for outcome in ended if outcome.reason)
    notes = [f"{number} series failed: {reason}" for reason, number in reasons.most_common(MOST_REASONS)]
    if counts["growing"]:
        notes.append(f"{counts['growing']} series were still coming in at the PACS; the next pull goes on")
    images = sum(outcome.images for outcome in ended)
    return VerbResult(
        verb="pacs",
        ok=not counts["failed"],
        counts=_shown({**counts, "images": images}, "images"),
        outputs={"inbox": str(folder)},
        notes=tuple(notes),
    )


def _shown(counts: dict[str, int], always: str) -> dict[str, int]:
    return {key: value for key, value in counts.items() if value or key == always}
