"""Conversion alone: one series to one NIfTI file."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from dicom_phantoms import pixels_of, tagged, write_series
from pydicom.dataset import Dataset
from pydicom.uid import RLELossless

from medml.catalogue import convert
from medml.catalogue.convert import convert_folder, convert_series
from medml.errors import GeometryError, Refusal

# Columns run along x, rows along y, slices along z, LPS; RAS turns the first two round.
AFFINE = [[-0.75, 0, 0, 10], [0, -0.5, 0, 20], [0, 0, 5, 30], [0, 0, 0, 1]]


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_values_and_places_are_those_of_the_source(tmp_path: Path, name: str) -> None:
    write_series(tmp_path / "in", 4)
    convert_series(tmp_path / "in", tmp_path / name)
    image = nibabel.load(tmp_path / name)
    assert image.shape == (2, 3, 4)
    assert np.allclose(image.affine, AFFINE)
    assert image.get_data_dtype() == np.uint16
    for index in range(4):
        assert np.array_equal(np.asarray(image.dataobj)[..., index].T, pixels_of(index) - 1024.0)


def test_slabs_of_one_slice_give_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def edit(data: Dataset, index: int) -> None:
        data.compress(RLELossless, pixels_of(index), generate_instance_uid=False)

    write_series(tmp_path / "in", 4, edit=edit)
    monkeypatch.setattr(convert, "SLAB_BYTES", 1)
    convert_series(tmp_path / "in", tmp_path / "a.nii")
    values = np.asarray(nibabel.load(tmp_path / "a.nii").dataobj)
    assert np.array_equal(values[..., 3].T, pixels_of(3) - 1024.0)


def test_each_slice_has_its_own_rescale(tmp_path: Path) -> None:
    def edit(data: Dataset, index: int) -> None:
        data.RescaleSlope, data.RescaleIntercept = 0.5 * (index + 1), index

    write_series(tmp_path / "in", 2, edit=edit)
    convert_series(tmp_path / "in", tmp_path / "a.nii")
    image = nibabel.load(tmp_path / "a.nii")
    assert image.get_data_dtype() == np.float32
    assert np.asarray(image.dataobj)[0, 0].tolist() == [500.0, 1101.0]


def test_several_series_are_refused_and_a_folder_of_them_is_converted(tmp_path: Path) -> None:
    write_series(tmp_path / "in" / "a", 2)
    write_series(
        tmp_path / "in" / "b",
        3,
        edit=lambda data, index: setattr(data, "SeriesInstanceUID", "1.2.3") or rename(data, index),
    )
    with pytest.raises(Refusal, match="the folder holds 2 images, expected 1"):
        convert_series(tmp_path / "in", tmp_path / "a.nii")
    written, refusals = convert_folder(tmp_path / "in", tmp_path / "out")
    assert sorted(nibabel.load(path).shape[2] for path in written) == [2, 3]
    assert refusals == []


def rename(data: Dataset, index: int) -> None:
    data.SOPInstanceUID = f"1.2.3.{index + 1}"


def test_a_gap_is_refused(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "in", 5)
    paths[2].unlink()
    with pytest.raises(GeometryError) as caught:
        convert_series(tmp_path / "in", tmp_path / "a.nii")
    assert caught.value.code == "missing_slice"
    assert [refusal.code for refusal in convert_folder(tmp_path / "in", tmp_path / "out")[1]] == ["missing_slice"]
    assert not (tmp_path / "a.nii").exists()


def test_a_repaired_series_is_converted_as_ingest_does(tmp_path: Path) -> None:
    write_series(
        tmp_path / "in", 1, edit=tagged(ImagePositionPatient=None, ImageOrientationPatient=None, Modality="DX")
    )
    convert_series(tmp_path / "in", tmp_path / "a.nii")
    assert nibabel.load(tmp_path / "a.nii").shape == (2, 3, 1)
