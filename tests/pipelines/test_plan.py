"""``medml plan``: every choice with its reason, nothing trained; where first weights may come from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medml.datasets.digests import digest_of, digest_of_test
from medml.datasets.manifests import write
from medml.errors import ConfigError, LeakageError
from medml.io.files import read_record
from medml.io.scans import write_scan
from medml.networks.build import build_network
from medml.networks.package import write_package
from medml.records.calibration import Calibration
from medml.records.dataset import Case, Dataset
from medml.records.home import Home
from medml.records.plan import Normalisation, Plan
from medml.records.scan import Annotation, Scan, SourceGrid, Volume
from medml.registry import models
from medml.registry.tracking import Tracker
from medml.store.catalogue import Catalogue
from pipelines.configs import read_memory
from pipelines.first_weights import locate_weights
from pipelines.plan import explain_plan, plan_rows
from pipelines.requests import write_request
from pipelines.stores import open_catalogue
from pipelines.tables import show

EYE = tuple(tuple(float(i == j) for j in range(4)) for i in range(4))
LABELS = {0: "background", 1: "block"}
SHAPE = (16, 16, 8)
EXPERIMENT: dict[str, Any] = {
    "name": "spots",
    "task": "segment",
    "dataset": {"name": "spots", "select": {"collection": "spots"}, "folds": 2},
    "budget": {"minutes": 1.0},
    "plan": {"network": "unet", "network_options": {"channels": [4, 8], "strides": [2]}, "batch": 2},
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A home with twelve stored and catalogued volumes of noise, a block of which is labelled."""
    monkeypatch.setenv("MEDML_HOME", str(tmp_path / "home"))
    for name in ("MLFLOW_TRACKING_URI", "MEDML_CATALOGUE_URL", "MEDML_CROSSWALK_URL", "MEDML_KEY_FILE"):
        monkeypatch.delenv(name, raising=False)
    home = Home(tmp_path / "home")
    home.root.mkdir()
    rng = np.random.default_rng(0)
    scans, annotations = [], []
    for number in range(12):
        voxels = rng.normal(100, 5, (1, *SHAPE)).astype(np.float32)
        mask = np.zeros(SHAPE, dtype=np.uint8)
        mask[4:9, 4:9, 2:5] = 1
        found = scan(number)
        note = Annotation(
            scan_id=found.scan_id,
            kind="mask",
            labels=LABELS,
            origin="drawn",
            file="mask.nii.gz",
            content=f"{number:064x}",
        )
        write_scan(home, Volume(voxels, np.eye(4)), found, (note,), masks={"mask.nii.gz": mask})
        scans.append(found)
        annotations.append(note)
    catalogue = Catalogue(open_catalogue(home))
    catalogue.add_collection("spots", "CC0", "none needed")
    catalogue.add(scans, annotations)
    return home


def scan(number: int, patient: str | None = None) -> Scan:
    return Scan(
        scan_id=f"{number:024x}",
        collection="spots",
        patient=patient or f"p-{number}",
        study=f"s-{number}",
        group=f"g-{number}",
        modality="MR",
        shape=SHAPE,
        affine=EYE,
        spacing_mm=(1.0, 1.0, 1.0),
        content=f"{number:064x}",
        source_grid=SourceGrid(shape=SHAPE, affine=EYE, axes=(0, 1, 2), flips=(False, False, False)),
    )


