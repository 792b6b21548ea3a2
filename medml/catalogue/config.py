"""What an ingest may be told; every key has a default that suits a first run."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveInt

from medml.catalogue.case_rule import ChannelRule
from medml.catalogue.policies import DEFAULT, Policies
from medml.catalogue.quality_rules import QualityLimits
from medml.config import Config

_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd", ".npz", ".csv", ".tsv", ".parquet")


class IngestConfig(Config):
    """How sources are read.

    Attributes
    ----------
    collection : str
        What the sources' scans belong to; by default the lower-case stem of each source.
    licence, consent : str
        Stored with the collection; a ``licence`` in the source's ``dataset.json`` is used if this is empty.
    labels : dict
        Names of mask values, where the source does not name them itself. Of DICOM SEG and RTSTRUCT objects, the
        structures wanted, by their names in snake_case, and the values they get; all under their own numbers if empty.
    fractional_threshold : float
        Share of the maximum from which a pixel of a fractional SEG belongs to its segment.
    overlaps : "split" or "refuse"
        Overlapping structures of a SEG or RTSTRUCT: several label maps, or none.
    allow_outside : bool
        Whether the paths of a manifest may leave its folder.
    affine_conflict : "refuse", "sform" or "qform"
        What counts where the two forms of a NIfTI header are both set and put a corner more than half a voxel apart.
    channels : "auto" or "none"
        "auto" reads ``<case>_0000``, ``<case>_0001`` … as the channels of one case.
    case_rule : tuple of ChannelRule
        The channels of a case, in order: the series of one study, or the files of one subject and session (else of one
        folder), that each fits. Scans that fit none stay cases of their own. Masks belong on the first channel.
    pictures : "accept" or "ignore"
        PNG and JPEG files. "ignore" suits DICOM folders with screenshots in them.
    pet : "suv" or "bqml"
        Unit of PET: SUVbw in g/mL where the tags allow it, else and otherwise Bq/mL.
    workers : int
        Processes that read and write; 0 takes what the machine has, at most 2, since each holds a volume.
    isolated : bool
        Whether scans are read in processes of their own, so that a crash, a hang or a blow-up of memory in a decoder
        costs one scan. Without, less memory is needed and nothing is limited.
    runner : "local" or "dask"
        Where scans are read: on this machine, or in shards on the workers of Dask, which must see the same home.
    dask_address : str
        Scheduler of a running Dask cluster; empty starts one on this machine for the time of the ingest.
    memory_gb : float
        Address space of one such process; 0 takes three quarters of the machine's memory, shared by the workers.
    seconds_per_scan : float
        Of the processor, for one scan; its size adds one second a megabyte.
    policies : Policies
        What to do with each finding about the geometry of DICOM series.
    max_table_bytes, max_table_rows : int
        Largest CSV, TSV, Parquet or ``dataset.json`` that is read.
    max_classes : int
        Most folders that count as classes of a picture folder.
    quality : QualityLimits
        Thresholds of the quality findings.
    """

    collection: str | None = Field(default=None, pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$")
    licence: str = ""
    consent: str = ""
    labels: dict[int, str] = Field(default_factory=dict)
    fractional_threshold: float = Field(default=0.5, gt=0, le=1)
    overlaps: Literal["split", "refuse"] = "split"
    allow_outside: bool = False
    affine_conflict: Literal["refuse", "sform", "qform"] = "refuse"
    channels: Literal["auto", "none"] = "auto"
    case_rule: tuple[ChannelRule, ...] = ()
    pictures: Literal["accept", "ignore"] = "accept"
    pet: Literal["suv", "bqml"] = "suv"
    workers: int = Field(default=0, ge=0, le=64)
    isolated: bool = True
    runner: Literal["local", "dask"] = "local"
    dask_address: str = ""
    memory_gb: float = Field(default=0, ge=0)
    seconds_per_scan: float = Field(default=60, gt=0)
    policies: Policies = DEFAULT
    max_table_bytes: PositiveInt = 256 << 20
    max_table_rows: PositiveInt = 5_000_000
    max_classes: PositiveInt = 200
    quality: QualityLimits = Field(default_factory=QualityLimits)


def collection_of(source: Path, config: IngestConfig) -> str:
    """Return the name of the collection that ``source`` belongs to."""
    if config.collection:
        return config.collection
    name = os.path.basename(os.path.realpath(source)).lower()
    for suffix in _SUFFIXES:
        name = name.removesuffix(suffix)
    return re.sub(r"[^a-z0-9_.-]+", "-", name).strip("-._")[:64] or "collection"
