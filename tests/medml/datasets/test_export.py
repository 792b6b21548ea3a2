"""What is exported is read again by ingest: the same voxels, masks, patients, classes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from medml.catalogue.config import IngestConfig
from medml.catalogue.ingest import ingest
from medml.datasets.export import MARK, export_dataset, named_cases
from medml.datasets.freeze import freeze
from medml.errors import ConfigError
from medml.io.files import Pseudonyms
from medml.io.nifti import write_nifti
from medml.records.dataset import Dataset, Task
from medml.records.experiment import DatasetChoice
from medml.records.home import Home
from medml.records.ingest import IngestReport
from medml.records.scan import Volume
from medml.store.catalogue import Catalogue
from medml.store.crosswalk import Crosswalk
from medml.store.database import open_database

OBLIQUE = np.array([[0.96, -0.84, 0.0, -31.0], [0.72, 1.12, 0.0, 12.0], [0.0, 0.0, 2.5, 4.0], [0, 0, 0, 1]])
HEAD = "subject_id,image_0,image_1,mask,label,age,sex\n"


class Place:
    """A home, and ingest and freezing bound to it."""

    def __init__(self, root: Path) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self.home = Home(root)
        self.catalogue = Catalogue(open_database(self.home.catalogue_url))

    def ingest(self, source: Path, **config: object) -> IngestReport:
        crosswalk, pseudonyms = Crosswalk(self.home.crosswalk_url), Pseudonyms(self.home.key_file)
        settings = IngestConfig.model_validate({"collection": "demo", "isolated": False, **config})
        return ingest([source], self.home, self.catalogue, crosswalk, pseudonyms, settings)

    def freeze(self, task: Task, **choice: object) -> Dataset:
        wanted = DatasetChoice.model_validate({"name": "demo", "folds": 2, "test_fraction": 0.3, **choice})
        return freeze(wanted, task, self.catalogue, self.home)[0]


def write(path: Path, voxels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_nifti(path, Volume(voxels[np.newaxis], OBLIQUE))


@pytest.fixture
def cohort(tmp_path: Path) -> Callable[..., Path]:
    """Make 8 patients with an oblique image per channel, masks of the values 1 and 3 or classes, ages; one has two."""

    def make(channels: int, *, classes: bool = False) -> Path:
        folder, rows = tmp_path / "cohort", []
        for number in range(9):
            random = np.random.default_rng(number)
            names = [f"images/s{number}_c{channel}.nii.gz" for channel in range(channels)]
            for name in names:
                write(folder / name, random.integers(-900, 900, (5, 6, 4)).astype(np.int16))
            mask = random.choice(np.array([0, 1, 3], dtype=np.uint8), (5, 6, 4))
            mask_file = "" if classes else f"masks/s{number}.nii.gz"
            if mask_file:
                write(folder / mask_file, mask)
            label = ["benign", "malignant"][number % 2] if classes else ""
            images = ",".join([*names, ""][:2])
            rows.append(f"P{min(number, 7)},{images},{mask_file},{label},{40 + number},{'FM'[number % 2]}")
        head = HEAD if channels == 2 else HEAD.replace("image_0,image_1", "image,extra")
        (folder / "cohort.csv").write_text(head + "\n".join(rows) + "\n")
        return folder / "cohort.csv"

    return make


def contents(dataset: Dataset) -> list[str]:
    """Digests of every case: of its voxels, affines, mask and classes."""
    return sorted(case.digest for case in dataset.cases)


def patients(dataset: Dataset) -> list[list[str]]:
    groups: dict[str, list[str]] = {}
    for case in dataset.cases:
        groups.setdefault(case.patient, []).append(case.digest)
    return sorted(sorted(group) for group in groups.values())


LABELS = {1: "organ", 3: "lesion"}
RULE = [{"name": f"channel_{number}", "file": f"*_acq-channel{number}_*"} for number in (0, 1)]


@pytest.mark.parametrize("layout", ["nnunet", "msd", "bids"])
def test_one_channel_comes_back_as_it_was(tmp_path: Path, cohort, layout) -> None:
    here, there = Place(tmp_path / "a"), Place(tmp_path / "b")
    here.ingest(cohort(1), labels=LABELS, licence="CC-BY-4.0", consent="broad consent")
    dataset = here.freeze("segment")
    written = export_dataset(dataset, here.home, tmp_path / "out", layout)
    assert (written.cases, written.files, written.resampled) == (9, 18, 0)
    report = there.ingest(tmp_path / "out")
    assert (report.counts.refused, report.counts.scans, report.counts.labelled, report.counts.patients) == (0, 9, 9, 8)
    again = there.freeze("segment")
    assert contents(again) == contents(dataset)
    assert patients(again) == patients(dataset)
    assert {value: again.labels[value] for value in (0, 1, 3)} == {0: "background", 1: "organ", 3: "lesion"}
    assert {(case.columns["age"], case.columns["sex"]) for case in again.cases if layout != "bids"} <= {
        (40 + n, "FM"[n % 2]) for n in range(9)
    }


@pytest.mark.parametrize("layout", ["nnunet", "msd"])
def test_an_official_split_of_the_export_has_the_same_test_set(tmp_path: Path, cohort, layout) -> None:
    here, there = Place(tmp_path / "a"), Place(tmp_path / "b")
    here.ingest(cohort(1), labels=LABELS)
    dataset = here.freeze("segment")
    export_dataset(dataset, here.home, tmp_path / "out", layout)
    there.ingest(tmp_path / "out")
    again = there.freeze("segment", split="official")
    digests = {case.case_id: case.digest for case in again.cases}
    expected = {case.digest for case in dataset.cases if case.case_id in dataset.test}
    assert {digests[case_id] for case_id in again.test} == expected


@pytest.mark.parametrize("layout", ["nnunet", "msd", "bids"])
def test_two_channels_keep_their_voxels(tmp_path: Path, cohort, layout) -> None:
    here, there = Place(tmp_path / "a"), Place(tmp_path / "b")
    here.ingest(cohort(2), labels=LABELS)
    dataset = here.freeze("segment")
    export_dataset(dataset, here.home, tmp_path / "out", layout)
    report = there.ingest(tmp_path / "out", case_rule=RULE if layout == "bids" else [])
    assert report.counts.refused == 0
    if layout != "msd":
        assert contents(there.freeze("segment")) == contents(dataset)
    else:
        assert {scan.channel_names for scan in there.catalogue.scans()} == {("channel_0", "channel_1")}


@pytest.mark.parametrize("layout", ["nnunet", "msd", "bids"])
def test_classes_come_back(tmp_path: Path, cohort, layout) -> None:
    here, there = Place(tmp_path / "a"), Place(tmp_path / "b")
    here.ingest(cohort(1, classes=True))
    dataset = here.freeze("classify")
    export_dataset(dataset, here.home, tmp_path / "out", layout)
    assert there.ingest(tmp_path / "out").counts.refused == 0
    again = there.freeze("classify")
    assert again.labels == {0: "benign", 1: "malignant"}
    found = {case.scans[0]: case.classes for case in again.cases}
    named = {scan.content: found[scan.scan_id] for scan in there.catalogue.scans()}
    expected = {scan.scan_id: scan.content for scan in here.catalogue.scans()}
    assert named == {expected[case.scans[0]]: case.classes for case in dataset.cases}


def test_nnunet_describes_itself_and_its_folds(tmp_path: Path, cohort) -> None:
    here = Place(tmp_path / "a")
    here.ingest(cohort(1), labels=LABELS, licence="CC-BY-4.0", consent="broad consent")
    dataset = here.freeze("segment")
    out = tmp_path / "out"
    export_dataset(dataset, here.home, out, "nnunet")
    described = json.loads((out / "dataset.json").read_text())
    assert described["labels"] == {"background": 0, "organ": 1, "unused_2": 2, "lesion": 3}
    assert described["channel_names"] == {"0": "OT"}
    assert described["numTraining"] == len(list((out / "imagesTr").iterdir())) == 9 - len(dataset.test)
    folds = json.loads((out / "splits_final.json").read_text())
    names = {path.name.removesuffix(".nii.gz") for path in (out / "labelsTr").iterdir()}
    assert [set(fold["train"]) | set(fold["val"]) for fold in folds] == [names, names]
    assert not set(folds[0]["train"]) & set(folds[0]["val"])
    text = (out / "README.md").read_text()
    assert "Licence of demo: CC-BY-4.0" in text
    assert "Consent for demo: broad consent" in text


def test_msd_is_read_by_monai(tmp_path: Path, cohort) -> None:
    from monai.data import load_decathlon_datalist

    here = Place(tmp_path / "a")
    here.ingest(cohort(1), labels=LABELS)
    dataset = here.freeze("segment")
    export_dataset(dataset, here.home, tmp_path / "out", "msd")
    listed = load_decathlon_datalist(str(tmp_path / "out" / "dataset.json"), data_list_key="training")
    assert len(listed) == 9 - len(dataset.test)
    assert all(Path(item["image"]).is_file() and Path(item["label"]).is_file() for item in listed)
    tests = load_decathlon_datalist(str(tmp_path / "out" / "dataset.json"), data_list_key="test")
    assert all(Path(item["image"]).is_file() for item in tests)


def test_names_are_pseudonyms_that_tell_patients_apart(tmp_path: Path, cohort) -> None:
    here = Place(tmp_path / "a")
    here.ingest(cohort(1), labels=LABELS)
    dataset = here.freeze("segment")
    names = [item.name for item in named_cases(dataset)]
    assert len(set(names)) == 9
    assert sum(name.endswith("_02") for name in names) == 1
    export_dataset(dataset, here.home, tmp_path / "out", "bids")
    text = "".join(str(path) for path in (tmp_path / "out").rglob("*"))
    assert not any(f"P{number}" in text.replace(str(tmp_path), "") for number in range(8))
    assert (tmp_path / "out" / "participants.tsv").read_text().startswith("participant_id\tage\tsex\nsub-")


def test_a_folder_that_holds_something_else_is_refused_and_the_same_export_left_alone(tmp_path: Path, cohort) -> None:
    here = Place(tmp_path / "a")
    here.ingest(cohort(1), labels=LABELS)
    dataset = here.freeze("segment")
    out = tmp_path / "out"
    out.mkdir()
    first = export_dataset(dataset, here.home, out, "nnunet")
    changed = (out / MARK).stat().st_mtime_ns
    assert export_dataset(dataset, here.home, out, "nnunet") == first
    assert (out / MARK).stat().st_mtime_ns == changed
    with pytest.raises(ConfigError, match="holds something else already"):
        export_dataset(dataset, here.home, out, "msd")
    with pytest.raises(ConfigError, match="expected one of nnunet, msd, bids"):
        export_dataset(dataset, here.home, tmp_path / "new", "coco")  # type: ignore[arg-type]


def test_an_export_that_fails_leaves_nothing(tmp_path: Path, cohort) -> None:
    here = Place(tmp_path / "a")
    here.ingest(cohort(1), labels=LABELS)
    dataset = here.freeze("segment")

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_dataset(dataset, here.home, tmp_path / "new" / "out", "nnunet", on_case=stop)
    assert list((tmp_path / "new").iterdir()) == []
