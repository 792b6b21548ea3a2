"""Runs one ingest per line of the standard input in a process forked for it: LIMIT ISOLATED ERROR HOME SRC COUNT."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path

import sitecustomize

import medml.catalogue.qc_page  # noqa: F401 - imported once, before the forks
from medml.catalogue.config import IngestConfig
from medml.catalogue.ingest import ingest
from medml.errors import MedmlError
from medml.io.files import Pseudonyms
from medml.records.home import Home
from medml.store.catalogue import Catalogue
from medml.store.crosswalk import Crosswalk
from medml.store.database import open_database


def run(limit: str, isolated: str, error: str, home_path: str, source: str, count: str) -> None:
    os.environ.update(
        {
            sitecustomize.COUNT: count,
            sitecustomize.LIMIT: limit,
            sitecustomize.ERROR: error,
            sitecustomize.FIRST: str(os.getpid()),
        }
    )
    home = Home(Path(home_path))
    catalogue = Catalogue(open_database(home.catalogue_url))
    config = IngestConfig(collection="c", isolated=isolated == "1", workers=1)
    ingest([Path(source)], home, catalogue, Crosswalk(home.crosswalk_url), Pseudonyms(home.key_file), config)


for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        try:
            run(*line.split())
        except MedmlError:
            os._exit(3)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    sys.stdout.write(f"{os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}\n")
    sys.stdout.flush()
