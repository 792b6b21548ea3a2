"""NIfTI in and out."""

from __future__ import annotations

import gzip
import os
import struct
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medml.errors import GeometryError, Refusal
from medml.geometry import world_points
from medml.io import nifti
from medml.io.files import content_digest
from medml.io.limits import Limits
from medml.records.scan import Volume

LPS_LIKE = np.array([[-2.0, 0, 0, 10], [0, -3.0, 0, 20], [0, 0, 4.0, -30], [0, 0, 0, 1]])
QFORM_CODE = 252  # byte of the header; sform_code follows


def phantom() -> np.ndarray:
    return np.arange(24, dtype=np.int16).reshape(2, 3, 4)


def save(path: Path, voxels: np.ndarray, affine: np.ndarray = LPS_LIKE) -> Path:
    image = nib.Nifti1Image(voxels, affine)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)
    return path


def patched(path: Path, offset: int, form: str, *values: float) -> Path:
    data = bytearray(path.read_bytes())
    struct.pack_into("<" + form, data, offset, *values)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_axes_are_flipped_to_ras_and_every_voxel_keeps_its_place(tmp_path: Path, name: str) -> None:
    volume, grid = nifti.read_nifti(save(tmp_path / name, phantom()))
    assert volume.voxels.shape == (1, 2, 3, 4)
    assert grid.flips == (True, True, False)
    assert volume.voxels[0, 0, 0, 0] == phantom()[1, 2, 0]
    assert world_points(volume.affine, np.array([[0, 0, 0]])).tolist() == [[8.0, 14.0, -30.0]]
    assert volume.voxels.dtype == np.int16


def test_axes_are_permuted(tmp_path: Path) -> None:
    affine = np.array([[0, 0, 1.0, 0], [2.0, 0, 0, 0], [0, 3.0, 0, 0], [0, 0, 0, 1]])
    volume, grid = nifti.read_nifti(save(tmp_path / "a.nii", phantom(), affine))
    assert grid.axes == (2, 0, 1)
    assert volume.voxels.shape == (1, 4, 2, 3)
    assert np.array_equal(volume.voxels[0], phantom().transpose(2, 0, 1))
    assert np.allclose(volume.affine, np.diag([1, 2, 3, 1]))


@pytest.mark.parametrize("names", [("a.hdr", "a.img"), ("a.img", "a.hdr")])
def test_a_pair_is_read_by_either_name(tmp_path: Path, names: tuple[str, str]) -> None:
    nib.save(nib.Nifti1Pair(phantom(), np.eye(4)), tmp_path / "a.hdr")
    assert np.array_equal(nifti.read_nifti(tmp_path / names[0])[0].voxels[0], phantom())


def test_nifti_2_and_big_endian_are_read(tmp_path: Path) -> None:
    nib.save(nib.Nifti2Image(phantom(), np.eye(4)), tmp_path / "two.nii")
    big = nib.Nifti1Image(phantom(), np.eye(4), nib.Nifti1Header(endianness=">"))
    nib.save(big, tmp_path / "big.nii")
    for name in ("two.nii", "big.nii"):
        volume, _ = nifti.read_nifti(tmp_path / name)
        assert np.array_equal(volume.voxels[0], phantom())
        assert volume.voxels.dtype.isnative


def test_a_fourth_axis_becomes_the_components(tmp_path: Path) -> None:
    voxels = np.stack([phantom(), phantom() + 100], axis=3)
    volume, _ = nifti.read_nifti(save(tmp_path / "a.nii.gz", voxels, np.eye(4)))
    assert volume.voxels.shape == (2, 2, 3, 4)
    assert volume.voxels[1, 0, 0, 0] == 100


def test_seventeen_components_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", np.zeros((2, 2, 2, 17), np.uint8))
    with pytest.raises(Refusal, match="17 volumes in one file, expected at most 16"):
        nifti.read_nifti(path)
    path = save(tmp_path / "a.nii", np.zeros((2, 2, 2, 3, 3), np.uint8))
    with pytest.raises(Refusal, match=r"the shape is \(2, 2, 2, 3, 3\)"):
        nifti.read_nifti(path)


