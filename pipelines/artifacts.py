"""What a flow run shows on its page in Prefect: counts and figures as a table, links to MLflow; no paths, no notes."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import httpx
from prefect import runtime
from prefect.artifacts import create_link_artifact, create_table_artifact

from medml.records.home import Home
from pipelines.tasks import current_home
from pipelines.verb import VerbResult

logger = logging.getLogger(__name__)


def told(result: VerbResult) -> VerbResult:
    """Show an outcome on the page of the flow run that this is called in, and return it.

    What cannot be shown, because the server is just away, is not worth a failed run: a line in the log says so.
    """
    if not runtime.flow_run.id:
        return result
    key = result.verb.replace(" ", "-").replace("_", "-")
    try:
        create_table_artifact(table_of(result, current_home()), key=f"{key}-outcome", description=_headline(result))
        for name, link in links_of(result):
            create_link_artifact(link, key=f"{key}-{name}", link_text=link)
    except httpx.HTTPError as error:
        logger.warning("the outcome of %s is not shown in Prefect: %s", result.verb, type(error).__name__)
    return result


def table_of(result: VerbResult, home: Home) -> list[dict[str, Any]]:
    """Return counts, plain figures, and results that lie in the home, by their place in it."""
    rows: list[dict[str, Any]] = [{"what": name, "value": value} for name, value in result.counts.items()]
    rows += [
        {"what": name, "value": value}
        for name, value in result.summary.items()
        if isinstance(value, int | float | str) and not (isinstance(value, str) and os.sep in value)
    ]
    for name, path in result.outputs.items():
        if Path(path).is_relative_to(home.root):
            rows.append({"what": name, "value": f"HOME/{Path(path).relative_to(home.root)}"})
    return rows


def links_of(result: VerbResult) -> list[tuple[str, str]]:
    """Return the pages in MLflow that belong to an outcome: its run, its model version."""
    from pipelines.parts import mlflow_page

    links = []
    page = mlflow_page(current_home())
    if run := result.summary.get("mlflow_run"):
        from medml.registry.tracking import Tracker

        links.append(("mlflow-run", f"{page}/{Tracker.of(current_home()).page(str(run))}"))
    if result.model and "/" in result.model:
        name, version = result.model.split("/", 1)
        links.append(("mlflow-model", f"{page}/#/models/{name}/versions/{version}"))
    return links


def _headline(result: VerbResult) -> str:
    done = "All done." if result.ok else "Done, but not all of it: see the counts and the report."
    return f"{done} Model {result.model}." if result.model else done
