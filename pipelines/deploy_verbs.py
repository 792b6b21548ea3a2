"""`medml deploy systemd|compose`."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import Annotated

import typer

from pipelines.terminal import Json, finish, readable_errors
from pipelines.verb import VerbResult

PANEL = "Operating"

verbs = typer.Typer()
deploy = typer.Typer(no_args_is_help=True, help="Files that keep `medml up` running: systemd units, or a compose file.")
verbs.add_typer(deploy, name="deploy", rich_help_panel=PANEL)

Out = Annotated[Path, typer.Option("--output", "-o", help="Folder for the files.")]
PrefectPort = Annotated[int, typer.Option(help="Port of the Prefect UI.")]
MlflowPort = Annotated[int, typer.Option(help="Port of the MLflow UI.")]


@deploy.command(epilog="Example: medml --home /srv/medml deploy systemd --user medml --backups /backup/medml -o units")
def systemd(
    context: typer.Context,
    output: Out = Path("deploy/systemd"),
    user: Annotated[str, typer.Option(help="Who runs it; default: you.")] = "",
    backups: Annotated[Path, typer.Option(help="Where nightly backups go.")] = Path("/var/backups/medml"),
    prefect_port: PrefectPort = 4200,
    mlflow_port: MlflowPort = 5000,
    as_json: Json = False,
) -> None:
    """Write hardened units: a service for `medml up`, and a nightly backup."""
    with readable_errors():
        result = _systemd(context, output, user, backups, (prefect_port, mlflow_port))
    finish(result, as_json)


@deploy.command(epilog="Example: medml --home /srv/medml deploy compose --gpu -o .")
def compose(
    context: typer.Context,
    output: Out = Path("deploy"),
    image: Annotated[str, typer.Option(help="Image that deploy/Dockerfile makes.")] = "medml:latest",
    gpu: Annotated[bool, typer.Option("--gpu", help="Give it the machine's NVIDIA GPUs.")] = False,
    prefect_port: PrefectPort = 4200,
    mlflow_port: MlflowPort = 5000,
    as_json: Json = False,
) -> None:
    """Write a compose file: one container, read-only but for the home, on loopback."""
    with readable_errors():
        from pipelines.configs import config_folder
        from pipelines.units import write_compose

        ports = (prefect_port, mlflow_port)
        folder = config_folder().resolve()
        result = write_compose(context.obj, output.resolve(), image=image, configs=folder, ports=ports, gpu=gpu)
    finish(result, as_json)


def _systemd(context: typer.Context, output: Path, user: str, backups: Path, ports: tuple[int, int]) -> VerbResult:
    from pipelines.configs import config_folder
    from pipelines.units import write_systemd

    return write_systemd(
        context.obj,
        output.resolve(),
        user=user or getpass.getuser(),
        backups=backups,
        configs=config_folder().resolve(),
        ports=ports,
    )
