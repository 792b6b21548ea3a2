"""The verbs about keeping house: forget, clean, backup, restore, audit."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from medml.errors import ConfigError
from medml.records.home import Home
from pipelines.terminal import Json, absolute, existing, finish, look, prepare, readable_errors
from pipelines.verb import VerbResult

PANEL = "Housekeeping"
Yes = Annotated[bool, typer.Option("--yes", help="Do it; without it, only say what would be done.")]

verbs = typer.Typer()


@verbs.command(
    rich_help_panel=PANEL,
    epilog="Example: medml forget   |   medml forget --ids ids.txt --yes   |   medml forget p-0123456789abcdef --yes",
)
def forget(
    context: typer.Context,
    patient: Annotated[
        str | None, typer.Argument(metavar="[PSEUDONYM]", help="p-…; without it the patient's own id is asked for.")
    ] = None,
    ids: Annotated[
        Path | None, typer.Option("--ids", help="File with one patient id a line; - reads them from the input.")
    ] = None,
    issuer: Annotated[
        str | None, typer.Option(help="Who gave the id; default: every issuer that the home knows is tried.")
    ] = None,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Erase a patient: scans, masks, results, rows, pictures; datasets and models that used them are marked.

    The id is never an argument, for a shell keeps those.
    """

    def work() -> VerbResult:
        from pipelines.forget import PSEUDONYM, pending, pseudonyms_of
        from pipelines.forget import forget as erase

        home: Home = context.obj
        if patient is not None and not PSEUDONYM.fullmatch(patient):
            raise ConfigError(
                "expected a pseudonym (p- and 16 hex digits); a patient's own id is asked for when none is given, "
                "or read by --ids FILE: as an argument it would stay in the shell's history"
            )
        names = [patient] if patient else []
        if not patient and not (pending(home) and ids is None and not sys.stdin.isatty()):
            for one in _asked(ids):
                names += pseudonyms_of(home, one, issuer)
        return erase(home, names, do=yes)

    look(context.obj, work, as_json)


@verbs.command(
    rich_help_panel=PANEL, epilog="Example: medml clean   |   medml clean --older-than 7 --cache-gb 50 --yes"
)
def clean(
    context: typer.Context,
    older_than: Annotated[float, typer.Option(min=0, help="Days since it was last used.")] = 30.0,
    cache_gb: Annotated[
        float | None, typer.Option(min=0, help="Shrink the cache to this size, what was used longest ago first.")
    ] = None,
    batches: Annotated[bool, typer.Option("--batches", help="Results of batches too; nothing makes them again.")] = (
        False
    ),
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Show what the home can do without, and remove it with --yes: old cache, logs, what killed processes left."""

    def work() -> VerbResult:
        from pipelines.clean import clean as sweep

        return sweep(context.obj, days=older_than, cache_gb=cache_gb, batches=batches, do=yes)

    look(context.obj, work, as_json)


@verbs.command(rich_help_panel=PANEL, epilog="Example: medml backup /mnt/backup/medml --keep 14")
def backup(
    context: typer.Context,
    place: Annotated[Path, typer.Argument(metavar="DEST", help="New folder, or one that holds earlier backups.")],
    without_secrets: Annotated[
        bool, typer.Option("--without-secrets", help="Leave out the pseudonym key, the crosswalk and requests.")
    ] = False,
    keep: Annotated[int, typer.Option(min=0, help="How many backups stay in DEST; 0: all.")] = 0,
    as_json: Json = False,
) -> None:
    """Copy the home while it is in use; only what has changed since the last backup is copied."""

    def work() -> VerbResult:
        from pipelines.backup import backup as copy

        return copy(context.obj, Path(absolute(place)), with_secrets=not without_secrets, keep=keep)

    look(context.obj, work, as_json)


@verbs.command(rich_help_panel=PANEL, epilog="Example: medml restore /mnt/backup/medml /data/new_home")
def restore(
    place: Annotated[Path, typer.Argument(metavar="SRC", help="Folder of medml backup.")],
    new_home: Annotated[Path, typer.Argument(metavar="NEWHOME", help="New or empty folder.")],
    which: Annotated[str, typer.Option(help="Beginning of a backup's name, e.g. 20260131; default: the newest.")] = "",
    as_json: Json = False,
) -> None:
    """Put a backup back as a new home; a damaged one is named and refused."""
    with readable_errors():
        from pipelines.audit import record_result
        from pipelines.backup import restore as put_back

        root = Path(absolute(new_home))
        result = put_back(Path(existing(place)), root, which=which)
        prepare(Home(root))
        record_result(Home(root), result)
    finish(result, as_json)


@verbs.command(rich_help_panel=PANEL, epilog="Example: medml audit --last 20")
def audit(
    context: typer.Context,
    last: Annotated[int, typer.Option(min=1, help="How many lines to show.")] = 50,
    as_json: Json = False,
) -> None:
    """Show who did what and when, and whether a line was changed or removed."""

    def work() -> VerbResult:
        from pipelines.audit import show as told

        return told(context.obj, last=last)

    look(context.obj, work, as_json)


def _asked(ids: Path | None) -> list[str]:
    """Return the ids of a file, of the input, or of a person who is asked and whose answer is not shown."""
    if ids is None:
        if not sys.stdin.isatty():
            raise ConfigError("no patient given: name a pseudonym, or give ids by --ids FILE, --ids - for the input")
        return [str(typer.prompt("Patient id", hide_input=True)).strip()]
    text = sys.stdin.read() if str(ids) == "-" else Path(existing(ids)).read_text(encoding="utf-8")
    found = [line.strip() for line in text.splitlines() if line.strip()]
    if not found:
        raise ConfigError("--ids: no id found; expected one a line")
    return found
