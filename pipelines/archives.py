"""Open a PACS by its alias: its configuration, its secrets, its place in the inbox."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from medml.config import load_config, validate
from medml.errors import ConfigError
from medml.records.home import Home
from pipelines.configs import named_config
from pipelines.requests import known_sources, read_request
from pipelines.stores import open_pseudonyms

if TYPE_CHECKING:
    from medml.io.pacs.archive import Archive
    from medml.io.pacs.config import PacsConfig
    from medml.io.pacs.journal import Journal
    from medml.io.pacs.landing import Landing
    from medml.io.pacs.listener_config import ListenerConfig
    from medml.io.pacs.queries import QueryConfig


def load_pacs(name: str) -> PacsConfig:
    """Return ``configs/pacs/NAME.yaml``."""
    from medml.io.pacs.config import PacsConfig

    return load_config(named_config("pacs", name), PacsConfig)


def load_listener(name: str) -> ListenerConfig:
    """Return ``configs/listeners/NAME.yaml``."""
    from medml.io.pacs.listener_config import ListenerConfig

    return load_config(named_config("listeners", name), ListenerConfig)


def open_archive(home: Home, config: PacsConfig) -> Archive:
    """Return the PACS; passwords that the environment lacks are read from the home's secrets."""
    from medml.io.pacs.dimse import DimseArchive
    from medml.io.pacs.web import WebArchive

    return WebArchive(config, home.secrets) if config.kind == "dicomweb" else DimseArchive(config)


def read_query(home: Home, config: PacsConfig, pacs: str, name: str) -> QueryConfig:
    """Return one of a PACS's queries, or the one of a request.

    Raises
    ------
    ConfigError
        If the PACS has none of that name.
    """
    from medml.io.pacs.queries import QueryConfig

    if name.startswith("req-"):
        return validate(read_request(home, name)["query"], QueryConfig, name="query")
    if name not in config.queries:
        raise ConfigError(
            f"PACS {pacs!r} has no query {name!r}; it has: {', '.join(sorted(config.queries)) or 'none'}; "
            f"write it into configs/pacs/{pacs}.yaml"
        )
    return config.queries[name]


def inbox_of(home: Home, name: str) -> Path:
    """Return the folder of the inbox that a PACS or listener fills."""
    return known_sources(home)["inbox"] / name


def open_landing(home: Home, name: str) -> tuple[Landing, Journal]:
    """Return where series of a PACS come down, and what was handed over before."""
    from medml.io.pacs.journal import Journal
    from medml.io.pacs.landing import Landing

    folder = inbox_of(home, name)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return Landing(folder, open_pseudonyms(home)), Journal(home.secrets / "pacs" / f"{name}-pulled.jsonl")
