"""The quality page and its pictures, as an ingest writes them."""

from __future__ import annotations

import re
import stat
from datetime import UTC, datetime

import numpy as np
import pytest

from medml.catalogue.config import IngestConfig
from medml.catalogue.previews import BOX, grey_range, preview_jpeg
from medml.catalogue.quality_rules import QualityLimits
from medml.catalogue.report import Tally, page_path, summary_lines
from medml.io.pictures import read_picture
from medml.io.scans import PREVIEW_FILE
from medml.records.scan import Outcome, Volume


def shown(tmp_path, jpeg: bytes) -> np.ndarray:
    """Return a preview as (components, right, down)."""
    (tmp_path / "p.jpg").write_bytes(jpeg)
    return read_picture(tmp_path / "p.jpg")[0].voxels[..., 0].astype(int)


def corner_phantom() -> Volume:
    """Dark, with a bright block at the patient's right (high I), anterior (high J), superior (high K) corner."""
    voxels = np.zeros((1, 40, 40, 40), np.int16)
    voxels[0, 30:, 30:, 30:] = 1000
    return Volume(voxels, np.eye(4))


def test_planes_are_shown_as_a_radiologist_expects(tmp_path) -> None:
    mask = np.zeros((40, 40, 40), np.uint8)
    mask[35, 35, 35] = 1  # the planes are cut through it
    picture = shown(tmp_path, preview_jpeg(corner_phantom(), [mask]))
    assert picture.shape == (3, 3 * BOX, BOX)
    axial, coronal, sagittal = (picture[0, n * BOX : (n + 1) * BOX] for n in range(3))
    assert axial[5, 5] > 200  # right on the left, anterior up
    assert axial[-5, 5] < 50
    assert axial[5, -5] < 50
    assert coronal[5, 5] > 200  # right on the left, superior up
    assert sagittal[5, 5] > 200  # anterior on the left, superior up
    assert sagittal[-5, -5] < 50


