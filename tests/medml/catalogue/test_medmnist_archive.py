from __future__ import annotations

import numpy as np

from medml.catalogue.walk import find_scans


def _archive(source, labels: np.ndarray, *, shape: tuple[int, ...] = (8, 8)) -> None:
    rng = np.random.default_rng(0)
    arrays = {}
    for split, part in zip(("train", "val", "test"), np.split(labels, [2, 3]), strict=True):
        arrays[f"{split}_images"] = rng.integers(0, 255, (len(part), *shape)).astype(np.uint8)
        arrays[f"{split}_labels"] = part.astype(np.uint8)
    np.savez_compressed(source.root / "toymnist.npz", **arrays)


def test_each_image_is_a_scan_with_its_split_and_class(source) -> None:
    _archive(source, np.array([[0], [2], [1], [0], [1]]))
    found = list(find_scans(source.root / "toymnist.npz"))
    assert [item.columns["split"] for item in found] == ["train", "train", "val", "test", "test"]
    assert [item.classes for item in found] == [(0,), (2,), (1,), (0,), (1,)]
    assert found[3].class_labels == {0: "0", 1: "1", 2: "2"}
    assert found[0].source == "toymnist.npz#train/0"
    assert [item.files for item in found] == [1, 0, 0, 0, 0]
    assert len({item.patient for item in found}) == len({item.stamp for item in found}) == 5
    assert found[1].read().volume.voxels.shape == (1, 8, 8, 1)


def test_columns_of_labels_are_classes_that_may_hold_together(source) -> None:
    _archive(source, np.array([[0, 1, 1], [0, 0, 0], [1, 0, 0], [1, 1, 1], [0, 0, 1]]))
    found = list(find_scans(source.root))
    assert [item.classes for item in found] == [(1, 2), (), (0,), (0, 1, 2), (2,)]
    assert all(item.multi_label for item in found)


def test_colour_has_named_components(source) -> None:
    _archive(source, np.array([[0], [1], [1], [0], [1]]), shape=(8, 8, 3))
    assert next(iter(find_scans(source.root))).channel_names == ("R", "G", "B")


def test_an_archive_of_something_else_is_refused(source) -> None:
    np.savez(source.root / "x.npz", a=np.zeros(3))
    assert [item.code for item in find_scans(source.root)] == ["not_medmnist"]


def test_it_is_ingested_once(source, desk) -> None:
    _archive(source, np.array([[0], [1], [1], [0], [1]]))
    first = desk.ingest(source.root)
    assert (first.counts.files, first.counts.scans, first.counts.labelled) == (1, 5, 5)
    assert desk.ingest(source.root).counts.known == 5
