from __future__ import annotations

from pathlib import Path

import pytest

from medml.catalogue.tables import Table, read_table
from medml.errors import Refusal


def _read(path: Path, text: str | bytes, *, max_bytes: int = 10_000, max_rows: int = 10) -> Table:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_table(path, max_bytes=max_bytes, max_rows=max_rows)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_separator_is_told_from_the_first_line(tmp_path: Path, separator: str) -> None:
    table = _read(tmp_path / "t.csv", f"a{separator}b\n1{separator} x \n\n2\n")
    assert table.rows == [{"a": "1", "b": "x"}, {"a": "2", "b": ""}]


def test_byte_order_mark_and_windows_text_are_read(tmp_path: Path) -> None:
    assert _read(tmp_path / "a.csv", "\ufeffsite\nKöln\n").rows == [{"site": "Köln"}]
    assert _read(tmp_path / "b.csv", b"site\nK\xf6ln hospital\n").rows == [{"site": "Köln hospital"}]


def test_an_index_column_without_name_gets_one(tmp_path: Path) -> None:
    assert _read(tmp_path / "t.csv", ",image\n0,x.nii\n").headers == ("column 1", "image")


def test_parquet_is_read_as_text(tmp_path: Path) -> None:
    import pandas

    pandas.DataFrame({"image": ["x.nii", None], "age": [41, 42]}).to_parquet(tmp_path / "t.parquet")
    table = read_table(tmp_path / "t.parquet", max_bytes=1 << 20, max_rows=10)
    assert table.rows == [{"image": "x.nii", "age": "41"}, {"image": "", "age": "42"}]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a,a\n1,2\n", "name the columns, each once"),
        ("", "name the columns"),
        ('a,b\n"1,2\n3,4\n', "cannot be read"),
        (b"a\x00,b\n", "NUL"),
    ],
)
def test_a_bad_table_is_refused(tmp_path: Path, content: str | bytes, words: str) -> None:
    with pytest.raises(Refusal, match=words):
        _read(tmp_path / "t.csv", content)


def test_a_table_over_a_cap_is_refused_with_both_numbers(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="8 bytes, at most 4"):
        _read(tmp_path / "t.csv", "a\n1\n2\n3\n", max_bytes=4)
    with pytest.raises(Refusal, match="more than 2 rows"):
        _read(tmp_path / "t.csv", "a\n1\n2\n3\n", max_rows=2)


def test_headers_are_found_by_alias_in_the_order_of_aliases() -> None:
    table = Table(("Path", "SubjectID"))
    assert table.header("image", "path") == "Path"
    assert table.header("subjectid") == "SubjectID"
    assert table.header("mask") is None
