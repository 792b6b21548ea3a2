from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from medml.catalogue import staging
from medml.catalogue.config import IngestConfig
from medml.catalogue.report import summary_lines
from medml.catalogue.scans import component_names
from medml.config import load_config
from medml.errors import ConfigError, Refusal
from medml.io.scans import read_image, read_mask
from medml.records.ingest import IngestReport


def _fill(source, cases: int = 3) -> None:
    source.text(
        "dataset.json",
        json.dumps(
            {
                "modality": {"0": "CT"},
                "labels": {"0": "background", "1": "organ", "2": "lesion"},
                "license": "CC0",
                "training": [{"image": f"imagesTr/{n}.nii.gz", "label": f"labelsTr/{n}.nii.gz"} for n in range(cases)],
            }
        ),
    )
    for n in range(cases):
        source.image(f"imagesTr/{n}.nii.gz", n)
        source.mask(f"labelsTr/{n}.nii.gz")


def test_scans_rows_and_report_are_there_and_add_up(source, desk) -> None:
    _fill(source)
    source.mask("labelsTr/orphan.nii.gz")
    source.text("readme.txt", "x")
    told = []
    report = desk.ingest(source.root, on_outcome=told.append)
    counts = report.counts
    assert (counts.files, counts.accepted, counts.refused, counts.ignored) == (9, 6, 1, 2)
    assert (counts.scans, counts.labelled, counts.unlabelled, counts.known, counts.patients) == (3, 3, 0, 0, 3)
    assert told == list(report.outcomes)
    scans = desk.catalogue.scans(collection="source")
    assert len(scans) == 3
    assert {scan.modality for scan in scans} == {"CT"}
    annotation = desk.catalogue.annotations([scans[0].scan_id])[0]
    assert annotation.labels == {0: "background", 1: "organ", 2: "lesion"}
    assert read_image(desk.home.scans, scans[0].scan_id).voxels.shape == (1, 4, 5, 6)
    assert read_mask(desk.home.scans, scans[0].scan_id, annotation.file).voxels.max() == 2
    assert [(c.name, c.licence) for c in desk.catalogue.collections()] == [("source", "CC0")]
    path = next(desk.home.reports.glob("ingest-*.json"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert IngestReport.model_validate_json(path.read_text()) == report


def test_a_rerun_reads_nothing_and_says_the_same(source, desk, monkeypatch: pytest.MonkeyPatch) -> None:
    _fill(source)
    first = desk.ingest(source.root)
    before = _state(desk)
    monkeypatch.setattr(staging, "make_work", lambda *_: pytest.fail("a known scan was read again"))
    again = desk.ingest(source.root, config=IngestConfig(isolated=False))
    assert again.counts == first.counts.model_copy(update={"known": 3})
    assert {outcome.code for outcome in again.outcomes if outcome.outcome == "accepted"} == {"known"}
    assert [o.scan_ids for o in again.outcomes] == [o.scan_ids for o in first.outcomes]
    assert _state(desk) == before


def test_nothing_that_names_the_source_reaches_the_research_side(source, desk) -> None:
    source.image("secret_name_123.nii.gz")
    desk.ingest(source.root, config=IngestConfig(collection="c"))
    texts = [path.read_bytes() for path in desk.home.scans.rglob("*") if path.is_file()]
    texts.append((desk.home.root / "catalogue.db").read_bytes())
    assert texts
    assert not any(b"secret_name" in text for text in texts)
    scan = desk.catalogue.scans()[0]
    assert desk.crosswalk.locator(scan.scan_id)["image"].endswith("secret_name_123.nii.gz")


def test_a_changed_label_map_is_stored_beside_the_old_one_and_counts(source, desk) -> None:
    source.image("images/a.nii.gz")
    source.mask("labels/a.nii.gz", (1,))
    desk.ingest(source.root)
    source.mask("labels/a.nii.gz", (1, 2, 3))
    report = desk.ingest(source.root)
    assert report.counts.refused == 0
    scans = desk.catalogue.scans()
    assert len(scans) == 1
    annotations = desk.catalogue.annotations([scans[0].scan_id])
    assert len(annotations) == 1
    assert read_mask(desk.home.scans, scans[0].scan_id, annotations[0].file).voxels.max() == 3
    assert read_mask(desk.home.scans, scans[0].scan_id).voxels.max() == 1
    assert desk.ingest(source.root).counts.known == 1


def test_a_label_that_comes_later_is_added_to_the_known_scan(source, desk) -> None:
    source.image("images/a.nii.gz")
    assert desk.ingest(source.root).counts.unlabelled == 1
    source.mask("labels/a.nii.gz")
    assert desk.ingest(source.root).counts.labelled == 1
    assert len(desk.catalogue.scans()) == 1


def test_a_damaged_file_costs_itself_only(source, desk) -> None:
    source.image("a.nii.gz")
    source.text("b.nii.gz", "no image")
    source.text("c.png", "no picture")
    report = desk.ingest(source.root)
    assert (report.counts.accepted, report.counts.refused) == (1, 2)
    assert all(outcome.reason for outcome in report.outcomes if outcome.outcome == "refused")


@pytest.mark.parametrize(
    ("error", "code"),
    [(MemoryError(), "memory"), (OSError(5, "I/O error"), "unreadable"), (ZeroDivisionError(), "undecodable")],
)
def test_whatever_a_reader_raises_is_a_reason(source, desk, monkeypatch, error: Exception, code: str) -> None:
    source.image("a.nii.gz")

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(staging, "make_work", fail)
    report = desk.ingest(source.root, config=IngestConfig(isolated=False))
    assert [outcome.code for outcome in report.outcomes] == [code]


def test_the_same_picture_twice_is_two_scans_and_one_source_twice_is_one(source, desk) -> None:
    source.picture("a.png")
    source.picture("b.png")
    assert desk.ingest(source.root, source.root).counts.scans == 2


def test_colour_pictures_have_three_named_components() -> None:
    assert component_names(("image",), 3) == ("R", "G", "B")
    assert component_names(("image",), 2) == ("channel_0", "channel_1")
    with pytest.raises(Refusal, match="3 components, its source names 2"):
        component_names(("a", "b"), 3)


def test_a_missing_source_stops_before_anything_is_read(source, desk) -> None:
    source.image("a.nii.gz")
    with pytest.raises(ConfigError, match="there is no such file or folder"):
        desk.ingest(source.root, source.root / "absent")
    with pytest.raises(ConfigError, match="no source given"):
        desk.ingest()
    assert desk.catalogue.scans() == []


def test_the_summary_names_what_was_refused_and_cannot_steer_a_terminal(source, desk) -> None:
    source.mask("labels/\x1b[31m.nii.gz")
    source.image("images/a.nii.gz")
    text = "\n".join(summary_lines(desk.ingest(source.root)))
    assert "2 seen = 1 accepted + 1 refused + 0 ignored" in text
    assert "label_without_image" in text
    assert "\x1b" not in text
    assert "image_without_label" in text


def test_order_of_outcomes_is_the_order_of_the_walk(source, desk) -> None:
    for n in range(150):
        source.picture(f"{n:03d}.png", n)
    report = desk.ingest(source.root, config=IngestConfig(workers=4))
    assert [outcome.source for outcome in report.outcomes] == [f"{n:03d}.png" for n in range(150)]


def test_the_example_configuration_is_valid() -> None:
    path = Path(__file__).parents[3] / "configs" / "ingest" / "default.yaml"
    assert load_config(path, IngestConfig) == IngestConfig()


_CHILD = """
import sys
from pathlib import Path
from medml.catalogue.ingest import ingest
from medml.io.files import Pseudonyms
from medml.records.home import Home
from medml.store.catalogue import Catalogue
from medml.store.crosswalk import Crosswalk
from medml.store.database import open_database
home = Home(Path(sys.argv[1]))
catalogue = Catalogue(open_database(home.catalogue_url))
ingest([Path(sys.argv[2])], home, catalogue, Crosswalk(home.crosswalk_url), Pseudonyms(home.key_file), None,
       lambda outcome: print(outcome.source, flush=True))
"""


@pytest.mark.parametrize("after", [0, 64])
def test_kill_9_and_a_rerun_give_what_an_unbroken_run_gives(source, desk, tmp_path: Path, after: int) -> None:
    for n in range(140):
        source.picture(f"{n % 2}/{n:03d}.png", n)
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "secrets").mkdir()
    (broken / "secrets" / "pseudonym.key").write_bytes(desk.home.key_file.read_bytes())
    os.chmod(broken / "secrets" / "pseudonym.key", 0o600)
    command = [sys.executable, "-c", _CHILD, str(broken), str(source.root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        for _ in range(after or 1):
            child.stdout.readline()
        time.sleep(0.02)
        child.send_signal(signal.SIGKILL)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    desk.ingest(source.root)
    assert _files(broken / "scans") == _files(desk.home.scans)
    assert len(desk.catalogue.scans()) == 140


def _state(desk) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in desk.home.scans.rglob("*") if path.is_file()}


def _files(scans: Path) -> dict[str, bytes]:
    return {str(path.relative_to(scans)): path.read_bytes() for path in scans.rglob("*") if path.is_file()}