def test_an_image_of_two_axes_has_one_slice(tmp_path: Path) -> None:
    volume, grid = nifti.read_nifti(save(tmp_path / "a.nii", np.ones((5, 4), np.uint8), np.eye(4)))
    assert volume.voxels.shape == (1, 5, 4, 1)
    assert grid.shape == (5, 4, 1)


def test_one_slice_without_thickness_gets_one_millimetre(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", np.ones((5, 4, 1), np.uint8), np.eye(4))
    patched(path, 280, "12f", 2, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0)
    reading = nifti.read_checked(path)
    assert np.allclose(reading.volume.affine, np.diag([2, 2, 1, 1]))
    assert "no_thickness" in [finding.code for finding in reading.findings]


def test_metres_are_turned_into_millimetres(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", phantom(), np.diag([0.002, 0.002, 0.003, 1]))
    patched(path, 123, "b", 1)
    assert np.allclose(nifti.read_nifti(path)[0].affine, np.diag([2, 2, 3, 1]))


def test_forms_that_disagree_are_refused_or_chosen_between(tmp_path: Path) -> None:
    image = nib.Nifti1Image(phantom(), np.eye(4))
    image.set_sform(np.diag([1.0, 1, 1, 1]), code=2)
    image.set_qform(np.array([[1.0, 0, 0, 5], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), code=1)
    nib.save(image, tmp_path / "a.nii")
    words = r"sform \(code 2\) and qform \(code 1\) put a corner 5.00 apart, more than half a voxel \(1.00\)"
    with pytest.raises(GeometryError, match=words):
        nifti.read_checked(tmp_path / "a.nii")
    for conflict, place in (("sform", 0), ("qform", 5)):
        reading = nifti.read_checked(tmp_path / "a.nii", conflict=conflict)
        assert reading.volume.affine[0, 3] == place
        assert [(f.code, f.numbers["apart"]) for f in reading.findings[:1]] == [("affines_disagree", 5.0)]
        assert reading.findings[0].message.endswith(f"the {conflict} is taken")


def test_forms_that_mirror_each_other_disagree_though_both_ends_meet(tmp_path: Path) -> None:
    image = nib.Nifti1Image(phantom(), np.eye(4))
    image.set_sform(np.array([[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), code=1)
    image.set_qform(np.array([[-1.0, 0, 0, 1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), code=1)
    nib.save(image, tmp_path / "a.nii")
    with pytest.raises(GeometryError, match=r"put a corner 1\.00 apart"):
        nifti.read_checked(tmp_path / "a.nii")


@pytest.mark.parametrize("size", [-2.0, float("nan"), 0.0])
def test_voxel_sizes_that_no_voxel_has_are_refused(tmp_path: Path, size: float) -> None:
    image = nib.Nifti1Image(phantom(), np.eye(4))
    image.set_sform(None, code=0)
    image.set_qform(np.eye(4), code=1)
    nib.save(image, tmp_path / "a.nii")
    patched(tmp_path / "a.nii", 80, "f", size)
    with pytest.raises(GeometryError, match=r"voxel sizes \(pixdim\) are"):
        nifti.read_checked(tmp_path / "a.nii")


def test_an_unknown_unit_is_millimetres_with_a_finding_and_microns_are_a_thousandth(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", phantom(), np.diag([500.0, 500, 500, 1]))
    patched(path, 123, "b", 0)
    reading = nifti.read_checked(path)
    assert [finding.code for finding in reading.findings] == ["unknown_units"]
    assert reading.volume.affine[0, 0] == 500
    assert nifti.read_checked(patched(path, 123, "b", 3 + 8)).volume.affine[0, 0] == pytest.approx(0.5)


def test_colour_is_refused_by_name(tmp_path: Path) -> None:
    colour = np.zeros((2, 3, 4), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    nib.save(nib.Nifti1Image(colour, np.eye(4)), tmp_path / "a.nii")
    with pytest.raises(Refusal, match="colour voxels") as caught:
        nifti.read_nifti(tmp_path / "a.nii")
    assert caught.value.code == "colour_voxels"


def test_large_unsigned_integers_keep_their_value(tmp_path: Path) -> None:
    voxels = np.array([[[0, 2**40]]], np.uint64)
    nib.save(nib.Nifti1Image(voxels, np.eye(4), dtype=np.uint64), tmp_path / "a.nii")
    assert nifti.read_nifti(tmp_path / "a.nii")[0].voxels.ravel().tolist() == [0, 2**40]


def test_a_vector_on_the_fifth_axis_becomes_the_components(tmp_path: Path) -> None:
    image = nib.Nifti1Image(phantom().reshape(*phantom().shape, 1, 1).repeat(3, axis=4), np.eye(4))
    image.header.set_intent("vector")
    nib.save(image, tmp_path / "a.nii")
    assert nifti.read_nifti(tmp_path / "a.nii")[0].voxels.shape == (3, *phantom().shape)
    five = nib.Nifti1Image(np.zeros((2, 2, 2, 2, 3), np.int16), np.eye(4))
    nib.save(five, tmp_path / "b.nii")
    with pytest.raises(Refusal, match="three axes in space and at most one more"):
        nifti.read_nifti(tmp_path / "b.nii")


def test_header_extensions_are_passed_over(tmp_path: Path) -> None:
    image = nib.Nifti1Image(phantom(), np.eye(4))
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"secret" * 40))
    nib.save(image, tmp_path / "a.nii")
    assert np.array_equal(nifti.read_nifti(tmp_path / "a.nii")[0].voxels[0], phantom())


def test_the_header_of_a_pair_in_one_file_is_refused(tmp_path: Path) -> None:
    path = patched(save(tmp_path / "a.nii", phantom(), np.eye(4)), 344, "4s", b"ni1\0")
    with pytest.raises(Refusal, match="the header is that of a pair, found one file"):
        nifti.read_nifti(path)


def test_the_qform_is_taken_when_there_is_no_sform(tmp_path: Path) -> None:
    image = nib.Nifti1Image(phantom(), np.eye(4))
    image.set_sform(None, code=0)
    image.set_qform(np.diag([2.0, 3, 4, 1]), code=1)
    nib.save(image, tmp_path / "a.nii")
    assert np.allclose(nifti.read_nifti(tmp_path / "a.nii")[0].affine, np.diag([2, 3, 4, 1]))


def test_without_both_the_pixdim_is_taken_with_a_warning(tmp_path: Path) -> None:
    path = patched(save(tmp_path / "a.nii", phantom(), np.diag([2.0, 3, 4, 1])), QFORM_CODE, "2h", 0, 0)
    reading = nifti.read_checked(path)
    assert [finding.code for finding in reading.findings] == ["no_orientation"]
    assert np.allclose(np.diag(reading.volume.affine), [2, 3, 4, 1])


def test_shear_is_told_in_degrees(tmp_path: Path) -> None:
    affine = np.eye(4)
    affine[:3, 2] = [0.5, 0, np.sqrt(0.75)]
    reading = nifti.read_checked(patched(save(tmp_path / "a.nii", phantom(), affine), QFORM_CODE, "h", 0))
    assert [(f.code, round(f.numbers["degrees"])) for f in reading.findings] == [("sheared", 30)]


@pytest.mark.parametrize(("value", "message"), [(float("nan"), "not a finite 4x4"), (0.0, "singular")])
def test_a_bad_affine_is_refused(tmp_path: Path, value: float, message: str) -> None:
    path = patched(save(tmp_path / "a.nii", phantom()), 280, "f", value)
    with pytest.raises(GeometryError, match=message):
        nifti.read_nifti(path)


def test_a_damaged_quaternion_is_refused(tmp_path: Path) -> None:
    path = patched(save(tmp_path / "a.nii", phantom(), np.eye(4)), QFORM_CODE, "2h", 1, 0)
    patched(path, 256, "3f", 5.0, 5.0, 5.0)
    with pytest.raises(GeometryError, match="the qform is damaged"):
        nifti.read_nifti(path)


def test_slope_and_intercept_are_applied(tmp_path: Path) -> None:
    path = patched(save(tmp_path / "a.nii", phantom(), np.eye(4)), 112, "2f", 0.5, 1.0)
    volume, _ = nifti.read_nifti(path)
    assert volume.voxels.dtype == np.float32
    assert volume.voxels[0, 0, 0, :2].tolist() == [1.0, 1.5]


def test_64_bit_integers_are_narrowed_and_doubles_become_floats(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(phantom().astype(np.int64), np.eye(4), dtype=np.int64), tmp_path / "i.nii")
    nib.save(nib.Nifti1Image(np.full((1, 1, 2), 2.0**40, np.int64), np.eye(4), dtype=np.int64), tmp_path / "w.nii")
    save(tmp_path / "d.nii", phantom().astype(np.float64))
    assert nifti.read_nifti(tmp_path / "i.nii")[0].voxels.dtype == np.int16
    assert nifti.read_nifti(tmp_path / "w.nii")[0].voxels.dtype == np.int64
    assert nifti.read_nifti(tmp_path / "d.nii")[0].voxels.dtype == np.float32


def test_nan_is_cleared_and_counted(tmp_path: Path) -> None:
    voxels = phantom().astype(np.float32)
    voxels[1, 1, 1] = np.nan
    reading = nifti.read_checked(save(tmp_path / "a.nii", voxels, np.eye(4)))
    assert reading.volume.voxels[0, 1, 1, 1] == 0
    assert "1 of 24 voxels were NaN" in reading.findings[0].message


def test_infinity_is_refused_and_counted(tmp_path: Path) -> None:
    voxels = phantom().astype(np.float32)
    voxels[0, 0, :2] = np.inf
    with pytest.raises(Refusal, match="2 of 24 voxels are infinite"):
        nifti.read_nifti(save(tmp_path / "a.nii", voxels))


def test_a_truncated_file_is_refused_with_both_sizes(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", phantom())
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(Refusal, match="declares 48 bytes of voxels, the file holds 38"):
        nifti.read_nifti(path)


def test_truncated_gzip_is_refused_wherever_it_ends(tmp_path: Path) -> None:
    save(tmp_path / "a.nii", phantom())
    plain = (tmp_path / "a.nii").read_bytes()
    (tmp_path / "short.nii.gz").write_bytes(gzip.compress(plain[:-10]))
    (tmp_path / "cut.nii.gz").write_bytes(gzip.compress(plain)[:-12])
    with pytest.raises(Refusal, match="declares 48 bytes of voxels, the file holds 38"):
        nifti.read_nifti(tmp_path / "short.nii.gz")
    with pytest.raises(Refusal, match="end before their end mark"):
        nifti.read_nifti(tmp_path / "cut.nii.gz")


def test_a_wrong_checksum_is_noticed(tmp_path: Path) -> None:
    save(tmp_path / "a.nii", phantom())
    packed = bytearray(gzip.compress((tmp_path / "a.nii").read_bytes()))
    packed[-8] ^= 1
    (tmp_path / "a.nii.gz").write_bytes(packed)
    with pytest.raises(Refusal, match="the compressed data are damaged"):
        nifti.read_nifti(tmp_path / "a.nii.gz")


def test_sizes_are_checked_before_memory_is_taken(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", phantom())
    patched(path, 42, "3h", 4096, 4096, 4096)
    with pytest.raises(Refusal, match=r"decodes to 137438953472 bytes, expected at most 2147483648"):
        nifti.read_nifti(path)
    patched(path, 42, "3h", 5000, 1, 1)
    with pytest.raises(Refusal, match="expected at most 4096 voxels an axis"):
        nifti.read_nifti(path)
    patched(path, 42, "3h", 0, 1, 1)
    with pytest.raises(Refusal, match="expected at least one voxel an axis"):
        nifti.read_nifti(path)


def test_a_compression_bomb_is_refused_by_its_ratio(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii.gz", np.zeros((64, 64, 64), np.uint8))
    with pytest.raises(Refusal, match=r"more than 200 to 1"):
        nifti.read_checked(path, limits=Limits(ratio_above=1000))
    assert nifti.read_nifti(path)[0].voxels.shape == (1, 64, 64, 64)


def test_much_after_the_voxels_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", phantom())
    with path.open("ab") as file:
        file.write(bytes(5 << 20))
    with pytest.raises(Refusal, match="bytes follow the voxels"):
        nifti.read_nifti(path)


def test_what_is_not_nifti_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.nii").write_bytes(b"hello" * 200)
    with pytest.raises(Refusal, match="no NIfTI header"):
        nifti.read_nifti(tmp_path / "a.nii")
    (tmp_path / "b.nii").write_bytes(b"")
    with pytest.raises(Refusal, match="no NIfTI header"):
        nifti.read_nifti(tmp_path / "b.nii")
    nib.save(nib.AnalyzeImage(phantom(), np.eye(4)), tmp_path / "c.img")
    with pytest.raises(Refusal, match="an Analyze header"):
        nifti.read_nifti(tmp_path / "c.img")


@pytest.mark.parametrize(
    ("offset", "form", "value", "message"),
    [
        (108, "f", 4.0, "the NIfTI header is damaged: vox offset 4 too low"),
        (108, "f", float("nan"), "the NIfTI header is damaged|begin at byte nan"),
        (108, "f", float("inf"), "begin at byte inf"),
        (108, "f", 1e9, "declares 48 bytes of voxels, the file holds 0"),
        (70, "h", 9999, "the NIfTI header is damaged"),
        (123, "b", 7, "the NIfTI header is damaged"),
    ],
)
def test_a_damaged_header_is_refused(tmp_path: Path, offset: int, form: str, value: float, message: str) -> None:
    path = patched(save(tmp_path / "a.nii", phantom()), offset, form, value)
    with pytest.raises(Refusal, match=message):
        nifti.read_nifti(path)


def test_a_far_first_voxel_in_gzip_is_refused(tmp_path: Path) -> None:
    path = patched(save(tmp_path / "a.nii", phantom()), 108, "f", 1e9)
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(Refusal, match="expected them near the header"):
        nifti.read_nifti(tmp_path / "a.nii.gz")


def test_complex_voxels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="complex64"):
        nifti.read_nifti(save(tmp_path / "a.nii", phantom().astype(np.complex64)))
    with pytest.raises(Refusal, match="complex64"):
        nifti.write_nifti(tmp_path / "b.nii.gz", Volume(phantom()[None].astype(np.complex64), np.eye(4)))


def test_a_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.nii")
    with pytest.raises(Refusal, match="expected a regular file"):
        nifti.read_nifti(tmp_path / "a.nii")


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.uint16, np.int32, np.float32])
def test_what_is_written_is_read_back_equal(tmp_path: Path, kind: type) -> None:
    affine = np.diag([0.7, 0.8, 5.0, 1.0])
    affine[:3, 3] = [-101.3, 7.77, 1 / 3]
    volume = Volume(np.stack([phantom(), phantom() + 9]).astype(kind), affine)
    nifti.write_nifti(tmp_path / "a.nii.gz", volume)
    again, _ = nifti.read_nifti(tmp_path / "a.nii.gz")
    assert np.array_equal(again.voxels, volume.voxels)
    assert again.voxels.dtype == kind
    assert np.allclose(again.affine, affine, atol=1e-5)
    assert content_digest(again) == content_digest(volume)


def test_others_read_what_we_write(tmp_path: Path) -> None:
    volume = Volume(phantom()[None], np.diag([0.7, 0.8, 5.0, 1.0]))
    nifti.write_nifti(tmp_path / "a.nii.gz", volume)
    image = nib.load(tmp_path / "a.nii.gz")
    assert np.array_equal(np.asarray(image.dataobj), phantom())
    assert (image.get_sform(coded=True)[1], image.get_qform(coded=True)[1]) == (1, 1)
    assert np.allclose(image.get_qform(), volume.affine, atol=1e-5)
    assert image.header.get_xyzt_units() == ("mm", "unknown")
    assert image.header["descrip"].item() == b""


def test_equal_input_gives_equal_bytes_whatever_its_memory_order(tmp_path: Path) -> None:
    nifti.write_nifti(tmp_path / "a.nii.gz", Volume(phantom()[None], np.eye(4)))
    nifti.write_nifti(tmp_path / "b.nii.gz", Volume(np.asfortranarray(phantom()[None]), np.eye(4)))
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_a_sheared_affine_is_kept_as_sform_alone(tmp_path: Path) -> None:
    affine = np.eye(4)
    affine[0, 2] = 0.3
    nifti.write_nifti(tmp_path / "a.nii.gz", Volume(phantom()[None], affine))
    image = nib.load(tmp_path / "a.nii.gz")
    assert int(image.header["qform_code"]) == 0
    assert np.allclose(image.affine, affine, atol=1e-6)


def test_unknown_spacing_is_written_without_a_unit(tmp_path: Path) -> None:
    nifti.write_nifti(tmp_path / "a.nii.gz", Volume(phantom()[None].astype(bool), np.eye(4), "none"))
    header = nib.load(tmp_path / "a.nii.gz").header
    assert header.get_xyzt_units()[0] == "unknown"
    assert int(header["sform_code"]) == 2


@pytest.mark.parametrize(
    "affine",
    [
        LPS_LIKE,
        np.array([[0, 0, 1.0, 0], [2.0, 0, 0, 0], [0, -3.0, 0, 0], [0, 0, 0, 1]]),
        np.array([[1.9, 0.4, 0, 1], [-0.4, 1.9, 0.2, 2], [0.1, -0.3, 4, 3], [0, 0, 0, 1]]),
    ],
)
def test_a_mask_returns_to_the_grid_of_its_source(tmp_path: Path, affine: np.ndarray) -> None:
    volume, grid = nifti.read_nifti(save(tmp_path / "a.nii", phantom(), affine))
    nifti.write_on_grid(tmp_path / "m.nii.gz", volume.voxels[0] == 5, grid)
    mask = nib.load(tmp_path / "m.nii.gz")
    assert np.argwhere(np.asarray(mask.dataobj)).tolist() == np.argwhere(phantom() == 5).tolist()
    assert mask.get_data_dtype() == np.uint8
    assert np.allclose(mask.affine, affine, atol=1e-5)


def test_labels_of_another_shape_do_not_go_on_a_grid(tmp_path: Path) -> None:
    _, grid = nifti.read_nifti(save(tmp_path / "a.nii", phantom()))
    with pytest.raises(GeometryError, match=r"labels have the shape \(2, 2, 2\), expected"):
        nifti.write_on_grid(tmp_path / "m.nii.gz", np.zeros((2, 2, 2)), grid)


def test_labels_stored_as_floats_are_labels(tmp_path: Path) -> None:
    labels, _ = nifti.read_labels(save(tmp_path / "a.nii", np.array([[[0.0, 2.0]]], np.float32), np.eye(4)))
    assert labels.voxels.dtype == np.uint8
    assert labels.voxels.ravel().tolist() == [0, 2]


@pytest.mark.parametrize(
    ("values", "message"),
    [([0.0, 1.5], "up to 0.5 from a whole number"), ([0.0, 300.0], "run from 0 to 300"), ([-1.0, 1.0], "run from -1")],
)
def test_values_that_are_no_labels_are_refused(tmp_path: Path, values: list[float], message: str) -> None:
    path = save(tmp_path / "a.nii", np.array([[values]], np.float32))
    with pytest.raises(Refusal, match=message):
        nifti.read_labels(path)


def test_a_mask_of_two_components_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="the mask has 2 components"):
        nifti.read_labels(save(tmp_path / "a.nii", np.zeros((2, 2, 2, 2), np.uint8)))


def test_the_header_alone_tells_shape_and_components(tmp_path: Path) -> None:
    header = nifti.read_nifti_header(save(tmp_path / "a.nii.gz", np.zeros((2, 3, 4, 5), np.uint8)))
    assert (header.grid.shape, header.components) == ((2, 3, 4), 5)
