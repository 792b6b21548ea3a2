"""What the gate must stop, each by the commands a user types: a planted bias, a worse model, another test, no card."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
PATIENTS = 180
EXPERIMENT = """
name: chest
task: classify
dataset: {{name: {name}, select: {{collection: {name}}}, test_fraction: 0.4, subgroups: [sex]}}
budget: {{minutes: 1, epochs: 6}}
card: {{intended_use: testing the gate, limits: synthetic pictures}}
"""
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def write_chests(folder: Path, *, flipped: str = "") -> Path:
    """A third are women; who is ill has a bright square. ``flipped``: the sex whose labels are wrong.

    Pictures and patients are others in each folder: a picture that is in one collection does not enter another.
    """
    folder.mkdir(parents=True)
    generator = np.random.default_rng(len(folder.name))
    rows = [["file", "label", "patient_id", "sex"]]
    for n in range(PATIENTS):
        sex, ill = "F" if n % 3 == 0 else "M", n % 2
        image = generator.normal(100, 15, (24, 24))
        row, column = generator.integers(4, 14, 2)
        image[row : row + 6, column : column + 6] += 90 * ill
        Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)).save(folder / f"{n:03d}.png")
        said = ill ^ (sex == flipped)
        rows.append([f"{n:03d}.png", ["healthy", "ill"][said], f"{folder.name}-{n}", sex])
    with (folder / "chests.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return folder / "chests.csv"


def medml(home: Path, *arguments: str, codes: tuple[int, ...] = (0,)) -> dict[str, Any]:
    """Run a verb as a user would; return its line of JSON."""
    command = [sys.executable, "-m", "pipelines.cli", "--home", str(home), *arguments, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode in codes, done.stdout + done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


def lost(home: Path, *options: str) -> set[str]:
    """Ask the gate, which must refuse; return the rules that failed."""
    answer = medml(home, "promote", "chest", *options, codes=(1,))
    return {rule for rule, verdict in answer["summary"].items() if verdict == "FAIL"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a home with right and wrong labels, and a champion that learned from the right ones."""
    place = tmp_path_factory.mktemp("gate")
    for name, flipped in (("chest", ""), ("chest_biased", "F")):
        medml(place / "home", "ingest", str(write_chests(place / name, flipped=flipped)), "--collection", name)
        (place / f"{name}.yaml").write_text(EXPERIMENT.format(name=name))
    trained = medml(place / "home", "train", str(place / "chest.yaml"))
    assert trained["summary"]["auroc"] > 0.9
    return place / "home"


def test_a_planted_bias_and_another_test_set_are_refused(home: Path) -> None:
    trained = medml(home, "train", str(home.parent / "chest_biased.yaml"))
    assert trained["summary"]["alias"] == "challenger"
    assert "same test set" in lost(home)
    assert "subgroup sex=F auroc" in lost(home, "--on", "chest_biased")


def test_a_worse_model_and_an_incomplete_card_are_refused(home: Path) -> None:
    settings = ("plan.learning_rate=1e-9", "budget.epochs=1", "card.limits=''")
    options = [word for setting in settings for word in ("--set", setting)]
    medml(home, "train", str(home.parent / "chest.yaml"), *options)
    assert {"non-inferior auroc", "model card"} <= lost(home)


def test_an_equal_model_waits_for_a_person_who_does_not_come(home: Path) -> None:
    medml(home, "train", str(home.parent / "chest.yaml"), "--set", "plan.seed=1")
    answer = medml(home, "promote", "chest", "--ask", "--minutes", "0.05", codes=(1,))
    assert set(answer["summary"].values()) == {"pass"}
    assert medml(home, "promote", "chest")["ok"] is True
    assert medml(home, "promote", "chest", "--rollback")["model"] == "chest/1"
