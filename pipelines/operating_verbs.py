"""The verbs about operating: up, status, verify."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipelines.terminal import Json, look, prepare, readable_errors
from pipelines.verb import VerbResult

PANEL = "Operating"

verbs = typer.Typer()


@verbs.command(rich_help_panel=PANEL, epilog="Example: medml up --prefect-port 4201 --mlflow-port 5001")
def up(
    context: typer.Context,
    prefect_port: Annotated[int, typer.Option(help="Port of the Prefect UI.")] = 4200,
    mlflow_port: Annotated[int, typer.Option(help="Port of the MLflow UI.")] = 5000,
    schedules: Annotated[Path | None, typer.Option(help="Default: configs/schedules.yaml.")] = None,
) -> None:
    """Start Prefect and MLflow on loopback and serve the flows with their schedules, until Ctrl-C."""
    prepare(context.obj)
    with readable_errors():
        from pipelines.configs import config_folder
        from pipelines.serving import up as serve

        wanted = schedules or config_folder() / "schedules.yaml"
        serve(context.obj, prefect_port=prefect_port, mlflow_port=mlflow_port, schedules=wanted)


@verbs.command(rich_help_panel=PANEL)
def status(context: typer.Context, as_json: Json = False) -> None:
    """Say what is where: collections, datasets, models, batches, servers."""

    def work() -> VerbResult:
        from pipelines.status import status as say

        return say(context.obj)

    look(context.obj, work, as_json)


@verbs.command(rich_help_panel=PANEL)
def verify(context: typer.Context, as_json: Json = False) -> None:
    """Check that every stored scan, dataset and model still has the digest it was stored with."""

    def work() -> VerbResult:
        from pipelines.status import verify as check

        return check(context.obj)

    look(context.obj, work, as_json)
