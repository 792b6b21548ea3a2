from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from annotation_phantoms import OBLIQUE, ct, rtstruct, slices_of
from dicom_phantoms import ROOT, save_slice
from matplotlib.path import Path as Polygon

from medml.errors import GeometryError, Refusal
from medml.io.rtstruct import _inside, read_references, read_regions
from medml.io.structures import Structure


def voxels_of(structure: Structure) -> set[tuple[int, ...]]:
    return {tuple(int(n) for n in index) for index in np.argwhere(structure.inside) + structure.start}


def box(left: float, top: float, right: float, bottom: float) -> list[tuple[float, float]]:
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def block(left: int, top: int, right: int, bottom: int, number: int) -> set[tuple[int, int, int]]:
    """Voxels from (left, top) to (right, bottom), both included, of a slice."""
    return {(i, j, number) for i in range(left, right + 1) for j in range(top, bottom + 1)}


def read(tmp_path: Path, regions, *, orientation=(1, 0, 0, 0, 1, 0), **options):
    images = ct(orientation)
    path = save_slice(tmp_path / "rt.dcm", rtstruct(images, regions, **options))
    return read_regions(path, slices_of(images))


@pytest.mark.parametrize("orientation", [(1, 0, 0, 0, 1, 0), OBLIQUE])
def test_voxels_whose_centres_lie_inside_a_contour_are_filled(tmp_path: Path, orientation) -> None:
    structures, findings = read(tmp_path, {"GTV 1": [(2, box(0.6, 1.6, 3.4, 4.4))]}, orientation=orientation)
    assert [(s.number, s.name) for s in structures] == [(1, "gtv_1")]
    assert voxels_of(structures[0]) == block(1, 2, 3, 4, 2)
    assert findings == ()


def test_voxels_whose_centres_lie_on_a_contour_belong_to_the_region(tmp_path: Path) -> None:
    ring = [(1, box(0, 0, 5, 5)), (1, box(1, 1, 4, 4))]
    structures, _ = read(tmp_path, {"box": [(0, box(1, 1, 3, 4))], "ring": ring})
    assert voxels_of(structures[0]) == block(1, 1, 3, 4, 0)
    assert voxels_of(structures[1]) == block(0, 0, 5, 5, 1) - block(2, 2, 3, 3, 1)


def test_random_polygons_are_filled_as_another_library_fills_them() -> None:
    random = np.random.default_rng(0)
    centres = np.stack(np.meshgrid(np.arange(50), np.arange(40), indexing="ij"), axis=-1).reshape(-1, 2)
    for _ in range(50):
        angles = np.sort(random.uniform(0, 2 * np.pi, random.integers(3, 30)))
        radii = random.uniform(3, 30, angles.size)
        points = np.stack([25 + radii * np.cos(angles), 20 + radii * np.sin(angles)], axis=1)
        expected = Polygon(points).contains_points(centres).reshape(50, 40)
        np.testing.assert_array_equal(_inside(points, (slice(0, 50), slice(0, 40))), expected)


def test_an_inner_contour_cuts_a_hole_and_one_in_the_hole_fills_again(tmp_path: Path) -> None:
    contours = [(1, box(1.6, 1.6, 2.4, 2.4)), (1, box(-0.4, -0.4, 5.4, 5.4)), (1, box(0.6, 0.6, 4.4, 4.4))]
    structures, findings = read(tmp_path, {"ring": contours})
    expected = (block(0, 0, 5, 5, 1) - block(1, 1, 4, 4, 1)) | block(2, 2, 2, 2, 1)
    assert voxels_of(structures[0]) == expected
    assert [(f.code, f.numbers) for f in findings] == [("contour_holes", {"count": 1.0})]


def test_a_keyhole_cuts_a_hole(tmp_path: Path) -> None:
    keyhole = [
        *[(-0.4, -0.4), (5.4, -0.4), (5.4, 5.4), (-0.4, 5.4), (-0.4, -0.4)],
        *[(0.6, 0.6), (0.6, 4.4), (4.4, 4.4), (4.4, 0.6), (0.6, 0.6)],
    ]
    structures, _ = read(tmp_path, {"ring": [(0, keyhole)]})
    assert voxels_of(structures[0]) == block(0, 0, 5, 5, 0) - block(1, 1, 4, 4, 0)


def test_contours_that_cross_are_united_and_copies_count_once(tmp_path: Path) -> None:
    contours = [(0, box(-0.4, -0.4, 2.4, 2.4)), (0, box(1.6, 1.6, 4.4, 4.4)), (0, box(1.6, 1.6, 4.4, 4.4))]
    structures, findings = read(tmp_path, {"a": contours})
    assert voxels_of(structures[0]) == block(0, 0, 2, 2, 0) | block(2, 2, 4, 4, 0)
    assert {f.code for f in findings} == {"crossing_contours", "duplicate_contours"}


def test_xor_contours_are_combined_by_exclusive_or(tmp_path: Path) -> None:
    contours = [(0, box(-0.4, -0.4, 2.4, 2.4)), (0, box(1.6, 1.6, 4.4, 4.4))]
    structures, _ = read(tmp_path, {"a": contours}, kind="CLOSEDPLANAR_XOR")
    assert voxels_of(structures[0]) == block(0, 0, 2, 2, 0) ^ block(2, 2, 4, 4, 0)


