"""Tilted and unevenly spaced slices on a regular grid, and labels back on the slices."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from dicom_phantoms import headers_of, set_pixels, write_series
from pydicom.dataset import Dataset

from medml.catalogue.parts import ProvedSeries, RefusedSeries
from medml.catalogue.policies import DEFAULT, Policies
from medml.catalogue.series import prove_series
from medml.errors import GeometryError
from medml.geometry import from_source, source_affine, source_shape, to_source, world_points
from medml.io.dicom import Header, read_series
from medml.io.nifti import write_on_grid
from medml.records.scan import SourceGrid, Volume

ROWS, COLUMNS, SLICES = 12, 10, 6
Place = Callable[[int], list[float]]


def field(lps: np.ndarray) -> np.ndarray:
    """A value that grows evenly along each axis, so that linear interpolation is exact: 3 x + 5 y + 7 z + 1000."""
    return lps @ [3.0, 5.0, 7.0] + 1000.0


def sampled(
    folder: Path, place: Place, *, orientation: tuple[float, ...] = (1, 0, 0, 0, 1, 0), scale: float = 10.0
) -> list[Header]:
    """Write slices that sample the field (in steps of 1 / scale) where they lie: 0.5 mm a row, 0.75 mm a column."""
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    j, i = np.mgrid[:ROWS, :COLUMNS]

    def edit(data: Dataset, index: int) -> None:
        position = place(index)
        points = np.array(position) + i[..., None] * 0.75 * row + j[..., None] * 0.5 * column
        set_pixels(data, np.rint(scale * field(points)).astype(np.uint16))
        data.ImagePositionPatient, data.ImageOrientationPatient = position, list(orientation)
        data.RescaleSlope, data.RescaleIntercept = 1 / scale, 0

    return headers_of(write_series(folder, SLICES, edit=edit))


def tilted(index: int) -> list[float]:
    """Slices shift by 0.8 mm (1.6 rows) toward +y every 4 mm: 11.3 degrees."""
    return [-3.0, -4.0 + 0.8 * index, 10.0 + 4.0 * index]


def read(headers: list[Header], policies: Policies = DEFAULT) -> tuple[Volume, SourceGrid, ProvedSeries]:
    (part,) = prove_series(headers, policies)
    assert isinstance(part, ProvedSeries)
    volume, grid, _ = read_series(part.headers, repair=part.repair)
    return volume, grid, part


def field_errors(volume: Volume) -> np.ndarray:
    """Return how far each voxel that no edge has touched is from the field at its place."""
    values = volume.voxels[0]
    index = np.argwhere(values > values.min())
    lps = world_points(volume.affine, index) * [-1, -1, 1]
    return np.abs(values[tuple(index.T)] - field(lps))


def test_a_tilted_gantry_is_sheared_back_to_an_orthogonal_grid(tmp_path: Path) -> None:
    volume, _, part = read(sampled(tmp_path, tilted))
    assert part.repair == "gantry_tilt"
    directions = volume.affine[:3, :3] / np.linalg.norm(volume.affine[:3, :3], axis=0)
    assert np.allclose(directions.T @ directions, np.eye(3), atol=1e-9)
    assert volume.voxels.shape == (1, COLUMNS, ROWS + 8, SLICES)  # 5 steps of 1.6 rows
    errors = field_errors(volume)
    assert np.median(errors) < 0.1
    # what is more than a row away from an edge: two voxels a column of each slice mix with the fill at most
    assert (errors < 0.2).sum() >= COLUMNS * SLICES * (ROWS - 1)
    (finding,) = part.findings
    assert finding.code == "gantry_tilt"
    assert finding.numbers["degrees"] == pytest.approx(11.31, abs=0.01)
    assert finding.numbers["sideways_mm"] == pytest.approx(4.0)


@pytest.mark.parametrize(
    ("orientation", "step"),
    [
        ((1, 0, 0, 0, 1, 0), (0.0, -0.8, 4.0)),
        ((1, 0, 0, 0, 1, 0), (0.6, 0.8, 4.0)),
        ((0, 1, 0, 0, 0, -1), (-4.0, 0.0, 0.7)),
        ((1, 0, 0, 0, 0, -1), (0.9, 4.0, 0.0)),
        ((-1, 0, 0, 0, -1, 0), (0.0, 0.8, 4.0)),
        ((0.8, 0.6, 0, -0.6, 0.8, 0), (0.5, 0.5, 4.0)),
    ],
)
def test_every_orientation_is_sheared_back(
    tmp_path: Path, orientation: tuple[float, ...], step: tuple[float, float, float]
) -> None:
    start = np.array([20.0, 30.0, 40.0])
    volume, grid, part = read(
        sampled(tmp_path, lambda n: [*(start + n * np.array(step)).round(6)], orientation=orientation)
    )
    assert part.repair == "gantry_tilt"
    errors = field_errors(volume)
    assert (errors < 0.3).sum() >= SLICES * (ROWS - 1) * (COLUMNS - 1)
    labels = np.random.default_rng(0).integers(0, 5, (COLUMNS, ROWS, SLICES)).astype(np.uint8)
    assert np.array_equal(to_source(from_source(labels, grid), grid), labels)


def test_a_mask_on_the_straight_grid_returns_to_the_tilted_slices(tmp_path: Path) -> None:
    volume, grid, _ = read(sampled(tmp_path / "s", tilted))
    points = world_points(volume.affine, np.argwhere(np.ones(volume.voxels.shape[1:])))
    inside = np.linalg.norm((points - [-2.0, 0.5, 20.0]) / [2.0, 2.0, 6.0], axis=1) < 1
    mask = inside.reshape(volume.voxels.shape[1:])
    write_on_grid(tmp_path / "m.nii.gz", mask, grid)
    written = nib.load(tmp_path / "m.nii.gz")
    assert written.shape == (COLUMNS, ROWS, SLICES)
    # the sheared affine of the source: slice n begins at LPS (-3, -4 + 0.8 n, 10 + 4 n)
    assert np.allclose(written.affine @ [0, 0, 5, 1], [3.0, 0.0, 30.0, 1.0], atol=1e-5)
    voxels = np.asarray(written.dataobj)
    back = world_points(written.affine, np.argwhere(voxels))
    # every voxel of the mask lies within half a voxel of the ellipsoid, and as many as the slices cover
    assert (np.linalg.norm((back - [-2.0, 0.5, 20.0]) / [2.0 + 0.375, 2.0 + 0.25, 6.0], axis=1) < 1).all()
    assert abs(int(voxels.sum()) - int(mask.sum())) <= 0.1 * mask.sum()


def test_the_way_back_is_stored_as_json(tmp_path: Path) -> None:
    _, grid, _ = read(sampled(tmp_path, tilted))
    again = SourceGrid.model_validate_json(grid.model_dump_json())
    assert again.repair is not None
    assert again.repair.places[2] == pytest.approx((0.0, 3.2, 2.0))
    assert source_shape(again) == (COLUMNS, ROWS, SLICES)
    affine = source_affine(again)
    assert affine is not None
    assert np.allclose(affine[:3, 2], [0.0, -0.8, 4.0])


def test_integers_stay_integers(tmp_path: Path) -> None:
    headers = sampled(tmp_path, tilted, scale=1.0)
    volume, _, _ = read(headers)
    assert volume.voxels.dtype == np.uint16


def test_a_stack_of_tilted_echoes_is_sheared_back(tmp_path: Path) -> None:
    def edit(data: Dataset, index: int) -> None:
        data.EchoTime = (10, 20)[index // 3]
        data.ImagePositionPatient = [0.0, 1.0 * (index % 3), 5.0 * (index % 3)]

    (part,) = prove_series(headers_of(write_series(tmp_path, 6, edit=edit)), Policies(echoes="stack"))
    assert isinstance(part, ProvedSeries)
    volume, grid, _ = read_series(part.headers, components=2, repair=part.repair)
    assert volume.voxels.shape == (2, 2, 7, 3)  # 3 rows and 2 steps of 2 rows
    assert to_source(volume.voxels, grid).shape == (2, 2, 3, 3)


def uneven(index: int) -> list[float]:
    return [-3.0, -4.0, (0.0, 4.0, 8.0, 13.0, 17.0, 21.0)[index]]


def test_varying_distances_are_resampled_along_the_normal(tmp_path: Path) -> None:
    headers = sampled(tmp_path, uneven)
    (refused,) = prove_series(headers)
    assert isinstance(refused, RefusedSeries)
    assert refused.refusal.code == "variable_spacing"
    volume, grid, part = read(headers, Policies(variable_spacing="repair"))
    assert volume.voxels.shape == (1, COLUMNS, ROWS, 6)  # 0 to 20 mm every 4 mm
    assert np.allclose(field_errors(volume), 0, atol=0.1)
    assert part.findings[0].numbers == {"lowest_mm": 4.0, "highest_mm": 5.0, "spacing_mm": 4.0}
    assert source_affine(grid) is None
    slices = to_source(volume.voxels, grid)[0]
    # slice 3 at 13 mm takes the nearest of the grid, 12 mm; slice 5 at 21 mm that at 20 mm
    assert np.abs(slices[..., 3] - slices[..., 2] - 7.0 * 4.0).max() < 0.2
    assert slices.shape == (COLUMNS, ROWS, SLICES)


def test_labels_of_unevenly_spaced_slices_are_written_on_the_regular_grid(tmp_path: Path) -> None:
    volume, grid, _ = read(sampled(tmp_path / "s", uneven), Policies(variable_spacing="repair"))
    write_on_grid(tmp_path / "m.nii.gz", np.ones(volume.voxels.shape[1:], np.uint8), grid)
    assert nib.load(tmp_path / "m.nii.gz").shape == (COLUMNS, ROWS, 6)


@pytest.mark.parametrize(
    ("heights", "code"),
    [((0, 4, 8, 20, 24, 28), "missing_slice"), ((0, 4, 8, 17, 21, 25), "variable_spacing")],
)
def test_wide_gaps_are_not_bridged(tmp_path: Path, heights: tuple[float, ...], code: str) -> None:
    headers = sampled(tmp_path, lambda n: [-3.0, -4.0, float(heights[n])])
    (part,) = prove_series(headers, Policies(variable_spacing="repair"))
    assert isinstance(part, RefusedSeries)
    assert part.refusal.code == code


def test_a_tilt_with_a_gap_is_refused(tmp_path: Path) -> None:
    def place(index: int) -> list[float]:
        return tilted(index + (index > 2))

    (part,) = prove_series(sampled(tmp_path, place))
    assert isinstance(part, RefusedSeries)
    assert part.refusal.code == "missing_slice"


def test_labels_of_another_shape_do_not_go_on_the_slices(tmp_path: Path) -> None:
    _, grid, _ = read(sampled(tmp_path, tilted))
    with pytest.raises(GeometryError, match=r"labels have the shape \(2, 2, 2\), expected \(10, 12, 6\)"):
        from_source(np.zeros((2, 2, 2)), grid)


def test_an_extreme_shift_is_no_tilt(tmp_path: Path) -> None:
    (part,) = prove_series(sampled(tmp_path, lambda n: [0.0, 5.0 * n, 4.0 * n]))
    assert isinstance(part, RefusedSeries)
    assert "(51.34 degrees, expected at most 45.0)" in str(part.refusal)
