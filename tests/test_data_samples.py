"""The phantoms of data_samples/: valid, plausible, hard enough, and the same every time."""

from __future__ import annotations

import csv
import filecmp
import subprocess
import sys
from collections import Counter
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest

from data_samples import dicom_series, generate
from data_samples.baseline import REGIONS, best_threshold
from data_samples.nifti_volume import LPS_TO_RAS
from data_samples.phantom import SCANNERS, Phantom, Style, make_phantom

REPOSITORY = Path(__file__).resolve().parents[1]
TINY = REPOSITORY / "data_samples" / "tiny"


@pytest.fixture(scope="module")
def patients() -> list[Phantom]:
    return list(generate.phantoms(range(1, 41)))


def files_below(folder: Path) -> dict[str, Path]:
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}


def series_volume(paths: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    """Read slices given along the normal: HU (column, row, slice) and the affine to LPS, by PS3.3 C.7.6.2.1.1."""
    slices = [pydicom.dcmread(path) for path in paths]
    first, last = slices[0], slices[-1]
    row, column = np.reshape(np.array(first.ImageOrientationPatient, dtype=float), (2, 3))
    affine = np.eye(4)
    affine[:3, 0] = row * float(first.PixelSpacing[1])
    affine[:3, 1] = column * float(first.PixelSpacing[0])
    start, end = (np.array(s.ImagePositionPatient, dtype=float) for s in (first, last))
    affine[:3, 2] = (end - start) / (len(slices) - 1)
    affine[:3, 3] = start
    hounsfield = [s.pixel_array * float(s.RescaleSlope) + float(s.RescaleIntercept) for s in slices]
    return np.stack([plane.T for plane in hounsfield], axis=-1), affine


def test_committed_patients_are_what_the_generator_writes(tmp_path: Path) -> None:
    generate.write_tiny(tmp_path)
    committed, written = files_below(TINY), files_below(tmp_path)
    assert list(committed) == list(written)
    assert all(filecmp.cmp(committed[name], written[name], shallow=False) for name in committed)
    assert sum(path.stat().st_size for path in committed.values()) < 32_000


def test_equal_arguments_give_equal_files(tmp_path: Path) -> None:
    for run in ("first", "second"):
        generate.main([str(tmp_path / run), "--patients", "6", "--new", "4"])
    first, second = files_below(tmp_path / "first"), files_below(tmp_path / "second")
    assert len(first) > 100
    assert list(first) == list(second)
    assert all(filecmp.cmp(first[name], second[name], shallow=False) for name in first)


def test_another_seed_gives_another_patient() -> None:
    assert not np.array_equal(make_phantom(1).labels, make_phantom(1, seed=1).labels)


def test_generator_runs_as_a_script(tmp_path: Path) -> None:
    script = REPOSITORY / "data_samples" / "generate.py"
    command = [sys.executable, str(script), str(tmp_path / "out"), "--patients", "2", "--new", "1"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True)
    assert "2 patients in cohort/ (1 with lesions), 1 scans in new/" in result.stdout


def test_manifest_names_files_that_exist(tmp_path: Path) -> None:
    generate.write_cohort(tmp_path, patients=4)
    with (tmp_path / "manifest.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == ["healthy", "lesion", "healthy", "lesion"]
    assert all((tmp_path / row["image"]).exists() and (tmp_path / row["mask"]).is_file() for row in rows)


def test_cohort_varies_and_half_of_it_has_lesions(patients: list[Phantom]) -> None:
    assert Counter(p.label for p in patients) == {"lesion": 20, "healthy": 20}
    assert {p.sex for p in patients} == {"F", "M"}
    assert {p.scanner for p in patients} == set(SCANNERS)
    assert {p.style for p in patients} == set(Style)
    assert {p.feet_first for p in patients} == {p.shuffled for p in patients} == {False, True}
    assert min(p.age for p in patients) >= 30
    assert any(p.age >= 90 for p in generate.phantoms(range(40, 81)))


def test_organ_and_lesions_have_the_sizes_and_intensities_documented(patients: list[Phantom]) -> None:
    for patient in patients:
        millilitres = abs(np.linalg.det(patient.affine_lps[:3, :3])) / 1000.0
        assert 400 < (patient.labels > 0).sum() * millilitres < 1500
        organ = patient.hounsfield[patient.labels == 1].mean() - patient.scanner.offset_hu
        assert 90 < organ < 125
        if patient.label == "lesion":
            lesion = patient.labels == 2
            assert 15 < lesion.sum() * millilitres < 150
            assert 25 < organ - (patient.hounsfield[lesion].mean() - patient.scanner.offset_hu) < 90


def test_one_threshold_does_not_find_lesions(patients: list[Phantom]) -> None:
    with_lesions = [patient for patient in patients if patient.label == "lesion"]
    for region in REGIONS.values():
        found = best_threshold(with_lesions, region)
        assert found.test_dice < 0.4
        assert found.train_dice < 0.4


@pytest.mark.parametrize("style", [Style.PLAIN, Style.RLE, Style.JPEG_LS, Style.JPEG_2000])
@pytest.mark.parametrize("number", [1, 2])
def test_series_decodes_to_the_phantom_on_its_grid(tmp_path: Path, style: Style, number: int) -> None:
    phantom = make_phantom(number, style=style, shape=(40, 36, 3))
    paths = dicom_series.write_series(phantom, tmp_path, name="{index}")
    hounsfield, affine = series_volume(paths)
    np.testing.assert_array_equal(hounsfield, phantom.hounsfield)
    np.testing.assert_allclose(affine, phantom.affine_lps, atol=1e-3)
    assert np.dot(np.cross(affine[:3, 0], affine[:3, 1]), affine[:3, 2]) > 0


def test_series_has_the_required_attributes_and_one_frame_of_reference(tmp_path: Path) -> None:
    phantom = make_phantom(3, style=Style.PLAIN, shape=(16, 16, 4))
    slices = [pydicom.dcmread(path) for path in dicom_series.write_series(phantom, tmp_path, name="{index}")]
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "PatientID"):
        assert len({str(s[keyword].value) for s in slices}) == 1
    assert len({s.SOPInstanceUID for s in slices}) == 4
    assert sorted(int(s.InstanceNumber) for s in slices) == [1, 2, 3, 4]
    required = ["SOPClassUID", "Modality", "ImageType", "PixelSpacing", "Rows", "Columns", "BitsStored", "RescaleType"]
    assert all(s[keyword].value for s in slices for keyword in required)
    assert all(str(s.PatientName) == "PHANTOM^0003" for s in slices)


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_nifti_puts_every_lesion_where_the_phantom_has_it(tmp_path: Path, number: int) -> None:
    phantom = make_phantom(number, style=Style.NIFTI, shape=(24, 20, 6))
    generate.nifti_volume.write_mask(phantom, tmp_path / "mask.nii.gz")
    generate.nifti_volume.write_image(phantom, tmp_path / "image.nii.gz")
    mask, image = nib.load(tmp_path / "mask.nii.gz"), nib.load(tmp_path / "image.nii.gz")
    np.testing.assert_array_equal(mask.affine, image.affine)

    def centre(labels: np.ndarray, affine: np.ndarray) -> np.ndarray:
        return affine[:3, :3] @ np.argwhere(labels > 0).mean(axis=0) + affine[:3, 3]

    expected = centre(phantom.labels, LPS_TO_RAS @ phantom.affine_lps)
    np.testing.assert_allclose(centre(np.asarray(mask.dataobj), mask.affine), expected, atol=1e-3)
    assert expected[0] > 0  # a liver lies on the right


def test_new_scans_share_folders_without_telling_names(tmp_path: Path) -> None:
    assert generate.write_new(tmp_path, patients=4) == 5
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    headers = [pydicom.dcmread(path, stop_before_pixels=True) for path in folder.iterdir()]
    assert all(path.suffix == "" for path in folder.iterdir())
    assert len({h.SeriesInstanceUID for h in headers}) == 4
    assert len({h.PatientID for h in headers}) == 3
    assert [path.name for path in tmp_path.glob("*.nii.gz")] == ["PHANTOM-5003.nii.gz"]
