"""Databases of older versions: copied first, then upgraded; of newer ones: refused."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from medml.errors import ConfigError
from medml.records.home import Home
from medml.store.database import open_database
from pipelines.settings import prepare
from pipelines.upgrade import MIGRATIONS, folder_of, is_behind, upgrade


def stamp(database: Path, revision: str) -> None:
    with sqlite3.connect(database) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS alembic_version (version_num TEXT)")
        connection.execute("DELETE FROM alembic_version")
        connection.execute("INSERT INTO alembic_version VALUES (?)", (revision,))
    connection.close()


@pytest.fixture
def chain(tmp_path: Path) -> Path:
    """Three migrations, one of them built on two."""
    folder = tmp_path / "versions"
    folder.mkdir()
    (folder / "a.py").write_text('revision = "aaa"\ndown_revision = None\n')
    (folder / "b.py").write_text('revision: str = "bbb"\ndown_revision: str | None = "aaa"\n')
    (folder / "c.py").write_text("revision = 'ccc'\ndown_revision = (\n    'aaa',\n    'bbb',\n)\n")
    return folder


@pytest.mark.parametrize(("revision", "behind"), [("aaa", True), ("bbb", True), ("ccc", False)])
def test_a_database_is_behind_if_a_migration_builds_on_what_it_has_seen(
    tmp_path: Path, chain: Path, revision: str, behind: bool
) -> None:
    stamp(tmp_path / "some.db", revision)
    assert is_behind(tmp_path / "some.db", chain) is behind


def test_a_database_of_a_newer_version_is_refused(tmp_path: Path, chain: Path) -> None:
    stamp(tmp_path / "some.db", "zzz")
    with pytest.raises(ConfigError, match=r"some\.db was made by a newer version \(it is at zzz, of the 3 migrations"):
        is_behind(tmp_path / "some.db", chain)


def test_every_database_of_a_home_has_its_migrations_where_they_are_looked_for(tmp_path: Path) -> None:
    assert {name: len(list(folder_of(name).glob("*.py"))) > 1 for name in MIGRATIONS} == dict.fromkeys(MIGRATIONS, True)
    open_database(Home(tmp_path).catalogue_url)
    assert not is_behind(tmp_path / "catalogue.db", folder_of("catalogue.db"))
    assert upgrade(Home(tmp_path)) is None


def test_an_old_mlflow_database_is_copied_and_upgraded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MEDML_HOME", "PREFECT_HOME"):
        monkeypatch.setenv(name, "")
    home = Home(tmp_path)
    prepare(home)
    code = (
        "import sys, sqlalchemy as s, mlflow.store.db.utils as u\n"
        "from alembic import command\n"
        "from mlflow.store.tracking.dbmodels.initial_models import Base\n"
        "Base.metadata.create_all(s.create_engine(sys.argv[1]))\n"
        "command.upgrade(u._get_alembic_config(sys.argv[1]), '97727af70f4d')\n"
    )
    subprocess.run([sys.executable, "-c", code, home.mlflow_url], check=True, capture_output=True)
    assert is_behind(tmp_path / "mlflow.db", folder_of("mlflow.db"))
    aside = upgrade(home)
    assert aside
    assert aside.stat().st_mode & 0o777 == 0o700
    assert is_behind(aside / "mlflow.db", folder_of("mlflow.db"))
    assert not is_behind(tmp_path / "mlflow.db", folder_of("mlflow.db"))
    assert upgrade(home) is None
