"""Logs that do not grow without end."""

from __future__ import annotations

from pathlib import Path

from pipelines.log_files import rotate


def test_a_large_log_is_put_aside_while_its_writer_goes_on_and_old_ones_go(tmp_path: Path) -> None:
    (tmp_path / "small.log").write_text("x")
    with (tmp_path / "a.log").open("ab", buffering=0) as writer:
        for number in range(5):
            writer.write(f"{number}".encode() * 100)
            assert rotate(tmp_path, most_bytes=50, kept=3) == [tmp_path / "a.log"]
        writer.write(b"new")
    assert (tmp_path / "a.log").read_text() == "new"
    assert [(tmp_path / f"a.log.{n}").read_text()[0] for n in (1, 2, 3)] == ["4", "3", "2"]
    assert not (tmp_path / "a.log.4").exists()
    assert (tmp_path / "small.log").read_text() == "x"
