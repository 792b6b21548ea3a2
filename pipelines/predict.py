"""Flow: a registered model over many scans."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from prefect import flow

from medml.records.batch import BatchMeta, LedgerRow
from medml.records.home import Home
from pipelines.artifacts import told
from pipelines.audit import AUDITED
from pipelines.batch_run import Asked, BatchRun, Submit
from pipelines.enlisting import Enlisting
from pipelines.requests import resolve_source
from pipelines.runners import task_runner
from pipelines.stores import open_catalogue, open_pseudonyms
from pipelines.tasks import current_home, guarded, step
from pipelines.verb import VerbResult

if TYPE_CHECKING:
    from medml.registry.models import ModelVersion


@flow(name="predict", flow_run_name="predict {model} on {source}", persist_result=False, **AUDITED)
def predict(
    model: str,
    source: str,
    output: str | None = None,
    device: str = "auto",
    dicom: Literal["binary", "labelmap", "none"] = "binary",
    capture: bool = True,
    review: str = "default",
    selection: str | None = None,
    quiet_seconds: float = 0.0,
    workers: int | None = None,
    runner: Literal["local", "dask"] = "local",
    runner_address: str | None = None,
) -> VerbResult:
    """Run a model over every scan of a source; what was done before is skipped.

    Parameters
    ----------
    model : str
        ``name``, ``name@alias`` or ``name/version``; the champion if nothing else is said.
    source : str
        An alias of ``configs/sources.yaml`` ("inbox" is built in) or a request id. Never a path.
    output : str, optional
        Name of the batch folder below ``batches``; default: a name made from model and source.
    device : str
        "auto", "cpu", "cuda", "cuda:0" or several such as "cuda:0,cuda:1".
    dicom : str
        Which DICOM SEG a DICOM source gets, besides the structured report; "none": neither.
    capture : bool
        Whether it gets pictures with the result drawn in, too.
    review : str
        Name of a YAML in ``configs/review``: which results a person must look at.
    selection : str, optional
        Name of a YAML in ``configs/selection``: which series this model is for; default: all.
    quiet_seconds : float
        What changed more recently than this is left for the next run.
    workers : int, optional
        How many processes share the scans; default: one for each GPU, one on the CPU.
    runner : str
        "local": processes of this machine; "dask": tasks on a cluster whose machines see this home.
    runner_address : str, optional
        The cluster's scheduler; default: one that is started on this machine for as long as the batch runs.
    """
    asked = Asked(
        output=output,
        device=device,
        dicom=dicom,
        capture=capture,
        review=review,
        selection=selection,
        quiet_seconds=quiet_seconds,
        workers=workers,
        runner=runner,
        runner_address=runner_address,
    ).model_dump()
    if runner == "local":
        return told(predict_scans(model, source, **asked))
    chosen = guarded(task_runner)(runner, runner_address, workers)
    return told(predict_shards.with_options(task_runner=chosen)(model, source, asked))


@step("predict scans")
def predict_scans(model: str, source: str, output: str | None = None, device: str = "auto", **more: Any) -> VerbResult:
    """Resolve the model, have the batch done by processes of this machine, write tables, ledger and report."""
    return _predict(model, source, Asked(output=output, device=device, **more))


@flow(name="predict shards", flow_run_name="predict shards of {source}", persist_result=False, **AUDITED)
def predict_shards(model: str, source: str, asked: dict[str, Any]) -> VerbResult:
    """The same with each worker a task, wherever the flow's runner has it run."""

    def submit(listing: str, number: int, device: str) -> Any:
        return cast(Any, work_shard).submit(listing, number, device)

    return guarded(_predict)(model, source, Asked(**asked), submit)


@step("work on scans")
def work_shard(listing: str, number: int, device: str) -> None:
    """Claim scans from the ledger until none is left; the list's name is opaque."""
    from pipelines.worker import work_on

    work_on(current_home(), listing, number, device)


