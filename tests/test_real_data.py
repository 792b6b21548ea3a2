"""Real scans through ingest and freezing; what they must give is known from their publishers' notes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medml.catalogue.ingest import ingest
from medml.datasets.freeze import freeze
from medml.errors import LeakageError
from medml.io.files import Pseudonyms
from medml.records.experiment import DatasetChoice
from medml.records.home import Home
from medml.records.ingest import IngestReport
from medml.store.catalogue import Catalogue
from medml.store.crosswalk import Crosswalk
from medml.store.database import open_database


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def take(home: Home, source: Path) -> IngestReport:
    return ingest([source], home, catalogue_of(home), Crosswalk(home.crosswalk_url), Pseudonyms(home.key_file))


def catalogue_of(home: Home) -> Catalogue:
    return Catalogue(open_database(home.catalogue_url))


def test_hippocampus_gives_200_labelled_cases_and_names_what_does_not_fit(home: Home, real_data: Path) -> None:
    report = take(home, real_data / "Task04_Hippocampus")
    assert report.counts.labelled == 200
    assert report.counts.unlabelled == 1
    assert report.counts.files == report.counts.accepted + report.counts.refused + report.counts.ignored
    flagged = [o for o in report.outcomes if any(f.code == "image_without_label" for f in o.findings)]
    assert [(o.outcome, Path(o.source).parts[0]) for o in flagged] == [("accepted", "dirty_extras")]
    refused = [o for o in report.outcomes if o.outcome == "refused"]
    assert {o.code for o in refused} == {"label_without_image"}
    assert len(refused) == 2
    written = json.loads(next(home.reports.glob("ingest-*.json")).read_text())
    assert len(written["outcomes"]) == len(report.outcomes)


def test_every_mr_series_is_read_and_derived_ones_only_warn(home: Home, real_data: Path) -> None:
    report = take(home, real_data / "mr_dicom")
    accepted = [o for o in report.outcomes if o.outcome == "accepted"]
    assert len(accepted) == 6
    derived = [o for o in accepted if any(f.code == "derived_image" for f in o.findings)]
    assert sum("HCropVolume" in o.source for o in derived) == 3


def test_folders_that_leak_patients_are_refused_with_counts_and_a_split_by_patient_works(
    home: Home, real_data: Path
) -> None:
    assert take(home, real_data / "nih_cxr_1000").counts.scans == 1000
    choice = DatasetChoice(name="cxr", select={"collection": "nih_cxr_1000"}, split="column")
    with pytest.raises(LeakageError, match=r"train/test 8\b.*train/validation 15\b.*validation/test 9\b"):
        freeze(choice, "classify", catalogue_of(home), home)
    dataset, _ = freeze(choice.model_copy(update={"split": "patient"}), "classify", catalogue_of(home), home)
    patients = {part: {c.patient for c in dataset.cases_of(part)} for part in ("train", "validation", "test")}
    assert not patients["train"] & patients["test"]
    assert not patients["train"] & patients["validation"]
    assert not patients["validation"] & patients["test"]
    assert len(dataset.cases) == 1000


def test_medmnist_keeps_its_official_split(home: Home, real_data: Path) -> None:
    assert take(home, real_data / "medmnist" / "breastmnist.npz").counts.scans == 780
    choice = DatasetChoice(name="breast", select={"collection": "breastmnist"}, split="official")
    dataset, _ = freeze(choice, "classify", catalogue_of(home), home)
    assert [len(dataset.cases_of(part)) for part in ("train", "validation", "test")] == [546, 78, 156]
