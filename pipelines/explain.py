"""Flow: why a model says what it says about one scan."""

from __future__ import annotations

from pathlib import Path

from prefect import flow

from medml.records.scan import Outcome, Volume
from pipelines.audit import AUDITED
from pipelines.requests import read_request
from pipelines.stores import open_pseudonyms
from pipelines.tasks import current_home, device_slot, step
from pipelines.verb import VerbResult


@flow(name="explain", flow_run_name="explain {model}", persist_result=False, **AUDITED)
def explain(model: str, request: str, device: str = "auto") -> VerbResult:
    """Map what mattered for one scan, check the maps, and show the layers.

    Parameters
    ----------
    model : str
        ``name``, ``name@alias`` or ``name/version``; the champion if nothing else is said.
    request : str
        A request id; its file holds the scan, the class and the methods.
    device : str
        "auto", "cpu", "cuda" or "cuda:0".
    """
    return explain_one(model, request, device)


@step("explain scan")
def explain_one(model: str, request: str, device: str) -> VerbResult:
    """Read the scan, draw the maps and write the page."""
    from medml.explain.page import explain_scan
    from medml.networks.predictor import Predictor
    from medml.registry import models
    from medml.registry.tracking import Tracker

    home = current_home()
    asked = read_request(home, request)
    version = models.resolve(Tracker.of(home), model)
    predictor = Predictor(version.package_path, device=device)
    name, volume = _scan(asked["scan"])
    label = f"{version.name}/{version.version}"
    folder = Path(asked["output"]) if asked["output"] else home.reports / f"explain-{version.name}-{name}"
    with device_slot(str(predictor.device)):
        page, checks = explain_scan(
            folder,
            predictor,
            volume,
            name=name,
            model=label,
            target=asked["target"],
            methods=asked["methods"],
        )
    return VerbResult(
        verb="explain",
        ok=True,
        outputs={"explanation": str(page)},
        model=label,
        summary={method: "believable" if found.believable else "not believable" for method, found in checks.items()},
    )


def _scan(text: str) -> tuple[str, Volume]:
    """Return the private name and the volume of a scan id of the catalogue, or of the one scan at a path."""
    from medml.catalogue.config import IngestConfig
    from medml.catalogue.walk import find_scans
    from medml.errors import ConfigError, NotFound
    from medml.io.scans import read_image

    path = Path(text)
    if not path.exists():
        try:
            return text, read_image(current_home().scans, text)
        except NotFound:
            raise ConfigError(f"{text}: neither a scan id of this home nor a path; see medml status") from None
    found = list(find_scans(path, IngestConfig()))
    candidates = [item for item in found if not isinstance(item, Outcome)]
    if len(candidates) != 1:
        refused = "; ".join(item.reason for item in found if isinstance(item, Outcome) and item.outcome == "refused")
        raise ConfigError(f"{path}: holds {len(candidates)} scans, expected one; {refused or 'name one of them'}")
    reading = candidates[0].read()
    return open_pseudonyms(current_home()).group(candidates[0].identity), reading.volume