def _predict(model: str, source: str, asked: Asked, submit: Submit | None = None) -> VerbResult:
    from medml.io.files import read_record
    from medml.records.plan import Plan
    from medml.registry import models
    from medml.registry.tracking import Tracker
    from medml.store.ledger import Ledger

    home = current_home()
    request = resolve_source(home, source)
    version = models.resolve(Tracker.of(home), model)
    plan = read_record(version.package_path / "plan.json", Plan)
    batch_id, out = _place(home, version, request, asked.output)
    ledger = Ledger(open_catalogue(home))
    ledger.open_batch(batch_id, f"{version.name}/{version.version}", version.digest, source)
    meta = BatchMeta(
        model=version.name,
        version=version.version,
        digest=version.digest,
        task=plan.task,
        labels=plan.labels,
        batch_id=batch_id,
        started=_now(),
    )
    run = BatchRun(home, ledger, meta, version.package_path, out, source, asked)
    try:
        enlisting = run.work([Path(path) for path in request["sources"]], len(plan.channels), submit)
    finally:
        run.export()
    return _finish(out, run, enlisting)


def _place(home: Home, version: ModelVersion, request: dict[str, Any], output: str | None) -> tuple[str, Path]:
    """Name the batch by where its results go and by its model, so that a rerun finds it."""

    pseudonyms = open_pseudonyms(home)
    if output:
        out = home.batches / pseudonyms.group(output).replace("g-", "batch-")
    elif request.get("output"):
        out = Path(request["output"])
    else:
        where = "\0".join([version.digest, *request["sources"]])
        out = home.batches / pseudonyms.group(where).replace("g-", "batch-")
    batch_id = pseudonyms.group(f"{out}\0{version.digest}").replace("g-", "batch-")
    out.mkdir(parents=True, exist_ok=True)
    return batch_id, out


def _finish(out: Path, run: BatchRun, enlisting: Enlisting) -> VerbResult:
    from medml.results.report import write_batch_report
    from medml.results.tables import write_results

    rows = run.ledger.rows(run.meta.batch_id)
    meta = run.meta.model_copy(update={"finished": _now(), "ignored": enlisting.ignored})
    results = write_results(out, rows, meta)
    report = write_batch_report(out, rows, meta)
    counts = _counts(rows, meta.started, enlisting)
    return VerbResult(
        verb="predict",
        ok=not any(counts.get(status) for status in ("failed", "refused", "queued", "running")),
        counts=counts or {"scans": 0},
        outputs={"results": str(results), "report": str(report), "ledger": str(out / "ledger.json")},
        model=f"{meta.model}/{meta.version}",
        summary={"batch": meta.batch_id},
        notes=_notes(rows),
    )


def _counts(rows: list[LedgerRow], began: str, enlisting: Enlisting) -> dict[str, int]:
    """Count by status what this run did, and beside it what it skipped or passed by.

    ``done`` is every scan with results; those of them that a person should look at are ``needs_review`` too.
    """
    found = Counter(row.status for row in rows if row.status in ("queued", "running") or row.finished >= began)
    skipped = enlisting.listed - found.total()
    found["done"] += found["needs_review"]
    more = {
        "skipped": skipped,
        "waiting": enlisting.waiting,
        "ignored": enlisting.ignored,
    }
    return {name: number for name, number in (*found.most_common(), *more.items()) if number > 0}


def _notes(rows: list[LedgerRow]) -> tuple[str, ...]:
    """Name by reason what was not done, and say what waits for a person; the ledger has each scan."""
    reasons = Counter(f"{row.status}: {row.code}" for row in rows if row.status in ("failed", "refused"))
    notes = [f"{count} {reason}; see ledger.json" for reason, count in reasons.most_common(5)]
    if doubtful := sum(row.status == "needs_review" for row in rows):
        notes.append(f"a person should look at {doubtful} of the results: medml review")
    return tuple(notes)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
