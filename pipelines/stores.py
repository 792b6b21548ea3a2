"""Open what a home keeps: its own files, or what the operator's environment names instead."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from medml.records.home import Home

if TYPE_CHECKING:
    from medml.io.files import Pseudonyms
    from medml.store.crosswalk import Crosswalk
    from medml.store.database import Database


def open_catalogue(home: Home) -> Database:
    """Return the database of scans, ledger and leases: ``MEDML_CATALOGUE_URL``, else the home's SQLite file."""
    from medml.store.database import open_database

    return open_database(os.environ.get("MEDML_CATALOGUE_URL", home.catalogue_url))


def open_crosswalk(home: Home) -> Crosswalk:
    """Return the private crosswalk: ``MEDML_CROSSWALK_URL``, else the home's SQLite file among its secrets."""
    from medml.store.crosswalk import Crosswalk

    return Crosswalk(os.environ.get("MEDML_CROSSWALK_URL", home.crosswalk_url))


def open_pseudonyms(home: Home) -> Pseudonyms:
    """Return the home's pseudonyms; ``MEDML_KEY_FILE`` shares their key between machines."""
    from medml.io.files import Pseudonyms

    return Pseudonyms(Path(os.environ.get("MEDML_KEY_FILE", home.key_file)))
