"""What is still being copied into a folder is left for the next run."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

from corpus.dicom import Stack
from corpus.source import Source

from medml.catalogue.walk import find_scans
from medml.inference.settling import settled
from medml.records.candidate import Candidate
from medml.records.scan import Outcome


def codes(source: Path, quiet_seconds: float, now: float | None = None) -> list[str]:
    found = settled(source, find_scans(source), quiet_seconds, now)
    return sorted("scan" if isinstance(item, Candidate) else item.code for item in found)


def test_a_series_waits_until_its_folder_was_quiet(tmp_path: Path) -> None:
    Stack(Source(tmp_path / "made", "quiet")).write("s")
    shutil.copytree(tmp_path / "made", tmp_path / "in")
    for path in (tmp_path / "in").rglob("*"):
        os.utime(path, (1e9, 1e9))  # copied with the times of its source
    now = time.time()
    assert codes(tmp_path / "in", 10) == ["waiting"]
    assert codes(tmp_path / "in", 10, now + 9) == ["waiting"]
    assert codes(tmp_path / "in", 10, now + 30) == ["scan"]
    assert codes(tmp_path / "in", 0) == ["scan"]


def test_a_half_copied_file_waits_in_place_of_being_refused(tmp_path: Path) -> None:
    Stack(Source(tmp_path / "made", "half")).write("s")
    (tmp_path / "in" / "s").mkdir(parents=True)
    for number, path in enumerate(
        sorted((tmp_path / "made").rglob("*.dcm")) or sorted((tmp_path / "made" / "s").iterdir())
    ):
        whole = path.read_bytes()
        (tmp_path / "in" / "s" / f"{number}").write_bytes(whole if number < 3 else whole[: len(whole) // 2])
        if number == 3:
            break
    (tmp_path / "in" / "note.txt").write_text("no image", encoding="utf-8")
    waiting = codes(tmp_path / "in", 10)
    assert set(waiting) == {"not_an_image", "waiting"}
    later = codes(tmp_path / "in", 10, time.time() + 60)
    assert "waiting" not in later


def test_each_folder_is_quiet_by_itself(tmp_path: Path) -> None:
    for name in ("old", "new"):
        Stack(Source(tmp_path / "in" / name, name)).write("s")
    now = time.time() + 100
    target = next(path for path in (tmp_path / "in" / "new").rglob("*") if path.is_file())
    real = os.stat(target).st_ctime
    found = list(settled(tmp_path / "in", find_scans(tmp_path / "in"), 50, real + 49))
    assert {item.code for item in found if isinstance(item, Outcome)} == {"waiting"}
    assert codes(tmp_path / "in", 50, now) == ["scan", "scan"]


def test_a_folder_that_goes_meanwhile_waits(tmp_path: Path) -> None:
    Stack(Source(tmp_path / "in", "gone")).write("s")
    found = list(find_scans(tmp_path / "in"))
    shutil.rmtree(tmp_path / "in")
    (item,) = settled(tmp_path / "in", found, 10)
    assert isinstance(item, Outcome)
    assert item.code == "waiting"
    assert "expected 10 s of quiet; the next run looks" in item.reason
