"""Stored pixels: every way to store them gives the values that were put in."""

from __future__ import annotations

import base64
import os
import time
from io import BytesIO
from pathlib import Path

import gdcm
import jpeg_ls
import numpy as np
import pytest
from dicom_phantoms import headers_of, save_slice, set_pixels, slice_dataset
from PIL import Image
from pydicom.encaps import encapsulate, encapsulate_extended
from pydicom.pixels import set_pixel_data  # noqa: F401 (its import registers the encoders)
from pydicom.uid import (
    UID,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from medml.errors import Refusal
from medml.io import dicom_codecs, dicom_pixels
from medml.io.dicom import Header, read_series
from medml.io.dicom_frames import expand
from medml.io.dicom_pixels import read_slabs, read_stored

# 8 x 8 values 1000 + 100 row + column, encoded by OpenJPH and by a lossless JPEG encoder (predictor 6).
RAMP = (1000 + 100 * np.mgrid[:8, :8][0] + np.mgrid[:8, :8][1]).astype(np.uint16)
HTJ2K_RAMP = base64.b64decode(
    "/0//UQApQAAAAAAIAAAACAAAAAAAAAAAAAAACAAAAAgAAAAAAAAAAAABDwEB/1AACAACAAAACv9SAAwAAgABAAUEBEAB/1wAEyCIkJCQkJCQkJCQ"
    "kJCQiIiI/2QAFwABT3BlbkpQSCBWZXIgMC4yNi4zLv+QAAoAAAAAAFEAAf+TwAAmYfYFB3QAAADAABLAABKA+ABHdACOAgd0AMAAEkAAEwD8EnMA"
    "wIEAY1QAwAAlgABVAPCgC+QAxkaj8cAhAey2AP/Z"
)
JPEG_RAMP = base64.b64decode(
    "/9j/xAAXAAEBAQEAAAAAAAAAAAAAAAAGBwEP/8MACxAACAAIAQARAP/aAAgBAAAGAADgfPu7u7tkZMmTJkyZWRkyZMmTJlZGTJkyZMmVkZMmTJky"
    "ZWRkyZMmTJlZGTJkyZMmVkZMmTJkyZD/2Q=="
)
# 12 bits a pixel: only its header is looked at, unless the extra that decodes it is installed.
JPEG12_RAMP = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEB"
    "AQEBAQH/wQALDAAIAAgBAREA/8QAFAABAAAAAAAAAAAAAAAAAAAADf/EABsQAAAHAQAAAAAAAAAAAAAAAAAFCygyRlHk/9oACAEBAAA/ACkstQ4Y"
    "tAyjcI//2Q=="
)


def stored(
    folder: Path, pixels: np.ndarray, frames: list[bytes] | None = None, syntax: str = "", **tags: object
) -> Path:
    """Write one file with these pixels, or with these encoded frames in their place."""
    data = slice_dataset(0)
    set_pixels(data, pixels)
    if frames is not None:
        data.PixelData = encapsulate(frames)
        data["PixelData"].VR = "OB"
        data["PixelData"].is_undefined_length = True
        data.file_meta.TransferSyntaxUID = UID(syntax)
    for name, value in tags.items():
        setattr(data, name, value)
    return save_slice(folder / "a.dcm", data)


def read(path: Path) -> np.ndarray:
    return read_stored([frame for header in headers_of([path]) for frame in expand(header, cine="frames")])


@pytest.mark.parametrize(
    ("syntax", "frame"),
    [(HTJ2KLossless, HTJ2K_RAMP), (JPEGLossless, JPEG_RAMP)],
)
def test_samples_of_other_encoders_give_their_values(tmp_path: Path, syntax: str, frame: bytes) -> None:
    assert np.array_equal(read(stored(tmp_path, RAMP, [frame], syntax))[0], RAMP)


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless])
@pytest.mark.parametrize("kind", ["u1", "u2", "i2"])
def test_lossless_codecs_keep_every_value_and_sign(tmp_path: Path, syntax: str, kind: str) -> None:
    limits = np.iinfo(kind)
    pixels = np.random.default_rng(0).integers(limits.min, limits.max, (40, 36), endpoint=True).astype(kind)
    data = slice_dataset(0)
    set_pixels(data, pixels)
    data.compress(syntax, pixels, generate_instance_uid=False)
    found = read(save_slice(tmp_path / "a", data))
    assert found.dtype == np.dtype(kind)
    assert np.array_equal(found[0], pixels)


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless])
def test_twelve_signed_bits_keep_their_sign(tmp_path: Path, syntax: str) -> None:
    pixels = np.arange(-2048, 2048, dtype=np.int16).reshape(64, 64)
    data = slice_dataset(0)
    set_pixels(data, pixels)
    data.BitsStored, data.HighBit = 12, 11
    data.compress(syntax, pixels, generate_instance_uid=False)
    assert np.array_equal(read(save_slice(tmp_path / "a", data))[0], pixels)


