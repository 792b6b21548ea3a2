"""Atomic files, digests and pseudonyms."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from medml.errors import ConfigError, MedmlError, NotFound, Refusal
from medml.io import files
from medml.records.scan import Finding, Volume


def volume(voxels: np.ndarray) -> Volume:
    return Volume(voxels, np.diag([1.5, 1.5, 3.0, 1.0]))


def test_a_written_file_has_its_content_and_leaves_nothing_else(tmp_path: Path) -> None:
    files.write_text(tmp_path / "deep" / "a.txt", "ünï")
    assert (tmp_path / "deep" / "a.txt").read_text(encoding="utf-8") == "ünï"
    assert os.listdir(tmp_path / "deep") == ["a.txt"]


def test_a_failing_write_keeps_the_old_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    files.write_text(tmp_path / "a.txt", "old")

    def fail(temporary: Path) -> None:
        temporary.write_text("half")
        raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        files.write_atomic(tmp_path / "a.txt", fail)
    assert (tmp_path / "a.txt").read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_full_disk_is_said_with_the_free_space(tmp_path: Path) -> None:
    def fail(_: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(MedmlError, match=r"a\.txt: the disk is full \(\d+ bytes free\)"):
        files.write_atomic(tmp_path / "a.txt", fail)


def test_other_write_errors_are_not_changed(tmp_path: Path) -> None:
    def fail(_: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(OSError, match="Input/output"):
        files.write_atomic(tmp_path / "a.txt", fail)


def test_a_private_file_is_private_from_its_first_byte(tmp_path: Path) -> None:
    modes: list[int] = []
    files.write_atomic(tmp_path / "a", lambda t: modes.append(stat.S_IMODE(t.stat().st_mode)), mode=0o600)
    assert modes == [0o600]
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o600


def test_json_has_sorted_keys_and_no_nan(tmp_path: Path) -> None:
    files.write_json(tmp_path / "a.json", {"b": 1, "a": [2]})
    assert (tmp_path / "a.json").read_text() == '{\n "a": [\n  2\n ],\n "b": 1\n}\n'
    with pytest.raises(ValueError, match="Out of range float"):
        files.write_json(tmp_path / "a.json", float("nan"))


def test_a_record_comes_back_equal(tmp_path: Path) -> None:
    finding = Finding(code="gap", severity="warning", message="two", numbers={"mm": 2.5})
    files.write_record(tmp_path / "f.json", finding)
    assert files.read_record(tmp_path / "f.json", Finding) == finding


def test_a_damaged_or_absent_record_is_named(tmp_path: Path) -> None:
    (tmp_path / "f.json").write_text('{"code": 3}')
    with pytest.raises(MedmlError, match=r"f\.json: not a Finding \(code: "):
        files.read_record(tmp_path / "f.json", Finding)
    with pytest.raises(NotFound, match=r"g\.json: there is no such file"):
        files.read_record(tmp_path / "g.json", Finding)


def test_a_huge_record_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_RECORD_BYTES", 10)
    (tmp_path / "f.json").write_text(" " * 11)
    with pytest.raises(MedmlError, match="11 bytes, expected at most 10"):
        files.read_record(tmp_path / "f.json", Finding)


def test_sweeping_removes_what_a_dead_process_left_and_nothing_else(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from medml.io.files import temporary_path as t\n"
        "p = Path(sys.argv[1]); t(p / 'a.txt').touch(); t(p / 'b').mkdir()"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    mine = files.temporary_path(tmp_path / "a.txt")
    mine.touch()
    (tmp_path / ".foreign.tmp").touch()
    assert files.sweep_temporary(tmp_path) == 2
    assert sorted(os.listdir(tmp_path)) == sorted([".foreign.tmp", mine.name])
    assert files.sweep_temporary(tmp_path / "absent") == 0


def test_temporary_files_of_another_machine_are_swept_after_a_day(tmp_path: Path) -> None:
    old, new = tmp_path / ".a.00000000-1-1-aa.tmp", tmp_path / ".b.00000000-1-1-aa.tmp"
    old.touch()
    new.touch()
    os.utime(old, (1e9, 1e9))
    assert files.sweep_temporary(tmp_path) == 1
    assert new.exists()


def test_a_pipe_is_refused_without_waiting_for_a_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(Refusal, match="found a pipe, device or folder"), files.open_regular(tmp_path / "pipe"):
        pass
    with pytest.raises(Refusal, match="cannot be opened"), files.open_regular(tmp_path / "absent"):
        pass


def test_sha256_of_a_file_is_the_known_one(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    assert files.sha256_file(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_source_stamp_does_not_depend_on_order_or_place_but_on_time(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    a.write_text("1")
    b.write_text("2")
    stamp = files.source_stamp(tmp_path, [a, b])
    assert files.source_stamp(tmp_path, [b, a]) == stamp
    os.utime(a, (1, 1))
    assert files.source_stamp(tmp_path, [a, b]) != stamp


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.int32, np.uint64, np.float32, np.float64])
def test_equal_values_have_one_digest_whatever_the_dtype_and_order(kind: type) -> None:
    values = np.arange(24).reshape(1, 2, 3, 4)
    expected = files.content_digest(volume(values))
    assert files.content_digest(volume(values.astype(kind))) == expected
    assert files.content_digest(volume(np.asfortranarray(values.astype(kind)))) == expected


@pytest.mark.parametrize(("big", "kind"), [(70000, np.float32), (2**24 + 1, np.float64), (0.1, np.float64)])
def test_large_and_broken_values_keep_their_digest_too(big: float, kind: type) -> None:
    values = np.full((1, 1, 1, 2), big)
    assert files.content_digest(volume(values)) == files.content_digest(volume(values.astype(kind)))


def test_another_voxel_shape_or_affine_has_another_digest() -> None:
    values = np.zeros((1, 2, 3, 4), np.int16)
    changed = values.copy()
    changed[0, 1, 2, 3] = 1
    digests = {
        files.content_digest(volume(values)),
        files.content_digest(volume(changed)),
        files.content_digest(volume(values.reshape(1, 3, 2, 4))),
        files.content_digest(Volume(values, np.eye(4))),
    }
    assert len(digests) == 4


def test_negative_zero_and_float32_affines_do_not_change_the_digest() -> None:
    affine = np.eye(4)
    affine[:3, 3] = [-123.4567891, 0.1, 1 / 3]
    values = np.array([0.5, -0.0]).reshape(1, 1, 1, 2)
    stored = Volume(np.abs(values), affine.astype(np.float32).astype(float))
    assert files.content_digest(Volume(values, affine)) == files.content_digest(stored)


def test_a_mask_digest_ignores_the_dtype() -> None:
    mask = np.array([[[0, 1]]], bool)
    assert files.mask_digest(mask) == files.mask_digest(mask.astype(np.float32))


def test_pseudonyms_are_stable_and_private(tmp_path: Path) -> None:
    names = files.Pseudonyms(tmp_path / "secrets" / "key")
    again = files.Pseudonyms(tmp_path / "secrets" / "key")
    other = files.Pseudonyms(tmp_path / "secrets" / "key2")
    assert names.patient("A", " 1 ") == again.patient("A", "1")
    assert names.patient("A", "1") != other.patient("A", "1")
    assert names.patient("A", "1") != names.patient("B", "1")
    assert names.patient("A1", "") != names.patient("A", "1")
    assert names.patient("A", "1").startswith("p-")
    assert names.study("1.2").startswith("s-")
    assert names.group("x").startswith("g-")
    assert len(names.scan_id("x", "y")) == 24
    assert stat.S_IMODE((tmp_path / "secrets").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "secrets" / "key").stat().st_mode) == 0o600


def test_many_at_once_make_one_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(lambda _: files.Pseudonyms(tmp_path / "key").group("x"), range(8)))
    assert len(set(made)) == 1
    assert os.listdir(tmp_path) == ["key"]


def test_a_key_that_others_can_read_or_of_another_length_is_refused(tmp_path: Path) -> None:
    files.Pseudonyms(tmp_path / "key")
    (tmp_path / "key").chmod(0o644)
    with pytest.raises(ConfigError, match=r"others may read the key \(mode 644\)"):
        files.Pseudonyms(tmp_path / "key")
    (tmp_path / "key").chmod(0o600)
    (tmp_path / "key").write_bytes(b"short")
    with pytest.raises(ConfigError, match="found 5 bytes, expected 32"):
        files.Pseudonyms(tmp_path / "key")
