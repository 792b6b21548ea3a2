"""Reports opened in a real browser: every figure decodes, nothing is asked for, nothing is complained about."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medml.evaluation.evaluate import case_table, summarise
from medml.evaluation.report import worst_cases, write_report
from medml.pages.content import Picture
from medml.pages.overlays import overlay_png
from medml.records.batch import Prediction
from medml.records.calibration import Calibration
from medml.records.plan import Epoch
from medml.records.scan import Volume

pytestmark = pytest.mark.system

DECODED = "async () => Promise.all([...document.images].map(async i => {await i.decode(); return i.naturalWidth}))"
DRAWN = "() => document.querySelector('canvas') && document.querySelector('canvas').width > 0"


@dataclass
class Looked:
    """What a page asked for and said while it was open, and the widths of its pictures in pixels."""

    page: Any
    asked: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    pictures: list[int] = field(default_factory=list)


@pytest.fixture
def look(browser: Any) -> Generator[Callable[..., Looked]]:
    contexts: list[Any] = []

    def open_page(path: Path, *, scheme: str = "light") -> Looked:
        contexts.append(browser.new_context(color_scheme=scheme, viewport={"width": 1200, "height": 900}))
        found = Looked(contexts[-1].new_page())
        found.page.set_default_timeout(120_000)  # a busy machine
        found.page.on("request", lambda request: found.asked.append(request.url))
        found.page.on("console", lambda message: found.said.append(message.text))
        found.page.on("pageerror", lambda error: found.said.append(str(error)))
        found.page.goto(path.as_uri(), wait_until="load")
        found.pictures = found.page.evaluate(DECODED)
        return found

    yield open_page
    for context in contexts:
        context.close()


def _outside(asked: list[str]) -> list[str]:
    return [url for url in asked if not url.startswith(("file:", "data:", "blob:"))]


def _segment_report(bench: Any, make_model: Any, perfect: Any, folder: Path) -> Path:
    """A report on a segmenter that shrinks the lobe of case 4, and is unsure along it."""

    def answer(volume: Volume) -> Prediction:
        mask = perfect(volume).mask
        if int(volume.voxels[0, 0, 0, 0]) == 104:
            mask[5:] = 0
        maps = {"entropy": (mask > 0) * np.float16(0.4), "disagreement": (mask > 0) * np.float16(0.1)}
        return Prediction(mask=mask, uncertainty=0.2, disagreement=0.05, uncertainty_maps=maps)

    model, dataset = make_model(answer, labels=bench.dataset.labels), bench.dataset
    table = case_table(model, dataset.cases, bench.scans, dataset.labels, part="test")
    worst = worst_cases(table, model, dataset, bench.scans, n=2)
    epochs = [
        Epoch(epoch=n, step=n, seconds=1, learning_rate=0.1, metrics={"train_loss": 1 / n, "val_dice": 0.5}, best=True)
        for n in (1, 2)
    ]
    evaluation = summarise(table, dataset, "lobes", "test")
    return write_report(
        folder, evaluation, table, dataset=dataset, plan=model.plan, epochs=epochs, worst=worst, validation=evaluation
    )


def _class_report(bench: Any, make_model: Any, folder: Path) -> Path:
    def answer(volume: Volume) -> Prediction:
        number = int(volume.voxels[0, 0, 0, 0]) - 100
        ill = 0.3 if number % 2 else 0.1 + 0.01 * number
        return Prediction(probabilities=np.array([1 - ill, ill]))

    def explain(name: str, volume: Volume) -> Picture:
        png = overlay_png(volume.voxels, None, None, spacing_mm=None, labels={})
        return Picture(png, f"{name}. Grad-CAM: passes its checks.", kind="image")

    calibration = Calibration(threshold=0.25, quantile=0.75, patients=40)
    model, dataset = make_model(answer, task="classify", labels=bench.dataset.labels), bench.dataset
    table = case_table(model, dataset.cases, bench.scans, dataset.labels, part="test", calibration=calibration)
    worst = worst_cases(table, model, dataset, bench.scans, n=4, threshold=0.25, explain=explain)
    evaluation = summarise(table, dataset, "screen", "test", threshold=0.25, calibration=calibration)
    return write_report(folder, evaluation, table, dataset=dataset, plan=model.plan, worst=worst)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_segmenters_report_is_whole_and_silent(
    look: Any, segment_bench: Any, make_model: Any, perfect: Any, tmp_path: Path, scheme: str
) -> None:
    page = _segment_report(segment_bench, make_model, perfect, tmp_path / "r")
    found = look(page, scheme=scheme)
    assert (_outside(found.asked), found.said) == ([], [])
    # Dice, FROC, two volumes, subgroups, two worst cases, two maps of uncertainty, the learning curves
    assert len(found.pictures) == 10
    assert min(found.pictures) > 200
    assert found.page.locator("h2", has_text="Where the model is unsure").count() == 1
    assert found.page.locator("td", has_text="2 |P ∩ R| / (|P| + |R|)").count() == 1
    dark = found.page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    assert dark == {"light": "rgb(244, 246, 248)", "dark": "rgb(15, 20, 25)"}[scheme]


def test_its_viewer_shows_volume_and_mask(
    look: Any, segment_bench: Any, make_model: Any, perfect: Any, tmp_path: Path
) -> None:
    found = look(_segment_report(segment_bench, make_model, perfect, tmp_path / "r"))
    found.page.get_by_role("link", name="Look through the voxels").click()
    found.page.wait_for_url("**/viewer.html")
    found.page.wait_for_function(DRAWN)
    found.page.wait_for_timeout(1500)
    found.page.locator("canvas").screenshot(path=tmp_path / "canvas.png")
    assert (_outside(found.asked), found.said) == ([], [])
    pixels = np.asarray(Image.open(tmp_path / "canvas.png").convert("RGB")).astype(int)
    red, green, blue = pixels[..., 0], pixels[..., 1], pixels[..., 2]
    assert ((abs(red - green) < 6) & (abs(green - blue) < 6) & (red > 60)).sum() > 500  # the image, in grey
    assert ((blue - red > 40) & (red + green + blue > 100)).sum() > 500  # the lobe, in the first label's blue


def test_a_classifiers_report_is_whole_and_prints(look: Any, class_bench: Any, make_model: Any, tmp_path: Path) -> None:
    found = look(_class_report(class_bench, make_model, tmp_path / "r"))
    assert (_outside(found.asked), found.said) == ([], [])
    # ROC, precision-recall, calibration, confusion, subgroups, four worst cases, three maps
    assert len(found.pictures) == 12
    assert found.page.locator("td", has_text="Coverage promised").count() == 1
    assert found.page.pdf()[:5] == b"%PDF-"
    found.page.emulate_media(media="print", color_scheme="dark")
    assert found.page.evaluate("() => getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


def test_the_browser_would_have_told(look: Any, tmp_path: Path) -> None:
    page = tmp_path / "p.html"
    page.write_text('<script>fetch("http://outside.invalid/a"); console.error("seen")</script>', encoding="utf-8")
    found = look(page)
    found.page.wait_for_timeout(300)
    assert _outside(found.asked) == ["http://outside.invalid/a"]
    assert "seen" in found.said
