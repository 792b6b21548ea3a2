"""The verbs about batches of inference: list, show, resume."""

from __future__ import annotations

from typing import Annotated

import typer

from pipelines.terminal import Json, look, run_flow
from pipelines.verb import VerbResult

BatchId = Annotated[str, typer.Argument(metavar="ID", help="As `medml batch list` says it.")]

batch = typer.Typer(no_args_is_help=True, help="See the batches of inference, and finish one that was interrupted.")
verbs = typer.Typer()
verbs.add_typer(batch, name="batch", rich_help_panel="Models")


@batch.command("list")
def list_them(context: typer.Context, as_json: Json = False) -> None:
    """Name every batch: its model, how far it is, how its scans ended."""

    def work() -> VerbResult:
        from pipelines.batches import list_batches

        return list_batches(context.obj)

    look(context.obj, work, as_json)


@batch.command("show")
def show_one(context: typer.Context, batch_id: BatchId, as_json: Json = False) -> None:
    """Count the scans of a batch by how they ended and why."""

    def work() -> VerbResult:
        from pipelines.batches import show_batch

        return show_batch(context.obj, batch_id)

    look(context.obj, work, as_json)


@batch.command("resume", epilog="Example: medml batch resume batch-1f0c2ab34d56")
def resume(context: typer.Context, batch_id: BatchId, as_json: Json = False) -> None:
    """Do what a batch has not done yet, as it was asked: same model, source, output and options."""

    def flow() -> VerbResult:
        from pipelines.batches import asked_of
        from pipelines.predict import predict

        batch, asked = asked_of(context.obj, batch_id)
        found: VerbResult = predict(batch.model, batch.source_request, **asked.model_dump())
        return found

    run_flow(context.obj, flow, as_json)
