"""Shards of the work: batches of candidates that another process, or another machine on the same home, reads.

A shard and its results are files of the owner's alone (they may name patients' files) in the home's secrets, in a
folder that is swept when its owner is killed. What travels between processes is a shard's opaque name.
"""

from __future__ import annotations

import json
import pickle
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medml.catalogue.quality_rules import QualityLimits
from medml.catalogue.staging import Entry, Job, as_json, from_json
from medml.catalogue.worker import Allowance
from medml.catalogue.workers import Workers
from medml.errors import MedmlError
from medml.io.files import Pseudonyms, temporary_path, write_atomic, write_text
from medml.records.home import Home
from medml.records.scan import Outcome

MODE = 0o600
_NAME = re.compile(r"\.shards\.[0-9a-f]{8}-[0-9]+-[0-9]+-[0-9a-f]{8}\.tmp/[0-9]+")


@dataclass(frozen=True, slots=True)
class Shard:
    """What a reader needs to know.

    Attributes
    ----------
    work : str
        Name of the work folder below the home's scans, where the staged scans go.
    """

    work: str
    collection: str
    allowance: Allowance
    isolated: bool
    limits: QualityLimits | None
    jobs: tuple[Job, ...]


@contextmanager
def shard_folder(home: Home) -> Iterator[Path]:
    """Give a folder for shards that only the owner may open; removed at the end."""
    folder = temporary_path(home.secrets / "shards")
    folder.mkdir(mode=0o700, parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_shard(folder: Path, number: int, shard: Shard) -> str:
    """Write a shard and return its name."""
    write_atomic(folder / f"{number}.shard", lambda path: path.write_bytes(pickle.dumps(shard, protocol=5)), mode=MODE)
    return f"{folder.name}/{number}"


def read_shard(home: Home, name: str, pseudonyms: Pseudonyms) -> None:
    """Read the candidates of a shard, stage their scans and leave the results beside the shard.

    Raises
    ------
    MedmlError
        If there is no such shard, or the home cannot be written to.
    """
    if not _NAME.fullmatch(name):
        raise MedmlError(f"{name!r} is not the name of a shard; it is made by the ingest that sends it")
    path = home.secrets / f"{name}.shard"
    if not path.exists():
        raise MedmlError(f"shard {name}: there is no such shard in this home; do all machines see one home?")
    shard: Shard = pickle.loads(path.read_bytes())  # noqa: S301 - ours: the folder is its owner's alone
    work = home.scans / shard.work
    with Workers(
        work, shard.collection, pseudonyms, shard.allowance, isolated=shard.isolated, limits=shard.limits
    ) as workers:
        results = [_result(entry) for entry in workers.read(shard.jobs)]
    write_text(path.with_suffix(".json"), json.dumps(results), mode=MODE)


def collect_shard(home: Home, name: str, shard: Shard) -> list[Entry]:
    """Return the entries of a shard that was read, and remove its files."""
    path = home.secrets / f"{name}.json"
    results: list[dict[str, Any]] = json.loads(path.read_bytes())
    work = home.scans / shard.work
    entries = [from_json(job, work / found["folder"], found) for job, found in zip(shard.jobs, results, strict=True)]
    path.unlink()
    path.with_suffix(".shard").unlink()
    return entries


def _result(entry: Entry) -> dict[str, Any]:
    if isinstance(entry, Outcome):
        return {"folder": "", **as_json(entry)}
    return {"folder": entry.staged.folder.name, **as_json(entry.staged)}
