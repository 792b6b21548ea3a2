"""The example experiments stay true."""

from pathlib import Path

import pytest

from medml.config import load_config
from medml.records.experiment import Experiment

CONFIGS = Path(__file__).parents[3] / "configs" / "training"
NAMES = (
    "hippocampus",
    "breastmnist",
    "adrenalmnist3d",
    "nih_cxr",
    "demo_segmenter",
    "demo_classifier",
    "thick_slices",
)


@pytest.mark.parametrize("name", NAMES)
def test_an_example_is_a_valid_experiment_named_after_its_file(name: str) -> None:
    assert load_config(CONFIGS / f"{name}.yaml", Experiment).name == name


def test_two_medmnist_experiments_differ_in_their_names_and_cards_only() -> None:
    texts = [(CONFIGS / f"{name}.yaml").read_text() for name in ("breastmnist", "adrenalmnist3d")]
    first, second = (text.partition("card:")[0] for text in texts)
    assert first.replace("breastmnist", "adrenalmnist3d") == second
