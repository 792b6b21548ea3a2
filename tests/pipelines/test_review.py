"""Results that a person looks at: the worklist, decisions, what they do to reports and to the next dataset."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from review_bench import Bench, environment

from medml.catalogue.corrections import read_correction
from medml.catalogue.reviewed import Terms, keep_mask
from medml.errors import ConfigError, NotFound, Refusal
from medml.geometry import to_source
from medml.io.scans import read_annotations, read_mask, read_scan
from medml.io.sr_amend import amended_report
from medml.records.batch import LedgerRow
from medml.records.experiment import DatasetChoice
from medml.store.catalogue import Catalogue
from medml.store.ledger import Ledger
from medml.store.reviews import Reviews
from pipelines import audit
from pipelines.dataset import freeze
from pipelines.review import Item, ReviewDesk
from pipelines.stores import open_catalogue

REVIEWED = {"collection": "reviewed", "modality": "CT"}


@pytest.fixture(scope="module")
def bench(benches: dict[str, Bench]) -> Iterator[Bench]:
    with environment(benches["batch-1"].home):
        yield benches["batch-1"]


@pytest.fixture
def desk(bench: Bench) -> ReviewDesk:
    return ReviewDesk(bench.home)


def annotations(bench: Bench, name: str) -> list[tuple[str, str]]:
    found = Catalogue(open_catalogue(bench.home)).annotations([bench.scans[name]])
    return [(a.origin, a.review.verdict if a.review else "") for a in found]


def standing(path: Path) -> tuple[str, str, str]:
    data = pydicom.dcmread(path)
    return str(data.CompletionFlag), str(data.VerificationFlag), str(data.PreliminaryFlag)


def test_the_most_doubtful_result_comes_first(bench: Bench, desk: ReviewDesk) -> None:
    items = desk.items(batch=bench.batch)
    assert [item.row.result["ood_score"] for item in items] == [5, 4, 3, 2, 1, 0]
    assert len(desk.items()) >= 6
    assert desk.items(batch="batch-3", everything=True) == []


def test_a_rejected_result_says_so_in_its_report_and_waits_no_more(bench: Bench, desk: ReviewDesk) -> None:
    item = desk.named(bench.scans["ct1"])
    decision, notes = desk.decide(item, "rejected", person="Curie, Marie", reason="Größe: leaks\\ into the spleen")
    assert (decision.number, decision.verdict, decision.status_before, notes) == (1, "rejected", "needs_review", ())
    assert bench.scans["ct1"] not in [other.row.scan_id for other in desk.items()]
    (path,) = [bench.out / name for name in decision.outputs]
    assert path.stat().st_mode & 0o777 == 0o600
    assert standing(path) == ("PARTIAL", "UNVERIFIED", "PRELIMINARY")
    before, after = pydicom.dcmread(bench.out / "dicom" / f"{bench.scans['ct1']}.sr.dcm"), pydicom.dcmread(path)
    assert after.CompletionFlagDescription == "Rejected: Größe: leaks  into the spleen"
    assert after.ContentSequence[-1].TextValue == "Rejected in review: Größe: leaks\\ into the spleen"
    assert (after.StudyInstanceUID, after.SeriesInstanceUID) == (before.StudyInstanceUID, before.SeriesInstanceUID)
    assert after.SOPInstanceUID != before.SOPInstanceUID
    assert after.InstanceNumber == 2
    named = after.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
    assert named.ReferencedSOPInstanceUID == before.SOPInstanceUID
    assert annotations(bench, "ct1") == []


def test_a_decision_is_kept_when_another_follows_and_the_last_counts(bench: Bench, desk: ReviewDesk) -> None:
    desk.decide(desk.named(bench.scans["ct3"]), "rejected", person="Ada", reason="too small")
    accepted, notes = desk.decide(desk.named(bench.scans["ct3"]), "accepted", person="Ada", seen=1)
    assert notes == ()
    kept = Reviews(open_catalogue(bench.home)).of(bench.batch, bench.scans["ct3"])
    assert [(d.number, d.verdict, d.reason) for d in kept] == [(1, "rejected", "too small"), (2, "accepted", "")]
    (path,) = [bench.out / name for name in accepted.outputs]
    data = pydicom.dcmread(path)
    assert standing(path) == ("COMPLETE", "VERIFIED", "FINAL")
    assert "CompletionFlagDescription" not in data
    assert "Rejected" not in str(data.ContentSequence)
    assert str(data.VerifyingObserverSequence[0].VerifyingObserverName) == "Ada"
    first = pydicom.dcmread(bench.out / next(iter(kept[0].outputs)))
    named = data.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
    assert named.ReferencedSOPInstanceUID == first.SOPInstanceUID
    assert annotations(bench, "ct3") == [("review-organs", "accepted")]
    assert json.loads((bench.out / "reviews.json").read_text())[0]["person"] in ("Ada", "Curie, Marie")
    desk.decide(desk.named(bench.scans["ct3"]), "rejected", person="Ada", reason="changed my mind")
    assert annotations(bench, "ct3") == []
    assert read_annotations(bench.home.scans, bench.scans["ct3"]) == ()
    desk.decide(desk.named(bench.scans["ct3"]), "accepted", person="Ada")


@pytest.mark.system
@pytest.mark.parametrize("name", ["ct1", "ct3"])
def test_reports_after_a_decision_pass_dciodvfy(bench: Bench, desk: ReviewDesk, name: str) -> None:
    if shutil.which("dciodvfy") is None:
        pytest.skip("dicom3tools is not installed; make system installs it")
    last = desk.named(bench.scans[name]).last
    assert last is not None
    for output in last.outputs:
        found = subprocess.run(
            ["dciodvfy", "-new", str(bench.out / output)], capture_output=True, text=True, check=False
        )
        assert [line for line in found.stderr.splitlines() if line.startswith("Error")] == []


def test_a_corrected_mask_becomes_the_next_datasets_annotation(bench: Bench, desk: ReviewDesk, tmp_path: Path) -> None:
    """Left stays left: the voxels that the dataset gets lie where the person drew them."""
    wanted = {}
    for name in ("ct2", "tilted", "n1"):
        wanted[name] = bench.save_mask(name, tmp_path / f"{name}.nii.gz")
        item = desk.named(bench.scans[name])
        decision, notes = desk.decide(item, "replaced", person="Ada", mask=tmp_path / f"{name}.nii.gz")
        assert notes == ()
        suffixes = sorted(Path(output).name.partition(".")[2] for output in decision.outputs)
        assert suffixes == (["nii.gz"] if name == "n1" else ["nii.gz", "seg.dcm", "sr.dcm"])
        written = nib.load(bench.out / "review" / f"{bench.scans[name]}-1.nii.gz")
        assert np.array_equal(np.asarray(written.dataobj), wanted[name])
    choice = DatasetChoice(
        name="livers", select={"collection": "reviewed", "modality": "CT"}, test_fraction=0.3, folds=2
    )
    dataset, _ = freeze(choice.model_dump(mode="json"), "segment")
    origins = {case.case_id: case.origin for case in dataset.cases}
    assert origins[bench.scans["ct2"]] == origins[bench.scans["tilted"]] == "review-organs"
    for name in ("ct2", "n1"):
        scan_id = bench.scans[name]
        (annotation,) = Catalogue(open_catalogue(bench.home)).annotations([scan_id])
        stored = read_mask(bench.home.scans, scan_id, str(annotation.file)).voxels[0]
        source = to_source(stored, read_scan(bench.home.scans, scan_id).source_grid)
        assert np.array_equal(source, wanted[name])
        assert source.any()
    (annotation,) = Catalogue(open_catalogue(bench.home)).annotations([bench.scans["ct2"]])
    assert annotation.review is not None
    assert (annotation.review.verdict, annotation.review.model) == ("replaced", "organs/1")
    assert annotation.labels == {0: "background", 1: "liver", 2: "lesion"}
    text = (bench.home.scan_folder(bench.scans["ct2"]) / "annotations.json").read_text()
    assert "Ada" not in text  # research side


def test_the_segmentation_of_a_correction_can_be_handed_in_again(bench: Bench, desk: ReviewDesk) -> None:
    first = desk.named(bench.scans["ct2"])
    assert first.last is not None
    seg = next(bench.out / name for name in first.last.outputs if name.endswith(".seg.dcm"))
    data = pydicom.dcmread(seg)
    assert {item.SegmentAlgorithmType for item in data.SegmentSequence} == {"SEMIAUTOMATIC"}
    again, _ = desk.decide(first, "replaced", person="Ada", mask=seg)
    assert again.correction == first.last.correction
    with pytest.raises(Refusal, match="drawn on other images"):
        desk.decide(desk.named(bench.scans["ct1"]), "replaced", person="Ada", mask=seg)


def test_what_does_not_fit_is_refused_and_nothing_is_stored(bench: Bench, desk: ReviewDesk, tmp_path: Path) -> None:
    item = desk.named(bench.scans["n2"])
    mask, affine = bench.mask_of("n2")
    shifted = affine.copy()
    shifted[0, 3] += 2
    cases = {
        "shape.nii.gz": (mask[1:], affine, r"label map 23x20x12 voxels, image 24x20x12"),
        "shifted.nii.gz": (mask, shifted, r"corners up to 2\.00 mm apart"),
        "labels.nii.gz": (mask * 7, affine, r"values \[7, 14\], expected those of the model: 0 background, 1 liver"),
    }
    for name, (voxels, grid, words) in cases.items():
        nib.save(nib.Nifti1Image(voxels, grid), tmp_path / name)
        with pytest.raises(Refusal, match=words):
            desk.decide(item, "replaced", person="Ada", mask=tmp_path / name)
    (tmp_path / "note.txt").write_text("no mask")
    with pytest.raises(Refusal, match="neither a NIfTI"):
        desk.decide(item, "replaced", person="Ada", mask=tmp_path / "note.txt")
    with pytest.raises(ConfigError, match="reason is empty"):
        desk.decide(item, "rejected", person="Ada", reason="  ")
    with pytest.raises(ConfigError, match="nobody is named"):
        desk.decide(item, "accepted", person=" ")
    with pytest.raises(ConfigError, match="nothing to replace"):
        desk.decide(item, "replaced", person="Ada")
    with pytest.raises(ConfigError, match=r"0 decisions, 3 were shown"):
        desk.decide(item, "accepted", person="Ada", seen=3)
    with pytest.raises(ConfigError, match="expected at most 1000"):
        desk.decide(item, "rejected", person="Ada", reason="x" * 1001)
    with pytest.raises(ConfigError, match="model knows background, liver, lesion"):
        desk.decide(item, "replaced", person="Ada", classes=("liver",))
    assert Reviews(open_catalogue(bench.home)).of(bench.batch, bench.scans["n2"]) == []
    assert annotations(bench, "n2") == []


def test_a_result_made_anew_waits_again(bench: Bench, desk: ReviewDesk) -> None:
    item = desk.named(bench.scans["ct1"])
    assert not item.waits
    other = {**item.row.outputs, str(item.row.mask): "0" * 64}
    Ledger(open_catalogue(bench.home)).record(bench.batch, item.row.model_copy(update={"outputs": other}))
    assert desk.named(bench.scans["ct1"]).waits
    with pytest.raises(Refusal, match="not what was written"):
        desk.show(desk.named(bench.scans["ct1"]))
    Ledger(open_catalogue(bench.home)).record(bench.batch, item.row)


def test_an_image_that_is_gone_is_said_and_takes_no_decision_away(bench: Bench, desk: ReviewDesk) -> None:
    item = desk.named(bench.scans["n2"])
    shutil.move(bench.source / "n2.nii.gz", bench.source.parent / "aside.nii.gz")
    with pytest.raises(Refusal, match="not where it was read"):
        desk.show(item)
    decision, notes = desk.decide(item, "accepted", person="Ada")
    assert decision.verdict == "accepted"
    assert "no annotation for the next dataset: the image is not where it was read" in notes[0]
    shutil.move(bench.source.parent / "aside.nii.gz", bench.source / "n2.nii.gz")


def test_results_are_named_by_how_their_scan_id_begins(bench: Bench, desk: ReviewDesk) -> None:
    scan = bench.scans["ct1"]
    assert desk.named(scan[:12]).row.scan_id == scan
    with pytest.raises(NotFound, match="no result of a scan 'zzz'"):
        desk.named("zzz")
    Ledger(open_catalogue(bench.home)).open_batch("batch-3", "other/1", "d" * 64)
    twin = LedgerRow(source="x", scan_id=scan, status="done")
    Ledger(open_catalogue(bench.home)).record("batch-3", twin)
    with pytest.raises(ConfigError, match="2 results are of a scan"):
        desk.named(scan)
    assert desk.named(scan, bench.batch).row.source != "x"
    with pytest.raises(NotFound, match="has no result in batch batch-3"):
        desk.item("batch-3", "none")


def test_a_report_is_amended_by_a_person_or_by_a_reason(bench: Bench) -> None:
    report = pydicom.dcmread(bench.out / "dicom" / f"{bench.scans['ct1']}.sr.dcm")
    for words in ({}, {"accepted_by": "Ada", "rejected_because": "blurred"}):
        with pytest.raises(ValueError, match="expected a person who accepted the report, or the reason"):
            amended_report(report, sop_uid="2.25.1", decided=datetime.now(UTC), **words)


def test_a_seg_needs_a_scan_from_dicom_and_segments_that_the_model_knows(bench: Bench, desk: ReviewDesk) -> None:
    seg = bench.out / "dicom" / f"{bench.scans['ct1']}.seg.dcm"
    with pytest.raises(Refusal, match="fits only a scan that came from DICOM"):
        desk.decide(desk.named(bench.scans["n2"], bench.batch), "replaced", person="Ada", mask=seg)
    found = desk.show(desk.named(bench.scans["ct1"], bench.batch)).found
    with pytest.raises(Refusal, match="segments lesion; expected those of the model: liver"):
        read_correction(seg, found.reading, {0: "background", 1: "liver"}, found.locator)


def test_a_mask_of_another_shape_is_no_annotation_and_a_lost_folder_is_named(bench: Bench, desk: ReviewDesk) -> None:
    (scan,) = desk.archive.catalogue.by_id([bench.scans["ct2"]])
    (annotation,) = desk.archive.catalogue.annotations([scan.scan_id])
    assert annotation.review is not None
    with pytest.raises(Refusal, match=r"shape \(2, 2, 2\), its image"):
        keep_mask(desk.archive, scan, np.zeros((2, 2, 2), np.uint8), Terms({0: "background"}, {}), annotation.review)
    item = desk.named(bench.scans["ct2"], bench.batch)
    lost = Item(item.batch, item.row.model_copy(update={"outputs": {"masks/none.nii.gz": "0"}}))
    with pytest.raises(NotFound, match="not where the batch wrote them"):
        desk.folder(lost)


def test_every_decision_stands_in_the_audit_log(bench: Bench) -> None:
    verbs = [entry.verb for entry in audit.entries(bench.home)]
    assert {"review accepted", "review rejected", "review replaced"} <= set(verbs)
    assert "Curie" not in (bench.home.audit / "audit.jsonl").read_text()


def test_a_classifiers_result_is_accepted_or_corrected(bench: Bench) -> None:
    desk = ReviewDesk(bench.home)
    item = desk.item(bench.batch, bench.scans["n2"])
    classify = {"task": "classify", "labels": {0: "absent", 1: "present"}, "patch": None, "size": (16, 16, 8)}
    plan = desk.plan("organs/1").model_copy(update=classify)
    desk.plan = lambda model: plan
    ledger = Ledger(open_catalogue(bench.home))
    ledger.open_batch("batch-4", "signs/1", "e" * 64, item.batch.source_request)
    result = {"predicted": "absent", "prob_absent": 0.6, "prob_present": 0.4}
    outputs = {name: digest for name, digest in item.row.outputs.items() if name.startswith("previews/")}
    changed = {"mask": None, "model": "signs/1", "model_digest": "e" * 64, "result": result, "outputs": outputs}
    ledger.record("batch-4", item.row.model_copy(update=changed))
    said = []
    for verdict, classes in (("accepted", ()), ("replaced", ("present",))):
        decision, notes = desk.decide(desk.item("batch-4", item.row.scan_id), verdict, person="Ada", classes=classes)
        assert (decision.number, notes) == (len(said) + 1, ())
        found = Catalogue(open_catalogue(bench.home)).annotations([item.row.scan_id])
        said.append([(a.origin, a.classes) for a in found if a.kind == "class"])
    assert said == [[("review-signs", (0,))], [("review-signs", (1,))]]
    with pytest.raises(ConfigError, match="expected exactly one"):
        desk.decide(desk.item("batch-4", item.row.scan_id), "replaced", person="Ada", classes=("present", "absent"))
    path = bench.out / str(item.row.mask)
    with pytest.raises(ConfigError, match="its model names classes"):
        desk.decide(desk.item("batch-4", item.row.scan_id), "replaced", person="Ada", mask=path)
