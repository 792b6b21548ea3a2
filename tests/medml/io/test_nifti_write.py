"""NIfTI files and gzip as they are written."""

from __future__ import annotations

import gzip
import subprocess
import zlib
from pathlib import Path

import nibabel
import numpy as np
import pytest

from medml.errors import Refusal
from medml.io import gzip_writer
from medml.io.gzip_writer import GzipWriter
from medml.io.nifti_write import save_nifti
from medml.records.scan import Volume


def volume(shape: tuple[int, ...] = (1, 40, 30, 500), kind: str = "i2") -> Volume:
    voxels = np.random.default_rng(0).integers(0, 200, shape).astype(kind)
    return Volume(voxels, np.diag([2.0, 3.0, 4.0, 1.0]))


@pytest.mark.parametrize("compress", [True, False])
def test_another_reader_gets_every_voxel_and_the_affine(tmp_path: Path, compress: bool) -> None:
    one = volume((2, 40, 30, 300))
    path = tmp_path / ("a.nii.gz" if compress else "a.nii")
    save_nifti(path, Volume(np.flip(one.voxels, 1), one.affine), compress=compress)
    image = nibabel.load(path)
    assert np.array_equal(image.affine, one.affine)
    assert image.get_data_dtype() == np.int16
    assert np.array_equal(np.moveaxis(np.asarray(image.dataobj), 3, 0), one.voxels[:, ::-1])


def test_the_bytes_do_not_depend_on_the_number_of_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = volume((1, 256, 256, 40))
    for threads in (1, 3):
        monkeypatch.setattr(gzip_writer, "THREADS", threads)
        monkeypatch.setattr(gzip_writer.os, "sched_getaffinity", lambda pid: range(8))
        save_nifti(tmp_path / f"{threads}.nii.gz", one)
    assert (tmp_path / "1.nii.gz").read_bytes() == (tmp_path / "3.nii.gz").read_bytes()


def test_gzip_is_one_member_that_every_reader_accepts(tmp_path: Path) -> None:
    pieces = [np.full(300_000, n, np.uint8) for n in range(5)] + [np.empty(0, np.uint8), np.arange(9, dtype=np.uint8)]
    path = tmp_path / "a.gz"
    with path.open("wb") as file:
        writer = GzipWriter(file)
        writer.write(lambda piece=piece: piece for piece in pieces[:4])
        writer.write(lambda piece=piece: piece for piece in pieces[4:])
        writer.close()
    expected = b"".join(piece.tobytes() for piece in pieces)
    assert gzip.decompress(path.read_bytes()) == expected
    reader = zlib.decompressobj(31)
    assert reader.decompress(path.read_bytes()) == expected
    assert reader.eof
    assert reader.unused_data == b""
    assert subprocess.run(["gzip", "-t", str(path)], check=False).returncode == 0


def test_an_error_in_a_thread_comes_out(tmp_path: Path) -> None:
    def broken() -> np.ndarray:
        raise RuntimeError("no voxels")

    with (tmp_path / "a.gz").open("wb") as file, pytest.raises(RuntimeError, match="no voxels"):
        GzipWriter(file).write([broken, broken, broken])


def test_voxels_that_nifti_has_no_type_for_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="voxels of type complex64 cannot be stored"):
        save_nifti(tmp_path / "a.nii", volume(kind="c8"))
