"""The shell: self-contained, escaped, no scripts, written whole or not at all."""

import base64
import hashlib
import re
from pathlib import Path

import pytest
from jinja2 import TemplateNotFound, UndefinedError

from medml.pages.content import Card, Cell, Link, Picture, Section, Table, show
from medml.pages.shell import data_uri, render

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
)


def page(folder: Path, **values: object) -> str:
    return render("page.html", folder / "page.html", title="A title", **values).read_text(encoding="utf-8")


def test_text_from_data_is_escaped(tmp_path: Path) -> None:
    evil = "<script>alert('x')</script>"
    table = Table(["name", evil], [[evil, Cell(evil, "bad")]], evil)
    section = Section(evil, [evil], [table], [Picture(PNG, evil)], [evil])
    html = page(
        tmp_path, lead=evil, kicker=evil, facts=[(evil, evil)], cards=[Card(evil, evil, evil)], sections=[section]
    )
    assert "<script" not in html
    assert html.count("&lt;script&gt;") >= 12


def test_policy_allows_this_style_and_data_pictures_only(tmp_path: Path) -> None:
    html = page(tmp_path, sections=[Section("One", pictures=[Picture(PNG)])])
    css = re.search(r"<style>(.*?)</style>", html, re.DOTALL)
    assert css is not None
    digest = base64.b64encode(hashlib.sha256(css.group(1).encode()).digest()).decode()
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', html)
    assert policy is not None
    assert policy.group(1).startswith(f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'")
    assert not re.search(r"(?:src|href)=\"(?!data:|#)", html)
    assert "style=" not in html


def test_page_says_that_it_is_for_research(tmp_path: Path) -> None:
    assert "Research use only. Not a medical device." in page(tmp_path)


def test_numbers_stand_right_and_what_is_undefined_is_a_dash(tmp_path: Path) -> None:
    html = page(tmp_path, sections=[Section("S", tables=[Table(["a", "b"], [[0.12345, float("nan")], ["x", None]])])])
    assert '<td class="number">0.123</td><td class="number">–</td>' in html
    assert '<td class="">x</td>' in html
    assert [show(v) for v in (None, 12345.6, True, "w", 7)] == ["–", "12,346", "yes", "w", "7"]


def test_folded_table_and_contents(tmp_path: Path) -> None:
    sections = [Section(f"Part {n}", tables=[Table(["a"], [[1]], "All of it", folded=True)]) for n in range(4)]
    html = page(tmp_path, sections=sections)
    assert "<summary>All of it</summary>" in html
    assert '<a href="#s4">Part 3</a>' in html


def test_only_files_beside_the_page_are_linked(tmp_path: Path) -> None:
    html = page(tmp_path, sections=[Section("S", links=[Link("the <viewer>", "viewer.html")], notes=["n"])])
    assert '<a href="viewer.html">the &lt;viewer&gt;</a>' in html
    for target in ("http://x.org/", "../../up.html", "a/../b", "javascript:alert(1)", "//x.org", "/x", ".hidden", ".."):
        for linked in (lambda file: Link("x", file), lambda file: Cell("x", file=file)):
            with pytest.raises(ValueError, match="expected the plain name of a file beside the page, one folder off"):
                linked(target)
    for target in ("../report.html", "scans/ab.html", "../masks/ab.nii.gz", "viewer.html#ab12"):
        rows = [[Cell("<ab>", file=target)]]
        html = page(tmp_path, sections=[Section("S", tables=[Table(["a"], rows)])])
        assert f'<a href="{target}">&lt;ab&gt;</a>' in html


def test_clinical_pages_are_private_and_marked(tmp_path: Path) -> None:
    path = render("page.html", tmp_path / "deep" / "p.html", title="T", restricted=True, mode=0o600)
    assert path.stat().st_mode & 0o777 == 0o600
    assert "may name sources" in path.read_text(encoding="utf-8")
    assert [file.name for file in path.parent.iterdir()] == ["p.html"]


def test_only_png_and_jpeg_are_embedded() -> None:
    assert data_uri(PNG).startswith("data:image/png;base64,iVBOR")
    assert data_uri(b"\xff\xd8\xff\xe0").startswith("data:image/jpeg;base64,")
    with pytest.raises(ValueError, match="expected PNG or JPEG bytes"):
        data_uri(b"<svg onload=alert(1)>")


def test_a_missing_value_or_template_is_an_error_and_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(UndefinedError, match="title"):
        render("page.html", tmp_path / "p.html")
    with pytest.raises(TemplateNotFound):
        render("none.html", tmp_path / "p.html", title="T")
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_fails_leaves_the_old_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = render("page.html", tmp_path / "p.html", title="old")

    def full(source: object, target: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("medml.pages.shell.os.replace", full)
    with pytest.raises(OSError, match="no space"):
        render("page.html", path, title="new")
    assert "<h1>old</h1>" in path.read_text(encoding="utf-8")
    assert [file.name for file in tmp_path.iterdir()] == ["p.html"]


def test_an_interval_stays_on_one_line_and_words_do_not(tmp_path: Path) -> None:
    table = Table(["a", "b", "c", "d"], [["0.612 to 0.795", "0.912\n0.8 to 1,000.5", "from 3 to 4", "-0.1 to +0.2"]])
    html = render("page.html", tmp_path / "p.html", title="T", sections=[Section("S", tables=[table])]).read_text()
    assert html.count('<td class="span">') == 3
    assert '<td class="">from 3 to 4</td>' in html
