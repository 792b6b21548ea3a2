from __future__ import annotations

import csv
import json
import math
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from pyarrow import parquet

from medml.geometry import canonical_affine, canonical_grid
from medml.io.files import sha256_file
from medml.records.batch import BatchMeta, Job, LedgerRow, Prediction
from medml.records.calibration import Calibration
from medml.records.candidate import Reading
from medml.records.plan import Plan
from medml.records.scan import Volume
from medml.results.doubts import Standards
from medml.results.masks import write_mask
from medml.results.outputs import write_outputs
from medml.results.report import write_batch_report
from medml.results.tables import (
    BASE,
    TAIL,
    predicted_class,
    result_columns,
    result_row,
    safe_cell,
    write_ledger,
    write_results,
)

PlanMaker = Callable[..., Plan]
# Source axes: A to P, L to R reversed, S; 2 x 1 x 3 mm.
SOURCE = np.array([[0.0, -1, 0, 5], [-2, 0, 0, 7], [0, 0, 3, -4], [0, 0, 0, 1]])
SHAPE = (5, 6, 4)
META = BatchMeta(model="organ", version="3", digest="ab" * 32, task="segment", labels={0: "background", 1: "organ"})


@pytest.fixture
def job() -> Job:
    grid = canonical_grid(SHAPE, SOURCE)
    voxels = np.arange(120, dtype=np.float32).reshape(1, 6, 5, 4)
    return Job("ab12", "p1/s1", Reading(Volume(voxels, canonical_affine(grid)), grid), input_digest="d" * 64)


@pytest.fixture
def prediction() -> Prediction:
    mask = np.zeros((6, 5, 4), dtype=np.uint8)
    mask[1:3, 2:4, 1:4] = 1  # 12 voxels of 6 mm3
    return Prediction(mask=mask, uncertainty=0.25, seconds={"preprocess": 0.1, "network": 1.0, "restore": 0.15})


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def ledger_row(job: Job, **changes: Any) -> LedgerRow:
    values = {"source": job.source, "scan_id": job.scan_id, "status": "done", "input_digest": job.input_digest}
    return LedgerRow(**(values | {"model": "organ", "model_digest": META.digest} | changes))


def test_a_mask_returns_to_the_grid_of_its_source(tmp_path: Path, job: Job, prediction: Prediction) -> None:
    path = write_mask(tmp_path, job.scan_id, prediction.mask, job.reading.grid)
    assert path == tmp_path / "masks" / "ab12.nii.gz"
    image = nib.load(path)
    assert image.shape == SHAPE
    np.testing.assert_allclose(image.affine, SOURCE)
    found = np.argwhere(np.asarray(image.dataobj) == 1)
    world = nib.affines.apply_affine(SOURCE, found)
    expected = nib.affines.apply_affine(job.reading.volume.affine, np.argwhere(prediction.mask == 1))
    assert {tuple(p) for p in world.round(3)} == {tuple(p) for p in expected.round(3)}


@pytest.mark.parametrize("scan_id", ["../../etc/cron", "", "a/b", "a" * 65])
def test_a_scan_id_cannot_name_another_folder(tmp_path: Path, job: Job, prediction: Prediction, scan_id: str) -> None:
    with pytest.raises(ValueError, match="cannot name a file; expected letters and digits"):
        write_mask(tmp_path, scan_id, prediction.mask, job.reading.grid)


def test_volumes_are_voxels_times_their_size(make_plan: PlanMaker, job: Job, prediction: Prediction) -> None:
    found = result_row(job, prediction, make_plan())
    assert {name: value for name, value in found.items() if value is not None and not name.endswith("_organ")} == {
        "unit": "",
        "uncertainty": 0.25,
        "seconds": 1.25,
    }
    assert (found["volume_ml_organ"], found["voxels_organ"]) == (0.072, 12)


def test_intensities_are_those_of_the_voxels_inside(make_plan: PlanMaker, job: Job) -> None:
    mask = np.zeros((6, 5, 4), dtype=np.uint8)
    mask[0, 0] = 1  # the voxels 0, 1, 2 and 3
    found = result_row(job, Prediction(mask=mask), make_plan(modality="CT", labels={0: "background", 1: "a", 2: "b"}))
    of_a = {name.removesuffix("_a"): value for name, value in found.items() if name.endswith("_a")}
    assert of_a == {
        "volume_ml": 0.024,
        "voxels": 4,
        "mean": 1.5,
        "sd": round(math.sqrt(1.25), 4),
        "min": 0.0,
        "max": 3.0,
        "p05": 0.15,
        "p50": 1.5,
        "p95": 2.85,
    }
    assert found["unit"] == "HU"
    assert (found["volume_ml_b"], found["voxels_b"], found["mean_b"], found["p95_b"]) == (0.0, 0, None, None)


def test_the_unit_of_other_images_is_what_their_source_states(make_plan: PlanMaker, job: Job) -> None:
    reading = Reading(job.reading.volume, job.reading.grid, columns={"unit": "g/mL"})
    mask = np.ones((6, 5, 4), dtype=np.uint8)
    assert result_row(Job("ab12", "x", reading), Prediction(mask=mask), make_plan())["unit"] == "g/mL"


