"""Flow: a frozen dataset as a folder for other tools."""

from __future__ import annotations

from pathlib import Path

from prefect import flow

from medml.errors import ConfigError
from pipelines.audit import AUDITED
from pipelines.progress import progress_bar
from pipelines.requests import read_request
from pipelines.tasks import current_home, step
from pipelines.verb import VerbResult


@flow(name="export", flow_run_name="export {dataset} as {layout}", persist_result=False, **AUDITED)
def export(dataset: str, layout: str, request: str) -> VerbResult:
    """Write a frozen dataset as an nnU-Net, MSD or BIDS folder.

    Parameters
    ----------
    dataset : str
        NAME, or NAME@digest for an older version.
    layout : str
        nnunet, msd or bids.
    request : str
        A request id that holds where to. Never a path: Prefect stores what is given here.
    """
    return export_dataset(dataset, layout, request)


@step("export dataset")
def export_dataset(name: str, layout: str, request: str) -> VerbResult:
    """One call into `medml.datasets.export`."""
    from medml.datasets.erasure import refuse_erased
    from medml.datasets.export import LAYOUTS
    from medml.datasets.export import export_dataset as write
    from medml.datasets.freeze import load

    if layout not in LAYOUTS:
        raise ConfigError(f"layout {layout}: expected one of {', '.join(LAYOUTS)}")
    home = current_home()
    out = Path(read_request(home, request)["output"])
    stem, _, digest = name.partition("@")
    dataset = load(home, stem, digest or None)
    refuse_erased(home, dataset, "exported")
    with progress_bar("export") as bar:
        written = write(dataset, home, out, layout, on_case=bar.counter(len(dataset.cases)))  # type: ignore[arg-type]
    notes = []
    if written.resampled:
        notes.append(f"{written.resampled} channels had another grid than their case's first and were resampled")
    if any(not text for text in dataset.licences.values()):
        notes.append("a licence is not stated for every collection: make sure that the data may be passed on")
    return VerbResult(
        verb="export",
        ok=True,
        counts={"cases": written.cases, "files": written.files, "test": len(dataset.test)},
        outputs={"folder": str(out)},
        summary={"dataset": dataset.name, "digest": dataset.digest, "layout": layout},
        notes=tuple(notes),
    )
