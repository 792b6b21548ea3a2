"""A frozen dataset as a folder that other tools read: nnU-Net v2, the Medical Segmentation Decathlon, BIDS.

Voxels and affines are those of the dataset; names are pseudonyms. Case ``sub-<patient>_<number>`` names its patient, so
that whoever splits the folder again can keep patients together.
"""

from __future__ import annotations

import csv
import io
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from medml.datasets.layouts import BIDS, MSD, NNUNET, Layout
from medml.errors import ConfigError, MedmlError
from medml.geometry import same_grid
from medml.io.files import clear_disk_errors, dump_json, read_record, sweep_temporary, sync_path, temporary_path
from medml.io.nifti_write import save_nifti
from medml.io.scans import IMAGE_FILE, read_image, read_scan
from medml.records.dataset import Case, Dataset
from medml.records.home import Home
from medml.records.record import Record
from medml.records.scan import Volume

LayoutName = Literal["nnunet", "msd", "bids"]
LAYOUTS: dict[str, Layout] = {"nnunet": NNUNET, "msd": MSD, "bids": BIDS}
MARK = "medml_export.json"
TABLE = "cases.csv"


class Export(Record):
    """What was written; kept in the folder as ``medml_export.json``.

    Attributes
    ----------
    digest : str
        Of the dataset.
    files : int
        Images and masks.
    resampled : int
        Channels that had another grid than their case's first one and were brought to it.
    """

    dataset: str
    digest: str
    layout: LayoutName
    cases: int
    files: int
    resampled: int = 0


@dataclass(frozen=True, slots=True)
class Named:
    """A case and what it is called in the folder.

    Attributes
    ----------
    subject : str
        ``sub-<16 hex>``, of its patient.
    number : int
        Which of the patient's cases it is, from 1, among ``of``.
    part : "train" or "test"
    """

    case: Case
    subject: str
    number: int
    of: int
    part: Literal["train", "test"]

    @property
    def name(self) -> str:
        """The case in the folder, e.g. ``sub-0123456789abcdef_01``."""
        return f"{self.subject}_{self.number:02d}"


def export_dataset(
    dataset: Dataset, home: Home, out: Path, layout: LayoutName, *, on_case: Callable[[], object] | None = None
) -> Export:
    """Write a dataset into a new folder; it is complete under its name, or not there.

    Parameters
    ----------
    out : Path
        Must not exist, or be empty, or hold this very export, which is then left as it is.

    Raises
    ------
    ConfigError
        If ``out`` holds anything else, or the layout cannot hold the dataset.
    """
    before = _there(dataset, out, layout)
    if before is not None:
        return before
    if layout not in LAYOUTS:
        raise ConfigError(f"layout {layout}: expected one of {', '.join(LAYOUTS)}")
    named = named_cases(dataset)
    out.parent.mkdir(parents=True, exist_ok=True)
    sweep_temporary(out.parent)
    temporary = temporary_path(out)
    with clear_disk_errors(out):
        try:
            export = _fill(temporary, named, dataset, home, layout, on_case or (lambda: None))
            for folder, _, files in os.walk(temporary):
                for name in files:
                    sync_path(Path(folder) / name)
                sync_path(Path(folder))
            if out.is_dir():
                out.rmdir()
            temporary.rename(out)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        sync_path(out.parent)
    return export


def named_cases(dataset: Dataset) -> list[Named]:
    """Name the cases of a dataset after their patients, in an order that only contents decide."""
    counts = Counter(case.patient for case in dataset.cases)
    seen: Counter[str] = Counter()
    test = set(dataset.test)
    named = []
    for case in sorted(dataset.cases, key=lambda case: (case.digest, case.case_id)):
        seen[case.patient] += 1
        subject = f"sub-{case.patient.removeprefix('p-')}"
        part: Literal["train", "test"] = "test" if case.case_id in test else "train"
        named.append(Named(case, subject, seen[case.patient], counts[case.patient], part))
    return sorted(named, key=lambda item: item.name)


