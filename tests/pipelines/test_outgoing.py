"""What may go to a PACS follows from the ledger and from what people decided."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medml.records.batch import LedgerRow, Status
from medml.records.review import Decision, Verdict, result_digest
from pipelines.outgoing import outgoing


def _row(scan: str, status: Status) -> LedgerRow:
    outputs = {
        f"masks/{scan}.nii.gz": f"m{scan}",
        f"dicom/{scan}.seg.dcm": f"s{scan}",
        f"dicom/{scan}.sr.dcm": f"r{scan}",
    }
    return LedgerRow(source=scan, scan_id=scan, status=status, mask=f"masks/{scan}.nii.gz", outputs=outputs)


def _decided(row: LedgerRow, verdict: Verdict, *, result: str = "") -> Decision:
    outputs = {f"review/{row.scan_id}-1.sr.dcm": "new", f"review/{row.scan_id}-1.nii.gz": "mask"}
    return Decision(
        batch_id="batch-1",
        scan_id=row.scan_id,
        number=1,
        verdict=verdict,
        person="A. Reader",
        decided="2026-01-01T00:00:00Z",
        status_before=row.status,
        result=result or result_digest(row),
        outputs=outputs,
    )


def _write(folder: Path, rows: list[LedgerRow], decisions: list[Decision]) -> Path:
    (folder / "ledger.json").write_text(json.dumps([row.model_dump(mode="json") for row in rows]))
    (folder / "reviews.json").write_text(json.dumps([decision.model_dump(mode="json") for decision in decisions]))
    return folder


def test_what_is_done_goes_and_what_waits_is_held(tmp_path: Path) -> None:
    folder = _write(tmp_path, [_row("a", "done"), _row("b", "needs_review"), _row("c", "failed")], [])
    found = outgoing(folder, {})
    assert found.wanted == {"dicom/a.seg.dcm": "sa", "dicom/a.sr.dcm": "ra"}
    assert (found.waiting, found.rejected) == (1, 0)
    assert "dicom/b.seg.dcm" in outgoing(folder, {}, unreviewed=True).wanted


@pytest.mark.parametrize(
    ("verdict", "names"),
    [
        ("accepted", {"dicom/b.seg.dcm", "dicom/b.sr.dcm", "review/b-1.sr.dcm"}),
        ("replaced", {"review/b-1.sr.dcm"}),
        ("rejected", set()),
    ],
)
def test_a_decision_says_what_goes(tmp_path: Path, verdict: Verdict, names: set[str]) -> None:
    row = _row("b", "needs_review")
    found = outgoing(_write(tmp_path, [row], [_decided(row, verdict)]), {})
    assert set(found.wanted) == names
    assert (found.waiting, found.rejected) == (0, int(verdict == "rejected"))


def test_a_rejected_result_that_was_sent_is_withdrawn_by_its_report(tmp_path: Path) -> None:
    row = _row("a", "done")
    found = outgoing(_write(tmp_path, [row], [_decided(row, "rejected")]), {"dicom/a.seg.dcm": "sa"})
    assert set(found.wanted) == {"review/a-1.sr.dcm"}


def test_a_decision_on_another_result_does_not_count(tmp_path: Path) -> None:
    row = _row("b", "needs_review")
    found = outgoing(_write(tmp_path, [row], [_decided(row, "accepted", result="of an older model")]), {})
    assert (found.wanted, found.waiting) == ({}, 1)
