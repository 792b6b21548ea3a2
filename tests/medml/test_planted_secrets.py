"""A name wherever a DICOM file can hold one, through the verbs: it is in no byte that leaves the operator's side."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from dicom_phantoms import save_slice, slice_dataset
from planted_phantoms import SECRET, files_that_tell, forms_found, write_planted

ROOT = Path(__file__).resolve().parents[2]


def medml(home: Path, *arguments: str, code: int = 0) -> dict[str, Any]:
    command = [sys.executable, "-m", "pipelines.cli", "--home", str(home), *arguments, "--json"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert result.returncode == code, result.stdout + result.stderr
    return dict(json.loads(result.stdout.splitlines()[-1]))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with sources and a home in which they were ingested and de-identified."""
    place = tmp_path_factory.mktemp("planted")
    write_planted(place / "in")
    screen = slice_dataset(9)
    screen.SOPClassUID, screen.SeriesInstanceUID = "1.2.840.10008.5.1.4.1.1.7", "1.2.3.4"
    save_slice(place / "in" / f"{SECRET}_screen.dcm", screen)
    first = medml(place / "home", "ingest", str(place / "in"), "--collection", "planted", code=1)
    assert (first["counts"]["accepted"], first["counts"]["refused"]) == (4, 1)
    second = medml(place / "home", "deidentify", str(place / "in"), "-o", str(place / "out"), code=1)
    assert (second["counts"]["written"], second["counts"]["held"]) == (4, 1)
    return place


def test_no_byte_of_the_research_side_tells_the_name(place: Path) -> None:
    assert not files_that_tell(place / "home", skip=("secrets", "reports"))
    assert not files_that_tell(place / "out", skip=())


def test_the_operators_reports_are_private_and_tell_paths_only(place: Path) -> None:
    for path in (place / "home" / "reports").iterdir():
        text = path.read_text(encoding="utf-8", errors="replace")
        assert path.stat().st_mode & 0o077 == 0
        for name in (f"{SECRET}_folder", *(f"{SECRET}_{n}" for n in (0, 1, 2, 3, "screen"))):
            text = text.replace(name, "")
        assert not forms_found(text.encode())


def test_a_released_image_is_taken_by_both_verbs(place: Path) -> None:
    waiting = medml(place / "home", "release")
    (name,) = waiting["summary"]
    released = medml(place / "home", "release", name, "--by", "A. Reader")
    assert released["counts"] == {"released": 1, "waiting": 0}
    again = medml(place / "home", "deidentify", str(place / "in"), "-o", str(place / "out"))
    assert (again["counts"]["written"], again["counts"]["known"]) == (1, 4)
    assert medml(place / "home", "ingest", str(place / "in"), "--collection", "planted")["counts"]["refused"] == 0


def test_a_release_needs_a_name_of_who_looked(place: Path) -> None:
    command = [sys.executable, "-m", "pipelines.cli", "--home", str(place / "home"), "release", "q-0123456789abcdef"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert result.returncode == 2
    assert "--by is empty" in result.stderr
