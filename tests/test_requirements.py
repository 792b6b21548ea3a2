"""Under ``MEDML_REQUIRE=all`` nothing is skipped silently; without it a skip stays a skip."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).with_name("conftest.py")
SKIPPED_TEST = "import pytest\n\ndef test_one():\n    pytest.skip('no server here')\n"
SKIPPED_FILE = "import pytest\n\npytest.importorskip('a_package_that_is_not')\n\ndef test_one(): pass\n"
EXPECTED_FAILURE = "import pytest\n\n@pytest.mark.xfail\ndef test_one():\n    assert False\n"


def run(folder: Path, text: str, required: str) -> subprocess.CompletedProcess[str]:
    (folder / "conftest.py").write_text(CONFTEST.read_text(encoding="utf-8"), encoding="utf-8")
    (folder / "test_sample.py").write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--rootdir={folder}", str(folder)]
    environment = {**os.environ, "MEDML_REQUIRE": required}
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, check=False)


@pytest.mark.parametrize(
    ("text", "reason"), [(SKIPPED_TEST, "no server here"), (SKIPPED_FILE, "could not import 'a_package_that_is_not'")]
)
def test_a_skip_fails_with_its_reason_when_all_is_required(tmp_path: Path, text: str, reason: str) -> None:
    result = run(tmp_path, text, "all")
    assert result.returncode != 0
    assert "MEDML_REQUIRE=all, but this was skipped" in result.stdout
    assert reason in result.stdout


def test_a_skip_is_a_skip_otherwise(tmp_path: Path) -> None:
    result = run(tmp_path, SKIPPED_TEST, "")
    assert result.returncode == 0
    assert "1 skipped" in result.stdout


def test_an_expected_failure_is_no_skip(tmp_path: Path) -> None:
    assert run(tmp_path, EXPECTED_FAILURE, "all").returncode == 0
