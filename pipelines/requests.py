"""Opaque names for what a verb was asked: flows see a request id or a source alias, never a path (DESIGN 5.4)."""

from __future__ import annotations

import json
import re
import secrets
from pathlib import Path
from typing import Annotated, Any

from pydantic import StringConstraints

from medml.config import Config, load_config
from medml.errors import ConfigError
from medml.io.files import write_json
from medml.records.home import Home

_REQUEST = re.compile(r"req-[0-9a-f]{12}")

Alias = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$")]


class SourcesConfig(Config):
    """``configs/sources.yaml``: names that flows may be given, and the folders or files they stand for.

    Attributes
    ----------
    sources : dict
        Alias to path; a relative path starts at the YAML's folder. ``inbox`` is built in: the home's inbox folder.
    """

    sources: dict[Alias, Path] = {}


def write_request(home: Home, verb: str, **asked: Any) -> str:
    """Keep what a verb was asked in a 0600 file and return the request id that stands for it."""
    request = f"req-{secrets.token_hex(6)}"
    home.requests.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_json(home.requests / f"{request}.json", {"verb": verb, **asked}, mode=0o600)
    return request


def read_request(home: Home, request: str) -> dict[str, Any]:
    """Return what was asked.

    Raises
    ------
    ConfigError
        If there is no such request in this home.
    """
    path = home.requests / f"{request}.json"
    if not _REQUEST.fullmatch(request) or not path.is_file():
        raise ConfigError(f"request {request!r} is not known in this home; start from an alias of configs/sources.yaml")
    return dict(json.loads(path.read_text(encoding="utf-8")))


def resolve_source(home: Home, source: str, *, aliases: Path | None = None) -> dict[str, Any]:
    """Return what a flow's ``source`` stands for: a request as it was written, or ``{"sources": [path]}`` of an alias.

    Parameters
    ----------
    source : str
        A request id or an alias.
    aliases : Path, optional
        The sources file; default ``configs/sources.yaml``.

    Raises
    ------
    ConfigError
        If it is neither, or the place is not there.
    """
    if _REQUEST.fullmatch(source):
        return read_request(home, source)
    known = known_sources(home, aliases)
    if source not in known:
        raise ConfigError(
            f"source {source!r} is neither a request id nor an alias; aliases: {', '.join(sorted(known))}"
        )
    if source == "inbox":
        known[source].mkdir(parents=True, exist_ok=True)
    if not known[source].exists():
        raise ConfigError(f"source {source!r}: its path is not there; mount it, or change configs/sources.yaml")
    return {"sources": [str(known[source])]}


def known_sources(home: Home, aliases: Path | None = None) -> dict[str, Path]:
    """Return every alias and the absolute path it stands for; the built-in ``inbox`` may be redirected."""
    path = aliases or _default_aliases()
    found = load_config(path, SourcesConfig).sources if aliases or path.exists() else {}
    return {"inbox": home.inbox} | {name: (path.parent / place.expanduser()).resolve() for name, place in found.items()}


def _default_aliases() -> Path:
    from pipelines.configs import config_folder

    return config_folder() / "sources.yaml"
