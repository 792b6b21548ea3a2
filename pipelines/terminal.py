"""What every verb shares: its common options, the way to its flow, one readable line for an error, the exit code."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from medml.errors import ConfigError, MedmlError, NotFound
from medml.records.home import Home
from pipelines.verb import VerbResult

Json = Annotated[
    bool, typer.Option("--json", help="Print one last line of JSON: verb, ok, counts, outputs, model, summary.")
]
Device = Annotated[str, typer.Option("--device", "-d", help="auto, cpu, cuda or cuda:0.")]
Model = Annotated[str, typer.Argument(help="NAME, NAME@alias or NAME/version.")]


def run_flow(home: Home, flow: Callable[[], VerbResult], as_json: bool) -> None:
    """Run a flow on the home's Prefect server, print its outcome and leave with its exit code."""
    prepare(home)
    with readable_errors():
        from pipelines.server import prefect_server

        with prefect_server(home):
            result = flow()
    finish(result, as_json)


def look(home: Home, work: Callable[[], VerbResult], as_json: bool) -> None:
    """Do something that needs no flow in a home that exists, print its outcome and leave with its exit code."""
    with readable_errors():
        require(home)
    prepare(home)
    with readable_errors():
        from pipelines.audit import record_result

        result = work()
        record_result(home, result)
    finish(result, as_json)


def prepare(home: Home) -> None:
    """Make the home, set the environment of Prefect and MLflow, and say where the home is."""
    from pipelines.settings import prepare as set_environment

    home.root.mkdir(parents=True, exist_ok=True)
    set_environment(home)
    print(f"medml home: {home.root}", file=sys.stderr)


def require(home: Home) -> None:
    """Refuse a home that is not there, for verbs that have nothing to do in a new one.

    Raises
    ------
    ConfigError
        If there is no such folder.
    """
    if not home.root.exists():
        raise ConfigError(f"{home.root} does not exist; give another --home, or make one with: medml ingest SRC")


def existing(path: Path) -> str:
    """Return the absolute path of what must exist.

    Raises
    ------
    ConfigError
        If it does not.
    """
    if not path.exists():
        raise ConfigError(f"{path}: no such file or folder; check the path")
    return absolute(path)


def absolute(path: Path) -> str:
    """Return the absolute path, with ``~`` and links resolved."""
    return str(path.expanduser().resolve())


@contextmanager
def readable_errors() -> Iterator[None]:
    """Turn errors into one readable line and an exit code."""
    try:
        yield
    except KeyboardInterrupt:
        print("interrupted; run the same command again to go on", file=sys.stderr)
        raise typer.Exit(130) from None
    except (ConfigError, NotFound) as error:
        _fail(str(error), code=2)
    except MedmlError as error:
        details = getattr(error, "details", None)
        text = details.read_text(encoding="utf-8").strip() if details else str(error)
        _fail(text, code=2 if getattr(error, "usage", False) else 1)


def finish(result: VerbResult, as_json: bool) -> NoReturn:
    """Print an outcome and leave with its exit code."""
    from pipelines.tables import show

    show(result)
    if as_json:
        import json

        shown: dict[str, Any] = result.model_dump(
            mode="json", include={"verb", "ok", "counts", "outputs", "model", "summary"}
        )
        print(json.dumps(shown, sort_keys=True), flush=True)
    raise typer.Exit(0 if result.ok else 1)


def _fail(message: str, code: int) -> NoReturn:
    from rich.console import Console
    from rich.markup import escape

    Console(stderr=True, soft_wrap=True).print(f"[bold red]error:[/] {escape(message)}", highlight=False)
    raise typer.Exit(code)