def test_a_plan_is_shown_choice_by_choice_and_nothing_else_is_written(
    home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "plan.json"
    result = explain_plan.fn(write_request(home, "plan", experiment=EXPERIMENT, output=str(out)), "cpu")
    keys = {row[0]: row for row in result.table}
    assert keys["patch"][1:] == ("16 x 16 x 8", keys["patch"][2])
    assert "holds a median case whole" in keys["patch"][2]
    assert keys["batch *"] == ("batch *", "2", "set by the experiment")
    assert keys["labels"] == ("labels", "0 background, 1 block", "from the dataset")
    assert keys["folds"][1:] == ("0", "one of 2: one model; folds: all makes an ensemble of 2 for 2 times the minutes")
    assert result.notes[-1] == "* set by the experiment: batch, network, network_options"
    assert all(row[2] for row in result.table)
    made = read_record(out, Plan)
    assert result.summary["plan"] == made.model_dump(mode="json")
    assert result.summary["fingerprint"]["median_shape"] == list(SHAPE)
    assert json.dumps(result.summary)
    assert not home.runs.exists()
    assert not home.cache.exists()
    show(result)
    assert "set by the experiment" in capsys.readouterr().out


def test_without_an_output_no_file_is_written(home: Home) -> None:
    result = explain_plan.fn(write_request(home, "plan", experiment=EXPERIMENT, output=None), "cpu")
    assert result.outputs == {}


def small_plan(**changes: Any) -> Plan:
    given: dict[str, Any] = {
        "task": "segment",
        "dims": 3,
        "modality": "MR",
        "channels": ("image",),
        "labels": {0: "background", 1: "block"},
        "patch": (16, 16, 8),
        "normalisation": (Normalisation(kind="zscore"),),
        "network": "unet",
        "network_options": {"channels": (4, 8), "strides": (2,)},
        "batch": 2,
        "steps_per_epoch": 1,
        "epochs": 1,
        "minutes": 1.0,
        "patience": 1,
        "learning_rate": 1e-3,
        "loss": "dice_ce",
    }
    return Plan(**{**given, **changes})


def test_rows_are_words_not_brackets_of_python() -> None:
    rule = Normalisation(kind="clip_zscore", low=-100, high=300, mean=80, std=20)
    plan = small_plan(channels=("a", "b"), normalisation=(rule, rule), spacing_mm=(0.5, 0.5, 2.0), tta_flips=(0, 1))
    rows = {key: value for key, value, _ in plan_rows(plan)}
    assert rows["normalisation"] == "clip_zscore -100 to 300, mean 80, spread 20"
    assert rows["spacing_mm"] == "0.5 x 0.5 x 2"
    assert rows["tta_flips"] == "(0, 1)"
    assert rows["size"] == "–"
    assert rows["network_options"] == "channels (4, 8), strides (2)"
    assert rows["crop_foreground"] == "no"
    range_only = small_plan(normalisation=(Normalisation(kind="range", low=0, high=10),))
    assert dict(row[:2] for row in plan_rows(range_only))["normalisation"] == "range 0 to 10"


@pytest.mark.parametrize(("text", "size"), [("8", 8.0), ("8GB", 8.0), ("512 MB", 0.512), ("1.5g", 1.5)])
def test_memory_is_read_as_people_write_it(text: str, size: float) -> None:
    assert read_memory(text) == pytest.approx(size)


@pytest.mark.parametrize("text", ["", "much", "-3GB", "0", "nan"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"expected a size such as 8GB or 512MB"):
        read_memory(text)


def dataset(numbers: range, test: int) -> Dataset:
    """Cases of the numbers given; the last ``test`` are held out."""
    cases = tuple(
        Case(
            case_id=f"{number:024x}",
            patient=f"p-{number}",
            scans=(f"{number:024x}",),
            digest=f"{number:064x}",
            shape=SHAPE,
            spacing_mm=(1.0, 1.0, 1.0),
        )
        for number in numbers
    )
    held = tuple(case.case_id for case in cases[-test:])
    made = Dataset(
        name=f"set{numbers.start}",
        digest="",
        created="2026-01-01T00:00:00Z",
        task="segment",
        select={},
        split="patient",
        seed=0,
        labels={0: "background", 1: "block"},
        channels=("image",),
        modality="MR",
        geometry="mm",
        cases=cases,
        test=held,
        folds=((),),
        test_digest="",
    )
    made = made.model_copy(update={"test_digest": digest_of_test(made)})
    return made.model_copy(update={"digest": digest_of(made)})


def test_first_weights_are_a_path_a_model_or_nothing(home: Home, tmp_path: Path) -> None:
    frozen = dataset(range(12), test=3)
    assert locate_weights(small_plan(), frozen) == ""
    torch.save(build_network(small_plan()).state_dict(), tmp_path / "w.pt")
    assert locate_weights(small_plan(pretrained=str(tmp_path / "w.pt")), frozen) == str(tmp_path / "w.pt")
    with pytest.raises(ConfigError, match=r"plan.pretrained /nowhere/w.pt: no such file or folder"):
        locate_weights(small_plan(pretrained="/nowhere/w.pt"), frozen)


def test_a_model_that_learned_from_the_test_set_is_no_start(home: Home, tmp_path: Path) -> None:
    learned = dataset(range(6), test=2)
    write(home, learned)
    plan = small_plan()
    package = write_package(
        tmp_path / "package",
        build_network(plan),
        plan,
        plan.labels,
        Calibration(),
        "# Card\n",
        {"dataset": learned.digest, "test_set": learned.test_digest},
    )
    tracker = Tracker.of(home)
    run = tracker.start_or_resume(
        experiment="block",
        run_name="r",
        run_key="k",
        params={},
        tags={
            "medml.task": "segment",
            "medml.dataset": learned.name,
            "medml.dataset_digest": learned.digest,
            "medml.test_digest": learned.test_digest,
        },
        dataset=learned,
    )
    models.register(tracker, run, "block", package, None)
    begun = small_plan(pretrained="block@champion")
    # Cases 0 to 3 were learned from; the first dataset tests on 9 to 11, the second on 2 and 3.
    assert Path(locate_weights(begun, dataset(range(6, 12), test=3))).joinpath("digests.json").is_file()
    with pytest.raises(LeakageError, match="block@champion learned from cases of the test set"):
        locate_weights(begun, dataset(range(4), test=2))
