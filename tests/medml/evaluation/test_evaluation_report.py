"""The report: what is written, that it can be read back, and that it hides nothing."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medml.errors import ConfigError, NotFound
from medml.evaluation.evaluate import case_table, summarise
from medml.evaluation.report import read_report, worst_cases, write_report
from medml.pages.content import Picture
from medml.records.batch import Prediction
from medml.records.plan import Epoch
from medml.records.scan import Volume

PNG = b"\x89PNG\r\n\x1a\n"


def number_of(volume: Volume) -> int:
    return int(volume.voxels[0, 0, 0, 0]) - 100


@pytest.fixture
def segment_report(segment_bench: Any, make_model: Any, perfect: Any, tmp_path: Path) -> Any:
    """A report on a segmenter that shrinks the lobe of case 4, and fails on case 7."""

    def answer(volume: Volume) -> Prediction:
        prediction = perfect(volume)
        if number_of(volume) == 7:
            raise RuntimeError("<script>alert(1)</script>")
        if number_of(volume) == 4:
            prediction.mask[5:] = 0
        return prediction

    model, dataset = make_model(answer, labels=segment_bench.dataset.labels), segment_bench.dataset
    table = case_table(model, dataset.cases, segment_bench.scans, dataset.labels, part="test")
    evaluation = summarise(table, dataset, "lobes", "test")
    worst = worst_cases(table, model, dataset, segment_bench.scans, n=2)
    epochs = [
        Epoch(
            epoch=n, step=n, seconds=1, learning_rate=0.1, metrics={"train_loss": 1 / n, "val_dice": 0.5}, best=n == 2
        )
        for n in (1, 2, 3)
    ]
    folder = tmp_path / "report"
    write_report(
        folder, evaluation, table, dataset=dataset, plan=model.plan, epochs=epochs, worst=worst, validation=evaluation
    )
    return folder, evaluation, table, worst


def test_everything_is_written(segment_report: Any) -> None:
    folder, evaluation, _, _ = segment_report
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert names == [
        "cases.csv",
        "cases.parquet",
        "evaluation.json",
        "figures/dice.png",
        "figures/froc.png",
        "figures/subgroups.png",
        "figures/training.png",
        "figures/volume_left_lobe.png",
        "figures/volume_lesion.png",
        "figures/worst_01.png",
        "figures/worst_02.png",
        "report.html",
        "summary.json",
        "viewer.html",
    ]
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    assert set(summary) == {"model", "dataset", "test_digest", "split", "n", "metrics"}
    assert summary["n"] == 11
    assert summary["metrics"] == evaluation.summary.metrics


def test_the_page_says_what_was_found_and_what_was_not(segment_report: Any) -> None:
    html = (segment_report[0] / "report.html").read_text(encoding="utf-8")
    assert "On 11 scans of 11 held-out patients, the mean Dice is 0.970" in html
    assert "1 scan could not be scored." in html
    assert "&lt;script&gt;alert(1)" in html
    assert "<script" not in html
    for title in (
        "Figures",
        "Subgroups",
        "Worst cases first",
        "Training",
        "How the model was set up",
        "Limits and notes",
    ):
        assert f"<h2>{title}</h2>" in html
    assert "too few" in html
    assert "Validation (used for choosing)" in html
    assert re.findall(r"(?:src|href)=\"(?!data:|#)([^\"]*)", html) == ["viewer.html"]


def test_the_worst_case_comes_first(segment_report: Any) -> None:
    _, _, table, worst = segment_report
    assert len(worst) == 2
    assert worst[0].picture.caption.startswith(f"{5:024x}: Dice left_lobe 0.667")
    assert table["dice"].min() == pytest.approx(2 * 72 / (72 + 144))


def test_a_report_can_be_read_back(segment_report: Any) -> None:
    folder, evaluation, table, _ = segment_report
    judged = read_report(folder)
    assert judged.evaluation == evaluation
    assert judged.table["case_id"].tolist() == table["case_id"].tolist()
    assert judged.table["dice"].to_numpy() == pytest.approx(table["dice"].to_numpy(), nan_ok=True)


def test_a_folder_without_a_report_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"no evaluation\.json there; run the evaluation first"):
        read_report(tmp_path)


def test_cells_that_a_spreadsheet_would_run_are_quoted(segment_report: Any, segment_bench: Any, tmp_path: Path) -> None:
    _, evaluation, table, _ = segment_report
    table = table.assign(scanner="=HYPERLINK(1)")
    write_report(tmp_path / "again", evaluation, table, dataset=segment_bench.dataset)
    text = (tmp_path / "again" / "cases.csv").read_text(encoding="utf-8")
    assert "'=HYPERLINK(1)" in text
    assert ",=HYPERLINK" not in text
    assert set(read_report(tmp_path / "again").table["scanner"]) == {"=HYPERLINK(1)"}


def test_a_column_of_numbers_and_words_is_kept_as_words(
    segment_report: Any, segment_bench: Any, tmp_path: Path
) -> None:
    _, evaluation, table, _ = segment_report
    mixed = table.assign(site=[1, "north", None] * 4)
    write_report(tmp_path / "r", evaluation, mixed, dataset=segment_bench.dataset)
    found = read_report(tmp_path / "r").table
    assert found["site"].tolist()[:2] == ["1", "north"]
    assert found["site"].isna().sum() == 4
    assert found["dice"].dtype == float


def test_a_classifier_report_decides_at_the_threshold(class_bench: Any, make_model: Any, tmp_path: Path) -> None:
    def answer(volume: Volume) -> Prediction:
        ill = 0.3 if number_of(volume) % 2 else 0.1 + 0.01 * number_of(volume)
        return Prediction(probabilities=np.array([1 - ill, ill]))

    model, dataset = make_model(answer, task="classify", labels=class_bench.dataset.labels), class_bench.dataset
    table = case_table(model, dataset.cases, class_bench.scans, dataset.labels, part="test")
    assert table["predicted"].unique().tolist() == ["healthy"]
    evaluation = summarise(table, dataset, "screen", "test", threshold=0.25)
    worst = worst_cases(table, model, dataset, class_bench.scans, n=3)
    assert len(worst) == 3
    assert "Truth: ill. Predicted: healthy" in worst[0].picture.caption
    write_report(tmp_path / "r", evaluation, table, dataset=dataset, worst=worst)
    names = {path.name for path in (tmp_path / "r" / "figures").iterdir()}
    assert {"roc.png", "precision_recall.png", "calibration.png", "confusion.png"} <= names
    cases = read_report(tmp_path / "r").table
    assert (cases["predicted"] == "ill").sum() == 12 + 4  # the odd ones, and 16, 18, 20, 22
    assert cases["correct"].sum() == 20
    html = (tmp_path / "r" / "report.html").read_text(encoding="utf-8")
    assert "at the threshold 0.250 sensitivity is 1.000" in html


def test_a_classifier_report_shows_what_the_model_looked_at(class_bench: Any, make_model: Any, tmp_path: Path) -> None:
    def answer(volume: Volume) -> Prediction:
        return Prediction(probabilities=np.array([0.4, 0.6]))

    asked: list[str] = []

    def explain(name: str, volume: Volume) -> Picture:
        asked.append(name)
        if len(asked) == 2:
            raise ConfigError("there is no such layer")
        return Picture(PNG, f"{name}. Grad-CAM: passes its checks.", kind="image")

    model, dataset = make_model(answer, task="classify", labels=class_bench.dataset.labels), class_bench.dataset
    table = case_table(model, dataset.cases, class_bench.scans, dataset.labels, part="test")
    worst = worst_cases(table, model, dataset, class_bench.scans, n=4, explain=explain)
    assert asked == [item.case_id for item in worst[:3]]
    write_report(tmp_path / "r", summarise(table, dataset, "m", "test"), table, dataset=dataset, worst=worst)
    html = (tmp_path / "r" / "report.html").read_text(encoding="utf-8")
    looked = html[html.index("<h2>What the model looked at</h2>") :]
    assert looked.count("Grad-CAM: passes its checks.</figcaption>") == 2
    assert f"{asked[1]}: no map, because there is no such layer" in looked


def test_a_report_without_cases_to_show_removes_an_older_viewer(segment_bench: Any, segment_report: Any) -> None:
    folder, evaluation, table, _ = segment_report
    write_report(folder, evaluation, table, dataset=segment_bench.dataset)
    assert not (folder / "viewer.html").exists()
    assert "viewer.html" not in (folder / "report.html").read_text(encoding="utf-8")


def test_a_report_on_nothing_says_why(segment_bench: Any, make_model: Any, tmp_path: Path) -> None:
    def broken(volume: Volume) -> Prediction:
        raise RuntimeError("no weights")

    dataset = segment_bench.dataset
    table = case_table(make_model(broken), dataset.cases, segment_bench.scans, dataset.labels, part="test")
    write_report(tmp_path / "r", summarise(table, dataset, "m", "test"), table, dataset=dataset)
    html = (tmp_path / "r" / "report.html").read_text(encoding="utf-8")
    assert "None of 12 cases could be scored" in html
    assert "RuntimeError: no weights" in html
    assert math.isclose(read_report(tmp_path / "r").evaluation.summary.metrics["failed"] or 0, 12)


def test_a_report_on_seen_cases_opens_with_the_warning(segment_report: Any, segment_bench: Any, tmp_path: Path) -> None:
    _, evaluation, table, _ = segment_report
    warning = "Not an independent test: 1 of 4 patients."
    page = write_report(tmp_path / "seen", evaluation, table, dataset=segment_bench.dataset, warning=warning)
    text = page.read_text(encoding="utf-8")
    assert 0 < text.index(warning) < text.index("evaluated patient")
    assert "held-out" not in text
