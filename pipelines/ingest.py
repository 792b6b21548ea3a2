"""Flow: scans into the catalogue."""

from __future__ import annotations

from pathlib import Path

from prefect import flow

from pipelines.progress import progress_bar
from pipelines.requests import resolve_source
from pipelines.stores import open_catalogue, open_crosswalk, open_pseudonyms
from pipelines.tasks import current_home, step
from pipelines.verb import VerbResult


@flow(name="ingest", flow_run_name="ingest {source}", persist_result=False)
def ingest(source: str, collection: str | None = None) -> VerbResult:
    """Read DICOM, NIfTI, MSD, nnU-Net, CSV, MedMNIST or pictures; check, de-identify, store, catalogue.

    Parameters
    ----------
    source : str
        An alias of ``configs/sources.yaml`` or a request id. Never a path: Prefect stores what is given here.
    collection : str, optional
        Name of the collection; default: the source's own name.
    """
    return ingest_scans(source, collection)


@step("ingest scans")
def ingest_scans(source: str, collection: str | None) -> VerbResult:
    """One call into `medml.catalogue.ingest`; the report is written for the operator (0600)."""
    from medml.catalogue.ingest import IngestConfig
    from medml.catalogue.ingest import ingest as run_ingest
    from medml.catalogue.report import report_path, summary_lines
    from medml.config import validate
    from medml.store.catalogue import Catalogue

    home = current_home()
    request = resolve_source(home, source)
    values = dict(request.get("config", {}))
    if collection:
        values["collection"] = collection
    config = validate(values, IngestConfig, name="ingest configuration")
    with progress_bar("ingest") as bar:
        count = bar.counter()
        report = run_ingest(
            [Path(path) for path in request["sources"]],
            home=home,
            catalogue=Catalogue(open_catalogue(home)),
            crosswalk=open_crosswalk(home),
            pseudonyms=open_pseudonyms(home),
            config=config,
            on_outcome=lambda outcome: count(),
        )
    return VerbResult(
        verb="ingest",
        ok=report.counts.refused == 0,
        counts=report.counts.model_dump(),
        outputs={"report": str(report_path(home, report))},
        summary={"collection": report.collection},
        notes=tuple(summary_lines(report)[3:]),  # the first lines are the counts
    )
