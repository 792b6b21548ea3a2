"""The same scans again, from wherever: nothing changes, and the report says so."""

from __future__ import annotations

import os
import shutil
import socket
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from dicom_phantoms import write_series
from pydicom import dcmread

from medml.catalogue import tree as tree_module
from medml.catalogue.config import IngestConfig
from medml.errors import ConfigError
from medml.io.scans import read_scan

PLAIN = IngestConfig(isolated=False)


def state(desk) -> dict[str, object]:
    """Files with their times, and rows."""
    files = {str(path): path.stat().st_mtime_ns for path in desk.home.scans.rglob("*")}
    found: dict[str, object] = dict(files)
    for database in (desk.home.root / "catalogue.db", desk.home.secrets / "crosswalk.db"):
        with sqlite3.connect(database) as connection:
            for table in ("scans", "annotations", "crosswalk", "collections"):
                if connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (table,)).fetchone():
                    found[table] = sorted(map(repr, connection.execute(f"SELECT * FROM {table}")))
    return found


def codes(report) -> list[tuple[str, str]]:
    return sorted((outcome.outcome, outcome.code) for outcome in report.outcomes)


@pytest.fixture
def mixed(source):
    """A DICOM series, a volume with its label map, two pictures."""
    write_series(source.root / "ct")
    source.image("a/images/1.nii.gz", 1)
    source.mask("a/labels/1.nii.gz")
    source.picture("p/x.png", 1)
    source.picture("p/y.png", 2)
    return source.root


def test_a_copy_under_other_names_changes_nothing(mixed: Path, desk, tmp_path: Path) -> None:
    first = desk.ingest(mixed, config=PLAIN)
    before = state(desk)
    copy = tmp_path / "copy"
    shutil.copytree(mixed, copy)
    for n, path in enumerate(sorted((copy / "ct").iterdir())):
        path.rename(copy / "ct" / f"renamed-{9 - n}")
    (copy / "p" / "x.png").rename(copy / "p" / "other.png")
    again = desk.ingest(copy, config=PLAIN)
    assert state(desk) == before
    assert codes(again) == [("accepted", "duplicate")] * 4
    assert again.counts.scans == first.counts.scans == 4
    assert {i for o in again.outcomes for i in o.scan_ids} == {i for o in first.outcomes for i in o.scan_ids}


def test_an_overlapping_folder_changes_nothing_under_its_own_or_the_same_collection(mixed: Path, desk) -> None:
    same = IngestConfig(isolated=False, collection="c")
    desk.ingest(mixed, config=same)
    before = state(desk)
    for config in (PLAIN, same):
        report = desk.ingest(mixed / "a", mixed / "p", mixed / "ct", config=config)
        after = state(desk)
        if config is same:  # the private crosswalk remembers under which path it was seen last
            del before["crosswalk"], after["crosswalk"]
        assert after == before
        assert {outcome.code for outcome in report.outcomes} <= {"duplicate", "known"}


def test_one_scan_in_two_sources_of_one_ingest_is_one_scan(mixed: Path, desk, tmp_path: Path) -> None:
    shutil.copytree(mixed, tmp_path / "copy")
    report = desk.ingest(mixed, tmp_path / "copy", config=PLAIN)
    assert report.counts.scans == 4
    assert len(desk.catalogue.scans()) == 4


def test_a_file_written_again_with_the_same_content_is_known_and_remembered(mixed: Path, desk) -> None:
    desk.ingest(mixed, config=PLAIN)
    files = {path: path.stat().st_mtime_ns for path in desk.home.scans.rglob("*")}
    for path in mixed.rglob("*.png"):
        os.utime(path, ns=(0, 1))
    assert codes(desk.ingest(mixed, config=PLAIN)) == [("accepted", "known")] * 4
    reasons = {outcome.reason for outcome in desk.ingest(mixed, config=PLAIN).outcomes}
    assert reasons == {""}  # recognised by its stamp, so not read again
    assert {path: path.stat().st_mtime_ns for path in desk.home.scans.rglob("*")} == files


def test_new_labels_in_a_copy_are_added_to_the_scan_they_are_about(source, desk, tmp_path: Path) -> None:
    write_series(source.root / "ct")
    desk.ingest(source.root, config=PLAIN)
    source.image("b/images/1.nii.gz", 1)
    desk.ingest(source.root / "b", config=PLAIN)
    shutil.copytree(source.root / "b", tmp_path / "with")
    labels = np.zeros((1, 4, 5, 6), np.uint8)
    labels[0, 1, 1, 1] = 1
    source.root = tmp_path / "with"
    source.nifti("labels/1.nii.gz", labels)
    report = desk.ingest(tmp_path / "with", config=PLAIN)
    # Another collection with labels of its own is more than a copy.
    assert codes(report) == [("accepted", "accepted")]
    assert report.counts.labelled == 1


