from __future__ import annotations

import os
from pathlib import Path

import pytest

from medml.catalogue.config import IngestConfig, collection_of
from medml.catalogue.tree import Tree, printable, stem_of
from medml.errors import ConfigError, Refusal


def _tree(root: Path) -> Tree:
    return Tree(root, IngestConfig())


def test_hidden_files_links_and_pipes_are_ignored_with_a_reason(tmp_path: Path) -> None:
    root = tmp_path / "s"
    (root / ".git").mkdir(parents=True)
    for name in ("a.nii", ".hidden", ".git/x", ".git/y"):
        (root / name).write_bytes(b"1")
    (tmp_path / "outside").write_bytes(b"1")
    (root / "out").symlink_to(tmp_path / "outside")
    (root / "again").symlink_to(root / "a.nii")
    (root / "loop").symlink_to(root)
    os.mkfifo(root / "pipe")
    tree = _tree(root)
    assert list(tree.left) == ["a.nii"]
    codes = {outcome.source: (outcome.code, outcome.files) for outcome in tree.ignored}
    assert codes == {
        ".git": ("hidden", 2),
        ".hidden": ("hidden", 1),
        "again": ("link", 1),
        "loop": ("link", 1),
        "out": ("link", 1),
        "pipe": ("not_a_regular_file", 1),
    }


def test_a_link_to_a_hidden_file_of_the_source_is_followed(tmp_path: Path) -> None:
    (tmp_path / ".store").mkdir()
    (tmp_path / ".store" / "k1").write_bytes(b"1")
    (tmp_path / "a.nii").symlink_to(tmp_path / ".store" / "k1")
    tree = _tree(tmp_path)
    assert tree.path("a.nii") == tmp_path / ".store" / "k1"


def test_a_source_that_is_absent_or_empty_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such file or folder"):
        _tree(tmp_path / "absent")
    with pytest.raises(ConfigError, match="the folder is empty"):
        _tree(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="neither a file nor a folder"):
        _tree(tmp_path / "pipe")


def test_a_loop_of_links_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(ConfigError, match="check the path"):
        _tree(tmp_path / "a")


@pytest.mark.parametrize("path", ["../x.nii", "/etc/passwd", "", "a/../../x", "..\\x"])
def test_paths_that_leave_the_source_are_refused(tmp_path: Path, path: str) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "a.nii").write_bytes(b"1")
    with pytest.raises(Refusal, match="leaves the source"):
        _tree(tmp_path / "s").inside(path)


@pytest.mark.parametrize("path", ["a\0b", "\ud800", "x" * 300, "x/" * 3000])
def test_paths_that_no_file_system_holds_are_refused(tmp_path: Path, path: str) -> None:
    (tmp_path / "a.nii").write_bytes(b"1")
    with pytest.raises(Refusal, match="no name that a file system can hold"):
        _tree(tmp_path).inside(path)
    assert printable(path)


def test_a_file_that_goes_while_we_walk_stops_nothing(tmp_path: Path) -> None:
    file = tmp_path / "a.nii"
    file.write_bytes(b"1")
    tree = _tree(tmp_path)
    before = tree.stamp([file])
    file.unlink()
    assert tree.stamp([file]) != before


def test_a_path_through_a_link_that_leaves_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "s"
    root.mkdir()
    (root / "a.nii").write_bytes(b"1")
    (root / "out").symlink_to(tmp_path)
    with pytest.raises(Refusal, match="a link in the path leaves"):
        _tree(root).inside("out/x.nii")


def test_a_stamp_changes_with_the_file_and_with_the_facts(tmp_path: Path) -> None:
    file = tmp_path / "a.nii"
    file.write_bytes(b"1")
    tree = _tree(tmp_path)
    first = tree.stamp([file], ["x"])
    assert tree.stamp([file], ["x"]) == first
    assert tree.stamp([file], ["y"]) != first
    file.write_bytes(b"12")
    assert tree.stamp([file], ["x"]) != first


def test_files_are_counted_once(tmp_path: Path) -> None:
    (tmp_path / "a.nii").write_bytes(b"1")
    tree = _tree(tmp_path)
    assert tree.take(["a.nii"]) == 1
    assert tree.take(["a.nii"]) == 0
    assert tree.left == {}


def test_names_that_are_not_utf8_become_text() -> None:
    assert printable(os.fsdecode(b"caf\xe9.dcm")) == "caf\\xe9.dcm"


def test_stem_takes_both_suffixes_off() -> None:
    assert [stem_of(name) for name in ("a/b.nii.gz", "b.NII", "c.d.png", "noext")] == ["b", "b", "c.d", "noext"]


def test_collection_is_named_after_the_source(tmp_path: Path) -> None:
    assert collection_of(tmp_path / "Task04_Hippocampus", IngestConfig()) == "task04_hippocampus"
    assert collection_of(tmp_path / "Müller & Co.csv", IngestConfig()) == "m-ller-co"
    assert collection_of(tmp_path / "x.nii.gz", IngestConfig()) == "x"
    assert collection_of(tmp_path / "x", IngestConfig(collection="mine")) == "mine"