def test_near_lossless_is_within_its_error(tmp_path: Path) -> None:
    frame = jpeg_ls.encode_array(RAMP, lossy_error=2)
    found = read(stored(tmp_path, RAMP, [bytes(frame)], JPEGLSNearLossless))[0]
    assert 0 < np.abs(found.astype(int) - RAMP).max() <= 2


def test_lossless_jpeg_with_the_first_predictor(tmp_path: Path) -> None:
    reader = gdcm.ImageReader()
    reader.SetFileName(str(stored(tmp_path, RAMP)))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    writer.SetFileName(str(tmp_path / "b.dcm"))
    assert writer.Write()
    (header,) = headers_of([tmp_path / "b.dcm"])
    assert header.transfer_syntax == JPEGLosslessSV1
    assert np.array_equal(read_stored([header])[0], RAMP)


def test_baseline_jpeg_is_close_and_grey_is_flat(tmp_path: Path) -> None:
    pixels = np.full((16, 16), 130, np.uint8)
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95)
    assert np.array_equal(read(stored(tmp_path, pixels, [buffer.getvalue()], JPEGBaseline8Bit))[0], pixels)


@pytest.mark.skipif(
    "pylibjpeg" in dicom_codecs.get_decoder(JPEGExtended12Bit).available_plugins, reason="medml[jpeg12] is installed"
)
def test_twelve_bit_jpeg_without_its_extra_is_named(tmp_path: Path) -> None:
    path = stored(tmp_path, RAMP, [JPEG12_RAMP], JPEGExtended12Bit, BitsStored=12, HighBit=11)
    with pytest.raises(Refusal, match=r"JPEG Extended of 12 bits a pixel is installed; pip install medml\[jpeg12\]"):
        read(path)


def colour(folder: Path, photometric: str, pixels: np.ndarray, planar: int = 0) -> np.ndarray:
    data = slice_dataset(0)
    set_pixels(data, pixels, photometric)
    data.PlanarConfiguration = planar
    if planar:
        data.PixelData = np.moveaxis(pixels, 2, 0).tobytes()
    return read(save_slice(folder / photometric, data))[0]


def test_colours_become_rgb_whatever_their_order(tmp_path: Path) -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(4, 2, 3)
    assert np.array_equal(colour(tmp_path, "RGB", pixels), pixels)
    assert np.array_equal(colour(tmp_path, "RGB", pixels, planar=1), pixels)
    # Grey in YBR_FULL has both chroma at 128; Y 76, Cb 85, Cr 255 is pure red (PS3.3 C.7.6.3.1.2).
    ybr = np.array([[[100, 128, 128], [76, 85, 255]]], np.uint8)
    assert np.abs(colour(tmp_path, "YBR_FULL", ybr)[0].astype(int) - [[100] * 3, [254, 0, 0]]).max() <= 1


def test_half_rate_chroma_is_spread_over_two_pixels(tmp_path: Path) -> None:
    data = slice_dataset(0)
    set_pixels(data, np.zeros((1, 2, 3), np.uint8), "YBR_FULL_422")
    data.PixelData = bytes([100, 200, 128, 128])
    assert read(save_slice(tmp_path / "a", data))[0].tolist() == [[[100] * 3, [200] * 3]]


