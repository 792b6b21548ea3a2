"""A home that was moved opens its runs and loads its champion; what MLflow keeps names no machine and no user."""

from __future__ import annotations

import getpass
import re
import shutil
import socket
import sqlite3
from pathlib import Path

import pytest

from medml.records.home import Home
from medml.records.report import Evaluation, Summary
from medml.registry import models
from medml.registry.relocate import PLACES, follow_home
from medml.registry.tracking import Tracker

CARD = "# Liver\n\n## Intended use\nResearch on livers.\n\n## Limits\nNo children.\n- 3 cases failed\n"


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Register a model in one place and move the home to another; return both places."""
    old = tmp_path_factory.mktemp("first place #1") / "home"
    package = old.parent / "package"
    (package / "models").mkdir(parents=True)
    (package / "models" / "model.pt").write_bytes(b"weights")
    (package / "docs").mkdir()
    (package / "docs" / "README.md").write_text(CARD)
    tracker = Tracker.of(Home(old))
    run_id = tracker.start_or_resume(experiment="liver", run_name="liver (fold 0, seed 0)", run_key="k")
    tracker.log_text_files(run_id, [package / "docs" / "README.md"], "report")
    summary = Summary(
        model="liver",
        dataset="liver",
        test_digest="e" * 64,
        split="test",
        n=3,
        metrics={"dice_mean": 0.9, "dice_mean_low": 0.8, "dice_mean_high": 0.95, "hd95_liver": None},
    )
    evaluation = Evaluation(task="segment", summary=summary, labels={0: "background", 1: "liver"})
    tracker.log_metrics(run_id, {"test_dice_mean": 0.9})
    models.register(tracker, run_id, "liver", package, evaluation)
    tracker.finish(run_id)
    new = tmp_path_factory.mktemp("second") / "other home"
    shutil.move(old, new)
    return old, new


def test_a_moved_home_opens_its_runs_and_loads_its_champion(moved: tuple[Path, Path]) -> None:
    old, new = moved
    tracker = Tracker.of(Home(new))
    champion = models.resolve(tracker, "liver@champion")
    assert champion.package_path.is_relative_to(new)
    assert (champion.package_path / "models" / "model.pt").read_bytes() == b"weights"
    assert models.verify([champion]) == []
    assert [item.path for item in tracker.client.list_artifacts(champion.run_id, "report")] == ["report/README.md"]
    assert not old.exists()
    assert follow_home(new / "mlflow.db", new / "mlartifacts") == 0


def test_a_database_that_is_not_there_or_keeps_files_elsewhere_is_left_alone(tmp_path: Path) -> None:
    assert follow_home(tmp_path / "mlflow.db", tmp_path / "mlartifacts") == 0
    assert not (tmp_path / "mlflow.db").exists()
    for place in ("s3://bucket/mlartifacts/0", "/data/elsewhere/0"):
        with sqlite3.connect(tmp_path / "other.db") as database:
            for table, column in PLACES:
                database.execute(f"CREATE TABLE IF NOT EXISTS {table} (experiment_id INTEGER, {column} TEXT)")
            database.execute("DELETE FROM experiments")
            database.execute("INSERT INTO experiments VALUES (0, ?)", (place,))
        database.close()
        assert follow_home(tmp_path / "other.db", tmp_path / "mlartifacts") == 0


def test_names_descriptions_and_figures_are_what_a_person_reads(moved: tuple[Path, Path]) -> None:
    client = Tracker.of(Home(moved[1])).client
    model = client.get_registered_model("liver")
    assert "Research on livers." in model.description
    assert "No children." in model.description
    assert "3 cases failed" not in model.description
    assert client.get_model_version("liver", "1").description == (
        "On 3 test cases of liver (95 % interval over patients):\n- dice_mean 0.900 (0.800 to 0.950)"
    )
    logged = client.get_logged_model(client.get_model_version("liver", "1").tags["medml.model_id"])
    assert [(m.key, m.dataset_name, m.dataset_digest) for m in logged.metrics] == [
        ("test_dice_mean", "liver (test set)", "e" * 36)
    ]


def test_nothing_in_database_or_files_names_the_machine_the_user_or_the_place(moved: tuple[Path, Path]) -> None:
    named = (str(moved[0].parent)[1:], getpass.getuser(), socket.gethostname())
    words = re.compile("|".join(rf"\b{re.escape(word)}\b" for word in named))
    found = []
    with sqlite3.connect(moved[1] / "mlflow.db") as database:
        for (table,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            columns = [row[1] for row in database.execute(f"PRAGMA table_info({table})")]
            kept = [column for column in columns if (table, column) not in PLACES]
            for row in database.execute(f"SELECT {', '.join(kept)} FROM {table}"):
                found += [(table, value) for value in row if isinstance(value, str) and words.search(value)]
    database.close()
    for file in (moved[1] / "mlartifacts").rglob("*"):
        if file.is_file():
            text = file.read_bytes().decode("latin-1")
            found += [(file.name, match[0]) for match in words.finditer(text)]
    assert not found
