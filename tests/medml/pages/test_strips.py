"""Strips, bars and tiles: numbers to places, and HTML that needs nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from medml.pages.content import Bar, Cell, Section, Tile
from medml.pages.shell import render
from medml.pages.strips import strip

JPEG = b"\xff\xd8\xff\xe0 not a whole picture"


def test_quartiles_and_points_lie_on_one_axis_of_round_numbers() -> None:
    found = strip({"MR": [1.0, 2.0, 3.0, 4.0, 5.0], "CT": [5.0]}, label="mm")
    assert found is not None
    assert [text for _, text in found.ticks] == ["1", "2", "3", "4", "5"]
    assert found.rows[0].box == (0.25, 0.5, 0.75)
    assert list(found.rows[0].points) == [0, 0.25, 0.5, 0.75, 1]
    assert (found.rows[1].name, found.rows[1].count, found.rows[1].box) == ("CT", 1, (1, 1, 1))


def test_many_values_keep_their_ends_and_unknown_ones_are_left_out() -> None:
    found = strip({"MR": [*map(float, range(1001)), float("nan")], "CT": [float("inf")]}, label="value")
    assert found is not None
    (row,) = found.rows
    assert (row.count, len(row.points), row.points[0], row.points[-1]) == (1001, 120, 0, 1)


def test_nothing_gives_nothing_and_one_value_has_an_axis() -> None:
    assert strip({"MR": []}, label="value") is None
    for value in (0.0, -3.0, 7e9, 1e-9):
        found = strip({"MR": [value]}, label="value")
        assert found is not None
        assert 0 <= found.rows[0].box[1] <= 1


@pytest.mark.parametrize("values", [[0.1, 0.3], [-5, 5], [1, 1e6], [17.0, 17.3]])
def test_every_value_lies_between_the_first_tick_and_the_last(values: list[float]) -> None:
    found = strip({"x": values}, label="value")
    assert found is not None
    assert (found.ticks[0][0], found.ticks[-1][0]) == (0, 1)
    assert 2 <= len(found.ticks) <= 6
    assert all(0 <= place <= 1 for place in found.rows[0].points)


def test_the_new_parts_are_drawn_without_styles_or_scripts_of_their_own(tmp_path: Path) -> None:
    found = strip({"<MR>": [1.0, 2.0]}, label="Pixel size")
    assert found is not None
    section = Section(
        "Quality",
        bars=(Bar("3 files", [("accepted", 2, "good"), ("refused", 1, "bad"), ("ignored", 0, "muted")]),),
        strips=(found,),
        tiles=(Tile(JPEG, "<b>0123", ["MR, 3 x 3"], [Cell("snr outlier", "warn")], across=3),),
    )
    page = render("page.html", tmp_path / "p.html", title="t", sections=[section]).read_text()
    assert "&lt;b&gt;0123" in page
    assert "&lt;MR&gt;" in page
    assert page.count('<rect class="fill') == 2 + 3  # two parts that are not empty, three in the legend
    assert 'class="tile across3"' in page
    assert " style=" not in page
    assert "<script" not in page
