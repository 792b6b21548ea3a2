"""Figures: every chart draws, with nothing and with odd names too, and lets its memory go."""

import gc

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure

from medml.pages import figures
from medml.pages.style import plain

ODD = "a $b_c <i>\x00 very long name that goes on and on and on"
NAN = float("nan")
CHARTS = {
    "roc": lambda: figures.roc({ODD: ([0, 0.2, 1], [0, 0.9, 1])}, marked=([0.2], [0.9]), notes={ODD: "0.9"}),
    "pr": lambda: figures.precision_recall({ODD: ([1, 0.5, 0], [0.3, 0.8, 1])}, prevalence=0.3),
    "calibration": lambda: figures.calibration([0.1, 0.9], [0.2, 0.8], [5, 7], note=ODD),
    "confusion": lambda: figures.confusion_matrix([[3, 1], [0, 0]], [ODD, "b"]),
    "confusion_many": lambda: figures.confusion_matrix(np.eye(9, dtype=int).tolist(), list("abcdefghi")),
    "strips": lambda: figures.strips({ODD: [0.5, NAN, 0.7], "none": []}, label="Dice", limits=(0, 1)),
    "bland_altman": lambda: figures.bland_altman([1, 2, NAN], [1.5, 2, 3], name=ODD),
    "bland_altman_one": lambda: figures.bland_altman([1], [2]),
    "learning": lambda: figures.learning_curves([1, 2], {"train_loss": [2, 1], "val_dice": [NAN, 0.5]}, best=2),
    "learning_loss_only": lambda: figures.learning_curves([1], {"train_loss": [2]}),
    "learning_nothing": lambda: figures.learning_curves([], {}),
    "forest": lambda: figures.forest([(ODD, 0.8, 0.7, 0.9, 20), ("few", 0.5, NAN, NAN, 3)], overall=0.75, label="Dice"),
}


@pytest.mark.parametrize("name", sorted(CHARTS))
def test_chart_is_a_png_the_same_each_time(name: str) -> None:
    first = CHARTS[name]()
    assert first.startswith(b"\x89PNG")
    assert CHARTS[name]() == first


def test_charts_leave_no_figure_and_no_setting_behind() -> None:
    before = dict(mpl.rcParams)
    for _ in range(3):
        for chart in CHARTS.values():
            chart()
    gc.collect()
    assert not [thing for thing in gc.get_objects() if isinstance(thing, Figure)]
    assert dict(mpl.rcParams) == before


def test_plain_text_has_no_control_characters_and_an_end() -> None:
    assert plain("a\x1b[31mb\n") == "a[31mb"
    assert plain("x" * 100, 10) == "x" * 9 + "…"
