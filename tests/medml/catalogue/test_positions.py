"""The proof of regular slices, against highdicom's own test of the same, and in every orientation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from dicom_phantoms import headers_of as read_headers_of
from dicom_phantoms import pixels_of, set_pixels, slice_dataset, tagged, write_series
from highdicom.spatial import get_volume_positions
from pydicom.dataset import Dataset

from medml.catalogue.positions import places_of, prove_positions, regular_spacing, tolerance_of
from medml.errors import GeometryError
from medml.geometry import to_source, world_points
from medml.io.dicom import Header, read_series

ORIENTATIONS = {
    "axial, head first": (1, 0, 0, 0, 1, 0),
    "axial, feet first": (-1, 0, 0, 0, 1, 0),
    "prone": (-1, 0, 0, 0, -1, 0),
    "sagittal": (0, 1, 0, 0, 0, -1),
    "coronal": (1, 0, 0, 0, 0, -1),
    "oblique": (0.8, 0.6, 0, 0, 0, -1),
    "doubly oblique": (0.8, 0.36, 0.48, -0.6, 0.48, 0.64),
}


def slices_at(points: np.ndarray, orientation: tuple[float, ...]) -> list[Header]:
    return [
        Header(
            path=Path(f"{n}"),
            size=0,
            changed=0,
            position=tuple(point),
            orientation=orientation,
            pixel_spacing=(0.7, 0.7),
            instance=n,
            sop_uid=f"1.{n}",
        )
        for n, point in enumerate(points.tolist())
    ]


def ours(points: np.ndarray, orientation: tuple[float, ...]) -> list[int] | None:
    try:
        proof = prove_positions(slices_at(points, orientation))
    except GeometryError:
        return None
    return None if proof.repair else [int(header.sop_uid[2:]) for header in proof.headers]


@pytest.mark.parametrize("orientation", ORIENTATIONS.values(), ids=ORIENTATIONS)
@pytest.mark.parametrize("spacing", [0.1, 0.625, 5.0])
def test_what_is_proved_is_proved_by_highdicom_too_in_the_same_order(
    orientation: tuple[float, ...], spacing: float
) -> None:
    rng = np.random.default_rng(int(spacing * 1000))
    normal = np.cross(orientation[:3], orientation[3:])
    agreed = refused = 0
    for _ in range(60):
        count = int(rng.integers(2, 40))
        along = spacing * np.arange(count)
        kind = rng.integers(5)
        if kind == 1 and count > 3:
            along = np.delete(along, rng.integers(1, count - 1))  # a gap
        elif kind == 2:
            along[rng.integers(count)] += spacing * rng.uniform(0.15, 0.8)  # a slice out of place
        elif kind == 3:
            along = along + rng.uniform(-0.002, 0.002, len(along)) * spacing  # rounding
        elif kind == 4:
            along[rng.integers(count)] = along[0]  # perhaps a repeat
        points = rng.uniform(-200, 200, 3) + rng.permutation(along)[:, None] * normal
        order = ours(points, orientation)
        tolerance = max(2 * tolerance_of(spacing), 0.01 * spacing)
        found, places = get_volume_positions(
            points.tolist(), orientation, atol=tolerance, perpendicular_tol=1e-4, index_convention="RD"
        )
        if order is None:
            refused += 1
            continue
        assert found == pytest.approx(spacing, rel=0.01) or count == 2
        assert places is not None
        assert [places[n] for n in order] == list(range(len(points)))
        agreed += 1
    assert agreed > 10
    assert refused > 10


def test_highdicom_is_less_strict_about_drift_and_tilt() -> None:
    """What `docs/decisions` says: a slow drift and 2.5 degrees of tilt pass there, and not here."""
    steps = np.arange(120)
    drift = np.stack([0 * steps, 0 * steps, 5.0 * steps + 0.0004 * steps * (steps - 119)], axis=1)  # 1.4 mm off inside
    assert get_volume_positions(drift.tolist(), (1, 0, 0, 0, 1, 0))[0] == pytest.approx(5.0)
    assert ours(drift, (1, 0, 0, 0, 1, 0)) is None
    tilt = np.stack([0 * steps, 0.2 * steps, 5.0 * steps], axis=1)
    assert get_volume_positions(tilt.tolist(), (1, 0, 0, 0, 1, 0))[0] == pytest.approx(5.0)
    assert prove_positions(slices_at(tilt, (1, 0, 0, 0, 1, 0))).repair == "gantry_tilt"


def test_a_gap_shows_at_every_scale() -> None:
    for spacing in (0.01, 0.04, 0.5, 10.0):
        heights = spacing * np.array([0, 1, 2, 4, 5.0])
        points = np.stack([0 * heights, 0 * heights, heights], axis=1)
        assert regular_spacing(points, heights) is None
        with pytest.raises(GeometryError, match="1 of 6 slices are missing"):
            prove_positions(slices_at(points, (1, 0, 0, 0, 1, 0)))


@pytest.mark.parametrize(
    ("heights", "thickness", "places"),
    [
        ((0, 0.05, 5, 5.06), 5.0, [0, 0, 1, 1]),  # rounded repeats of thick slices
        ((0, 0.05, 0.1, 0.15), 5.0, [0, 1, 2, 3]),  # fine slices whose stated thickness is wrong
        ((0, 0.05, 5, 5.06), 1.0, [0, 1, 2, 3]),
        ((0, 0.004, 5, 5), 0.0, [0, 0, 1, 1]),
    ],
)
def test_images_within_a_fiftieth_of_a_slice_stand_at_one_place(
    heights: tuple[float, ...], thickness: float, places: list[int]
) -> None:
    points = np.stack([np.zeros(4), np.zeros(4), np.array(heights)], axis=1)
    headers = [replace(header, thickness=thickness) for header in slices_at(points, (1, 0, 0, 0, 1, 0))]
    assert places_of(headers).tolist() == places


@pytest.mark.parametrize("orientation", ORIENTATIONS.values(), ids=ORIENTATIONS)
@pytest.mark.parametrize("backwards", [False, True])
def test_a_landmark_keeps_its_place_in_every_orientation(
    tmp_path: Path, orientation: tuple[float, ...], backwards: bool
) -> None:
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    normal = np.cross(row, column)

    def edit(data: Dataset, index: int) -> None:
        at = -index if backwards else index
        data.ImagePositionPatient = [*(np.array([7.0, -8.0, 9.0]) + 2.5 * at * normal).round(6)]
        data.ImageOrientationPatient = list(orientation)
        data.InstanceNumber = 4 - index

    proof = prove_positions(read_headers_of(write_series(tmp_path, 4, edit=edit)))
    volume, grid, _ = read_series(proof.headers)
    # file 3, row 2, column 1: 1000 + 300 + 20 + 1 - 1024; 0.75 mm between columns, 0.5 mm between rows
    index = np.argwhere(volume.voxels[0] == 297)
    lps = np.array([7.0, -8.0, 9.0]) + 0.75 * row + 2 * 0.5 * column + (-7.5 if backwards else 7.5) * normal
    assert np.allclose(world_points(volume.affine, index), [lps * [-1, -1, 1]], atol=1e-5)
    assert to_source(volume.voxels, grid).shape == (1, 2, 3, 4)


def test_a_single_slice_has_its_place_and_thickness(tmp_path: Path) -> None:
    (header,) = read_headers_of(write_series(tmp_path, 1, edit=tagged(SliceThickness=3)))
    volume, _, _ = read_series(prove_positions([header]).headers)
    assert volume.voxels.shape == (1, 2, 3, 1)
    assert np.allclose(np.linalg.norm(volume.affine[:3, :3], axis=0), [0.75, 0.5, 3.0])


def test_slices_keep_their_own_rescale(tmp_path: Path) -> None:
    def edit(data: Dataset, index: int) -> None:
        data.Modality, data.RescaleSlope, data.RescaleIntercept = "PT", 0.5 * (index + 1), 0
        set_pixels(data, pixels_of(0))

    proof = prove_positions(read_headers_of(write_series(tmp_path, 3, edit=edit)))
    volume, grid, _ = read_series(proof.headers)
    assert to_source(volume.voxels, grid)[0, 0, 0].tolist() == [500.0, 1000.0, 1500.0]
    assert slice_dataset(0).Modality == "CT"
