"""MedMNIST-style archives."""

from __future__ import annotations

import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from medml.errors import Refusal
from medml.io import medmnist
from medml.io.limits import Limits
from medml.io.medmnist import is_medmnist, open_medmnist

LABELS = np.array([[0], [1]], np.uint8)


def archive(path: Path, **arrays: np.ndarray) -> Path:
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]
    return path


def grey(path: Path) -> Path:
    images = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
    return archive(path, train_images=images, train_labels=LABELS, test_images=images[:1], test_labels=LABELS[1:])


def test_a_grey_picture_has_its_column_first(tmp_path: Path) -> None:
    opened = open_medmnist(grey(tmp_path / "a.npz"))
    assert opened.counts == {"train": 2, "test": 1}
    assert (opened.components, opened.multi_label) == (1, False)
    volume, grid = opened.read("train", 1)
    assert volume.voxels.shape == (1, 4, 3, 1)
    assert volume.voxels[0, 3, 0, 0] == 12 + 3
    assert volume.geometry == "none"
    assert grid.shape == (4, 3, 1)


def test_iteration_gives_every_image_with_its_label(tmp_path: Path) -> None:
    items = [
        (split, index, int(voxels.min()), label.tolist())
        for split, index, voxels, label in open_medmnist(grey(tmp_path / "a.npz"))
    ]
    assert items == [("train", 0, 0, [0]), ("train", 1, 12, [1]), ("test", 0, 0, [1])]


def test_colour_and_depth_are_told_apart(tmp_path: Path) -> None:
    colour = np.zeros((2, 5, 4, 3), np.uint8)
    colour[0, 2, 1] = [7, 8, 9]
    opened = open_medmnist(archive(tmp_path / "c.npz", train_images=colour, train_labels=LABELS))
    assert opened.components == 3
    voxels = opened.read("train", 0)[0].voxels
    assert voxels.shape == (3, 4, 5, 1)
    assert voxels[:, 1, 2, 0].tolist() == [7, 8, 9]
    deep = np.zeros((2, 6, 5, 4), np.uint8)
    deep[1, 5, 2, 1] = 9
    opened = open_medmnist(archive(tmp_path / "d.npz", val_images=deep, val_labels=LABELS))
    voxels = opened.read("val", 1)[0].voxels
    assert voxels.shape == (1, 4, 5, 6)
    assert voxels[0, 1, 2, 5] == 9


def test_fortran_order_and_plain_label_vectors_are_read(tmp_path: Path) -> None:
    images = np.asfortranarray(np.arange(24, dtype=np.float32).reshape(2, 3, 4))
    opened = open_medmnist(archive(tmp_path / "a.npz", train_images=images, train_labels=np.array([1.0, 0.0])))
    assert opened.read("train", 1)[0].voxels[0, 3, 0, 0] == 15
    assert opened.labels("train").tolist() == [[1], [0]]


def test_several_labels_make_a_multi_label_set(tmp_path: Path) -> None:
    labels = np.array([[0, 1, 1], [0, 0, 0]], np.uint8)
    images = np.zeros((2, 3, 4), np.uint8)
    opened = open_medmnist(archive(tmp_path / "a.npz", test_images=images, test_labels=labels))
    assert opened.multi_label
    assert opened.labels("test")[0].tolist() == [0, 1, 1]


def test_an_array_is_decompressed_once_for_many_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    original = medmnist._read_member

    def counted(opened: zipfile.ZipFile, member: medmnist.Member) -> np.ndarray:
        read.append(member.name)
        return original(opened, member)

    opened = open_medmnist(grey(tmp_path / "a.npz"))
    monkeypatch.setattr(medmnist, "_read_member", counted)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda index: opened.read("train", index % 2), range(20)))
    assert read == ["train_images.npy"]


def test_only_two_splits_stay_in_memory(tmp_path: Path) -> None:
    images = np.zeros((2, 3, 4), np.uint8)
    arrays = {
        f"{split}_{kind}": value
        for split in ("train", "val", "test")
        for kind, value in (("images", images), ("labels", LABELS))
    }
    opened = open_medmnist(archive(tmp_path / "a.npz", **arrays))
    assert len(list(opened)) == 6
    assert list(opened._kept) == ["val", "test"]


