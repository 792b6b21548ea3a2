"""Files are made to mention nobody: rows go as a whole, pages are removed, everything else stays."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from medml.io.mentions import Mentions, pruned, strike

SCAN, OTHER = "a" * 24, "b" * 24
MENTIONS = Mentions([SCAN, "p-0123456789abcdef", "12"])


def test_names_too_short_to_tell_a_patient_are_not_looked_for() -> None:
    assert MENTIONS.names == {SCAN, "p-0123456789abcdef"}
    assert not MENTIONS.in_text("12 slices")
    assert MENTIONS.in_bytes(f"x{SCAN}x".encode())


def test_a_name_across_two_parts_of_a_large_file_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medml.io.mentions.PART", 30)
    path = tmp_path / "large.bin"
    path.write_bytes(b"." * 20 + SCAN.encode() + b"." * 20)
    assert MENTIONS.in_file(path)
    path.write_bytes(b"." * 100)
    assert not MENTIONS.in_file(path)


def test_a_file_that_is_gone_mentions_nobody_unless_its_name_did(tmp_path: Path) -> None:
    mentions = Mentions(["a-long-name"])
    assert not mentions.in_file(tmp_path / "catalogue.db-shm")
    assert mentions.in_file(tmp_path / "a-long-name.txt")


def test_rows_of_a_report_go_with_what_lies_beside_their_source() -> None:
    report = {
        "codes": {"accepted": 3},
        "beside_others": {SCAN: [1], OTHER: [2]},
        "pictures": [[SCAN, OTHER], [SCAN]],
        "outcomes": [
            {"source": "P1/series", "scan_ids": [SCAN]},
            {"source": "P1/series/notes.txt", "scan_ids": []},
            {"source": "P1/series2", "scan_ids": [OTHER]},
            {"source": "both", "scan_ids": [SCAN, OTHER]},
        ],
    }
    assert pruned(report, MENTIONS.in_text) == {
        "codes": {"accepted": 3},
        "beside_others": {OTHER: [2]},
        "pictures": [[OTHER]],
        "outcomes": [
            {"source": "P1/series2", "scan_ids": [OTHER]},
            {"source": "both", "scan_ids": [OTHER]},
        ],
    }


def test_a_value_about_nobody_else_goes_as_a_whole() -> None:
    assert pruned({"scan": SCAN, "model": "m"}, MENTIONS.in_text) is None
    assert pruned({"scan": OTHER, "n": 1.5, "none": None}, MENTIONS.in_text) == {"scan": OTHER, "n": 1.5, "none": None}


def test_lines_go_and_the_mode_of_the_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "cases.csv"
    path.write_text(f"case,dice\n{SCAN},0.5\n{OTHER},0.7\n")
    path.chmod(0o600)
    assert strike(path, MENTIONS)
    assert path.read_text() == f"case,dice\n{OTHER},0.7\n"
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_log_that_a_server_writes_to_keeps_its_place(tmp_path: Path) -> None:
    path = tmp_path / "server.log"
    path.write_text(f"one\n{SCAN} read\ntwo\n")
    with path.open("a") as server:
        assert strike(path, MENTIONS)
        server.write("three\n")
    assert path.read_text() == "one\ntwo\nthree\n"


def test_rows_of_parquet_go(tmp_path: Path) -> None:
    path = tmp_path / "cases.parquet"
    parquet.write_table(pa.table({"case": [SCAN, OTHER], "dice": [0.5, 0.7]}), path)
    assert strike(path, MENTIONS)
    assert parquet.read_table(path).to_pylist() == [{"case": OTHER, "dice": 0.7}]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("page.html", f"<p>{SCAN}"),
        ("broken.json", f"{{{SCAN}"),
        ("own.json", json.dumps({"scan": SCAN})),
        (f"{SCAN}.csv", "1"),
    ],
)
def test_what_cannot_be_shortened_is_removed(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    assert not strike(path, MENTIONS)
    assert not path.exists()
