"""The command line: each verb is a thin door to the flow of its name.

Everything heavy is imported inside the verbs, so that ``--help`` answers at once.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from medml.interpreter import run_quickly
from medml.records.home import Home
from pipelines import (
    batch_verbs,
    data_verbs,
    deploy_verbs,
    housekeeping_verbs,
    model_verbs,
    operating_verbs,
    pacs_verbs,
    review_verbs,
    schedule_verbs,
)

app = typer.Typer(
    name="medml",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Medical-imaging pipeline: scans in, trained and registered models, results out. Research use only.",
    epilog="Exit codes: 0 all done, 1 some failed or were refused, 2 usage or configuration, 130 interrupted.",
)
for group in (
    data_verbs,
    pacs_verbs,
    model_verbs,
    batch_verbs,
    review_verbs,
    operating_verbs,
    schedule_verbs,
    deploy_verbs,
    housekeeping_verbs,
):
    app.add_typer(group.verbs)


@app.callback()
def options(
    context: typer.Context,
    home: Annotated[
        Path, typer.Option("--home", envvar="MEDML_HOME", help="Folder that holds everything medml keeps.")
    ] = Path("medml_home"),
) -> None:
    """Options of every verb."""
    context.obj = Home(home.expanduser().resolve())


def main() -> None:
    """Entry point of the console script."""
    run_quickly(app)


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    main()
