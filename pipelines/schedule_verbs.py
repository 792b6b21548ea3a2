"""`medml schedule list|pause|resume|run-now|backfill`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from pipelines.terminal import Json, look
from pipelines.verb import VerbResult

PANEL = "Operating"

verbs = typer.Typer()
schedule = typer.Typer(no_args_is_help=True, help="What runs on its own: list, pause, resume, run now, backfill.")
verbs.add_typer(schedule, name="schedule", rich_help_panel=PANEL)

Name = Annotated[str, typer.Argument(help="Name in configs/schedules.yaml.")]


@schedule.command("list")
def list_(context: typer.Context, as_json: Json = False) -> None:
    """Show when each schedule ran last, how that ended, when it is due next, and what was missed."""

    def work() -> VerbResult:
        from pipelines.schedule_looks import list_schedules

        return list_schedules(context.obj)

    look(context.obj, work, as_json)


@schedule.command()
def pause(context: typer.Context, name: Name, as_json: Json = False) -> None:
    """Start nothing of this name until it is resumed; also after a restart."""
    _pause(context, name, True, as_json)


@schedule.command()
def resume(context: typer.Context, name: Name, as_json: Json = False) -> None:
    """Let a paused schedule or trigger go on."""
    _pause(context, name, False, as_json)


@schedule.command("run-now")
def run_now(context: typer.Context, name: Name, as_json: Json = False) -> None:
    """Start it once, now, with its own parameters."""

    def work() -> VerbResult:
        from pipelines.schedule_looks import run_now as start

        return start(context.obj, name)

    look(context.obj, work, as_json)


@schedule.command(epilog="Example: medml schedule backfill weekly-evaluation 2026-11-01 2026-11-22")
def backfill(
    context: typer.Context,
    name: Name,
    start: Annotated[datetime, typer.Argument(metavar="FROM", help="UTC; the first time that counts.")],
    end: Annotated[datetime, typer.Argument(metavar="TO", help="UTC; the first time that no longer counts.")],
    as_json: Json = False,
) -> None:
    """Run it for every time in the past at which it was due and did not run."""

    def work() -> VerbResult:
        from pipelines.schedule_looks import backfill as fill

        return fill(context.obj, name, start.replace(tzinfo=UTC), end.replace(tzinfo=UTC))

    look(context.obj, work, as_json)


def _pause(context: typer.Context, name: str, paused: bool, as_json: bool) -> None:
    def work() -> VerbResult:
        from pipelines.schedule_looks import pause as switch

        return switch(context.obj, name, paused=paused)

    look(context.obj, work, as_json)
