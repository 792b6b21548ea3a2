"""A database in a temporary folder or on a real PostgreSQL, and tiny records."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from medml.records.scan import Annotation, Scan, SourceGrid
from medml.store.database import Database, open_database

EYE = ((1.0, 0.0, 0.0, 0.0), (0.0, 1.0, 0.0, 0.0), (0.0, 0.0, 1.0, 0.0), (0.0, 0.0, 0.0, 1.0))
GRID = SourceGrid(shape=(2, 2, 2), affine=EYE, axes=(0, 1, 2), flips=(False, False, False))


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'catalogue.db'}"


@pytest.fixture(params=["sqlite", "postgresql"])
def any_url(request: pytest.FixtureRequest) -> str:
    value: str = request.getfixturevalue("url" if request.param == "sqlite" else "postgresql_url")
    return value


@pytest.fixture
def database(any_url: str) -> Iterator[Database]:
    opened = open_database(any_url)
    yield opened
    opened.close()


@pytest.fixture
def make_scan() -> Callable[..., Scan]:
    def make(number: int = 1, **fields: object) -> Scan:
        values: dict[str, object] = {
            "scan_id": f"{number:024x}",
            "collection": "demo",
            "patient": f"p-{number}",
            "study": "s-1",
            "group": f"g-{number}",
            "shape": (2, 2, 2),
            "affine": EYE,
            "spacing_mm": (1.0, 1.0, 1.0),
            "content": f"{number:064x}",
            "source_grid": GRID,
        }
        return Scan.model_validate(values | fields)

    return make


@pytest.fixture
def make_annotation() -> Callable[..., Annotation]:
    def make(scan: Scan, **fields: object) -> Annotation:
        values: dict[str, object] = {
            "scan_id": scan.scan_id,
            "kind": "class",
            "labels": {0: "benign", 1: "malignant"},
            "classes": (1,),
            "origin": "csv",
            "content": "c" * 64,
        }
        return Annotation.model_validate(values | fields)

    return make
