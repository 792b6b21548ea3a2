"""The worst scans stay on the shelf, and the batch report shows them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medml.geometry import canonical_affine, canonical_grid
from medml.records.batch import BatchMeta, Job, LedgerRow, Prediction
from medml.records.candidate import Reading
from medml.records.plan import Plan
from medml.records.scan import Volume
from medml.results.report import write_batch_report
from medml.results.shelf import keep_if_among_worst, shelved, worry

PlanMaker = Callable[..., Plan]
META = BatchMeta(model="organ", version="3", digest="ab" * 32, task="segment", labels={0: "background", 1: "organ"})
MASK = np.zeros((6, 5, 4), dtype=np.uint8)
MASK[1:3, 2:4, 1:4] = 1


def job(name: str) -> Job:
    grid = canonical_grid((6, 5, 4), np.diag([1.0, 1, 2, 1]))
    voxels = np.arange(120, dtype=np.float32).reshape(1, 6, 5, 4)
    return Job(name, f"ward/{name}", Reading(Volume(voxels, canonical_affine(grid)), grid))


def keep(out: Path, plan: Plan, name: str, most: int = 2, **result: Any) -> bool:
    return keep_if_among_worst(out, job(name), Prediction(mask=MASK), plan, result, most=most)


def keys(out: Path) -> list[str]:
    return [case.key for case in shelved(out)]


def test_more_doubts_come_first_then_more_uncertainty() -> None:
    assert worry({"review_codes": "uncertain unlike", "uncertainty": 0.1}) == pytest.approx(2.1)
    assert worry({"uncertainty": 1.0}) == pytest.approx(0.9999)
    assert worry({"uncertainty": None}) == 0.0


def test_only_the_worst_stay(tmp_path: Path, make_plan: PlanMaker) -> None:
    plan = make_plan()
    assert keep(tmp_path, plan, "calm", uncertainty=0.1)
    assert keep(tmp_path, plan, "unsure", uncertainty=0.5)
    assert not keep(tmp_path, plan, "calmer", uncertainty=0.05)
    assert keep(tmp_path, plan, "strange", uncertainty=0.01, review_codes="unlike", review="Far.")
    assert keys(tmp_path) == ["strange", "unsure"]
    assert keep(tmp_path, plan, "unsure", uncertainty=0.6)  # done again: it lies there once
    assert keys(tmp_path) == ["strange", "unsure"]
    case = shelved(tmp_path)[0]
    assert (case.name, case.caption, len(case.layers)) == ("ward/strange", "Far.", 1)
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in (tmp_path / "viewer").iterdir())
    with pytest.raises(ValueError, match="cannot name a file"):
        keep(tmp_path, plan, "../up")


def row(name: str, **values: Any) -> LedgerRow:
    return LedgerRow(**({"source": f"ward/{name}", "scan_id": name, "status": "done"} | values))


def test_the_report_leads_to_pages_and_the_viewer(tmp_path: Path, make_plan: PlanMaker) -> None:
    keep(tmp_path, make_plan(), "strange", review_codes="unlike", review="Far.")
    keep(tmp_path, make_plan(), "gone", uncertainty=0.9)
    doubted = row("strange", status="needs_review", result={"review_codes": "unlike", "review": "Far from <all>."})
    other = row("other", status="not_selected", reason="7 mm slices")
    html = write_batch_report(tmp_path, [row("calm"), doubted, other], META).read_text()
    assert html.index("Far from &lt;all&gt;.") < html.index('href="scans/calm.html"')
    assert html.index("ward/calm") < html.index("7 mm slices")
    assert '<a href="viewer.html">Look through the voxels of 1 of them' in html
    assert (tmp_path / "viewer.html").stat().st_mode & 0o777 == 0o600
    page = (tmp_path / "scans" / "strange.html").read_text()
    assert "Far from &lt;all&gt;." in page
    assert 'href="../viewer.html#strange"' in page
    assert "#calm" not in (tmp_path / "scans" / "calm.html").read_text()
    assert keys(tmp_path) == ["strange"]  # "gone" has no row


def test_pages_of_scans_without_a_row_are_removed(tmp_path: Path) -> None:
    write_batch_report(tmp_path, [row("one"), row("two")], META)
    write_batch_report(tmp_path, [row("two")], META)
    assert [path.name for path in (tmp_path / "scans").iterdir()] == ["two.html"]
    assert not (tmp_path / "viewer.html").exists()


def test_many_scans_make_a_small_index(tmp_path: Path) -> None:
    rows = [row(f"s{n:04d}", result={"volume_ml_organ": float(n), "uncertainty": 0.2}) for n in range(120)]
    report = write_batch_report(tmp_path, rows, META)
    assert report.stat().st_size < 90_000
    assert "120 scans, those that need a look first" in report.read_text()
    assert len(list((tmp_path / "scans").iterdir())) == 120