def test_without_spacing_no_volume_is_claimed(make_plan: PlanMaker, job: Job, prediction: Prediction) -> None:
    flat = Job("ab12", "x", Reading(Volume(job.reading.volume.voxels, np.eye(4), "none"), job.reading.grid))
    found = result_row(flat, prediction, make_plan())
    assert found["volume_ml_organ"] is None
    assert found["voxels_organ"] == 12


@pytest.mark.parametrize(
    ("probabilities", "changes", "threshold", "expected"),
    [
        ([0.6, 0.4], {}, None, "absent"),
        ([0.6, 0.4], {}, 0.35, "present"),
        ([0.4, 0.6], {}, 0.7, "absent"),
        ([0.2, 0.5, 0.3], {"labels": {0: "a", 1: "b", 2: "c"}}, 0.9, "b"),
        ([0.7, 0.4, 0.5], {"labels": {0: "a", 1: "b", 2: "c"}, "multi_label": True}, None, "a; c"),
        ([0.1, 0.4], {"multi_label": True}, None, ""),
    ],
)
def test_the_class_called_present(
    make_plan: PlanMaker, probabilities: list[float], changes: dict[str, Any], threshold: float | None, expected: str
) -> None:
    plan = make_plan(task="classify", **changes)
    assert predicted_class(np.array(probabilities), plan, threshold) == expected


def test_results_have_one_sorted_line_per_scan(
    tmp_path: Path, make_plan: PlanMaker, job: Job, prediction: Prediction
) -> None:
    done = ledger_row(job, result=result_row(job, prediction, make_plan()))
    refused = LedgerRow(source="a/first", scan_id="", status="refused", code="gap", reason='3 mm, then "6 mm"')
    path = write_results(tmp_path, [done, refused], META)
    first, second = rows_of(path)
    assert list(first) == [
        "source",
        "scan_id",
        "status",
        "reason",
        "model",
        "model_version",
        "model_digest",
        "input_digest",
        "volume_ml_organ",
        "voxels_organ",
        *(f"{kind}_organ" for kind in ("mean", "sd", "min", "max", "p05", "p50", "p95")),
        "unit",
        "uncertainty",
        "disagreement",
        "ood_score",
        "ood_share",
        "ood_geometry",
        "ood_intensity",
        "ood_layout",
        "ood_features",
        "review_codes",
        "review",
        "seconds",
    ]
    assert first["source"] == "a/first"
    assert first["reason"] == '3 mm, then "6 mm"'
    assert first["volume_ml_organ"] == ""
    assert (second["volume_ml_organ"], second["voxels_organ"], second["seconds"]) == ("0.072", "12", "1.25")
    assert (second["model"], second["model_version"], second["input_digest"]) == ("organ", "3", "d" * 64)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert second["model_digest"] == META.digest


def test_parquet_holds_the_same_rows_with_types(
    tmp_path: Path, make_plan: PlanMaker, job: Job, prediction: Prediction
) -> None:
    done = ledger_row(job, source="=1+1", result=result_row(job, prediction, make_plan()))
    refused = LedgerRow(source="a", scan_id="", status="refused", code="gap", reason="two\nlines")
    path = write_results(tmp_path, [done, refused], META)
    schema = parquet.read_schema(tmp_path / "results.parquet")
    assert list(rows_of(path)[0]) == schema.names
    kinds = {name: str(schema.field(name).type) for name in ("source", "voxels_organ", "volume_ml_organ", "review")}
    assert kinds == {"source": "string", "voxels_organ": "int64", "volume_ml_organ": "double", "review": "string"}
    first, second = parquet.read_table(tmp_path / "results.parquet").to_pylist()
    assert (first["source"], first["voxels_organ"], first["uncertainty"]) == ("=1+1", 12, 0.25)
    assert (second["reason"], second["voxels_organ"], second["status"]) == ("two\nlines", None, "refused")
    assert [row["source"] for row in rows_of(path)] == ["'=1+1", "a"]
    assert stat.S_IMODE((tmp_path / "results.parquet").stat().st_mode) == 0o600


def test_every_column_is_described_in_the_documentation() -> None:
    text = (Path(__file__).resolve().parents[3] / "docs" / "results.md").read_text(encoding="utf-8")
    classifier = META.model_copy(update={"task": "classify", "labels": {0: "X"}})
    names = [*BASE, *TAIL, *result_columns(META), *result_columns(classifier)]
    described = {name.replace("_organ", "_LABEL").replace("_X", "_CLASS") for name in names}
    assert [name for name in sorted(described) if f"`{name}`" not in text] == []


def test_classifiers_have_a_column_per_class(tmp_path: Path, make_plan: PlanMaker, job: Job) -> None:
    found = result_row(job, Prediction(probabilities=np.array([0.125, 0.875])), make_plan(task="classify"))
    meta = META.model_copy(update={"task": "classify", "labels": {0: "absent", 1: "present"}})
    (row,) = rows_of(write_results(tmp_path, [ledger_row(job, result=found)], meta))
    assert (row["prob_absent"], row["prob_present"], row["predicted"]) == ("0.125", "0.875", "present")
    assert row["uncertainty"] == row["conformal_set"] == row["conformal_coverage"] == ""