def _there(dataset: Dataset, out: Path, layout: str) -> Export | None:
    """Return the export that a folder holds; refuse a folder with other content."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    try:
        found = read_record(out / MARK, Export) if out.is_dir() else None
    except MedmlError:
        found = None
    if found is None or (found.digest, found.layout) != (dataset.digest, layout):
        raise ConfigError(f"{out}: holds something else already; give a new or empty folder for the export")
    return found


def _fill(
    folder: Path, named: Sequence[Named], dataset: Dataset, home: Home, layout: LayoutName, told: Callable[[], object]
) -> Export:
    plan = LAYOUTS[layout]
    names = channel_names(dataset)
    files = resampled = 0
    for item in named:
        for relative, (path, volume, moved) in zip(
            plan.images(item, names), _channels(item.case, home, together=plan.together), strict=True
        ):
            _put(folder / relative, path, volume)
            files, resampled = files + 1, resampled + moved
        if dataset.task == "segment" and item.case.mask:
            _put(folder / plan.mask(item, names), home.scan_folder(item.case.case_id) / item.case.mask, None)
            files += 1
        told()
    for relative, content in plan.documents(dataset, named, names).items():
        _write(folder / relative, content)
    _write(folder / TABLE, _table(dataset, named, [plan.case(item, names) for item in named]))
    _write(folder / "README.md", _readme(dataset, layout))
    export = Export(
        dataset=dataset.name,
        digest=dataset.digest,
        layout=layout,
        cases=len(named),
        files=files,
        resampled=resampled,
    )
    _write(folder / MARK, dump_json(export.model_dump(mode="json")))
    return export


def channel_names(dataset: Dataset) -> tuple[str, ...]:
    """Return the names of the channels; a lone one is called by its modality, which nnU-Net normalises by."""
    return (dataset.modality,) if len(dataset.channels) == 1 else dataset.channels


def _channels(case: Case, home: Home, *, together: bool) -> Iterator[tuple[Path | None, Volume | None, int]]:
    """Yield, per file to be, the stored file to copy, or the volume to write; and whether it was resampled."""
    scans = [read_scan(home.scans, scan_id) for scan_id in case.scans]
    first = scans[0]
    alike = [same_grid(first.shape, np.array(first.affine), s.shape, np.array(s.affine)) for s in scans]
    alike = [same or first.geometry == "none" for same in alike]
    whole = len(scans) == 1 if together else True
    if whole and all(alike) and (together or all(len(scan.channel_names) == 1 for scan in scans)):
        for scan in scans:
            yield home.scan_folder(scan.scan_id) / IMAGE_FILE, None, 0
        return
    stacked = _stack([read_image(home.scans, scan_id) for scan_id in case.scans])
    if together:
        yield None, stacked, sum(not same for same in alike)
        return
    moved = [int(not same) for scan, same in zip(scans, alike, strict=True) for _ in scan.channel_names]
    for channel, flag in zip(stacked.voxels, moved, strict=True):
        yield None, Volume(channel[None], stacked.affine, stacked.geometry), flag


def _stack(volumes: Sequence[Volume]) -> Volume:
    if len(volumes) == 1:
        return volumes[0]
    from medml.transforms.preprocessing import stack_channels

    return stack_channels(list(volumes))


def _put(path: Path, stored: Path | None, volume: Volume | None) -> None:
    """Copy a stored file, or write a volume."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if stored is not None:
        shutil.copyfile(stored, path)
    elif volume is not None:
        save_nifti(path, volume)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _table(dataset: Dataset, named: Sequence[Named], names: Sequence[str]) -> str:
    """Return a row per case: patient, split, class and the columns that travel with it."""
    keys = sorted({key for item in named for key in item.case.columns} - {"split", "age_band", "collection"})
    rows: list[list[Any]] = [["case", "patient", "split", *(["label"] if dataset.task == "classify" else []), *keys]]
    for item, name in zip(named, names, strict=True):
        classes = [dataset.labels[value] for value in item.case.classes or ()]
        label = ["|".join(classes)] if dataset.task == "classify" else []
        values = ["" if item.case.columns.get(key) is None else item.case.columns[key] for key in keys]
        rows.append([name, item.subject, item.part, *label, *values])
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _readme(dataset: Dataset, layout: str) -> str:
    terms = [f"- Licence of {name}: {text or 'not stated'}" for name, text in sorted(dataset.licences.items())]
    notes = [f"- Consent for {name}: {text or 'not stated'}" for name, text in sorted(dataset.consents.items())]
    lines = [
        f"# {dataset.name}",
        "",
        f"{len(dataset.cases)} cases of {len({case.patient for case in dataset.cases})} patients, "
        f"{len(dataset.test)} of them held out for testing; layout {layout}. Names are pseudonyms. Research use only.",
        "",
        f"- Dataset digest `{dataset.digest}`, test set `{dataset.test_digest}`",
        *terms,
        *notes,
        "",
        f"`{TABLE}` has a row per case. Keep the cases of one patient (`sub-…`) on one side of any split.",
    ]
    return "\n".join(lines) + "\n"
