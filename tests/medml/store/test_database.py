from __future__ import annotations

import multiprocessing
import os
import sqlite3
import stat
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text

from medml.errors import ConfigError, MedmlError
from medml.store import database as database_module
from medml.store.database import (
    MIGRATIONS,
    Database,
    filesystem_of,
    open_database,
    refuse_network_filesystem,
)
from medml.store.tables import CATALOGUE, CROSSWALK, Schema

MOUNTS = """\
/dev/sda1 / ext4 rw 0 0
server:/export /data nfs4 rw 0 0
/dev/sdb1 /data/fast xfs rw 0 0
me@host:/x /mnt/my\\040share fuse.sshfs rw 0 0
broken
"""


@pytest.mark.parametrize("schema", [CATALOGUE, CROSSWALK], ids=lambda schema: schema.branch)
def test_migrations_build_exactly_the_tables_of_the_code(any_url: str, schema: Schema) -> None:
    database = open_database(any_url, schema=schema)
    with database.reading() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, schema.metadata) == []
    database.close()


@pytest.mark.parametrize("schema", [CATALOGUE, CROSSWALK], ids=lambda schema: schema.branch)
def test_known_head_is_the_head_of_the_migrations(schema: Schema) -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    scripts = ScriptDirectory.from_config(config)
    revision = scripts.get_revision(f"{schema.branch}@head")
    assert revision is not None
    assert revision.revision == schema.head


def test_sqlite_is_durable_and_checks_foreign_keys(url: str, tmp_path: Path) -> None:
    with open_database(url).reading() as connection:
        read = {
            name: connection.execute(text(f"PRAGMA {name}")).scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    assert read == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 20000}
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.glob("catalogue.db*")}
    assert modes["catalogue.db"] == modes["catalogue.db-wal"] == modes["catalogue.db-shm"] == 0o600


def test_second_opening_needs_no_migration(url: str) -> None:
    open_database(url).close()
    script = (
        "import sys; from medml.store.database import open_database; "
        f"open_database({url!r}); print('alembic' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_failed_transaction_leaves_nothing(database: Database) -> None:
    def insert_and_stop() -> None:
        with database.transaction() as connection:
            connection.execute(text("INSERT INTO collections (name, licence, consent, added) VALUES ('a', '', '', '')"))
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        insert_and_stop()
    with database.reading() as connection:
        assert connection.execute(text("SELECT count(*) FROM collections")).scalar() == 0


def test_four_processes_open_a_new_database_at_once(any_url: str) -> None:
    context = multiprocessing.get_context("spawn")
    with context.Pool(4) as pool:
        assert pool.map(_open_and_count, [any_url] * 4) == [0, 0, 0, 0]


def _open_and_count(url: str) -> int:
    with open_database(url).reading() as connection:
        return int(connection.execute(text("SELECT count(*) FROM scans")).scalar_one())


def test_writers_of_several_processes_wait_for_each_other(any_url: str) -> None:
    open_database(any_url).close()
    context = multiprocessing.get_context("spawn")
    with context.Pool(4) as pool:
        pool.starmap(_write_rows, [(any_url, worker, 25) for worker in range(4)])
    with open_database(any_url).reading() as connection:
        assert connection.execute(text("SELECT count(*) FROM collections")).scalar() == 100


def _write_rows(url: str, worker: int, count: int) -> None:
    database = open_database(url)
    for number in range(count):
        with database.transaction() as connection:
            connection.execute(
                text("INSERT INTO collections (name, licence, consent, added) VALUES (:name, '', '', '')"),
                {"name": f"{worker}-{number}"},
            )


def test_forked_child_opens_connections_of_its_own(url: str) -> None:
    database = open_database(url)
    with database.transaction() as connection:
        connection.execute(text("INSERT INTO collections (name, licence, consent, added) VALUES ('a', '', '', '')"))
    child = os.fork()
    if child == 0:
        _leave(lambda: _insert_b(database))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    with database.reading() as connection:
        assert connection.execute(text("SELECT count(*) FROM collections")).scalar() == 2


def _leave(work: Callable[[], None]) -> NoReturn:
    """Work, then end this process at once: exit handlers of threads that only the parent has would fail here."""
    try:
        work()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def _insert_b(database: Database) -> None:
    assert database.engine.pool.checkedin() == 0  # type: ignore[attr-defined]
    with database.transaction() as connection:
        connection.execute(text("INSERT INTO collections (name, licence, consent, added) VALUES ('b', '', '', '')"))


def test_locked_database_is_reported_after_waiting(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_module, "BUSY_SECONDS", 0.3)
    database = open_database(url)
    holder = sqlite3.connect(tmp_path / "catalogue.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    began = time.monotonic()
    with pytest.raises(MedmlError, match="was locked by another process for more than"), database.transaction():
        pass
    assert time.monotonic() - began >= 0.3
    holder.close()


def test_database_of_a_newer_release_is_refused(any_url: str) -> None:
    database = open_database(any_url)
    with database.transaction() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '0999'"))
    database.close()
    with pytest.raises(
        ConfigError, match=rf"newer medml: its tables are at revision 0999, .* up to {CATALOGUE.head}; upgrade"
    ):
        open_database(any_url)


def test_damaged_file_is_refused_with_advice(tmp_path: Path) -> None:
    (tmp_path / "catalogue.db").write_bytes(b"not a database at all" * 100)
    with pytest.raises(MedmlError, match=r"is damaged .* restore it from a backup"):
        open_database(f"sqlite:///{tmp_path / 'catalogue.db'}")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("nonsense", "the database URL cannot be read"),
        ("mysql://host/name", "found a mysql database URL; expected sqlite or postgresql"),
        ("sqlite://", "in memory would be lost"),
        ("sqlite:///:memory:", "in memory would be lost"),
        ("sqlite:////proc/none/catalogue.db", "cannot be opened for writing"),
    ],
)
def test_unfit_url_is_refused(url: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        open_database(url)


def test_unreachable_server_is_reported_without_its_password() -> None:
    pytest.importorskip("psycopg", reason="psycopg is not installed: pip install 'medml[postgresql]'")
    with pytest.raises(MedmlError, match="cannot be used") as caught:
        open_database("postgresql://me:sesame@127.0.0.1:1/none")
    assert "sesame" not in str(caught.value)


def test_missing_driver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ConfigError, match=r"needs the package psycopg, .* pip install 'medml\[postgresql\]'"):
        open_database("postgresql://me@127.0.0.1:1/none")


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/home/me/catalogue.db", "ext4"),
        ("/data/home/catalogue.db", "nfs4"),
        ("/data/fast/catalogue.db", "xfs"),
        ("/database/catalogue.db", "ext4"),
        ("/mnt/my share/catalogue.db", "fuse.sshfs"),
    ],
)
def test_file_system_is_that_of_the_deepest_mount(path: str, kind: str) -> None:
    assert filesystem_of(Path(path), MOUNTS) == kind


def test_sqlite_on_a_network_file_system_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"network file system \(nfs4\).* local disk, or a PostgreSQL"):
        refuse_network_filesystem(Path("/data/home/catalogue.db"), MOUNTS)
    refuse_network_filesystem(Path("/data/fast/catalogue.db"), MOUNTS)
