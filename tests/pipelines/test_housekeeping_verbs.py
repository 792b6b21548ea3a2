"""The doors of forget, clean and audit: what they ask for, and what they refuse."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from medml.records.home import Home
from pipelines.audit import record
from pipelines.cli import app


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    for name in ("MEDML_HOME", "PREFECT_HOME", "NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "")  # put back when the test ends, whatever the verb sets
    (tmp_path / "home").mkdir()
    return Home(tmp_path / "home")


def run(home: Home, *arguments: str, said: str = "") -> Result:
    return CliRunner().invoke(app, ["--home", str(home.root), *arguments], input=said)


@pytest.mark.parametrize("name", ["SECRET-1", "p-123", "p-0123456789ABCDEF"])
def test_an_id_as_an_argument_is_refused_and_not_repeated(home: Home, name: str) -> None:
    result = run(home, "forget", name)
    assert result.exit_code == 2
    assert "expected a pseudonym (p- and 16 hex digits)" in result.output
    assert name not in result.output


def test_without_a_terminal_the_id_comes_from_a_file_or_the_input(home: Home, tmp_path: Path) -> None:
    result = run(home, "forget")
    assert result.exit_code == 2
    assert "no patient given: name a pseudonym, or give ids by --ids FILE" in result.output
    (tmp_path / "empty.txt").write_text("\n \n")
    result = run(home, "forget", "--ids", str(tmp_path / "empty.txt"))
    assert "--ids: no id found; expected one a line" in result.output
    result = run(home, "forget", "--ids", "-", said="SECRET-1\n")
    assert result.exit_code == 2
    assert "no scan, batch row or source of this patient" in result.output
    assert "SECRET-1" not in result.output


def test_clean_of_an_empty_home_has_nothing_to_say(home: Home) -> None:
    result = run(home, "clean", "--json")
    assert result.exit_code == 0
    assert '"bytes": 0' in result.output


def test_audit_ends_with_1_when_a_line_is_missing(home: Home) -> None:
    for n in range(3):
        record(home, "train", {"run": f"r-{n}"})
    assert run(home, "audit").exit_code == 0
    lines = (home.audit / "audit.jsonl").read_text().splitlines(keepends=True)
    (home.audit / "audit.jsonl").write_text(lines[0] + lines[2])
    result = run(home, "audit")
    assert result.exit_code == 1
    assert "before line 3 lines were removed" in result.output
