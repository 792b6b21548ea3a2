"""The viewer page: whole, closed to the outside, and really drawing what it was given."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from medml.io.nifti_write import nifti_bytes
from medml.pages import viewed, viewer
from medml.pages.overlays import label_colour
from medml.pages.viewed import viewer_case
from medml.pages.viewer import VENDOR, ViewerCase, write_viewer
from medml.records.scan import Volume

LABELS = {0: "background", 1: "organ"}
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--virtual-time-budget=15000",
    "--window-size=1000,1000", "--enable-logging=stderr", "--v=0",
)  # fmt: skip


def _case(name: str = "c1") -> ViewerCase:
    """A grey ball of 40 voxels a side; the mask is its upper half."""
    i, j, k = np.meshgrid(*[np.arange(40)] * 3, indexing="ij")
    ball = (i - 20) ** 2 + (j - 20) ** 2 + (k - 20) ** 2 < 15**2
    mask = (ball & (k > 20)).astype(np.uint8)
    volume = Volume((ball * 100.0)[np.newaxis].astype(np.float32), np.diag([1.0, 1.0, 1.0, 1.0]))
    return viewer_case(volume, mask, mask, name=name, caption="Dice 1.000", labels=LABELS, pack=nifti_bytes)


def test_niivue_is_the_file_that_was_recorded() -> None:
    recorded = json.loads((VENDOR / "niivue.json").read_text(encoding="utf-8"))
    assert hashlib.sha256((VENDOR / "niivue.umd.js").read_bytes()).hexdigest() == recorded["sha256"]
    assert "BSD 2-Clause" in (VENDOR / "niivue.LICENSE.txt").read_text(encoding="utf-8")


def test_the_page_runs_its_own_scripts_only_and_escapes_names(tmp_path: Path) -> None:
    assert write_viewer(tmp_path / "v.html", [_case("</script><b>&")], title="worst") == 1
    page = (tmp_path / "v.html").read_text(encoding="utf-8")
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]+)"', page)
    scripts = re.findall(r"<script>(.*?)</script>", page, flags=re.DOTALL)
    for script in scripts:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
    assert len(scripts) == 2
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "connect-src" not in policy
    assert "</script><b>" not in page
    assert not re.findall(r'(?:src|href)="https?:', page)


def test_what_does_not_fit_is_left_out_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [_case(f"c{n}") for n in range(3)]
    monkeypatch.setattr(viewer, "MAX_BYTES", 2 * cases[0].size)
    assert write_viewer(tmp_path / "v.html", cases, title="worst") == 2
    assert "because the file would have grown too large: 1." in (tmp_path / "v.html").read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="found no case to show"):
        write_viewer(tmp_path / "v.html", [], title="worst")


def test_a_case_is_new_files_on_one_grid(tmp_path: Path) -> None:
    case = _case()
    (tmp_path / "i.nii.gz").write_bytes(case.image)
    image = nibabel.load(tmp_path / "i.nii.gz")
    voxels = np.asanyarray(image.dataobj)
    assert voxels.shape == (40, 40, 40)
    assert voxels.dtype == np.uint8
    assert (voxels[20, 20, 20], voxels[0, 0, 0]) == (255, 0)
    (tmp_path / "m.nii.gz").write_bytes(case.layers[0].nifti)
    mask = np.asanyarray(nibabel.load(tmp_path / "m.nii.gz").dataobj)
    assert (mask[20, 20, 30], mask[20, 20, 10]) == (1, 0)
    assert case.layers[0].legend[1] == ("organ", label_colour(1))


def test_a_large_scan_is_cut_to_its_masks_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(viewed, "MAX_CASE_BYTES", 20_000)
    case = _case()
    assert case.caption != "Dice 1.000"
    assert case.size < _whole_size(monkeypatch)


def test_a_picture_stands_upright_in_one_plane(tmp_path: Path) -> None:
    colours = np.zeros((3, 6, 4, 1), np.float32)
    colours[:, 0, 0, 0] = 30, 60, 90  # first column, first row
    case = viewer_case(
        Volume(colours, np.eye(4), "none"), None, None, name="c", caption="c", labels=LABELS, pack=nifti_bytes
    )
    (tmp_path / "i.nii.gz").write_bytes(case.image)
    image = nibabel.load(tmp_path / "i.nii.gz")
    assert np.diag(image.affine).tolist() == [1.0, -1.0, 1.0, 1.0]
    assert np.asanyarray(image.dataobj).squeeze()[0, 0] == 255
    assert (case.flat, case.directions, list(case.layers)) == (True, False, [])


def _whole_size(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.undo()
    return _case().size


@pytest.mark.system
def test_a_browser_draws_volume_and_mask_and_asks_for_nothing(tmp_path: Path) -> None:
    write_viewer(tmp_path / "v.html", [_case()], title="worst")
    messages, asked, pixels = _opened(tmp_path / "v.html")
    assert messages == []
    assert asked == []
    red, green, blue = pixels[..., 0], pixels[..., 1], pixels[..., 2]
    grey = (abs(red - green) < 6) & (abs(green - blue) < 6) & (red > 120) & (red < 256)
    tinted = (blue - red > 40) & (red > 60)
    assert grey[250:].sum() > 3000  # the lower half of the ball, unmasked
    assert tinted[250:].sum() > 3000  # the upper half, in the first label's blue


@pytest.mark.system
def test_the_browser_would_have_told_of_messages_and_requests(tmp_path: Path) -> None:
    page = tmp_path / "p.html"
    page.write_text('<img src="http://viewer.invalid/a.png"><script>console.error("seen")</script>', encoding="utf-8")
    messages, asked, _ = _opened(page)
    assert any('"seen"' in message for message in messages)
    assert asked == ["http://viewer.invalid/a.png"]


def _opened(page: Path) -> tuple[list[str], list[str], np.ndarray]:
    """Return what the console said, which addresses the page asked for, and the picture (rows, columns, 3)."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed; make system installs it")
    shot, log = page.with_suffix(".png"), page.with_suffix(".net")
    files = [f"--user-data-dir={page.parent / 'cx'}", f"--screenshot={shot}", f"--log-net-log={log}"]
    command = [chromium, *FLAGS, *files, page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=True)
    messages = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    # Chromium asks its maker for updates and the like; what a page asks for has the page's own, opaque initiator.
    events = [line for line in log.read_text(encoding="utf-8").splitlines() if '"initiator":"null"' in line]
    asked = {found.group(1) for line in events if (found := re.search(r'"url":"(https?:[^"]+)"', line))}
    return messages, sorted(asked), np.asarray(Image.open(shot).convert("RGB")).astype(int)
