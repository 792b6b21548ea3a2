"""Flow: scans into the catalogue."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from prefect import flow

from medml.errors import ConfigError
from pipelines.artifacts import told
from pipelines.audit import AUDITED
from pipelines.progress import progress_bar
from pipelines.requests import resolve_source
from pipelines.stores import open_catalogue, open_crosswalk, open_pseudonyms
from pipelines.tasks import current_home, guarded, step
from pipelines.verb import VerbResult


@flow(name="ingest", flow_run_name="ingest {source}", persist_result=False, **AUDITED)
def ingest(source: str, collection: str | None = None) -> VerbResult:
    """Read DICOM, NIfTI, MSD, nnU-Net, CSV, MedMNIST or pictures; check, de-identify, store, catalogue.

    Parameters
    ----------
    source : str
        An alias of ``configs/sources.yaml`` or a request id. Never a path: Prefect stores what is given here.
    collection : str, optional
        Name of the collection; default: the source's own name.
    """
    runner = shard_runner(source)
    if runner is None:
        return told(ingest_scans(source, collection))
    return told(ingest_shards.with_options(task_runner=runner)(source, collection))


@step("ingest scans")
def ingest_scans(source: str, collection: str | None) -> VerbResult:
    """One call into `medml.catalogue.ingest`; the report is written for the operator (0600)."""
    return _ingest(source, collection)


@flow(name="ingest shards", flow_run_name="ingest shards of {source}", persist_result=False, **AUDITED)
def ingest_shards(source: str, collection: str | None = None) -> VerbResult:
    """The same with the scans read in shards, a task each, wherever the flow's runner has them run."""

    def submit(shard: str) -> Callable[[], object]:
        future: Any = cast(Any, read_shard).submit(shard)
        return cast(Callable[[], object], future.result)

    return guarded(_ingest)(source, collection, submit)


@step("read shard")
def read_shard(shard: str) -> None:
    """Read the candidates of one shard; its name is opaque, its content a 0600 file of the home."""
    from medml.catalogue import shards

    home = current_home()
    shards.read_shard(home, shard, open_pseudonyms(home))


@guarded
def shard_runner(source: str) -> Any:
    """Return the task runner that the request asks for; None to read on this machine.

    Raises
    ------
    ConfigError
        If its package is not installed.
    """
    config = resolve_source(current_home(), source).get("config", {})
    if config.get("runner", "local") == "local":
        return None
    try:
        from prefect_dask.task_runners import DaskTaskRunner
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"runner: dask needs the package {error.name}, which is not installed: pip install 'medml[dask]'"
        ) from None
    if config.get("dask_address"):
        return DaskTaskRunner(address=config["dask_address"])
    workers = int(config.get("workers") or 2)
    return DaskTaskRunner(
        cluster_kwargs={"n_workers": workers, "threads_per_worker": 1, "dashboard_address": None, "host": "127.0.0.1"}
    )


def _ingest(
    source: str, collection: str | None, submit: Callable[[str], Callable[[], object]] | None = None
) -> VerbResult:
    from medml.catalogue.config import IngestConfig
    from medml.catalogue.ingest import ingest as run_ingest
    from medml.catalogue.report import page_path, report_path, summary_lines
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
            submit=submit,
        )
    return VerbResult(
        verb="ingest",
        ok=report.counts.refused == 0,
        counts=report.counts.model_dump(),
        outputs={"report": str(report_path(home, report)), "page": str(page_path(home, report))},
        summary={"collection": report.collection, "findings": report.findings, "reasons": report.codes},
        notes=tuple(summary_lines(report)[3:]),  # the first lines are the counts
    )