def test_facts_that_change_at_the_source_change_record_and_row_together(source, desk) -> None:
    source.picture("x.png", 1)
    source.text("meta.csv", "file,age\nx.png,50\n")
    desk.ingest(source.root, config=PLAIN)
    source.text("meta.csv", "file,age\nx.png,60\n")
    report = desk.ingest(source.root, config=PLAIN)
    (scan,) = desk.catalogue.scans()
    assert scan.columns["age"] == 60
    assert read_scan(desk.home.scans, scan.scan_id) == scan
    assert [o.reason for o in report.outcomes if o.code == "known"] == ["its labels or facts have changed"]


def test_a_series_that_is_still_arriving_is_refused_and_taken_when_it_is_complete(
    source, desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_series(source.root / "ct", 3)
    walk = tree_module.Tree._walk

    def walk_then_arrive(tree: tree_module.Tree, given: Path) -> None:
        walk(tree, given)
        write_series(source.root / "ct", 4)

    with monkeypatch.context() as patched:
        patched.setattr(tree_module.Tree, "_walk", walk_then_arrive)
        report = desk.ingest(source.root, config=PLAIN)
    assert codes(report) == [("refused", "source_changed")]
    assert desk.catalogue.scans() == []
    assert codes(desk.ingest(source.root, config=PLAIN)) == [("accepted", "accepted")]
    assert desk.catalogue.scans()[0].shape[2] == 4


def test_hostile_names_are_harmless(source, desk) -> None:
    root = os.fsencode(source.root)
    picture = source.picture("a.png").read_bytes()
    names = [
        b"-rf",
        b"a\nb.png",
        b"\xff\xfe.png",
        b"$(touch x).png",
        b"`x`.png",
        b"n" * 251 + b".png",
        b"--help.png",
        b"\x1b[2J.png",
    ]
    for n, name in enumerate(names):
        with open(os.path.join(root, name), "wb") as file:
            file.write(source.picture(f"p{n}.png", n + 1).read_bytes() if name.endswith(b".png") else picture)
    report = desk.ingest(source.root, config=PLAIN)
    assert report.counts.files == len(os.listdir(root)) == 16
    assert not [outcome for outcome in report.outcomes if outcome.outcome == "refused"]
    for path in desk.home.scans.rglob("*"):
        assert path.name.isascii()
    assert sorted(os.listdir(os.path.dirname(root))) == [b"home", b"source"]


def test_pipes_sockets_loops_and_links_that_lead_out_are_set_aside(source, desk, tmp_path: Path) -> None:
    source.picture("a.png")
    os.mkfifo(source.root / "b.png")
    os.symlink(source.root, source.root / "loop")
    os.symlink("self", source.root / "self")
    os.symlink("/etc/passwd", source.root / "out.dcm")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(source.root / "s.nii"))
        report = desk.ingest(source.root, config=PLAIN)
    assert report.counts.accepted == 1
    assert {outcome.code for outcome in report.outcomes if outcome.outcome == "ignored"} == {
        "not_a_regular_file",
        "link",
    }


def test_folders_nested_too_deep_are_refused_and_counted(source, desk, monkeypatch) -> None:
    monkeypatch.setattr(tree_module, "MAX_DEPTH", 3)
    source.picture("1/2/3/a.png", 1)
    source.picture("1/2/3/4/b.png", 2)
    report = desk.ingest(source.root, config=PLAIN)
    assert [(o.source, o.code, o.files) for o in report.outcomes if o.outcome == "refused"] == [
        ("1/2/3/4", "too_deep", 1)
    ]
    assert report.counts.accepted == 1


def test_a_folder_that_cannot_be_listed_is_named(source, desk, monkeypatch) -> None:
    source.picture("a/x.png", 1)
    source.picture("b/x.png", 2)
    scandir = os.scandir

    def refuse(path) -> object:
        if str(path).endswith("/b"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(tree_module.os, "scandir", refuse)
    report = desk.ingest(source.root, config=PLAIN)
    assert [(o.source, o.code) for o in report.outcomes if o.outcome == "refused"] == [("b", "unreadable")]
    monkeypatch.setattr(tree_module.os, "scandir", lambda path: refuse("/b" if path == str(source.root) else path))
    with pytest.raises(ConfigError, match="cannot be listed"):
        desk.ingest(source.root, config=PLAIN)


def test_a_dicomdir_leads_nowhere(source, desk, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    write_series(outside)
    write_series(source.root / "ct")
    data = dcmread(next((source.root / "ct").iterdir()))
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = "1.2.840.10008.1.3.10"
    data.ReferencedFileID = ["..", "outside", "0.dcm"]
    data.save_as(source.root / "DICOMDIR", enforce_file_format=True)
    report = desk.ingest(source.root, config=PLAIN)
    assert report.counts.scans == 1
    assert report.counts.files == 5