def test_gaps_small_contours_and_parts_outside_are_found(tmp_path: Path) -> None:
    contours = [(0, box(-2, -0.4, 2.4, 2.4)), (3, box(1.6, 1.6, 4.4, 4.4)), (3, box(0.2, 0.2, 0.4, 0.4))]
    structures, findings = read(tmp_path, {"a": contours})
    assert voxels_of(structures[0]) == block(0, 0, 2, 2, 0) | block(2, 2, 4, 4, 3)
    counts = {f.code: f.numbers["count"] for f in findings}
    assert counts == {"contour_gaps": 2.0, "small_contours": 1.0, "contours_outside": 1.0}


def test_a_contour_within_half_a_slice_is_taken_and_one_further_off_refused(tmp_path: Path) -> None:
    regions = {"a": [(3, box(0.6, 0.6, 2.4, 2.4))]}
    structures, _ = read(tmp_path, regions, lift_mm=1.2)
    assert voxels_of(structures[0]) == block(1, 1, 2, 2, 3)
    with pytest.raises(GeometryError, match=r"up to 0\.52 slice distances from the nearest of 4 slices") as refusal:
        read(tmp_path, regions, lift_mm=1.3)
    assert refusal.value.code == "off_plane"


def test_a_contour_that_names_another_slice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GeometryError, match="names slice 1 of the source series but lies on slice 2"):
        read(tmp_path, {"a": [(1, box(0.6, 0.6, 2.4, 2.4))]}, lift_mm=2.5)


def test_a_contour_across_slices_is_refused(tmp_path: Path) -> None:
    images = ct()
    data = rtstruct(images, {"a": [(1, box(0.6, 0.6, 2.4, 2.4))]})
    contour = data.ROIContourSequence[0].ContourSequence[0]
    contour.ContourData = [v if n != 2 else 40.0 for n, v in enumerate(contour.ContourData)]
    path = save_slice(tmp_path / "rt.dcm", data)
    with pytest.raises(GeometryError, match="in another plane"):
        read_regions(path, slices_of(images))


def test_points_are_left_out_and_open_contours_refused_by_name(tmp_path: Path) -> None:
    images = ct()
    data = rtstruct(images, {"iso": [(0, [(1, 1)])], "a": [(1, box(0.6, 0.6, 2.4, 2.4))]})
    data.ROIContourSequence[0].ContourSequence[0].ContourGeometricType = "POINT"
    path = save_slice(tmp_path / "rt.dcm", data)
    structures, findings = read_regions(path, slices_of(images))
    assert [s.name for s in structures] == ["a"]
    assert [(f.code, f.severity) for f in findings] == [("point_contours", "info")]
    data.ROIContourSequence[0].ContourSequence[0].ContourGeometricType = "OPEN_PLANAR"
    save_slice(path, data)
    with pytest.raises(Refusal, match="a contour is OPEN_PLANAR") as refusal:
        read_regions(path, slices_of(images))
    assert refusal.value.code == "open_contour"
    assert [s.name for s in read_regions(path, slices_of(images), wanted=frozenset({"a"}))[0]] == ["a"]
    with pytest.raises(Refusal, match="2 regions, none of them"):
        read_regions(path, slices_of(images), wanted=frozenset({"b"}))


def test_images_that_are_not_there_are_counted_and_not_named(tmp_path: Path) -> None:
    images = ct()
    path = save_slice(tmp_path / "rt.dcm", rtstruct(images, {"a": [(n, box(1, 1, 2, 2)) for n in (0, 3)]}))
    with pytest.raises(Refusal, match="1 of the 2 images that contours were drawn on are not among the 3") as refusal:
        read_regions(path, slices_of(images[:3]))
    assert refusal.value.code == "dangling_reference"
    assert ROOT not in str(refusal.value)
    elsewhere = frozenset({str(images[3].SOPInstanceUID)})
    assert read_regions(path, slices_of(images[:3]), elsewhere=elsewhere)[0][0].inside.sum() == 4


def test_damaged_contours_are_refused(tmp_path: Path) -> None:
    images = ct()
    data = rtstruct(images, {"a": [(1, box(0.6, 0.6, 2.4, 2.4))]})
    data.ROIContourSequence[0].ContourSequence[0].NumberOfContourPoints = 9
    path = save_slice(tmp_path / "rt.dcm", data)
    with pytest.raises(Refusal, match="declares 9 points and holds 12 numbers"):
        read_regions(path, slices_of(images))


def test_an_image_without_position_cannot_take_contours(tmp_path: Path) -> None:
    images = ct()
    path = save_slice(tmp_path / "rt.dcm", rtstruct(images, {"a": [(1, box(0.6, 0.6, 2.4, 2.4))]}))
    slices = slices_of(images)
    with pytest.raises(GeometryError, match="has no position"):
        read_regions(path, replace(slices, affine=None, origins=None))


def test_references_hold_study_series_and_images(tmp_path: Path) -> None:
    images = ct()
    path = save_slice(tmp_path / "rt.dcm", rtstruct(images, {"a": [(1, box(0.6, 0.6, 2.4, 2.4))]}))
    references = read_references(path)
    assert (references.kind, references.series, references.studies) == ("rtstruct", (f"{ROOT}.2",), (f"{ROOT}.1",))
    assert len(references.images) == 4
