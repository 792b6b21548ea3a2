"""The data that segmenter training is measured on: MSD Task04 in a home of its own, frozen once, one fold."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers import CACHE
from medml.datasets.export import export_dataset, named_cases
from medml.io.files import read_record
from medml.records.dataset import Dataset
from medml.records.home import Home

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).with_name("results")
SPLIT = RESULTS / "hippocampus_split.json"
DATA = Path(os.environ.get("MEDML_DATA", ROOT.parent / "shared" / "data"))
COLLECTION, FOLD = "task04_hippocampus", 0
NNUNET_NAME = "Dataset004_Hippocampus"


@dataclass(frozen=True, slots=True)
class Hippocampus:
    """The frozen dataset, the home it lives in, and where benchmarks of it keep their files."""

    home: Home
    dataset: Dataset
    work: Path

    @property
    def nnunet(self) -> dict[str, str]:
        """The variables that tell nnU-Net where its data is."""
        return {f"nnUNet_{kind}": str(self.work / "nnunet" / kind) for kind in ("raw", "preprocessed", "results")}

    @property
    def raw(self) -> Path:
        """The dataset as nnU-Net wants it; its test cases are those that are scored."""
        return Path(self.nnunet["nnUNet_raw"]) / NNUNET_NAME


def prepare(work: Path | None = None) -> Hippocampus:
    """Ingest and freeze, unless that is done; prove that the split is the one fixed beforehand; export to nnU-Net.

    Raises
    ------
    SystemExit
        If the data is not there, or the cases on one side of the split are not those of ``hippocampus_split.json``.
    """
    work = work or CACHE / "hippocampus"
    home = Home((work / "home").absolute())
    if not (work / "ingested").exists():
        source = next((path for path in DATA.glob("*") if path.name.lower() == COLLECTION), None)
        if source is None:
            raise SystemExit(f"{DATA} holds no {COLLECTION}; set MEDML_DATA")
        _medml(
            home, "ingest", str(source), "--collection", COLLECTION, fine=(0, 1)
        )  # 1: it refused files, as it should
        _medml(home, "dataset", "hippocampus", "--task", "segment", "--select", f"collection={COLLECTION}")
        (work / "ingested").touch()
    dataset = read_record(next((home.datasets / "hippocampus").glob("*.json")), Dataset)
    found = split_of(dataset)
    if not SPLIT.exists():
        RESULTS.mkdir(exist_ok=True)
        SPLIT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if json.loads(SPLIT.read_text(encoding="utf-8")) != found:
        raise SystemExit(f"{dataset.digest[:12]}: its split is not that of {SPLIT.name}; is the data another?")
    data = Hippocampus(home, dataset, work)
    for folder in data.nnunet.values():
        Path(folder).mkdir(parents=True, exist_ok=True)
    export_dataset(dataset, home, data.raw, "nnunet")
    return data


def split_of(dataset: Dataset) -> dict[str, Any]:
    """Return content digests of the cases that are trained on, looked at while training, and scored."""
    parts = {"train": "train", "validation": "validation", "scored": "test"}
    return {
        "dataset": dataset.digest,
        "fold": FOLD,
        **{
            name: sorted(case.digest[:16] for case in dataset.cases_of(part, fold=FOLD))  # type: ignore[arg-type]
            for name, part in parts.items()
        },
    }


def scored_files(data: Hippocampus) -> dict[str, str]:
    """Return the name in nnU-Net's folders of each case that is scored."""
    return {item.case.case_id: item.name for item in named_cases(data.dataset) if item.part == "test"}


def _medml(home: Home, *arguments: str, fine: tuple[int, ...] = (0,)) -> None:
    command = [sys.executable, "-m", "pipelines.cli", "--home", str(home.root), *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode not in fine:
        raise SystemExit(f"medml {arguments[0]} ended with {done.returncode}: {done.stderr[-2000:]}")
