"""Databases are copied by their own means; a backup takes PostgreSQL along, and a new one is filled from it."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from medml.errors import ConfigError, MedmlError
from medml.records.home import Home
from medml.store.crosswalk import Crosswalk, Origin
from medml.store.database import open_database
from medml.store.snapshot import copy_sqlite, dump_postgresql, is_sqlite
from pipelines.backup import backup, restore


def test_damaged_database_is_not_copied(tmp_path: Path, url: str) -> None:
    open_database(url).close()
    data = bytearray((tmp_path / "catalogue.db").read_bytes())
    data[4096:] = b"\xff" * (len(data) - 4096)
    (tmp_path / "catalogue.db").write_bytes(bytes(data))
    with pytest.raises(MedmlError, match=r"catalogue.db (is damaged|cannot be copied)"):
        copy_sqlite(tmp_path / "catalogue.db", tmp_path / "copy.db")


@pytest.fixture
def two_databases(postgresql_server: str) -> tuple[str, str]:
    import psycopg

    made = [f"d{uuid.uuid4().hex}" for _ in range(2)]
    with psycopg.connect(postgresql_server, autocommit=True) as connection:
        for name in made:
            connection.execute(f"CREATE DATABASE {name}")
    return tuple(postgresql_server.replace("/postgres?", f"/{name}?") for name in made)  # type: ignore[return-value]


def test_postgresql_is_dumped_and_loaded(
    tmp_path: Path, two_databases: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = two_databases
    home = Home(tmp_path / "home")
    home.root.mkdir()
    crosswalk = Crosswalk(old)
    crosswalk.put([Origin("a", "stamp", {"path": "/x"})])
    crosswalk.database.close()
    monkeypatch.setenv("MEDML_CROSSWALK_URL", old)
    made = backup(home, tmp_path / "b")
    assert "crosswalk.pgdump is a PostgreSQL dump" in made.notes
    monkeypatch.delenv("MEDML_CROSSWALK_URL")
    told = restore(tmp_path / "b", tmp_path / "first")
    assert any("MEDML_CROSSWALK_URL names no PostgreSQL database" in note for note in told.notes)
    monkeypatch.setenv("MEDML_CROSSWALK_URL", new)
    restore(tmp_path / "b", tmp_path / "second")
    again = Crosswalk(new)
    assert again.locator("a") == {"path": "/x"}
    again.database.close()
    with pytest.raises(MedmlError, match="pg_restore failed"):
        restore(tmp_path / "b", tmp_path / "third")


def test_missing_client_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="pg_dump is not installed; install the PostgreSQL client"):
        dump_postgresql("postgresql://user:secret@nowhere/name", tmp_path / "dump")


def test_server_that_does_not_answer_is_an_error_without_the_password(tmp_path: Path) -> None:
    with pytest.raises(MedmlError, match="pg_dump failed") as error:
        dump_postgresql("postgresql://user:secret@127.0.0.1:1/name", tmp_path / "dump")
    assert "secret" not in str(error.value)


def test_sqlite_is_known_by_its_first_bytes(tmp_path: Path, url: str) -> None:
    open_database(url).close()
    assert is_sqlite(tmp_path / "catalogue.db")
    (tmp_path / "other.db").write_text("no database")
    assert not is_sqlite(tmp_path / "other.db")
