"""Reports on real data, trained by the command line for a minute or two, and opened in a real browser."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
DECODED = "async () => Promise.all([...document.images].map(async i => {await i.decode(); return i.naturalWidth}))"
DRAWN = "() => document.querySelector('canvas') && document.querySelector('canvas').width > 0"
# Experiment: its data, minutes of training, and parts of the page that must be there.
REPORTS = {
    "breastmnist": ("medmnist/breastmnist.npz", 1, ("Figures", "Worst cases first", "What the model looked at")),
    "nih_cxr": ("nih_cxr_1000", 1, ("Figures", "Subgroups", "Worst cases first", "What the model looked at")),
    "hippocampus": (
        "Task04_Hippocampus",
        2,
        ("Figures", "Subgroups", "Worst cases first", "Where the model is unsure"),
    ),
}
pytestmark = [pytest.mark.slow, pytest.mark.system, pytest.mark.timeout(3600)]


def medml(home: Path, *arguments: str, codes: tuple[int, ...] = (0,)) -> dict[str, Any]:
    command = [sys.executable, "-m", "pipelines.cli", "--home", str(home), *arguments, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode in codes, done.stdout + done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("name", list(REPORTS))
def test_a_report_on_real_data_is_whole_and_silent(
    name: str, browser: Any, real_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    source, minutes, parts = REPORTS[name]
    home = tmp_path_factory.mktemp(name)
    medml(home, "ingest", str(real_data / source), codes=(0, 1))
    medml(home, "train", str(ROOT / "configs" / "training" / f"{name}.yaml"), "--set", f"budget.minutes={minutes}")
    report = Path(medml(home, "evaluate", name)["outputs"]["report"])
    page, asked, said = browser.new_page(), list[str](), list[str]()
    page.set_default_timeout(120_000)
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(report.as_uri())
    assert min(page.evaluate(DECODED)) > 200
    titles = page.locator("h2").all_inner_texts()
    assert set(parts) <= set(titles)
    if "Subgroups" in parts and name == "nih_cxr":
        captions = page.locator("caption").all_inner_texts()
        assert {"Sex", "Age band"} <= set(captions)
    page.get_by_role("link", name="Look through the voxels").click()
    page.wait_for_url("**/viewer.html")
    page.wait_for_function(DRAWN)
    page.close()
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
