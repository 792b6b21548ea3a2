"""Flow: each model of a selection over what it is for."""

from __future__ import annotations

from typing import Any, Literal

from prefect import flow

from pipelines.artifacts import told
from pipelines.audit import AUDITED
from pipelines.predict import predict_scans
from pipelines.selections import joined, load_selection
from pipelines.verb import VerbResult


@flow(name="predict selection", flow_run_name="predict {selection} on {source}", persist_result=False, **AUDITED)
def predict_selection(
    selection: str,
    source: str,
    device: str = "auto",
    dicom: Literal["binary", "labelmap", "none"] = "binary",
    capture: bool = True,
    review: str = "default",
    quiet_seconds: float = 0.0,
    workers: int | None = None,
) -> VerbResult:
    """Run several models over a source, each over the series that its rule picks; each has a batch of its own.

    Parameters
    ----------
    selection : str
        A YAML of ``configs/selection``.
    source, device, dicom, capture, review, quiet_seconds, workers
        As for `predict`.
    """
    asked: dict[str, Any] = {"dicom": dicom, "capture": capture, "review": review}
    asked |= {"selection": selection, "quiet_seconds": quiet_seconds, "workers": workers}
    models = [choice.model for choice in load_selection(selection).models]
    results = {model: predict_scans(model, source, None, device, **asked) for model in models}
    return told(joined("predict", results))
