"""The verb about results that a person should look at: review, with accept, reject, replace and serve."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from medml.errors import ConfigError
from medml.records.home import Home
from pipelines.terminal import Json, existing, look, prepare, readable_errors, require
from pipelines.verb import VerbResult

PANEL = "Models"

verbs = typer.Typer()
review = typer.Typer(no_args_is_help=False, invoke_without_command=True)
verbs.add_typer(review, name="review", rich_help_panel=PANEL)

Scan = Annotated[str, typer.Argument(metavar="SCAN", help="Scan id, or how it begins.")]
Batch = Annotated[str, typer.Option("--batch", help="Only results of this batch.")]
By = Annotated[str, typer.Option("--by", help="Who decides; default: the user of this machine.")]
Reason = Annotated[str, typer.Option("--reason", help="Why.")]
Collection = Annotated[
    str, typer.Option("--collection", help="What scans belong to that nobody ingested, once they are reviewed.")
]
COLLECTION = "reviewed"


@review.callback(epilog="Example: medml review   |   medml review serve   |   medml review reject 3fa9 --reason leak")
def worklist(
    context: typer.Context,
    batch: Batch = "",
    everything: Annotated[bool, typer.Option("--all", help="Also what waits for nobody.")] = False,
    as_json: Json = False,
) -> None:
    """List results that a person should look at, most doubtful first; accept, reject, replace or show them."""
    if context.invoked_subcommand is not None:
        return

    def work() -> VerbResult:
        from pipelines.review import ReviewDesk
        from pipelines.review_views import age, reasons, state

        items = ReviewDesk(context.obj).items(batch=batch, everything=everything)
        heads = ("scan", "batch", "model", "made", *(("state",) if everything else ()), "reasons")
        rows = [
            (
                item.row.scan_id,
                item.batch.batch_id,
                item.row.model,
                age(item),
                *((str(state(item).value),) if everything else ()),
                " ".join(reasons(item)),
            )
            for item in items
        ]
        waiting = sum(item.waits for item in items)
        return VerbResult(
            verb="review",
            ok=True,
            counts={"waiting": waiting},
            table=(heads, *rows) if rows else (),
            notes=("look at them with: medml review serve",) if waiting else ("nothing waits for a look",),
        )

    look(context.obj, work, as_json)


@review.command()
def accept(
    context: typer.Context,
    scan: Scan,
    reason: Reason = "",
    by: By = "",
    batch: Batch = "",
    collection: Collection = COLLECTION,
    as_json: Json = False,
) -> None:
    """Let a result stand: its DICOM report is verified, and it may be trained on."""
    _decide(context.obj, scan, "accepted", batch=batch, by=by, reason=reason, collection=collection, as_json=as_json)


@review.command()
def reject(
    context: typer.Context,
    scan: Scan,
    reason: Reason,
    by: By = "",
    batch: Batch = "",
    as_json: Json = False,
) -> None:
    """Say that a result must not be used, and why."""
    _decide(context.obj, scan, "rejected", batch=batch, by=by, reason=reason, collection=COLLECTION, as_json=as_json)


@review.command()
def replace(
    context: typer.Context,
    scan: Scan,
    mask: Annotated[Path | None, typer.Option("--mask", help="Corrected mask: NIfTI or DICOM SEG.")] = None,
    labels: Annotated[
        list[str] | None, typer.Option("--class", help="Right class of a classifier's result; several if several hold.")
    ] = None,
    reason: Reason = "",
    by: By = "",
    batch: Batch = "",
    collection: Collection = COLLECTION,
    as_json: Json = False,
) -> None:
    """Put a corrected mask, or the right class, in place of a result."""
    path = None
    if mask is not None:
        with readable_errors():
            path = Path(existing(mask))
    _decide(
        context.obj,
        scan,
        "replaced",
        batch=batch,
        by=by,
        reason=reason,
        collection=collection,
        as_json=as_json,
        mask=path,
        classes=tuple(labels or ()),
    )


@review.command()
def serve(
    context: typer.Context,
    port: Annotated[int, typer.Option(help="Port on loopback; 0 takes a free one.")] = 0,
    by: By = "",
    batch: Batch = "",
    collection: Collection = COLLECTION,
) -> None:
    """Show the worklist in a browser, with images and masks, until Ctrl-C."""
    home: Home = context.obj
    with readable_errors():
        require(home)
    prepare(home)
    with readable_errors():
        from pipelines.review import ReviewDesk
        from pipelines.review_server import ReviewServer
        from pipelines.review_views import ReviewViews

        try:
            server = ReviewServer(ReviewViews(ReviewDesk(home, collection), by or _user(), batch), port=port)
        except OSError as error:
            raise ConfigError(f"port {port} cannot be used ({error.strerror}); choose another with --port") from None
        with server, suppress(KeyboardInterrupt):
            print(f"open once, on this machine: {server.link}", flush=True)
            server.serve_forever()


def _decide(
    home: Home,
    scan: str,
    verdict: str,
    *,
    batch: str,
    by: str,
    reason: str,
    collection: str,
    as_json: bool,
    mask: Path | None = None,
    classes: tuple[str, ...] = (),
) -> None:
    def work() -> VerbResult:
        from pipelines.review import ReviewDesk

        desk = ReviewDesk(home, collection)
        item = desk.named(scan, batch)
        person = by or _user()
        decision, notes = desk.decide(item, verdict, person=person, reason=reason, mask=mask, classes=classes)  # type: ignore[arg-type]
        folder = desk.folder(item)
        return VerbResult(
            verb=f"review {verdict}",
            ok=True,
            counts={verdict: 1, "waiting": len(desk.items(batch=batch))},
            outputs={Path(name).name: str(folder / name) for name in decision.outputs},
            model=item.row.model,
            notes=notes,
        )

    look(home, work, as_json)


def _user() -> str:
    import getpass

    return getpass.getuser()
