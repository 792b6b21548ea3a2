"""Flow: DICOM files to de-identified DICOM files."""

from __future__ import annotations

from pathlib import Path

from prefect import flow

from pipelines.audit import AUDITED
from pipelines.progress import progress_bar
from pipelines.requests import resolve_source
from pipelines.stores import open_pseudonyms
from pipelines.tasks import current_home, step
from pipelines.verb import VerbResult


@flow(name="deidentify", flow_run_name="deidentify {source}", persist_result=False, **AUDITED)
def deidentify(source: str) -> VerbResult:
    """De-identify DICOM files by PS3.15 Annex E; what may show a name in its pixels waits for a person.

    Parameters
    ----------
    source : str
        A request id. Never a path: Prefect stores what is given here.
    """
    return deidentify_files(source)


@step("deidentify files")
def deidentify_files(source: str) -> VerbResult:
    """One call into `medml.catalogue.deidentify`; audit and report are the operator's (0600)."""
    from medml.catalogue.deidentify import DeidentifyConfig, report_path
    from medml.catalogue.deidentify import deidentify as run
    from medml.config import validate
    from medml.errors import ConfigError

    home = current_home()
    request = resolve_source(home, source)
    if "output" not in request:
        raise ConfigError(f"source {source!r} says nothing about the output; start with: medml deidentify SRC -o OUT")
    with progress_bar("deidentify") as bar:
        count = bar.counter()
        report = run(
            Path(request["sources"][0]),
            Path(request["output"]),
            home,
            open_pseudonyms(home),
            validate(request.get("config", {}), DeidentifyConfig, name="de-identification"),
            on_outcome=lambda outcome: count(),
        )
    counts = report.counts
    reasons = [outcome for outcome in report.outcomes if outcome.outcome == "refused"]
    notes = list(dict.fromkeys(f"{outcome.source}: {outcome.reason} ({outcome.code})" for outcome in reasons))
    more = [f"… and {len(notes) - 10} more in the report"] if len(notes) > 10 else []
    return VerbResult(
        verb="deidentify",
        ok=not counts.refused and not counts.held,
        counts=counts.model_dump(),
        outputs={
            "files": request["output"],
            "report": str(report_path(home, report)),
            "audit": report.audit,
        },
        summary={"edition": f"PS3.15 {report.edition}", "options": ", ".join(report.options) or "none"},
        notes=(*notes[:10], *more),
    )
