"""The verbs about a PACS: check, find, pull, push, run, listen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from medml.errors import ConfigError
from medml.records.home import Home
from pipelines.terminal import Device, Json, absolute, look, prepare, readable_errors, run_flow
from pipelines.verb import VerbResult

PANEL = "Data"
MOST_SHOWN = 500

verbs = typer.Typer()
pacs = typer.Typer(no_args_is_help=True, help="A PACS: find and pull series, push results, take what is sent.")
verbs.add_typer(pacs, name="pacs", rich_help_panel=PANEL)

Pacs = Annotated[str, typer.Argument(metavar="NAME", help="A YAML of configs/pacs, without .yaml.")]
Named = Annotated[str, typer.Option("--query", "-q", help="One of the queries in the PACS's YAML.")]
Modality = Annotated[str, typer.Option(help="CT, MR, …; empty: any.")]
Dates = Annotated[str, typer.Option("--date", help="today, last-7-days, 2026-01-31, 20260101-20260131 or any.")]
BodyPart = Annotated[str, typer.Option(help="BodyPartExamined, such as ABDOMEN.")]
Description = Annotated[str, typer.Option(help="SeriesDescription; * and ? stand for anything.")]
Unreviewed = Annotated[bool, typer.Option("--unreviewed", help="Also push what waits for a person's review.")]


@pacs.command(epilog="Example: medml pacs check web_example")
def check(context: typer.Context, name: Pacs, as_json: Json = False) -> None:
    """Ask a PACS for a sign of life, and say in words what is wrong."""

    def work() -> VerbResult:
        from pipelines.archives import load_pacs, open_archive

        config = load_pacs(name)
        open_archive(context.obj, config.model_copy(update={"attempts": 1})).check()
        how = "a search by DICOMweb" if config.kind == "dicomweb" else "a C-ECHO"
        return VerbResult(verb="pacs", ok=True, notes=(f"{name} answers {how}",))

    _look(context, work, as_json)


@pacs.command(epilog="Example: medml pacs find web_example --modality CT --date last-7-days")
def find(
    context: typer.Context,
    name: Pacs,
    query: Named = "",
    modality: Modality = "",
    date: Dates = "today",
    body_part: BodyPart = "",
    description: Description = "",
    as_json: Json = False,
) -> None:
    """List series of a PACS, on this terminal only: nothing of it is kept."""

    def work() -> VerbResult:
        from datetime import datetime

        from medml.io.pacs.queries import QueryConfig
        from pipelines.archives import load_pacs, open_archive, open_landing, read_query

        config = load_pacs(name)
        asked = _asked(modality, date, body_part, description)
        wanted = read_query(context.obj, config, name, query) if query else QueryConfig.model_validate(asked)
        found = open_archive(context.obj, config).find(wanted.query(datetime.now().date()))
        landing, _ = open_landing(context.obj, name)
        heads = ("date", "modality", "body part", "description", "images", "in the inbox as")
        rows = [
            (
                series.date,
                series.modality,
                series.body_part,
                series.description,
                "" if series.instances is None else str(series.instances),
                landing.place(series.study_uid, series.series_uid).name,
            )
            for series in sorted(found, key=lambda one: (one.date, one.modality))[:MOST_SHOWN]
        ]
        more = (f"{len(found) - MOST_SHOWN} more; narrow the search",) if len(found) > MOST_SHOWN else ()
        return VerbResult(verb="pacs", ok=True, counts={"series": len(found)}, table=(heads, *rows), notes=more)

    _look(context, work, as_json)


@pacs.command(epilog="Example: medml pacs pull web_example --query todays_ct   |   … --modality CT --date today")
def pull(
    context: typer.Context,
    name: Pacs,
    query: Named = "",
    modality: Modality = "",
    date: Dates = "today",
    body_part: BodyPart = "",
    description: Description = "",
    as_json: Json = False,
) -> None:
    """Fetch series into the inbox. Run it again after an interruption: it goes on."""

    def flow() -> VerbResult:
        from pipelines.pacs import pacs_pull

        asked = query or _request(context.obj, _asked(modality, date, body_part, description))
        return pacs_pull(name, asked)

    run_flow(context.obj, flow, as_json)


@pacs.command(epilog="Example: medml pacs push web_example batch-0123456789abcdef")
def push(
    context: typer.Context,
    name: Pacs,
    batch: Annotated[str, typer.Argument(help="A folder of HOME/batches by name, or the path of a results folder.")],
    unreviewed: Unreviewed = False,
    as_json: Json = False,
) -> None:
    """Send a batch's SEG, SR and pictures. Run it again after an interruption: what arrived is not sent again."""

    def flow() -> VerbResult:
        from pipelines.pacs import pacs_push
        from pipelines.requests import write_request

        known = (context.obj.batches / batch).is_dir() and Path(batch).name == batch
        asked = batch if known else write_request(context.obj, "pacs", batch=absolute(Path(batch)))
        return pacs_push(name, asked, unreviewed=unreviewed)

    run_flow(context.obj, flow, as_json)


@pacs.command(epilog="Example: medml pacs run web_example --query todays_ct --selection abdomen_ct")
def run(
    context: typer.Context,
    name: Pacs,
    query: Named,
    selection: Annotated[str | None, typer.Option("--selection", "-s", help="A YAML of configs/selection.")] = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help="In its place: one model for all.")] = None,
    unreviewed: Unreviewed = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Pull, predict, push, in one go; the flow is `pacs round`. What was done before is skipped."""
    with readable_errors():
        if bool(selection) == bool(model):
            raise ConfigError("expected --selection or --model, one of both; e.g. --selection abdomen_ct")

    def flow() -> VerbResult:
        from pipelines.pacs import pacs_round

        return pacs_round(name, query, selection=selection, model=model, device=device, unreviewed=unreviewed)

    run_flow(context.obj, flow, as_json)


@pacs.command(epilog="Example: medml pacs listen   |   medml pacs listen scanners")
def listen(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="A YAML of configs/listeners.")] = "default",
) -> None:
    """Take images by C-STORE and hand whole series to the inbox, until Ctrl-C or SIGTERM."""
    prepare(context.obj)
    with readable_errors():
        from pipelines.listening import listen as serve

        serve(context.obj, name)


def _asked(modality: str, date: str, body_part: str, description: str) -> dict[str, str]:
    """Return the query that options make.

    Raises
    ------
    ConfigError
        If one of them is wrong.
    """
    from medml.config import validate
    from medml.io.pacs.queries import QueryConfig

    values = {"modality": modality, "dates": date, "body_part": body_part, "description": description}
    return dict(validate(dict(values), QueryConfig, name="query").model_dump())


def _request(home: Home, query: dict[str, str]) -> str:
    from pipelines.requests import write_request

    return write_request(home, "pacs", query=query)


def _look(context: typer.Context, work: Callable[[], VerbResult], as_json: bool) -> None:
    """Look at a PACS; a home that is not there yet is made."""
    home: Home = context.obj
    home.root.mkdir(parents=True, exist_ok=True)
    look(home, work, as_json)
