"""What a verb prints for a person."""

from __future__ import annotations

import pytest

from pipelines.tables import show
from pipelines.verb import VerbResult


def test_a_figure_stands_on_one_line_with_its_interval(capsys: pytest.CaptureFixture[str]) -> None:
    summary = {"dice_mean": 0.91234, "dice_mean_low": 0.9, "dice_mean_high": 0.95, "auroc": None, "iou_a": 0.5}
    show(VerbResult(verb="train", ok=True, model="liver/2", counts={"test cases": 12}, summary=summary))
    text = capsys.readouterr().out
    assert "train done  liver/2" in text
    assert "dice mean  " in text
    assert "0.912  (95 % 0.900 to 0.950)" in text
    assert "undefined" in text
    assert "iou" not in text
    assert "dice mean low" not in text


def test_what_was_refused_is_said_and_brackets_in_names_survive(capsys: pytest.CaptureFixture[str]) -> None:
    show(VerbResult(verb="ingest", ok=False, notes=("refused: a[1].nii.gz: truncated",)))
    text = capsys.readouterr().out
    assert "not all of it" in text
    assert "a[1].nii.gz" in text


def test_digests_are_shown_short(capsys: pytest.CaptureFixture[str]) -> None:
    show(VerbResult(verb="dataset", ok=True, summary={"digest": "ab" * 32}))
    text = capsys.readouterr().out
    assert "ab" * 6 in text
    assert "ab" * 7 not in text


def test_paths_stay_whole_and_names_stay_as_they_are_typed(capsys: pytest.CaptureFixture[str]) -> None:
    path = "/data/" + "long_folder/" * 12 + "[a].json"
    show(VerbResult(verb="status", ok=True, outputs={"report": path}, summary={"collection ct_2026": "3 scans"}))
    lines = capsys.readouterr().out.splitlines()
    assert any(line.endswith(path) for line in lines)
    assert any("collection ct_2026" in line for line in lines)
