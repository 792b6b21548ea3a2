"""NRRD and MetaImage: where the axes lead, and what a hostile header may not do."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np
import pytest

from medml.errors import MedmlError, Refusal
from medml.geometry import world_points
from medml.io.limits import Limits
from medml.io.text_headers import read_text_header_volume

VOXELS = np.arange(24, dtype="<i2").reshape(2, 3, 4)  # i, j, k
BYTES = VOXELS.T.tobytes()


def nrrd(path: Path, *lines: str, data: bytes = BYTES, **fields: str) -> Path:
    """An oblique-free LPS volume of 2 x 3 x 4 voxels of 1 x 2 x 3 mm; ``fields`` replace its own, "" drops one."""
    values = {
        "type": "short",
        "dimension": "3",
        "space": "left-posterior-superior",
        "sizes": "2 3 4",
        "space directions": "(1,0,0) (0,2,0) (0,0,3)",
        "endian": "little",
        "encoding": "raw",
        "space origin": "(10,20,30)",
    } | {key.replace("_", " "): value for key, value in fields.items()}
    head = "".join(f"{key}: {value}\n" for key, value in values.items() if value)
    path.write_bytes(b"NRRD0004\n# comment\n" + head.encode() + b"\n" + data)
    return path


def meta(path: Path, data: bytes = BYTES, **fields: str) -> Path:
    values = {
        "ObjectType": "Image",
        "NDims": "3",
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "CompressedData": "False",
        "TransformMatrix": "1 0 0 0 1 0 0 0 1",
        "Offset": "10 20 30",
        "ElementSpacing": "1 2 3",
        "DimSize": "2 3 4",
        "ElementType": "MET_SHORT",
    } | fields
    values["ElementDataFile"] = values.pop("ElementDataFile", "LOCAL")
    path.write_bytes("".join(f"{key} = {value}\n" for key, value in values.items() if value).encode() + data)
    return path


def value_at(path: Path, point: tuple[float, float, float]) -> float:
    """Return the voxel of the first component at a RAS point."""
    volume = read_text_header_volume(path).volume
    index = np.rint(world_points(np.linalg.inv(volume.affine), np.array([point]))[0]).astype(int)
    return float(volume.voxels[(0, *index)])


@pytest.mark.parametrize("make", [nrrd, meta])
def test_lps_becomes_ras_and_every_voxel_keeps_its_place(tmp_path: Path, make) -> None:
    path = make(tmp_path / "a.nrrd")
    # Voxel (1, 2, 3) lies at LPS (11, 24, 39).
    assert value_at(path, (-11, -24, 39)) == VOXELS[1, 2, 3]
    assert value_at(path, (-10, -20, 30)) == VOXELS[0, 0, 0]


def test_oblique_axes_are_columns_of_the_nrrd_and_rows_of_the_metaimage(tmp_path: Path) -> None:
    first = nrrd(tmp_path / "a.nrrd", space_directions="(0,1,0) (2,0,0) (0,0,3)")
    second = meta(tmp_path / "a.mha", TransformMatrix="0 1 0 1 0 0 0 0 1")
    for path in (first, second):  # LPS: the first axis runs to posterior, the second to the left
        assert value_at(path, (-14, -21, 30)) == VOXELS[1, 2, 0]


@pytest.mark.parametrize(
    ("space", "point"),
    [("right-anterior-superior", (11, 24, 39)), ("RAS", (11, 24, 39)), ("left-anterior-superior", (-11, 24, 39))],
)
def test_other_spaces_of_the_patient(tmp_path: Path, space: str, point: tuple[float, float, float]) -> None:
    assert value_at(nrrd(tmp_path / "a.nrrd", space=space), point) == VOXELS[1, 2, 3]


def test_voxels_may_be_packed_or_lie_beside_the_header(tmp_path: Path) -> None:
    packed = nrrd(tmp_path / "a.nrrd", data=gzip.compress(BYTES), encoding="gzip")
    zipped = meta(tmp_path / "a.mha", zlib.compress(BYTES), CompressedData="True")
    (tmp_path / "a.raw").write_bytes(b"head" + BYTES)
    beside = nrrd(tmp_path / "a.nhdr", data=b"", data_file="a.raw", byte_skip="-1")
    skipped = meta(tmp_path / "a.mhd", b"", ElementDataFile="a.raw", HeaderSize="4")
    swapped = nrrd(tmp_path / "b.nrrd", data=VOXELS.astype(">i2").T.tobytes(), endian="big")
    for path in (packed, zipped, beside, skipped, swapped):
        assert value_at(path, (-11, -24, 39)) == VOXELS[1, 2, 3], path.name


def test_an_axis_that_is_not_of_space_becomes_the_components(tmp_path: Path) -> None:
    data = np.stack([VOXELS, VOXELS + 100])  # component first: the fastest axis
    path = nrrd(
        tmp_path / "a.nrrd",
        data=data.T.tobytes(),
        dimension="4",
        sizes="2 2 3 4",
        space_directions="none (1,0,0) (0,2,0) (0,0,3)",
    )
    volume = read_text_header_volume(path).volume
    assert volume.voxels.shape == (2, 2, 3, 4)
    assert np.array_equal(volume.voxels[1], volume.voxels[0] + 100)
    assert read_text_header_volume(
        meta(tmp_path / "a.mha", data.T.tobytes(), ElementNumberOfChannels="2")
    ).volume.voxels.shape == (2, 2, 3, 4)


def test_without_directions_the_axes_are_taken_as_they_come_with_a_warning(tmp_path: Path) -> None:
    path = nrrd(tmp_path / "a.nrrd", space="", space_directions="", space_origin="", spacings="1 2 3")
    reading = read_text_header_volume(path)
    assert [finding.code for finding in reading.findings] == ["no_orientation"]
    assert np.allclose(np.diag(reading.volume.affine), [1, 2, 3, 1])
    assert [f.code for f in read_text_header_volume(meta(tmp_path / "a.mha", TransformMatrix="")).findings] == [
        "no_orientation"
    ]


@pytest.mark.parametrize(
    ("fields", "code", "words"),
    [
        ({"data_file": "/etc/passwd"}, "outside_source", "put it beside the header"),
        ({"data_file": "../a.raw"}, "outside_source", "put it beside the header"),
        ({"data_file": "..\\a.raw"}, "outside_source", "put it beside the header"),
        ({"data_file": "LIST"}, "unsupported_encoding", "several files"),
        ({"data_file": "a%03d.raw 1 9 1"}, "unsupported_encoding", "several files"),
        ({"data_file": "absent.raw"}, "unreadable", "cannot be opened"),
        ({"encoding": "txt"}, "unsupported_encoding", "neither raw nor gzip"),
        ({"type": "block"}, "unsupported_dtype", "of a type that is not read"),
        ({"sizes": "2 3 5"}, "truncated", "declares 60 bytes of voxels, the file holds 48"),
        ({"sizes": "4096 4096 4096"}, "too_large", "decodes to 137438953472 bytes"),
        ({"sizes": "2 3 -4"}, "empty_image", "at least one voxel"),
        ({"sizes": "2 3"}, "damaged_header", "2 sizes for 3 axes"),
        ({"sizes": "2 3 x"}, "damaged_header", "the header is damaged"),
        ({"space": "scanner-xyz"}, "no_orientation", "none of the patient's"),
        ({"space_directions": "(1,0,0) (0,nan,0) (0,0,3)"}, "bad_affine", "not finite"),
        ({"space_directions": "(1,0,0) (1,0,0) (0,0,3)"}, "bad_affine", "singular"),
        ({"line_skip": "3"}, "unsupported_encoding", "lines are to be skipped"),
    ],
)
def test_what_a_header_may_not_say(tmp_path: Path, fields: dict[str, str], code: str, words: str) -> None:
    with pytest.raises(Refusal, match=words) as caught:
        read_text_header_volume(nrrd(tmp_path / "a.nrrd", **fields))
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"ElementDataFile": "../a.raw"}, "put it beside the header"),
        ({"ElementDataFile": "LIST 2"}, "several files"),
        ({"ElementType": "MET_OTHER"}, "of a type that is not read"),
        ({"BinaryData": "False"}, "written as text"),
        ({"DimSize": "2 3"}, "the header is damaged|2 sizes for 3 axes"),
        ({"ElementDataFile": "", "Comment": "x"}, "no assignment"),
    ],
)
def test_what_a_metaimage_header_may_not_say(tmp_path: Path, fields: dict[str, str], words: str) -> None:
    with pytest.raises(Refusal, match=words):
        read_text_header_volume(meta(tmp_path / "a.mha", **fields))


def test_packed_voxels_are_read_to_their_checksum_and_no_bomb_is_unpacked(tmp_path: Path) -> None:
    for make, pack, fields, large in (
        (nrrd, gzip.compress, {"encoding": "gzip"}, {"sizes": "20 30 40"}),
        (meta, zlib.compress, {"CompressedData": "True"}, {"DimSize": "20 30 40"}),
    ):
        packed = bytearray(pack(BYTES))
        packed[-3 if make is meta else -7] ^= 1
        with pytest.raises(Refusal, match="the compressed data are damaged"):
            read_text_header_volume(make(tmp_path / "a.nrrd", data=bytes(packed), **fields))
        with pytest.raises(Refusal, match="end before their end mark"):
            read_text_header_volume(make(tmp_path / "a.nrrd", data=pack(BYTES)[:-9], **fields))
        bomb = make(tmp_path / "a.nrrd", data=pack(bytes(48000)), **fields, **large)
        with pytest.raises(Refusal, match="more than 1 to 1"):
            read_text_header_volume(bomb, limits=Limits(ratio=1, ratio_above=1))


def test_what_is_neither_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "a.nrrd").write_bytes(b"x" * 100)
    with pytest.raises(Refusal, match="neither NRRD nor MetaImage"):
        read_text_header_volume(tmp_path / "a.nrrd")
    (tmp_path / "a.mha").write_bytes(b"NRRD0004\ntype: short\n")
    with pytest.raises(MedmlError, match="the header has no end"):
        read_text_header_volume(tmp_path / "a.mha")
