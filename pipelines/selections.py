"""Selections by name, and the outcome of all their models' runs as one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from medml.config import load_config
from medml.errors import ConfigError
from medml.records.home import Home
from medml.records.selection import SelectionConfig
from pipelines.configs import named_config
from pipelines.requests import known_sources, write_request

if TYPE_CHECKING:
    from pipelines.verb import VerbResult


INBOX_QUIET_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Asked:
    """What ``medml predict`` was asked.

    Attributes
    ----------
    model : str
        Empty: those of the selection.
    source : str
        A path or, if ``alias``, a name that flows may be given.
    quiet_seconds : float
        What the source needs at least: files are copied into an inbox while it is looked at.
    """

    model: str
    source: str
    alias: bool
    output: str | None
    quiet_seconds: float

    def request(self, home: Home) -> str:
        """Return what a flow is given for the source."""
        if self.alias and self.output is None:
            return self.source
        path = str(known_sources(home)[self.source]) if self.alias else self.source
        return write_request(home, "predict", sources=[path], output=self.output)


def sort_out(home: Home, model: str, source: str, selection: str | None, output: Path | None) -> Asked:
    """Tell model and source apart: with a selection the first may be left out.

    Raises
    ------
    ConfigError
        If there is no source, it does not exist, or several models would write into one folder.
    """
    if not source and selection:
        model, source = "", model
    if not source:
        raise ConfigError(f"expected MODEL and SRC, found {model!r} alone; give --selection NAME to leave MODEL out")
    if not model and output:
        raise ConfigError("--output is for one model; each model of a selection has a batch of its own in HOME/batches")
    path, aliases = Path(source).expanduser(), known_sources(home)
    alias = not path.exists() and source in aliases
    if not alias and not path.exists():
        names = ", ".join(sorted(aliases))
        raise ConfigError(f"{source}: no such file or folder; check the path, or give an alias: {names}")
    if alias and source == "inbox":
        aliases[source].mkdir(parents=True, exist_ok=True)
    return Asked(
        model=model,
        source=source if alias else str(path.resolve()),
        alias=alias,
        output=str(output.expanduser().resolve()) if output else None,
        quiet_seconds=INBOX_QUIET_SECONDS if alias and source == "inbox" else 0.0,
    )


def load_selection(name: str) -> SelectionConfig:
    """Return ``configs/selection/NAME.yaml``."""
    return load_config(named_config("selection", name), SelectionConfig)


def joined(verb: str, results: dict[str, VerbResult]) -> VerbResult:
    """Return the outcome of several models' runs as one; outputs and notes carry the model's name."""
    from pipelines.verb import VerbResult

    counts: dict[str, int] = {}
    for result in results.values():
        for key, value in result.counts.items():
            counts[key] = counts.get(key, 0) + value
    return VerbResult(
        verb=verb,
        ok=all(result.ok for result in results.values()),
        counts=counts,
        outputs={f"{name} {key}": path for name, result in results.items() for key, path in result.outputs.items()},
        notes=tuple(f"{name}: {note}" for name, result in results.items() for note in result.notes),
    )
