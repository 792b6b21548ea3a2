"""The command line as a user meets it: help, errors, exit codes."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path


def medml(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pipelines.cli", *arguments], capture_output=True, text=True, cwd=cwd, check=False
    )


def test_help_answers_within_a_second_and_names_every_verb() -> None:
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        result = medml("--help")
        seconds.append(time.perf_counter() - started)
    assert result.returncode == 0
    verbs = (
        "ingest",
        "deidentify",
        "release",
        "dataset",
        "export",
        "plan",
        "train",
        "tune",
        "evaluate",
        "explain",
        "promote",
        "predict",
        "review",
    )
    for verb in (*verbs, "export-model", "up", "status", "verify"):
        assert f" {verb} " in result.stdout
    assert min(seconds) < 1.0


def test_every_verb_has_help_with_an_example_or_a_sentence() -> None:
    for verb in (
        "ingest",
        "deidentify",
        "release",
        "dataset",
        "export",
        "plan",
        "train",
        "tune",
        "evaluate",
        "promote",
        "predict",
        "review",
        "up",
    ):
        result = medml(verb, "--help")
        assert result.returncode == 0
        assert "Example: medml" in result.stdout


def test_unknown_verb_and_missing_argument_exit_with_2(tmp_path: Path) -> None:
    assert medml("imagine").returncode == 2
    assert medml("--home", str(tmp_path), "ingest").returncode == 2


def test_status_of_a_home_that_is_not_there_says_what_to_do(tmp_path: Path) -> None:
    result = medml("--home", str(tmp_path / "none"), "status")
    assert result.returncode == 2
    assert "does not exist" in result.stderr
    assert "ingest SRC" in result.stderr
    assert not (tmp_path / "none").exists()


def test_setting_without_equals_sign_exits_with_2_and_shows_the_form(tmp_path: Path) -> None:
    result = medml("--home", str(tmp_path / "home"), "ingest", str(tmp_path), "--set", "collection")
    assert result.returncode == 2
    assert "expected key=value" in result.stderr


def test_a_wrong_path_is_refused_before_a_home_is_made(tmp_path: Path) -> None:
    home = tmp_path / "home"
    for arguments in (["ingest"], ["deidentify", "-o", str(tmp_path / "out")], ["predict", "liver"]):
        result = medml("--home", str(home), *arguments, str(tmp_path / "none"))
        assert result.returncode == 2
        assert "no such file or folder; check the path" in result.stderr
    assert not home.exists()


def test_a_dataset_or_export_of_a_home_that_is_not_there_is_refused(tmp_path: Path) -> None:
    for arguments in (["dataset", "liver"], ["export", "liver", "-o", str(tmp_path / "out")]):
        result = medml("--home", str(tmp_path / "none"), *arguments)
        assert result.returncode == 2
        assert "does not exist" in result.stderr
    assert not (tmp_path / "none").exists()


def test_a_misspelt_key_is_told_with_the_one_that_was_meant(tmp_path: Path) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text("polices: {}\npolicies: {missing_slices: split, gap: split}\n")
    result = medml("--home", str(tmp_path / "home"), "ingest", str(tmp_path), "--config", str(config))
    assert result.returncode == 2
    assert "polices: there is no such key; did you mean policies?" in result.stderr
    assert "policies.missing_slices: there is no such key; did you mean missing_slice?" in result.stderr
    assert "policies.gap: there is no such key; known are: missing_slice, " in result.stderr
    named = medml("--home", str(tmp_path / "home"), "ingest", str(tmp_path), "--collection", "My Study")
    assert "found 'My Study', expected a name of lower-case letters" in named.stderr
