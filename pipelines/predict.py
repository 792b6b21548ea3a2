"""Flow: a registered model over many scans."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from prefect import flow

from medml.records.batch import BatchMeta, Job, LedgerRow, Prediction, Written
from medml.records.candidate import Candidate
from medml.records.home import Home
from medml.records.scan import Outcome
from pipelines.progress import progress_bar
from pipelines.requests import resolve_source
from pipelines.stores import open_catalogue, open_crosswalk, open_pseudonyms
from pipelines.tasks import batch_lease, current_home, device_slot, step
from pipelines.verb import VerbResult

if TYPE_CHECKING:
    from medml.networks.predictor import Predictor
    from medml.registry.models import ModelVersion


@flow(name="predict", flow_run_name="predict {model} on {source}", persist_result=False)
def predict(
    model: str,
    source: str,
    output: str | None = None,
    device: str = "auto",
    dicom: Literal["binary", "labelmap", "none"] = "binary",
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
        "auto", "cpu", "cuda" or "cuda:0".
    dicom : str
        Which DICOM SEG a DICOM source gets, besides the structured report; "none": neither.
    """
    return predict_scans(model, source, output, device, dicom)


@step("predict scans")
def predict_scans(model: str, source: str, output: str | None, device: str, dicom: str = "binary") -> VerbResult:
    """Resolve the model, run the batch under a lease, write tables, ledger and report."""
    from medml.networks.predictor import Predictor
    from medml.registry import models
    from medml.registry.tracking import Tracker
    from medml.store.ledger import Ledger

    home = current_home()
    request = resolve_source(home, source)
    version = models.resolve(Tracker.of(home), model)
    predictor = Predictor(version.package_path, device=device)
    batch_id, out = _place(home, version, request, output)
    ledger = Ledger(open_catalogue(home))
    ledger.open_batch(batch_id, f"{version.name}/{version.version}", predictor.package.digest, source)
    meta = BatchMeta(
        model=version.name,
        version=version.version,
        digest=predictor.package.digest,
        task=predictor.plan.task,
        labels=predictor.plan.labels,
        batch_id=batch_id,
        started=_now(),
    )
    with batch_lease(batch_id) as lease, device_slot(str(predictor.device)):
        ledger.requeue(batch_id)
        counts = _run(home, [Path(path) for path in request["sources"]], out, predictor, meta, ledger, lease, dicom)
    return _finish(out, meta, ledger.rows(batch_id), counts)


def _run(
    home: Home,
    sources: list[Path],
    out: Path,
    predictor: Predictor,
    meta: BatchMeta,
    ledger: Any,
    lease: Any,
    dicom: str,
) -> Counter[str]:
    """Hand the stages to each other and let the batch run."""
    from medml.inference.batch import finished, run_batch
    from medml.inference.channels import join_channels
    from medml.records.labels import Author
    from medml.results.dicom_objects import DicomResults
    from medml.results.outputs import write_outputs

    threshold = predictor.package.calibration.threshold
    ignored: Counter[str] = Counter()
    author = Author(name=meta.model, version=meta.version, digest=meta.digest)
    name_uid = open_pseudonyms(home).uid
    objects = None if dicom == "none" else DicomResults(author, name_uid, dicom)  # type: ignore[arg-type]

    def write(job: Job, prediction: Prediction) -> Written:
        return write_outputs(out, job, prediction, predictor.plan, threshold=threshold, dicom=objects)

    with progress_bar("predicting") as bar:
        count = bar.counter()
        counts = run_batch(
            join_channels(_found(sources, ignored), len(predictor.plan.channels)),
            done=finished(ledger.rows(meta.batch_id), out, meta.digest),
            read=_reader(home),
            predict=lambda job: predictor.predict(job.reading.volume),
            write=write,
            record=lambda row: ledger.record(meta.batch_id, row, lease=lease),
            on_row=lambda row: count(),
            model=f"{meta.model}/{meta.version}",
            model_digest=meta.digest,
        )
    return Counter(counts) + ignored


def _found(sources: list[Path], ignored: Counter[str]) -> Iterator[Candidate | Outcome]:
    """Yield what the walk finds; count what is no scan."""
    from medml.catalogue.ingest import IngestConfig, find_scans

    for source in sources:
        for item in find_scans(source, IngestConfig()):
            if isinstance(item, Outcome) and item.outcome == "ignored":
                ignored["ignored"] += item.files
            yield item


def _reader(home: Home) -> Any:
    """Return the function that reads a candidate, names its scan and notes its origin in the private crosswalk."""
    from medml.io.files import content_digest
    from medml.store.crosswalk import Origin

    pseudonyms, crosswalk = open_pseudonyms(home), open_crosswalk(home)

    def read(candidate: Candidate) -> Job:
        reading = candidate.read()
        digest = content_digest(reading.volume)
        scan_id = pseudonyms.scan_id(candidate.identity, digest)
        crosswalk.put([Origin(scan_id=scan_id, stamp=candidate.stamp, locator=candidate.locator)])
        return Job(
            scan_id=scan_id,
            source=candidate.source,
            reading=reading,
            input_digest=digest,
            locator=candidate.locator,
        )

    return read


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


def _finish(out: Path, meta: BatchMeta, rows: list[LedgerRow], counts: Counter[str]) -> VerbResult:
    from medml.results.report import write_batch_report
    from medml.results.tables import write_ledger, write_results

    meta = meta.model_copy(update={"finished": _now(), "ignored": counts["ignored"]})
    write_ledger(out, rows)
    results = write_results(out, rows, meta)
    report = write_batch_report(out, rows, meta)
    shown = {key: value for key, value in counts.items() if value}
    return VerbResult(
        verb="predict",
        ok=not counts["failed"] and not counts["refused"],
        counts=shown or {"scans": 0},
        outputs={"results": str(results), "report": str(report), "ledger": str(out / "ledger.json")},
        model=f"{meta.model}/{meta.version}",
        notes=_notes(rows),
    )


def _notes(rows: list[LedgerRow]) -> tuple[str, ...]:
    """Name by reason what was not done; the ledger has each scan."""
    reasons = Counter(f"{row.status}: {row.code}" for row in rows if row.status in ("failed", "refused"))
    return tuple(f"{count} {reason}; see ledger.json" for reason, count in reasons.most_common(5))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