@pytest.mark.parametrize(("bits", "scale"), [(8, 1), (16, 257)])
def test_palette_indices_become_their_colours(tmp_path: Path, bits: int, scale: int) -> None:
    data = slice_dataset(0)
    set_pixels(data, np.array([[0, 1], [2, 9]], np.uint8), "PALETTE COLOR")
    for name, values in (("Red", [0, 10, 20]), ("Green", [1, 11, 21]), ("Blue", [2, 12, 22])):
        setattr(data, f"{name}PaletteColorLookupTableDescriptor", [3, 0, bits])
        table = (np.array(values) * scale).astype(f"u{bits // 8}").tobytes()
        setattr(data, f"{name}PaletteColorLookupTableData", table + bytes(len(table) % 2))
    if bits == 8:
        for name in ("Red", "Green", "Blue"):  # an even number of entries, so that no padding follows them
            setattr(data, f"{name}PaletteColorLookupTableDescriptor", [4, 0, bits])
    found = read(save_slice(tmp_path / "a", data))[0]
    assert found[0].tolist() == [[0, 1, 2], [10, 11, 12]]
    assert found[1, 0].tolist() == [20, 21, 22]


def test_a_palette_that_is_not_there_is_told(tmp_path: Path) -> None:
    data = slice_dataset(0)
    set_pixels(data, np.zeros((2, 2), np.uint8), "PALETTE COLOR")
    with pytest.raises(Refusal, match="the pixels index a palette, but the file has none"):
        read(save_slice(tmp_path / "a", data))


def test_a_damaged_palette_is_refused(tmp_path: Path) -> None:
    data = slice_dataset(0)
    set_pixels(data, np.zeros((2, 2), np.uint8), "PALETTE COLOR")
    data.RedPaletteColorLookupTableDescriptor = [4, 0, 8]
    with pytest.raises(Refusal, match="the colour palette is damaged"):
        read(save_slice(tmp_path / "a", data))


def test_single_bits_of_frames_that_share_bytes(tmp_path: Path) -> None:
    frames = np.array([[[1, 0, 1], [0, 0, 1], [1, 1, 0]], [[0, 1, 0], [1, 1, 0], [0, 0, 1]]], np.uint8)
    data = slice_dataset(0)
    set_pixels(data, frames[0])
    data.BitsAllocated = data.BitsStored = 1
    data.HighBit, data.NumberOfFrames, data.Modality = 0, 2, "OT"
    packed = np.packbits(frames.reshape(-1), bitorder="little").tobytes()
    data.PixelData = packed + bytes(len(packed) % 2)
    (header,) = headers_of([save_slice(tmp_path / "a", data)])
    both = [frame_of(header, 1), frame_of(header, 0)]
    assert np.array_equal(read_stored(both), frames[::-1])


def frame_of(header: Header, frame: int, **changes: object) -> Header:
    from dataclasses import replace

    return replace(header, frame=frame, expanded=True, **changes)  # type: ignore[arg-type]


def test_floating_point_pixels(tmp_path: Path) -> None:
    values = np.array([[0.5, -1.25], [3e5, 7]], np.float32)
    data = slice_dataset(0)
    set_pixels(data, np.zeros((2, 2), np.uint16))
    del data.PixelData
    data.BitsAllocated = data.BitsStored = 32
    data.FloatPixelData = values.tobytes()
    path = save_slice(tmp_path / "a", data)
    assert np.array_equal(read(path)[0], values)
    data.FloatPixelData = np.full((2, 2), np.nan, np.float32).tobytes()
    with pytest.raises(Refusal, match="holds NaN or infinities"):
        read(save_slice(tmp_path / "b", data))
    del data.FloatPixelData
    data.BitsAllocated = data.BitsStored = 64
    data.DoubleFloatPixelData = values.astype(np.float64).tobytes()
    assert read(save_slice(tmp_path / "c", data)).dtype == np.float64


def test_an_overlay_in_the_high_bits_is_cleared(tmp_path: Path) -> None:
    path = stored(tmp_path, np.array([[5 | 0x8000, 4095]], np.uint16), BitsStored=12, HighBit=11)
    assert read(path)[0].tolist() == [[5, 4095]]


def test_a_high_bit_that_is_not_the_lowest_is_shifted_down(tmp_path: Path) -> None:
    path = stored(tmp_path, np.array([[5 << 4, 4095 << 4]], np.uint16), BitsStored=12, HighBit=15)
    assert read(path)[0].tolist() == [[5, 4095]]


