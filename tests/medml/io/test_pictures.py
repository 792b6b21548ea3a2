"""PNG and JPEG pictures."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medml.errors import Refusal
from medml.io.limits import Limits
from medml.io.pictures import read_label_picture, read_picture

GREY = np.array([[0, 10, 20], [30, 40, 50]], np.uint8)


def png(path: Path, pixels: np.ndarray, mode: str | None = None) -> Path:
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path)
    return path


def test_the_first_axis_is_the_column_and_the_second_the_row(tmp_path: Path) -> None:
    volume, grid = read_picture(png(tmp_path / "a.png", GREY))
    assert volume.voxels.shape == (1, 3, 2, 1)
    assert volume.voxels[0, 2, 1, 0] == 50
    assert volume.geometry == "none"
    assert np.array_equal(volume.affine, np.eye(4))
    assert grid.shape == (3, 2, 1)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P"])
def test_grey_in_any_disguise_has_one_component(tmp_path: Path, mode: str) -> None:
    volume, _ = read_picture(png(tmp_path / "a.png", GREY, mode))
    assert volume.voxels[0, :, :, 0].T.tolist() == GREY.tolist()


def test_colour_has_three_components_and_loses_its_alpha(tmp_path: Path) -> None:
    pixels = np.zeros((2, 3, 4), np.uint8)
    pixels[0, 2] = [1, 2, 3, 128]
    volume, _ = read_picture(png(tmp_path / "a.png", pixels))
    assert volume.voxels.shape == (3, 3, 2, 1)
    assert volume.voxels[:, 2, 0, 0].tolist() == [1, 2, 3]


def test_one_bit_is_black_and_white(tmp_path: Path) -> None:
    volume, _ = read_picture(png(tmp_path / "a.png", np.array([[True, False]])))
    assert volume.voxels.ravel().tolist() == [255, 0]


def test_sixteen_bits_are_kept(tmp_path: Path) -> None:
    volume, _ = read_picture(png(tmp_path / "a.png", np.array([[0, 65535]], np.uint16)))
    assert volume.voxels.dtype == np.uint16
    assert volume.voxels.ravel().tolist() == [0, 65535]


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    image = Image.fromarray(np.kron(np.array([[0, 255]], np.uint8), np.ones((16, 16), np.uint8)))
    exif = image.getexif()
    exif[274] = 6  # to be shown turned clockwise by 90 degrees
    image.save(tmp_path / "a.jpg", exif=exif, quality=95)
    volume, _ = read_picture(tmp_path / "a.jpg")
    assert volume.voxels.shape == (1, 16, 32, 1)
    assert volume.voxels[0, 8, 4, 0] < 20
    assert volume.voxels[0, 8, 28, 0] > 235


def test_labels_are_palette_indices_bits_or_grey_values(tmp_path: Path) -> None:
    indexed = Image.fromarray(np.array([[0, 2, 1]], np.uint8), mode="P")
    indexed.putpalette([0, 0, 0, 200, 10, 10, 10, 200, 10])
    indexed.save(tmp_path / "p.png")
    assert read_label_picture(tmp_path / "p.png")[0].voxels.ravel().tolist() == [0, 2, 1]
    bits = png(tmp_path / "b.png", np.array([[True, False]]))
    assert read_label_picture(bits)[0].voxels.ravel().tolist() == [1, 0]
    for mode in ("L", "RGB"):
        path = png(tmp_path / f"{mode}.png", np.array([[0, 3]], np.uint8), mode)
        assert read_label_picture(path)[0].voxels.ravel().tolist() == [0, 3]
    deep = png(tmp_path / "d.png", np.array([[0, 300]], np.uint16))
    assert read_label_picture(deep)[0].voxels.ravel().tolist() == [0, 300]


def test_a_mask_in_colour_is_refused(tmp_path: Path) -> None:
    pixels = np.zeros((1, 1, 3), np.uint8)
    pixels[0, 0, 0] = 9
    with pytest.raises(Refusal, match="a mask in colour"):
        read_label_picture(png(tmp_path / "a.png", pixels))


def test_sizes_are_checked_before_a_pixel_is_decoded(tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 0, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000)))
    (tmp_path / "a.png").write_bytes(bomb)
    with pytest.raises(Refusal) as refusal:
        read_picture(tmp_path / "a.png")
    assert refusal.value.code == "too_large"
    with pytest.raises(Refusal, match="more than 200 to 1"):
        read_picture(png(tmp_path / "b.png", np.zeros((999, 999), np.uint8)), limits=Limits(ratio_above=1000))


def test_what_is_no_picture_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("hello")
    with pytest.raises(Refusal, match="neither PNG nor JPEG"):
        read_picture(tmp_path / "a.png")


def test_a_cut_picture_is_refused(tmp_path: Path) -> None:
    path = png(tmp_path / "a.png", np.random.default_rng(0).integers(0, 255, (50, 50), np.uint8))
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(Refusal, match="damaged or cut short"):
        read_picture(path)


def test_an_animation_is_refused(tmp_path: Path) -> None:
    frames = [Image.fromarray(GREY), Image.fromarray(255 - GREY)]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:])
    with pytest.raises(Refusal, match="an animated picture"):
        read_picture(tmp_path / "a.png")
