"""Flow: what has arrived in the inbox goes into the catalogue and through a model."""

from __future__ import annotations

from prefect import flow

from pipelines.artifacts import told
from pipelines.audit import AUDITED
from pipelines.ingest import ingest
from pipelines.predict import predict
from pipelines.verb import VerbResult


@flow(name="arrive", flow_run_name="arrive {source}", persist_result=False, **AUDITED)
def arrive(
    source: str, model: str, collection: str = "inbox", output: str = "inbox", device: str = "auto"
) -> VerbResult:
    """Ingest a source and run a model over it; what was done before is skipped.

    Parameters
    ----------
    source : str
        A request id, as the trigger of a complete study gives it, or an alias. Never a path.
    model : str
        ``name``, ``name@alias`` or ``name/version``.
    collection : str
        What the scans belong to in the catalogue.
    output : str
        Name of the batch; all arrivals share one, so that a scan sent twice is done once.
    device : str
        "auto", "cpu", "cuda" or "cuda:0".
    """
    taken = ingest(source, collection)
    found = predict(model, source, output, device)
    counts = {f"ingest {key}": value for key, value in taken.counts.items()}
    counts |= {f"predict {key}": value for key, value in found.counts.items()}
    return told(
        VerbResult(
            verb="arrive",
            ok=taken.ok and found.ok,
            counts=counts,
            outputs={**{f"ingest {key}": value for key, value in taken.outputs.items()}, **found.outputs},
            model=found.model,
            notes=(*taken.notes, *found.notes),
        )
    )
