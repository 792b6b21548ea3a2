"""A home copied while it is written to, put back elsewhere, and a damaged backup refused by name."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from medml.errors import ConfigError, MedmlError
from medml.records.home import Home
from pipelines.backup import backup, backups, damage, read_list, restore
from pipelines.stores import open_catalogue


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """Return a home with a few files, a database and what a backup leaves out."""
    home = Home(tmp_path / "home")
    open_catalogue(home).close()
    for name, text in {
        "scans/aa/image.nii.gz": "voxels",
        "datasets/liver/d.json": "{}",
        "secrets/pseudonym.key": "k" * 32,
        "cache/d/000.npy": "made again",
        "logs/.server.log.tmp": "half written",
        "prefect/server.json": "{}",
        "prefect/up.json": "{}",
        "prefect/serving.ready": "",
        "mlflow.lock": "",
    }.items():
        path = home.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o600 if name.startswith("secrets") else 0o644)
    return home


def names(home: Home) -> set[str]:
    return {path.relative_to(home.root).as_posix() for path in home.root.rglob("*") if path.is_file()}


def test_home_is_put_back_elsewhere_with_modes_and_without_what_is_made_again(home: Home, tmp_path: Path) -> None:
    made = backup(home, tmp_path / "b")
    assert made.counts["copied"] == made.counts["files"] == 4
    assert "not encrypted" in made.notes[0]
    assert (tmp_path / "b").stat().st_mode & 0o777 == 0o700
    other = Home(tmp_path / "elsewhere" / "home")
    assert restore(tmp_path / "b", other.root).counts["files"] == 4
    assert names(other) == {"catalogue.db", "scans/aa/image.nii.gz", "datasets/liver/d.json", "secrets/pseudonym.key"}
    assert (other.root / "secrets/pseudonym.key").stat().st_mode & 0o777 == 0o600
    assert other.secrets.stat().st_mode & 0o777 == 0o700


def test_second_backup_copies_what_has_changed_and_earlier_ones_stay(home: Home, tmp_path: Path) -> None:
    backup(home, tmp_path / "b")
    (home.scans / "aa" / "image.nii.gz").write_text("other voxels")
    again = backup(home, tmp_path / "b")
    assert (again.counts["copied"], again.counts["unchanged"]) == (1, 3)
    first, second = backups(tmp_path / "b")
    assert damage(tmp_path / "b", read_list(first)) == damage(tmp_path / "b", read_list(second)) == []
    restore(tmp_path / "b", tmp_path / "old", which=first.name[:24])
    assert (tmp_path / "old" / "scans" / "aa" / "image.nii.gz").read_text() == "voxels"


def test_only_the_newest_backups_are_kept(home: Home, tmp_path: Path) -> None:
    backup(home, tmp_path / "b")
    (home.scans / "aa" / "image.nii.gz").unlink()
    assert backup(home, tmp_path / "b", keep=1).counts["removed"] == 1
    (left,) = backups(tmp_path / "b")
    assert "scans/aa/image.nii.gz" not in read_list(left).files
    assert not any(path.read_bytes() == b"voxels" for path in (tmp_path / "b").rglob("*") if path.is_file())


def test_secrets_can_be_left_out(home: Home, tmp_path: Path) -> None:
    backup(home, tmp_path / "b", with_secrets=False)
    result = restore(tmp_path / "b", tmp_path / "new")
    assert not (tmp_path / "new" / "secrets").exists()
    assert any("pseudonym.key back" in note for note in result.notes)


def test_backup_beside_a_writer_is_one_state(home: Home, tmp_path: Path) -> None:
    """A writer moves one unit between two rows; their sum is the same in every state, and in the copy."""
    database = home.root / "moving.db"
    with sqlite3.connect(database) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE t (n INTEGER, filler BLOB)")
        connection.executemany("INSERT INTO t VALUES (?, ?)", [(100, bytes(5000)) for _ in range(200)])
    stop, moved = threading.Event(), [0]

    def write() -> None:
        with sqlite3.connect(database, timeout=30) as own:
            while not stop.is_set():
                own.execute("BEGIN IMMEDIATE")
                own.execute("UPDATE t SET n = n - 1 WHERE rowid = 1")
                own.execute("UPDATE t SET n = n + 1 WHERE rowid = 200")
                own.commit()
                moved[0] += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        before = moved[0]
        for n in range(3):
            backup(home, tmp_path / "b")
            restore(tmp_path / "b", tmp_path / f"new{n}")
            with sqlite3.connect(tmp_path / f"new{n}" / "moving.db") as copy:
                assert copy.execute("SELECT sum(n) FROM t").fetchone() == (20000,)
        assert moved[0] > before
    finally:
        stop.set()
        writer.join()


def test_damaged_backup_is_named_and_nothing_is_put_back(home: Home, tmp_path: Path) -> None:
    backup(home, tmp_path / "b")
    kept = read_list(backups(tmp_path / "b")[0]).files["scans/aa/image.nii.gz"]
    path = tmp_path / "b" / "objects" / kept.sha256[:2] / kept.sha256
    path.write_text("voxelz")
    with pytest.raises(MedmlError, match=r"1 of its 4 files are not what was copied: scans/aa/image.nii.gz"):
        restore(tmp_path / "b", tmp_path / "new")
    path.unlink()
    with pytest.raises(MedmlError, match=r"scans/aa/image\.nii\.gz"):
        restore(tmp_path / "b", tmp_path / "new")
    assert not (tmp_path / "new").exists()
    assert not list(tmp_path.glob(".new*"))


def test_changed_list_is_refused(home: Home, tmp_path: Path) -> None:
    backup(home, tmp_path / "b")
    path = backups(tmp_path / "b")[0]
    path.write_text(path.read_text().replace("scans/aa", "scans/ab"))
    with pytest.raises(MedmlError, match="the list of the backup was changed"):
        restore(tmp_path / "b", tmp_path / "new")


def test_list_that_leads_out_of_the_home_is_refused(home: Home, tmp_path: Path) -> None:
    import hashlib

    backup(home, tmp_path / "b")
    path = backups(tmp_path / "b")[0]
    value = json.loads(path.read_text())
    value["files"]["../outside"] = value["files"].pop("datasets/liver/d.json")
    text = json.dumps(value)
    path.unlink()
    path.with_name(f"20990101T000000000000Z-{hashlib.sha256(text.encode()).hexdigest()[:12]}.json").write_text(text)
    with pytest.raises(MedmlError, match="a file outside of the home"):
        restore(tmp_path / "b", tmp_path / "new")
    assert not (tmp_path / "outside").exists()


def test_wrong_places_are_refused(home: Home, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a backup inside of its home, or around it"):
        backup(home, home.root / "b")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.doc").write_text("mine")
    with pytest.raises(ConfigError, match="holds something else"):
        backup(home, tmp_path / "full")
    with pytest.raises(ConfigError, match="it holds 0 backups"):
        restore(tmp_path / "full", tmp_path / "new")
    backup(home, tmp_path / "b")
    with pytest.raises(ConfigError, match="is not empty; a backup is put back as a new home"):
        restore(tmp_path / "b", tmp_path / "full")


def test_two_backups_at_once_are_refused(home: Home, tmp_path: Path) -> None:
    import fcntl

    backup(home, tmp_path / "b")
    with (tmp_path / "b" / "backup.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="another backup is writing to it"):
            backup(home, tmp_path / "b")


def test_verbs_back_up_and_restore(home: Home, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pipelines.cli"]
    place, new = str(tmp_path / "b"), str(tmp_path / "new")
    done = subprocess.run(
        [*command, "--home", str(home.root), "backup", place, "--json"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    done = subprocess.run([*command, "restore", place, new, "--json"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["outputs"] == {"home": new}
    assert (Path(new) / "audit" / "audit.jsonl").exists()