@pytest.mark.parametrize(
    ("probabilities", "expected"), [([0.9, 0.1], "absent"), ([0.4, 0.6], "present; absent"), ([0.7, 0.3], "absent")]
)
def test_the_conformal_set_names_its_coverage(
    make_plan: PlanMaker, job: Job, probabilities: list[float], expected: str
) -> None:
    # 1 - probability up to 0.65 belongs: probabilities from 0.35 on.
    standards = Standards(Calibration(quantile=0.65, miss=0.1))
    found = result_row(job, Prediction(probabilities=np.array(probabilities)), make_plan(task="classify"), standards)
    assert (found["conformal_set"], found["conformal_coverage"]) == (expected, 0.9)
    assert found["review_codes"] == ("undecided" if ";" in expected else None)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("=HYPERLINK(1)", "'=HYPERLINK(1)"),
        ("+cmd", "'+cmd"),
        ("-2+3", "'-2+3"),
        ("@SUM(A1)", "'@SUM(A1)"),
        (" =1+1", "' =1+1"),
        ("\t=1", "' =1"),
        ("-3.5e2", "-3.5e2"),
        ("+7", "+7"),
        (-3.5, "-3.5"),
        ("p1/s=1", "p1/s=1"),
        ("two\nlines\x00", "two lines "),
        (None, ""),
    ],
)
def test_no_cell_is_a_formula(value: str | float | None, expected: str) -> None:
    assert safe_cell(value) == expected


def test_the_ledger_lists_every_scan(tmp_path: Path, job: Job) -> None:
    rows = [ledger_row(job, mask="masks/ab12.nii.gz"), LedgerRow(source="a", scan_id="", status="failed", reason="x")]
    path = write_ledger(tmp_path, rows)
    first, second = json.loads(path.read_text())
    assert (first["source"], first["status"], first["reason"], first["mask"]) == ("a", "failed", "x", None)
    assert (second["scan_id"], second["mask"]) == ("ab12", "masks/ab12.nii.gz")
    assert [LedgerRow.model_validate(first), LedgerRow.model_validate(second)] == [rows[1], rows[0]]


def test_what_is_written_for_a_scan_is_listed_with_its_digest(
    tmp_path: Path, make_plan: PlanMaker, job: Job, prediction: Prediction
) -> None:
    written = write_outputs(tmp_path, job, prediction, make_plan())
    assert written.mask == "masks/ab12.nii.gz"
    assert written.outputs == {
        name: sha256_file(tmp_path / name) for name in ("masks/ab12.nii.gz", "previews/ab12.png")
    }
    assert (tmp_path / "previews" / "ab12.png").read_bytes().startswith(b"\x89PNG")
    assert written.result["voxels_organ"] == 12
    again = write_outputs(tmp_path, job, prediction, make_plan())
    assert again.outputs == written.outputs


def test_a_classifier_writes_a_preview_and_no_mask(tmp_path: Path, make_plan: PlanMaker, job: Job) -> None:
    found = Prediction(probabilities=np.array([0.9, 0.1]), uncertainty=0.2)
    written = write_outputs(
        tmp_path, job, found, make_plan(task="classify"), standards=Standards(Calibration(threshold=0.05))
    )
    assert written.mask is None
    assert list(written.outputs) == ["previews/ab12.png"]
    assert written.result["predicted"] == "present"
    assert write_outputs(tmp_path, job, found, make_plan(task="classify"), previews=False).outputs == {}


def test_the_report_shows_what_needs_a_look_first(
    tmp_path: Path, make_plan: PlanMaker, job: Job, prediction: Prediction
) -> None:
    written = write_outputs(tmp_path, job, prediction, make_plan())
    sure = ledger_row(job, source="sure", outputs=written.outputs, result={**written.result, "uncertainty": 0.01})
    unsure = ledger_row(job, source="unsure<b>", outputs=written.outputs, result={**written.result, "uncertainty": 0.9})
    failed = LedgerRow(source="broken", scan_id="", status="failed", code="memory", reason="out of memory")
    html = write_batch_report(tmp_path, [sure, failed, unsure], META).read_text()
    assert html.index("broken") < html.index("unsure&lt;b&gt;") < html.index(">sure<")
    page = (tmp_path / "scans" / "ab12.html").read_text()
    assert "0.072 mL" in page
    assert "../report.html" in page
    assert (tmp_path / "scans" / "ab12.html").stat().st_mode & 0o777 == 0o600
    assert html.count("data:image/png;base64,") == 2
    assert "Research use only" in html
    assert "organ 3" in html
    assert "mL organ" in html
    assert "viewer.html" not in html  # nothing lies on the shelf
    assert "http" not in html.replace("http-equiv", "")
    assert stat.S_IMODE((tmp_path / "report.html").stat().st_mode) == 0o600


def test_a_report_of_nothing_is_still_a_page(tmp_path: Path) -> None:
    assert "0 scans" in write_batch_report(tmp_path, [], META).read_text()
