"""What an ingest may be told; every key has a default that suits a first run."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveInt

from medml.config import Config

_SUFFIXES = (".nii.gz", ".nii", ".npz", ".csv", ".tsv", ".parquet")


class IngestConfig(Config):
    """How sources are read.

    Attributes
    ----------
    collection : str
        What the sources' scans belong to; by default the lower-case stem of each source.
    licence, consent : str
        Stored with the collection; a ``licence`` in the source's ``dataset.json`` is used if this is empty.
    labels : dict
        Names of mask values, where the source does not name them itself.
    allow_outside : bool
        Whether the paths of a manifest may leave its folder.
    channels : "auto" or "none"
        "auto" reads ``<case>_0000``, ``<case>_0001`` … as the channels of one case.
    pictures : "accept" or "ignore"
        PNG and JPEG files. "ignore" suits DICOM folders with screenshots in them.
    workers : int
        Threads that read and write; 0 takes what the machine has, at most 2, since each holds a volume.
    max_table_bytes, max_table_rows : int
        Largest CSV, TSV, Parquet or ``dataset.json`` that is read.
    max_classes : int
        Most folders that count as classes of a picture folder.
    """

    collection: str | None = Field(default=None, pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$")
    licence: str = ""
    consent: str = ""
    labels: dict[int, str] = Field(default_factory=dict)
    allow_outside: bool = False
    channels: Literal["auto", "none"] = "auto"
    pictures: Literal["accept", "ignore"] = "accept"
    workers: int = Field(default=0, ge=0, le=64)
    max_table_bytes: PositiveInt = 256 << 20
    max_table_rows: PositiveInt = 5_000_000
    max_classes: PositiveInt = 200


def collection_of(source: Path, config: IngestConfig) -> str:
    """Return the name of the collection that ``source`` belongs to."""
    if config.collection:
        return config.collection
    name = os.path.basename(os.path.realpath(source)).lower()
    for suffix in _SUFFIXES:
        name = name.removesuffix(suffix)
    return re.sub(r"[^a-z0-9_.-]+", "-", name).strip("-._")[:64] or "collection"