def test_padding_outside_the_stored_bits_does_not_become_bright(tmp_path: Path) -> None:
    # -2000 as an unsigned word; its low 12 bits would read as 2096.
    path = stored(tmp_path, np.array([[63536, 7]], np.uint16), BitsStored=12, HighBit=11, PixelPaddingValue=63536)
    assert read(path)[0].tolist() == [[0, 7]]


def fragments(path: Path, value: bytes) -> Path:
    """Put another value in the place of encapsulated PixelData that ends a file."""
    data = path.read_bytes()
    at = data.rindex(b"\xe0\x7f\x10\x00OB") + 12
    path.write_bytes(data[:at] + value + b"\xfe\xff\xdd\xe0\0\0\0\0")
    return path


def encoded_frames(folder: Path, count: int = 3, pieces: int = 1, table: bool = True) -> list[Header]:
    """A file of JPEG-LS frames, each RAMP plus its number, in some fragments."""
    frames = [bytes(jpeg_ls.encode_array(RAMP + n)) for n in range(count)]
    path = stored(folder, RAMP, frames, JPEGLSLossless, NumberOfFrames=count)
    fragments(path, encapsulate(frames, fragments_per_frame=pieces, has_bot=table))
    (header,) = headers_of([path])
    return [frame_of(header, n) for n in range(count)]


@pytest.mark.parametrize(("pieces", "table"), [(1, True), (1, False), (3, True), (3, False)])
def test_frames_are_found_with_and_without_an_offset_table(tmp_path: Path, pieces: int, table: bool) -> None:
    headers = encoded_frames(tmp_path, 3, pieces, table)
    found = read_stored([headers[2], headers[0]])
    assert np.array_equal(found, [RAMP + 2, RAMP])


def test_frames_by_an_extended_offset_table(tmp_path: Path) -> None:
    frames = [bytes(jpeg_ls.encode_array(RAMP + n)) for n in range(2)]
    value, offsets, lengths = encapsulate_extended(frames)
    path = stored(
        tmp_path,
        RAMP,
        frames,
        JPEGLSLossless,
        NumberOfFrames=2,
        ExtendedOffsetTable=offsets,
        ExtendedOffsetTableLengths=lengths,
        PixelData=value,
    )
    (header,) = headers_of([path])
    assert np.array_equal(read_stored([frame_of(header, 1)])[0], RAMP + 1)


def test_frames_that_cannot_be_told_apart_are_refused(tmp_path: Path) -> None:
    header = encoded_frames(tmp_path, 3, 3, table=True)[0]
    with pytest.raises(Refusal, match="9 fragments cannot be told apart into 2 frames"):
        read_stored([frame_of(header, 0, frames=2)])
    with pytest.raises(Refusal, match="12 frames are declared, the file holds 9 fragments"):
        read_stored([frame_of(header, 0, frames=12)])


def test_a_fragment_cut_off_by_the_end_of_the_file_is_refused(tmp_path: Path) -> None:
    path = stored(tmp_path, RAMP, [bytes(jpeg_ls.encode_array(RAMP))], JPEGLSLossless)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(Refusal, match=r"a compressed frame needs \d+ bytes, its file holds \d+"):
        read(path)


def test_what_stands_between_fragments_is_refused(tmp_path: Path) -> None:
    path = stored(tmp_path, RAMP, [bytes(jpeg_ls.encode_array(RAMP))], JPEGLSLossless)
    fragments(path, encapsulate([bytes(jpeg_ls.encode_array(RAMP))]) + b"\x10\0\x10\0\0\0\0\0")
    with pytest.raises(Refusal, match="an unknown item follows 2 fragments"):
        read(path)


@pytest.mark.parametrize("syntax", [JPEGLSLossless, JPEG2000Lossless])
def test_a_frame_that_lacks_its_end_is_refused_at_once(tmp_path: Path, syntax: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 4000, (128, 128)).astype(np.uint16)
    data = slice_dataset(0)
    set_pixels(data, pixels)
    data.compress(syntax, pixels, generate_instance_uid=False)
    path = save_slice(tmp_path / "a", data)
    frame = path.read_bytes()
    fragments(path, encapsulate([frame[frame.rindex(b"\xfe\xff\x00\xe0") + 8 :][:2000]]))
    begin = time.process_time()
    with pytest.raises(Refusal, match="a compressed frame of 2000 bytes lacks its end mark"):
        read(path)
    assert time.process_time() - begin < 1