def test_such_archives_are_recognised(tmp_path: Path) -> None:
    assert is_medmnist(grey(tmp_path / "a.npz"))
    assert not is_medmnist(archive(tmp_path / "b.npz", x=LABELS))
    (tmp_path / "c.npz").write_text("no zip")
    assert not is_medmnist(tmp_path / "c.npz")


def test_python_objects_are_refused_unread(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.npz", train_images=np.array([[[{}]]], object), train_labels=LABELS[:1])
    with pytest.raises(Refusal, match=r"train_images\.npy holds object; expected real numbers, never Python objects"):
        open_medmnist(path)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((2, 3)), LABELS, r"images have the shape \(2, 3\), expected \(N, H, W\)"),
        (np.zeros((2, 3, 3, 3, 5)), LABELS, "expected .N, H, W"),
        (np.zeros((3, 4, 4)), LABELS, r"train_labels has the shape \(2, 1\), expected \(3, 1\)"),
        (
            np.zeros((2, 4, 4)),
            np.array([[0], [-1]]),
            "train_labels runs from -1 to 0, expected whole numbers from 0 to 999",
        ),
        (np.zeros((2, 4, 4)), np.array([[0.5], [1]]), "runs from 0.5 to 1.0"),
        (np.zeros((2, 4, 4)), np.array([[0, 2], [1, 1]]), "runs from 0 to 2, expected whole numbers from 0 to 1"),
        (np.zeros((2, 4, 0)), LABELS, r"declares the shape \(2, 4, 0\)"),
        (np.zeros((2, 1, 5000)), LABELS, r"declares the shape \(2, 1, 5000\); expected 1 to 4096"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(
    tmp_path: Path, images: np.ndarray, labels: np.ndarray, message: str
) -> None:
    with pytest.raises(Refusal, match=message):
        open_medmnist(archive(tmp_path / "a.npz", train_images=images, train_labels=labels))


def test_splits_that_differ_are_refused(tmp_path: Path) -> None:
    path = archive(
        tmp_path / "a.npz",
        train_images=np.zeros((2, 3, 4)),
        train_labels=LABELS,
        test_images=np.zeros((2, 4, 4)),
        test_labels=LABELS,
    )
    with pytest.raises(Refusal, match=r"image shapes \[\(3, 4\), \(4, 4\)\]"):
        open_medmnist(path)


def test_missing_arrays_are_named(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match=r"the archive has no train_labels\.npy"):
        open_medmnist(archive(tmp_path / "a.npz", train_images=np.zeros((2, 3, 4))))
    with pytest.raises(Refusal, match="no array train_images"):
        open_medmnist(archive(tmp_path / "b.npz", x=LABELS))


def test_declared_sizes_are_checked_before_memory_is_taken(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.npz", train_images=np.zeros((50, 64, 64), np.uint8), train_labels=np.zeros((50, 1)))
    with pytest.raises(Refusal, match="more than 200 to 1"):
        open_medmnist(path, limits=Limits(ratio_above=1000))
    with pytest.raises(Refusal, match="decodes to 204800 bytes, expected at most 1000"):
        open_medmnist(path, limits=Limits(decoded_bytes=1000))
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as file, file.open("train_images.npy", "w") as stream:
        np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": (9, 9, 9)})
        stream.write(b"123")
    with pytest.raises(Refusal, match="declares 729 bytes of values, the archive holds 3"):
        open_medmnist(tmp_path / "b.npz")


def test_damage_is_refused(tmp_path: Path) -> None:
    path = grey(tmp_path / "a.npz")
    data = path.read_bytes()
    (tmp_path / "cut.npz").write_bytes(data[:-30])
    with pytest.raises(Refusal, match=r"no readable \.npz archive"):
        open_medmnist(tmp_path / "cut.npz")
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as file:
        file.writestr("train_images.npy", b"not an array")
    with pytest.raises(Refusal, match=r"train_images\.npy has no readable array header"):
        open_medmnist(tmp_path / "b.npz")
