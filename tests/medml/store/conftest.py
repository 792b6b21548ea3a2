"""A database in a temporary folder, a real PostgreSQL where there is one, and tiny records."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import uuid
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


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[str]:
    """Start a PostgreSQL of its own on a socket in a temporary folder; its URL."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        pytest.skip("PostgreSQL is not installed: run `make system`")
    binaries = found[-1].parent
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    user = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
    if os.geteuid() == 0:
        shutil.chown(folder, user)
    as_user = {"user": user, "cwd": "/"} if os.geteuid() == 0 else {"cwd": "/"}

    def run(*command: str | Path) -> None:
        subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL, timeout=120, **as_user)

    run(binaries / "initdb", "-D", folder / "data", "-A", "trust", "-U", user, "--no-sync")
    options = f"-k {folder} -c listen_addresses='' -c fsync=off"
    run(binaries / "pg_ctl", "-D", folder / "data", "-w", "-l", folder / "log", "-o", options, "start")
    try:
        yield f"postgresql://{user}@/postgres?host={folder}"
    finally:
        run(binaries / "pg_ctl", "-D", folder / "data", "-w", "-m", "immediate", "stop")
        shutil.rmtree(folder)


@pytest.fixture
def postgresql_url(postgresql_server: str) -> str:
    """Return the URL of a new, empty schema, which stands for a database and costs less."""
    import psycopg

    name = f"t{uuid.uuid4().hex}"
    with psycopg.connect(postgresql_server, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {name}")
    return f"{postgresql_server}&options=-csearch_path%3D{name}"


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
