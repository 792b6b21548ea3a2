"""Tiny cases, and a home whose catalogue can be filled with scans that need no files."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from medml.records.dataset import Case
from medml.records.home import Home
from medml.records.scan import Annotation, Scan, SourceGrid
from medml.store.catalogue import Catalogue
from medml.store.database import open_database

EYE = ((1.0, 0.0, 0.0, 0.0), (0.0, 1.0, 0.0, 0.0), (0.0, 0.0, 1.0, 0.0), (0.0, 0.0, 0.0, 1.0))
GRID = SourceGrid(shape=(4, 4, 4), affine=EYE, axes=(0, 1, 2), flips=(False, False, False))
CLASSES = {0: "benign", 1: "malignant"}
ORGANS = {0: "background", 1: "organ"}


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.fixture
def make_case() -> Callable[..., Case]:
    def make(name: str, patient: str, **fields: object) -> Case:
        values: dict[str, object] = {
            "case_id": f"id-{name}",
            "patient": patient,
            "scans": (f"id-{name}",),
            "digest": sha(name),
            "shape": (4, 4, 4),
            "spacing_mm": (1.0, 1.0, 1.0),
        }
        return Case.model_validate(values | fields)

    return make


@pytest.fixture
def make_scan() -> Callable[..., Scan]:
    """Make a scan of a name; its id, patient and group follow from the name unless given."""

    def make(name: str, **fields: object) -> Scan:
        values: dict[str, object] = {
            "scan_id": sha(f"id {name}")[:24],
            "collection": "demo",
            "patient": f"p-{name}",
            "study": "s-1",
            "group": f"g-{name}",
            "modality": "MR",
            "shape": (4, 4, 4),
            "affine": EYE,
            "spacing_mm": (1.0, 1.0, 1.0),
            "content": sha(name),
            "source_grid": GRID,
        }
        return Scan.model_validate(values | fields)

    return make


@pytest.fixture
def make_class() -> Callable[..., Annotation]:
    def make(scan: Scan, *classes: int, **fields: object) -> Annotation:
        values: dict[str, object] = {
            "scan_id": scan.scan_id,
            "kind": "class",
            "labels": CLASSES,
            "classes": classes,
            "origin": "csv",
            "content": sha(str(classes)),
        }
        return Annotation.model_validate(values | fields)

    return make


@pytest.fixture
def make_mask() -> Callable[..., Annotation]:
    def make(scan: Scan, **fields: object) -> Annotation:
        values: dict[str, object] = {
            "scan_id": scan.scan_id,
            "kind": "mask",
            "labels": ORGANS,
            "origin": "labelsTr",
            "file": "mask.nii.gz",
            "content": sha(f"mask of {scan.content}"),
        }
        return Annotation.model_validate(values | fields)

    return make


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
def catalogue(home: Home) -> Iterator[Catalogue]:
    database = open_database(home.catalogue_url)
    yield Catalogue(database)
    database.close()


@pytest.fixture
def add_classified(
    catalogue: Catalogue, make_scan: Callable[..., Scan], make_class: Callable[..., Annotation]
) -> Callable[..., list[Scan]]:
    """Add one scan a patient for each name; every third one is malignant."""

    def add(names: Iterable[int | str], **fields: object) -> list[Scan]:
        scans = [make_scan(str(name), **fields) for name in names]
        catalogue.add(scans, [make_class(scan, int(number % 3 == 0)) for number, scan in enumerate(scans)])
        return scans

    return add