def test_more_bits_than_the_header_allocates_are_refused(tmp_path: Path) -> None:
    path = stored(tmp_path, RAMP.astype(np.uint8), [bytes(jpeg_ls.encode_array(RAMP))], JPEGLSLossless)
    with pytest.raises(Refusal, match="a compressed frame has 11 bits a pixel, its header allocates 8"):
        read(path)


def test_tiles_of_a_mosaic_are_cut_from_one_picture(tmp_path: Path) -> None:
    data = slice_dataset(0)
    set_pixels(data, np.arange(24, dtype=np.uint16).reshape(4, 6))
    for syntax in ("plain", "compressed"):
        if syntax == "compressed":
            data.compress(RLELossless, generate_instance_uid=False)
        (header,) = headers_of([save_slice(tmp_path / syntax, data)])
        tiles = [frame_of(header, 0, rows=2, columns=3, tile=(top, left, 4, 6)) for top in (0, 2) for left in (0, 3)]
        found = read_stored(tiles)
        assert found[1].tolist() == [[3, 4, 5], [9, 10, 11]]
        assert found[2].tolist() == [[12, 13, 14], [18, 19, 20]]


def test_slabs_are_the_parts_of_the_whole(tmp_path: Path) -> None:
    headers = encoded_frames(tmp_path, 5)
    whole = read_stored(headers)
    parts = [slab.copy() for slab in read_slabs(headers, 2)]
    assert [len(part) for part in parts] == [2, 2, 1]
    assert np.array_equal(np.concatenate(parts), whole)


def test_decoding_in_several_processes_gives_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    headers = encoded_frames(tmp_path, 5)
    alone, before = read_stored(headers), _children()
    monkeypatch.setattr(dicom_pixels, "WORTH_SHARING", 1)
    monkeypatch.setattr(dicom_pixels, "free_workers", lambda: 3)
    assert np.array_equal(read_stored(headers), alone)
    assert _children() == before


def test_damage_in_another_process_is_told_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    headers = encoded_frames(tmp_path, 3)
    changed, before = [headers[0], headers[1], frame_of(headers[2], 2, rows=9)], _children()
    monkeypatch.setattr(dicom_pixels, "WORTH_SHARING", 1)
    monkeypatch.setattr(dicom_pixels, "free_workers", lambda: 2)
    with pytest.raises(Refusal, match=r"a compressed frame has \(rows, columns, samples\) \(8, 8, 1\)"):
        read_stored(changed)
    assert _children() == before


def test_padding_of_ct_becomes_air_and_is_told(tmp_path: Path) -> None:
    pixels = np.array([[-2000, 40, 1100]], np.int16)
    path = stored(tmp_path, pixels, PixelPaddingValue=-2000, RescaleIntercept=0)
    volume, _, findings = read_series(headers_of([path]))
    assert sorted(volume.voxels.ravel().tolist()) == [-1024, 40, 1100]
    assert [(f.code, f.numbers) for f in findings] == [("pixel_padding", {"voxels": 1.0, "filled": 1.0})]


def test_padding_within_the_range_of_values_stays(tmp_path: Path) -> None:
    pixels = np.array([[0, 40, 1100]], np.uint16)
    path = stored(tmp_path, pixels, PixelPaddingValue=0, RescaleIntercept=-1024)
    volume, _, findings = read_series(headers_of([path]))
    assert sorted(volume.voxels.ravel().tolist()) == [-1024, -984, 76]
    assert findings[0].numbers == {"voxels": 1.0, "filled": 0.0}


def test_a_range_of_padding_is_filled_as_a_whole(tmp_path: Path) -> None:
    pixels = np.array([[-3000, -2500, -900, 5]], np.int16)
    tags = {"PixelPaddingValue": -3000, "PixelPaddingRangeLimit": -2000, "RescaleIntercept": 0}
    volume, _, _ = read_series(headers_of([stored(tmp_path, pixels, **tags)]))
    assert sorted(volume.voxels.ravel().tolist()) == [-1024, -1024, -900, 5]


def _children() -> list[str]:
    task = f"/proc/self/task/{os.getpid()}/children"
    return Path(task).read_text().split()
