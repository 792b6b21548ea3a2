"""Maps over images: where they are cut, and what says how unsure a segmenter is."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from medml.pages.heat import heat_png, uncertainty_picture
from medml.records.batch import Prediction
from medml.records.scan import Volume

VOLUME = Volume(np.full((1, 12, 10, 8), 50, np.float32), np.eye(4))


def _pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def _warm(png: bytes) -> int:
    pixels = _pixels(png)
    return int((pixels[..., 0] - pixels[..., 2] > 60).sum())


def test_a_map_with_a_scale_is_cut_where_it_holds_most_and_says_what_its_colours_mean() -> None:
    values = np.zeros((12, 10, 8), np.float32)
    values[2:10, 2:8, 5] = 0.2  # a whole slice of it, and elsewhere one brighter voxel
    values[0, 0, 0] = 0.3
    by_mass = heat_png(VOLUME.voxels, {"All": values}, spacing_mm=(1, 1, 1), scale="share of the largest entropy")
    by_peak = heat_png(VOLUME.voxels, {"All": values}, spacing_mm=(1, 1, 1))
    assert _warm(by_mass) > 5 * _warm(by_peak)
    assert _pixels(by_mass).shape[0] > _pixels(by_peak).shape[0]  # the bar of colours below


def test_uncertainty_is_drawn_where_a_prediction_tells_of_it() -> None:
    half = np.full((12, 10, 8), 0.5, np.float16)
    several = Prediction(uncertainty=0.31, disagreement=0.12, uncertainty_maps={"entropy": half, "disagreement": half})
    picture = uncertainty_picture(VOLUME, several, name="scan-1")
    assert picture is not None
    assert picture.caption == (
        "scan-1: mean entropy 0.310 in the box of what was found, of which members and views that differ make 0.120."
    )
    alone = uncertainty_picture(VOLUME, Prediction(uncertainty=0.31, uncertainty_maps={"entropy": half}), name="s")
    assert alone is not None
    assert alone.caption == "s: mean entropy 0.310 in the box of what was found."
    assert _pixels(alone.png).shape[1] < _pixels(picture.png).shape[1]
    assert uncertainty_picture(VOLUME, Prediction(), name="s") is None
