"""Models from elsewhere, and cases that a model has seen: registered, used, compared, refused."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from medml.errors import ConfigError, LeakageError
from medml.evaluation.card import missing_sections
from medml.networks.build import build_network
from medml.records.dataset import Case, Dataset
from medml.records.home import Home
from medml.records.scan import Scan, SourceGrid
from medml.registry import models
from medml.registry.tracking import Tracker
from medml.store.catalogue import Catalogue
from pipelines.configs import read_axes, read_plan_file
from pipelines.independence import chosen_test, compare
from pipelines.predict import predict_scans
from pipelines.promote import _judged_on
from pipelines.register import register_weights
from pipelines.requests import write_request
from pipelines.stores import open_catalogue
from pipelines.tasks import FlowFailed

PLAN = """
task: segment
dims: 3
modality: CT
channels: [CT]
labels: {0: background, 1: organ}
patch: [16, 16, 8]
normalisation: [{kind: range, low: -100, high: 300}]
network: unet
network_options: {channels: [4, 8], strides: [2], num_res_units: 0}
"""
EYE = ((1.0, 0.0, 0.0, 0.0), (0.0, 1.0, 0.0, 0.0), (0.0, 0.0, 1.0, 0.0), (0.0, 0.0, 0.0, 1.0))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("MEDML_HOME", str(tmp_path / "home"))
    for name in ("MLFLOW_TRACKING_URI", "MEDML_CATALOGUE_URL", "MEDML_CROSSWALK_URL", "MEDML_KEY_FILE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "home").mkdir()
    return Home(tmp_path / "home")


@pytest.fixture
def plan_file(tmp_path: Path) -> Path:
    (tmp_path / "plan.yaml").write_text(PLAN)
    return tmp_path / "plan.yaml"


def test_a_state_dict_becomes_a_model_that_predicts(home: Home, plan_file: Path, tmp_path: Path) -> None:
    plan = read_plan_file(plan_file, labels=("background", "spleen"))
    state = {f"module.{key}": value for key, value in build_network(plan).state_dict().items()}
    (tmp_path / "bundle" / "models").mkdir(parents=True)
    torch.save(state, tmp_path / "bundle" / "models" / "model.pt")
    asked = {"weights": str(tmp_path / "bundle"), "plan": plan.model_dump(mode="json"), "axes": None}
    first = register_weights.fn("spleen", write_request(home, "register", **asked))
    again = register_weights.fn("spleen", write_request(home, "register", **asked))
    assert (first.model, again.model) == ("spleen/1", "spleen/1")
    version = models.resolve(Tracker.of(home), "spleen")
    assert (version.alias, version.tags["origin"], version.tags["task"]) == ("champion", "foreign", "segment")
    assert "dataset" not in version.tags
    assert "test_digest" not in version.tags
    card = (version.package_path / "docs" / "README.md").read_text()
    assert "not been evaluated here" in card
    assert missing_sections(card) == ["Intended use", "Limits", "Data", "Test results", "Subgroups"]
    assert not list(home.runs.iterdir())

    (tmp_path / "new").mkdir()
    affine = np.diag([2.0, 2.0, 3.0, 1.0])
    image = np.random.default_rng(0).normal(0, 50, (16, 16, 8)).astype(np.float32)
    nib.save(nib.Nifti1Image(image, affine), tmp_path / "new" / "scan.nii.gz")
    source = write_request(home, "predict", sources=[str(tmp_path / "new")], output=str(tmp_path / "out"))
    done = predict_scans.fn("spleen", source, None, "cpu")
    assert done.counts["done"] == 1
    mask = nib.load(next((tmp_path / "out" / "masks").glob("*.nii.gz")))
    assert mask.shape == image.shape


def test_what_a_person_says_of_weights_stands_in_their_card(home: Home, plan_file: Path, tmp_path: Path) -> None:
    plan = read_plan_file(plan_file, labels=("background", "spleen"))
    torch.save(build_network(plan).state_dict(), tmp_path / "w.pt")
    words = {"data": "41 CTs of MSD Task09.", "terms": "CC BY-SA 4.0.", "intended_use": "Research.", "limits": "No MR."}
    asked = {"weights": str(tmp_path / "w.pt"), "plan": plan.model_dump(mode="json"), "axes": None, "card": words}
    register_weights.fn("spleen", write_request(home, "register", **asked))
    package = models.resolve(Tracker.of(home), "spleen").package_path
    card = (package / "docs" / "README.md").read_text()
    assert all(text in card for text in words.values())
    assert missing_sections(card) == ["Test results", "Subgroups"]
    assert "CC BY-SA 4.0." in (package / "LICENSE").read_text()


def test_weights_that_do_not_fit_are_refused_and_nothing_is_registered(
    home: Home, plan_file: Path, tmp_path: Path
) -> None:
    torch.save({"weight": torch.ones(2)}, tmp_path / "w.pt")
    plan = read_plan_file(plan_file).model_dump(mode="json")
    asked = {"weights": str(tmp_path / "w.pt"), "plan": plan, "axes": None}
    with pytest.raises(FlowFailed) as refused:
        register_weights.fn("spleen", write_request(home, "register", **asked))
    assert "weight: found (2,), expected nothing" in refused.value.details.read_text()
    with pytest.raises(FlowFailed) as refused:
        register_weights.fn("../spleen", write_request(home, "register", **asked))
    assert refused.value.usage
    assert "expected lower-case letters" in refused.value.details.read_text()
    assert not home.runs.exists()


def test_a_plan_that_does_not_hang_together_is_refused(plan_file: Path) -> None:
    with pytest.raises(ConfigError, match="found 1 labels, expected 2"):
        read_plan_file(plan_file, labels=("spleen",))
    plan_file.write_text(PLAN.replace("1: organ", "2: organ"))
    with pytest.raises(ConfigError, match=r"labels have the values \[0, 2\]; output channels count from 0"):
        read_plan_file(plan_file)
    plan_file.write_text(PLAN.replace("[CT]", "[CT, PT]"))
    with pytest.raises(ConfigError, match="found 1 normalisation entries, expected 2"):
        read_plan_file(plan_file)
    assert read_axes("210") == [2, 1, 0]
    assert read_axes(None) is None
    with pytest.raises(ConfigError, match="--axes 21: expected an order of the digits 012"):
        read_axes("21")


def scan(number: int, patient: str) -> Scan:
    return Scan(
        scan_id=f"{number:024x}",
        collection="demo",
        patient=patient,
        study="s-1",
        group=f"g-{number}",
        modality="MR",
        shape=(4, 4, 4),
        affine=EYE,
        spacing_mm=(1.0, 1.0, 1.0),
        content=f"{number:064x}",
        source_grid=SourceGrid(shape=(4, 4, 4), affine=EYE, axes=(0, 1, 2), flips=(False, False, False)),
    )


def dataset(name: str, scans: list[Scan], tested: int) -> Dataset:
    cases = tuple(
        Case(
            case_id=scan.scan_id,
            patient=scan.patient,
            scans=(scan.scan_id,),
            digest=scan.content,
            shape=scan.shape,
            spacing_mm=scan.spacing_mm,
        )
        for scan in scans
    )
    ids = tuple(case.case_id for case in cases)
    return Dataset(
        name=name,
        digest=name.ljust(64, "0"),
        created="2026-01-01T00:00:00+00:00",
        task="segment",
        select={},
        split="patient",
        seed=0,
        labels={0: "background", 1: "organ"},
        channels=("MRI",),
        modality="MR",
        geometry="mm",
        cases=cases,
        test=ids[:tested],
        folds=(ids[tested : tested + 1],),
        test_digest=f"{name} test",
    )


def test_seen_patients_are_refused_unless_allowed_and_then_marked(home: Home) -> None:
    scans = [scan(number, f"p-{number}") for number in range(6)]
    others = [scan(10, "p-4"), scan(11, "p-0"), scan(12, "p-20"), scan(13, "p-5")]
    Catalogue(open_catalogue(home)).add([*scans, *others], [])
    trained, other = dataset("trained", scans, 2), dataset("other", others, 3)
    words = "m/1 on other: of 3 patients evaluated, 1 stand in train or validation of trained .* or pass --allow-seen"
    with pytest.raises(LeakageError, match=words):
        compare(home, "m/1", other, trained, allow_seen=False)
    warning, notes, seen = compare(home, "m/1", other, trained, allow_seen=True)
    assert seen == 1  # p-4; p-0 was tested on, and is not learned from
    assert warning.startswith("Not an independent test: of 3 patients evaluated, 1 stand in train")
    assert notes == ("7 cases have images without fingerprint; only identical ones would be found there.",)
    unseen = other.model_copy(update={"test": other.test[1:]})
    warning, notes, seen = compare(home, "m/1", unseen, trained, allow_seen=False)
    assert (warning, seen) == ("", 0)
    assert notes[0].startswith("External validation on the test set of other: of 2 patients evaluated, 0 stand in")
    assert compare(home, "m/1", trained, trained, allow_seen=False) == ("", (), 0)


def test_what_cannot_be_compared_is_refused_or_said(home: Home) -> None:
    other = dataset("other", [scan(number, f"p-{number}") for number in range(4)], 2)
    trained = dataset("trained", [scan(number, f"p-{number}") for number in range(10, 14)], 2)
    with pytest.raises(LeakageError, match=r"4 of 4 scans .* are not in the catalogue"):
        compare(home, "m/1", other, trained, allow_seen=False)
    assert compare(home, "m/1", other, trained, allow_seen=True)[0].startswith("Not proved to be an independent test")
    assert "What the model learned from is not known here" in compare(home, "m/1", other, None, allow_seen=False)[1][0]
    with pytest.raises(ConfigError, match="m/1 was trained elsewhere and has no dataset of its own; name one"):
        chosen_test(home, "m/1", None, None, every_case=False)
    assert chosen_test(home, "m/1", None, other, every_case=True).test == tuple(case.case_id for case in other.cases)


def test_a_foreign_challenger_is_judged_on_the_champions_dataset(tmp_path: Path) -> None:
    foreign = models.ModelVersion(name="m", version="2", run_id="r", package_path=tmp_path, digest="d")
    own = foreign.model_copy(update={"version": "1", "tags": {"dataset": "liver", "dataset_digest": "e"}})
    assert _judged_on(foreign, own) == ("liver", "e")
    with pytest.raises(ConfigError, match="m: versions 2 and 3 were both trained elsewhere"):
        _judged_on(foreign, foreign.model_copy(update={"version": "3"}))
