from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from medml.datasets.fingerprint import fingerprint
from medml.errors import ConfigError
from medml.io.files import content_digest
from medml.io.scans import write_scan
from medml.records.dataset import Case, Dataset
from medml.records.home import Home
from medml.records.scan import Scan, Volume

MakeCase = Callable[..., Case]


@pytest.fixture
def make_dataset(make_case: MakeCase) -> Callable[..., Dataset]:
    """Make a dataset of ten patients: 0 and 1 are tested on, 2 and 3 validated on, the others trained on."""

    def make(**fields: object) -> Dataset:
        cases = tuple(make_case(f"{n}", f"p-{n}", mask="mask.nii.gz", classes=(n % 2,)) for n in range(10))
        values: dict[str, object] = {
            "name": "demo",
            "digest": "d",
            "created": "",
            "task": "segment",
            "select": {},
            "split": "patient",
            "seed": 0,
            "labels": {0: "background", 1: "organ"},
            "channels": ("MRI",),
            "modality": "MR",
            "geometry": "mm",
            "cases": cases,
            "test": ("id-0", "id-1"),
            "folds": (("id-2", "id-3"),),
            "test_digest": "t",
        }
        return Dataset.model_validate(values | fields)

    return make


def _number(scan_id: str) -> int:
    return int(scan_id.removeprefix("id-"))


def _image(_: Path, scan_id: str) -> Volume:
    """Return an image that is 100 + n in the organ, of two voxels, and 0 outside; test cases cannot be read."""
    if _number(scan_id) < 4:
        raise AssertionError("only training cases may be read")
    voxels = np.zeros((1, 4, 4, 4), dtype=np.int16)
    voxels[0, 1, 1, 1:3] = 100 + _number(scan_id)
    return Volume(voxels, np.eye(4))


def _mask(_: Path, scan_id: str, file: str) -> Volume:
    assert file == "mask.nii.gz"
    return Volume((_image(Path(), scan_id).voxels > 0).astype(np.uint8), np.eye(4))


def test_segmenter_is_measured_over_the_foreground_of_training_cases(make_dataset: Callable[..., Dataset]) -> None:
    found = fingerprint(make_dataset(), Path(), read_image=_image, read_mask=_mask)
    assert (found.cases, found.modality, found.geometry, found.channels) == (6, "MR", "mm", ("MRI",))
    assert found.shapes == ((4, 4, 4),) * 6
    assert found.spacings == ((1.0, 1.0, 1.0),) * 6
    assert found.label_voxels == {0: 6 * 62, 1: 6 * 2}
    (intensity,) = found.intensity
    assert (intensity["min"], intensity["max"]) == (104.0, 109.0)
    assert intensity["mean"] == pytest.approx(106.5)
    assert intensity["std"] == pytest.approx(np.sqrt(35 / 12))  # six values in a row
    assert found.class_counts == {}


def test_classifier_is_measured_over_whole_images_and_counts_all_classes(make_dataset: Callable[..., Dataset]) -> None:
    dataset = make_dataset(task="classify", labels={0: "benign", 1: "malignant", 2: "unclear"})
    found = fingerprint(dataset, Path(), cases=2, read_image=_image, read_mask=_mask)
    assert found.class_counts == {0: 3, 1: 3, 2: 0}
    assert found.cases == 6
    assert len(found.shapes) == 2
    assert found.intensity[0]["min"] == 0.0
    assert found.intensity[0]["p00_5"] == 0.0
    assert found.label_voxels == {}


def test_cases_without_foreground_are_measured_whole(make_dataset: Callable[..., Dataset]) -> None:
    def empty(folder: Path, scan_id: str, file: str) -> Volume:
        return Volume(np.zeros((1, 4, 4, 4), dtype=np.uint8), np.eye(4))

    found = fingerprint(make_dataset(), Path(), read_image=_image, read_mask=empty)
    assert found.label_voxels == {0: 6 * 64, 1: 0}
    assert (found.intensity[0]["min"], found.intensity[0]["max"]) == (0.0, 109.0)


def test_order_of_cases_does_not_matter(make_dataset: Callable[..., Dataset]) -> None:
    dataset = make_dataset()
    turned = dataset.model_copy(update={"cases": dataset.cases[::-1]})
    one, other = (fingerprint(d, Path(), cases=3, read_image=_image, read_mask=_mask) for d in (dataset, turned))
    assert one == other