def test_a_mask_is_outlined_in_colour_and_an_image_alone_is_grey(tmp_path) -> None:
    volume = corner_phantom()
    assert shown(tmp_path, preview_jpeg(volume)).shape[0] == 1
    mask = np.zeros((40, 40, 40), np.uint8)
    mask[10:30, 10:30, 10:30] = 1
    red, _, blue = shown(tmp_path, preview_jpeg(volume, [mask]))[:, BOX // 2 - 39, BOX // 2]
    assert blue > red + 60  # the first colour is sky blue


def test_proportions_are_those_of_the_patient(tmp_path) -> None:
    flat = Volume(np.full((1, 40, 40, 10), 900, np.int16), np.diag([1, 1, 2, 1.0]))
    flat.voxels[0, 0] = 0
    picture = shown(tmp_path, preview_jpeg(flat))[0]
    coronal = picture[BOX : 2 * BOX]
    lit = np.flatnonzero((coronal > 100).any(axis=0))
    assert len(lit) == pytest.approx(BOX / 2, abs=2)  # 20 mm of 40


def test_a_picture_is_shown_upright_in_its_colours(tmp_path) -> None:
    voxels = np.zeros((3, 20, 10, 1), np.uint8)
    voxels[0, :, :5] = 255
    picture = shown(tmp_path, preview_jpeg(Volume(voxels, np.eye(4), "none")))
    assert picture.shape == (3, BOX, BOX)
    top, bottom = picture[:, BOX // 2, BOX // 2 - 20], picture[:, BOX // 2, BOX // 2 + 20]
    assert top[0] > 200
    assert top[1] < 60
    assert bottom[0] < 60


def test_grey_values_leave_air_and_damage_aside() -> None:
    ct = np.full((1, 10, 10, 10), -1000.0)
    ct[0, 5:] = np.linspace(0, 100, 500).reshape(5, 10, 10)
    assert grey_range(ct, "CT") == pytest.approx((1, 99.5), abs=0.5)
    assert grey_range(np.full((1, 3, 3, 3), np.nan)) == (0.0, 1.0)
    assert grey_range(np.full((1, 3, 3, 3), 7)) == (7.0, 8.0)


def test_an_ingest_writes_one_page_that_needs_nothing_and_names_no_patient(source, desk) -> None:
    source.image("images/SECRET-1.nii.gz", 1)
    source.mask("labels/SECRET-1.nii.gz")
    source.mask("labels/lost.nii.gz")
    source.image("images/SECRET-2.nii.gz", 1)
    report = desk.ingest(source.root, config=IngestConfig(collection="demo", licence="CC0", consent="broad consent"))
    path = page_path(desk.home, report)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    page = path.read_text()
    assert "4 files = 3 accepted + 1 refused + 0 ignored" in page
    for words in ("label_without_image", "labels/lost.nii.gz", "CC0", "broad consent", "All 2 scans"):
        assert words in page
    assert "SECRET" not in page
    assert not re.findall(r"(?:src|href)=\"(?!data:|#)", page)
    assert page.count('<figure class="tile') == 2
    for scan in desk.catalogue.scans():
        assert scan.scan_id[:8] in page


def test_the_page_shows_the_worst_scans_and_says_how_many(source, desk) -> None:
    for n in range(4):
        source.picture(f"{n}.png", n)
    source.pixels("flat.png", np.full((4, 6), 9, np.uint8))
    report = desk.ingest(source.root, config=IngestConfig(quality=QualityLimits(shown_scans=2)))
    page = page_path(desk.home, report).read_text()
    assert "2 of 5 scans, worst findings first" in page
    flat = next(s.scan_id for s in desk.catalogue.scans() if any(f.code == "constant_image" for f in s.findings))
    tiles = re.findall(r"<strong>([0-9a-f]{8})</strong>", page)
    assert tiles[0] == flat[:8]
    assert len(tiles) == 2


def test_the_same_picture_under_two_patients_is_found_whatever_the_order(source, desk) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (32, 40)).astype(np.uint8)
    source.pixels("a.png", pixels)
    source.pixels("b.png", 255 - pixels[:, ::-1])
    source.picture("c.png", 3)
    report = desk.ingest(source.root)
    assert report.findings["near_duplicate"] == 2
    (group,) = report.pictures
    assert set(group) == set(report.beside_others)
    again = desk.ingest(source.root)
    assert (again.counts.known, again.pictures, again.beside_others) == (3, report.pictures, report.beside_others)


def test_large_volumes_keep_a_preview_and_small_ones_are_drawn_when_wanted(source, desk) -> None:
    large = np.random.default_rng(0).integers(0, 1000, (1, 80, 80, 48)).astype(np.int16)
    source.nifti("large.nii.gz", large)
    source.image("small.nii.gz")
    report = desk.ingest(source.root)
    kept = {
        scan.shape: (desk.home.scan_folder(scan.scan_id) / PREVIEW_FILE).exists() for scan in desk.catalogue.scans()
    }
    assert kept == {(80, 80, 48): True, (4, 5, 6): False}
    assert page_path(desk.home, report).read_text().count('<figure class="tile') == 2


def test_a_scan_that_cannot_be_drawn_is_counted(source, desk, monkeypatch) -> None:
    source.image("a.nii.gz")
    desk.ingest(source.root)
    (scan,) = desk.catalogue.scans()
    (desk.home.scan_folder(scan.scan_id) / "image.nii.gz").unlink()
    page = page_path(desk.home, desk.ingest(source.root)).read_text()
    assert "1 scans could not be drawn: run medml verify" in page


def test_the_summary_is_short_and_says_what_to_do(source, desk) -> None:
    for n in range(12):
        source.mask(f"labels/lost{n}.nii.gz")
    source.pixels("flat.png", np.full((4, 6), 9, np.uint8))
    lines = summary_lines(desk.ingest(source.root))
    assert len(lines) < 12
    assert any(line.startswith("refused 12 (label_without_image), such as labels/lost0.nii.gz: ") for line in lines)
    assert "error constant_image (1): leave it out; export it again from its source" in lines


def test_the_summary_names_the_policy_that_could_take_what_is_refused() -> None:
    outcome = Outcome(source=".", files=3, outcome="refused", code="missing_slice", reason="a slice is missing")
    tally, now = Tally(), datetime(2026, 1, 1, tzinfo=UTC)
    tally.add(outcome)
    tally.add(outcome.model_copy(update={"source": "ct/1", "code": "truncated", "reason": "cut"}))
    lines = summary_lines(tally.report(("demo",), now, now))
    assert "refused 3 (missing_slice): a slice is missing; or ingest with --set policies.missing_slice=split" in lines
    assert "refused 3 (truncated), such as ct/1: cut" in lines