def test_values_that_are_not_finite_are_left_out(make_dataset: Callable[..., Dataset]) -> None:
    def broken(folder: Path, scan_id: str) -> Volume:
        voxels = np.full((1, 4, 4, 4), np.nan, dtype=np.float32)
        voxels[0, 0, 0, 0] = 5.0
        voxels[0, 0, 0, 1] = np.inf
        return Volume(voxels, np.eye(4))

    dataset = make_dataset(task="classify", labels={0: "benign", 1: "malignant"})
    found = fingerprint(dataset, Path(), read_image=broken, read_mask=_mask)
    assert found.intensity[0] == {"mean": 5.0, "std": 0.0, "p00_5": 5.0, "p99_5": 5.0, "min": 5.0, "max": 5.0}


def test_images_without_one_finite_value_give_zeros(make_dataset: Callable[..., Dataset]) -> None:
    def lost(folder: Path, scan_id: str) -> Volume:
        return Volume(np.full((1, 4, 4, 4), np.nan, dtype=np.float32), np.eye(4))

    dataset = make_dataset(task="classify", labels={0: "benign", 1: "malignant"})
    assert set(fingerprint(dataset, Path(), read_image=lost, read_mask=_mask).intensity[0].values()) == {0.0}


def test_large_images_are_sampled(make_dataset: Callable[..., Dataset]) -> None:
    def large(folder: Path, scan_id: str) -> Volume:
        return Volume(np.arange(64**3, dtype=np.int32).reshape(1, 64, 64, 64), np.eye(4))

    dataset = make_dataset(task="classify", labels={0: "benign", 1: "malignant"})
    (intensity,) = fingerprint(dataset, Path(), read_image=large, read_mask=_mask).intensity
    assert (intensity["min"], intensity["max"]) == (0.0, 64**3 - 1.0)
    assert intensity["mean"] == pytest.approx(64**3 / 2, rel=0.01)


def test_two_scans_are_two_channels(make_dataset: Callable[..., Dataset], make_case: MakeCase) -> None:
    cases = tuple(make_case(f"{n}", f"p-{n}", scans=(f"id-{n}", f"id-{n + 50}"), mask="mask.nii.gz") for n in range(10))
    found = fingerprint(make_dataset(cases=cases, channels=("T1", "T2")), Path(), read_image=_image, read_mask=_mask)
    assert [channel["mean"] for channel in found.intensity] == pytest.approx([106.5, 156.5])


def test_unknown_spacing_leaves_no_spacings(make_dataset: Callable[..., Dataset]) -> None:
    found = fingerprint(make_dataset(geometry="none"), Path(), read_image=_image, read_mask=_mask)
    assert found.spacings == ()


def test_fold_that_leaves_nothing_to_train_on_is_refused(make_dataset: Callable[..., Dataset]) -> None:
    dataset = make_dataset(folds=(tuple(f"id-{n}" for n in range(2, 10)),))
    with pytest.raises(ConfigError, match="dataset demo: fold 0 leaves no case to train on"):
        fingerprint(dataset, Path(), read_image=_image, read_mask=_mask)


def test_stored_scans_are_read(
    tmp_path: Path, make_dataset: Callable[..., Dataset], make_case: MakeCase, make_scan: Callable[..., Scan]
) -> None:
    home, cases = Home(tmp_path), []
    for number in range(10):
        volume = _image(Path(), f"id-{number + 4}")
        scan = make_scan(f"{number}", content=content_digest(volume))
        mask = (volume.voxels[0] > 0).astype(np.uint8)
        write_scan(home, volume, scan, masks={"mask.nii.gz": mask})
        cases.append(make_case(f"{number}", f"p-{number}", scans=(scan.scan_id,), mask="mask.nii.gz"))
    found = fingerprint(make_dataset(cases=tuple(cases)), home.scans)
    assert found.label_voxels == {0: 6 * 62, 1: 6 * 2}
    assert found.intensity[0]["max"] == 113.0


@pytest.mark.parametrize(("side", "readers"), [(4, 1), (64, 2)])
def test_large_volumes_are_read_by_two(
    make_dataset: Callable[..., Dataset], make_case: MakeCase, side: int, readers: int
) -> None:
    cases = tuple(make_case(f"{n}", f"p-{n}", mask="mask.nii.gz", shape=(side, side, side)) for n in range(10))
    seen = set()

    def image(scans: Path, scan_id: str) -> Volume:
        seen.add(threading.get_ident())
        time.sleep(0.01)
        return _image(scans, scan_id)

    fingerprint(make_dataset(cases=cases), Path(), read_image=image, read_mask=_mask)
    assert len(seen) == readers
