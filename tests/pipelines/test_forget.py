"""The erasure of a patient: nothing in the home mentions them afterwards, whoever else is in it stays whole."""

from __future__ import annotations

import csv
import json
import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from medml.catalogue.ingest import ingest
from medml.datasets.freeze import freeze
from medml.errors import ConfigError, NotFound
from medml.io.mentions import Mentions, files_below
from medml.io.nifti import write_nifti
from medml.records.batch import LedgerRow
from medml.records.experiment import DatasetChoice
from medml.records.home import Home
from medml.records.scan import Scan, Volume
from medml.results.tables import write_ledger
from medml.store.catalogue import Catalogue
from medml.store.crosswalk import Origin
from medml.store.leases import Leases, this_owner
from medml.store.ledger import Ledger
from pipelines import erasing
from pipelines.audit import entries
from pipelines.forget import forget, pending, pseudonyms_of
from pipelines.requests import write_request
from pipelines.stores import open_catalogue, open_crosswalk, open_pseudonyms
from pipelines.terminal import VerbResult

PATIENTS = 6


def write_cohort(folder: Path) -> Path:
    """One NIfTI in a folder of its own, with a mask, for each of six patients."""
    generator = np.random.default_rng(0)
    rows = [["subject_id", "image", "mask", "label"]]
    for n in range(PATIENTS):
        place = folder / f"SECRET-{n}"
        voxels = generator.normal(0, 20, (1, 12, 12, 6)).astype(np.float32)
        mask = np.zeros((1, 12, 12, 6), np.uint8)
        mask[:, 3:7, 3 : 5 + n, 2:4] = 1
        write_nifti(place / "scan.nii.gz", Volume(voxels, np.diag([2.0, 2.0, 3.0, 1.0]), "mm"))
        write_nifti(place / "mask.nii.gz", Volume(mask, np.diag([2.0, 2.0, 3.0, 1.0]), "mm"))
        rows.append([f"SECRET-{n}", f"SECRET-{n}/scan.nii.gz", f"SECRET-{n}/mask.nii.gz", "ball"])
    with (folder / "cohort.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return folder / "cohort.csv"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a cohort, and a home that other homes are copied from."""
    place = tmp_path_factory.mktemp("forget")
    _fill(Home(place / "home"), write_cohort(place / "cohort"))
    return place


@pytest.fixture
def home(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """Return a home with six patients, a frozen dataset, a cache, a report, a batch and an unfinished training."""
    home = Home(tmp_path / "home")
    shutil.copytree(place / "home", home.root)
    monkeypatch.setenv("MEDML_HOME", str(home.root))
    return home


def _fill(home: Home, table: Path) -> None:
    catalogue = Catalogue(open_catalogue(home))
    stores = {"catalogue": catalogue, "crosswalk": open_crosswalk(home), "pseudonyms": open_pseudonyms(home)}
    ingest([table], home=home, **stores)  # type: ignore[arg-type]
    collection = catalogue.collections()[0].name
    choice = DatasetChoice(name="balls", select={"collection": collection}, test_fraction=0.3, folds=2)
    frozen, _ = freeze(choice, "segment", catalogue, home)
    for scan in catalogue.scans():
        chunk = home.cache / frozen.digest / "plan" / "000000.json"
        chunk.parent.mkdir(parents=True, exist_ok=True)
        chunk.write_text(json.dumps({"cases": [scan.scan_id]}))
    _use(home, catalogue.scans(), frozen.digest)
    for database in (catalogue.database, stores["crosswalk"].database):  # type: ignore[attr-defined]
        database.close()


def _use(home: Home, scans: list[Scan], digest: str) -> None:
    """Leave what a training, an evaluation, a batch, an error and requests leave."""
    run = home.runs / "balls-1"
    run.mkdir(parents=True)
    (run / "job.json").write_text(json.dumps({"dataset": f"{home.datasets}/balls/{digest}.json"}))
    report = home.reports / "balls-v1"
    (report / "figures").mkdir(parents=True)
    lines = [f"{scan.scan_id},{scan.patient},0.9" for scan in scans]
    (report / "cases.csv").write_text("\n".join(["case_id,patient,dice", *lines, ""]))
    (report / "report.html").write_text(f"<p>{scans[0].scan_id}")
    (report / "figures" / "worst_01.png").write_bytes(b"picture")
    (report / "figures" / "dice.png").write_bytes(b"averages")
    out = home.batches / "batch-1"
    rows = []
    for scan in scans:
        for name in (f"masks/{scan.scan_id}.nii.gz", f"dicom/{scan.scan_id}.seg.dcm"):
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            (out / name).write_bytes(b"mask")
        rows.append(LedgerRow(source=f"{scan.scan_id[:6]}/ct", scan_id=scan.scan_id, status="done"))
        rows.append(LedgerRow(source=f"{scan.scan_id[:6]}/ct/notes.txt", scan_id="", status="refused"))
    write_ledger(out, rows)
    (out / "report.html").write_text("pictures of everybody")
    ledger = Ledger(open_catalogue(home))
    ledger.open_batch("batch-1", "balls/1", "d" * 64)
    for row in rows:
        ledger.record("batch-1", row)
    ledger.database.close()
    (home.logs / "errors").mkdir(parents=True)
    for scan in scans[:2]:
        (home.logs / "errors" / f"{scan.patient[2:10]}.txt").write_text(f"scan {scan.scan_id} failed")
    (home.logs / "server.log").write_text("".join(f"read {scan.scan_id}\n" for scan in scans))


def patient_of(home: Home, number: int) -> tuple[str, list[Scan]]:
    catalogue = Catalogue(open_catalogue(home))
    for name in pseudonyms_of(home, f"SECRET-{number}", None):
        if found := catalogue.scans(patient=name):
            return name, found
    raise AssertionError(number)


def everything(home: Home) -> dict[str, object]:
    """Return the bytes of every file, and what databases say: when these write it to which file is SQLite's affair."""
    found: dict[str, object] = {}
    for path in files_below(home.root):
        if path.suffix == ".db":
            with closing(sqlite3.connect(path)) as connection:
                found[str(path)] = list(connection.iterdump())
        elif not path.name.endswith(("-shm", "-wal")):
            found[str(path)] = path.read_bytes()
    return found


def mentioned(home: Home, *names: str) -> list[str]:
    wanted = Mentions(names)
    return [
        str(p.relative_to(home.root)) for p in files_below(home.root) if wanted.in_text(str(p)) or wanted.in_file(p)
    ]


def test_dry_run_counts_and_changes_nothing(home: Home) -> None:
    name, _ = patient_of(home, 0)
    before = everything(home)
    result = forget(home, [name], do=False)
    assert result.ok
    assert result.counts["scan folders"] == 1
    assert result.counts["datasets marked"] == 1
    assert result.counts["unfinished trainings"] == 1
    assert result.notes[0] == "nothing was changed; add --yes to erase"
    assert any("2 source files lie outside of the home" in note for note in result.notes)
    assert everything(home) == before


def test_nothing_mentions_the_patient_and_the_others_stay(place: Path, home: Home) -> None:
    name, scans = patient_of(home, 0)
    others = [patient_of(home, n) for n in range(1, PATIENTS)]
    request = write_request(home, "explain", sources=[str(place / "cohort" / "SECRET-0" / "scan.nii.gz")])
    shared = write_request(home, "ingest", sources=[str(place / "cohort")])
    masks = [a.content for a in Catalogue(open_catalogue(home)).annotations([scans[0].scan_id]) if a.kind == "mask"]
    result = forget(home, pseudonyms_of(home, "SECRET-0", None), do=True)
    assert result.ok, result.notes
    scan = scans[0]
    assert mentioned(home, name, scan.scan_id, scan.content, scan.study, scan.group, *masks, "SECRET-0") == []
    assert not (home.requests / f"{request}.json").exists()
    assert (home.requests / f"{shared}.json").exists()
    catalogue = Catalogue(open_catalogue(home))
    assert len(catalogue.scans()) == PATIENTS - 1
    for other, theirs in others:
        assert catalogue.scans(patient=other) == theirs
        assert (home.scan_folder(theirs[0].scan_id) / "image.nii.gz").exists()
        assert (home.batches / "batch-1" / "masks" / f"{theirs[0].scan_id}.nii.gz").exists()
    assert len(Ledger(open_catalogue(home)).rows("batch-1")) == 2 * (PATIENTS - 1)
    assert len(json.loads((home.batches / "batch-1" / "ledger.json").read_text())) == 2 * (PATIENTS - 1)
    assert not (home.runs / "balls-1").exists()
    assert not list(home.cache.glob("*"))
    assert pending(home) == []


def test_report_keeps_its_averages_and_loses_pictures_and_rows(home: Home) -> None:
    name, scans = patient_of(home, 3)
    assert forget(home, [name], do=True).ok
    report = home.reports / "balls-v1"
    assert (report / "figures" / "dice.png").exists()
    assert not (report / "figures" / "worst_01.png").exists()
    assert scans[0].scan_id not in (report / "cases.csv").read_text()
    assert len((report / "cases.csv").read_text().splitlines()) == PATIENTS
    assert "were erased on request" in (report / "report.html").read_text()


def test_scan_of_a_batch_that_was_never_ingested_is_found_by_its_patient(home: Home) -> None:
    name = open_pseudonyms(home).patient("", "only in a batch")
    scan_id = "f" * 24
    open_crosswalk(home).put([Origin(scan_id, "stamp", {"kind": "nifti", "image": "/gone.nii.gz"}, patient=name)])
    (home.batches / "batch-1" / "masks" / f"{scan_id}.nii.gz").write_bytes(b"mask")
    assert forget(home, [name], do=True).ok
    assert mentioned(home, scan_id, name) == []


def test_same_voxels_in_a_batch_go_under_whatever_name_they_came(home: Home) -> None:
    name, scans = patient_of(home, 5)
    ledger, copy = Ledger(open_catalogue(home)), "7e" * 12
    row = LedgerRow(source="elsewhere.nii.gz", scan_id=copy, status="done", input_digest=scans[0].content)
    ledger.record("batch-1", row)
    mask = home.batches / "batch-1" / "masks" / f"{copy}.nii.gz"
    mask.write_bytes(b"mask")
    assert forget(home, [name], do=True).ok
    assert not mask.exists()
    assert all(row.scan_id != copy for row in ledger.rows("batch-1"))


def test_killed_erasure_is_finished_by_the_next_one(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever was done when it was killed, the note knows what is left, even when the rows are gone."""
    name, scans = patient_of(home, 2)
    places: list[tuple[object, str]] = [
        (erasing.Erasing, "_clear_reports"),
        (erasing, "strike"),
        (erasing.Erasing, "_erase_rows"),
    ]
    for place, step in places:
        with monkeypatch.context() as patch:
            patch.setattr(place, step, _killed)
            with pytest.raises(KeyboardInterrupt):
                forget(home, [name], do=True)
        assert len(pending(home)) == 1
    catalogue = open_catalogue(home)
    result = forget(home, [], do=True)
    assert result.ok, result.notes
    assert mentioned(home, name, scans[0].scan_id, scans[0].content) == []
    assert len(Catalogue(catalogue).scans()) == PATIENTS - 1
    assert pending(home) == []


def _killed(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_file_that_still_mentions_the_patient_is_named_and_the_note_stays(home: Home) -> None:
    name, scans = patient_of(home, 1)
    stray = home.root / "prefect" / "prefect.db"
    stray.parent.mkdir()
    stray.write_bytes(scans[0].scan_id.encode())
    result = forget(home, [name], do=True)
    assert not result.ok
    assert "prefect/prefect.db still mentions the patient" in result.notes
    assert len(pending(home)) == 1
    stray.unlink()
    assert forget(home, [], do=True).ok


def test_audit_says_what_was_done_and_not_to_whom(home: Home) -> None:
    name, scans = patient_of(home, 1)
    forget(home, [name], do=True)
    last = entries(home)[-1]
    assert (last.verb, last.outcome) == ("forget", "done")
    assert last.details["scan folders"] == 1
    assert not Mentions([name, scans[0].scan_id, "SECRET-1"]).in_text(last.model_dump_json())


def test_nobody_is_erased_while_somebody_is_at_work(home: Home) -> None:
    name, _ = patient_of(home, 1)
    leases = Leases(open_catalogue(home))
    lease = leases.take("device:cpu:0", this_owner(), 60)
    assert lease is not None
    with pytest.raises(ConfigError, match=r"somebody is at work in this home \(device:cpu:0\)"):
        forget(home, [name], do=True)
    leases.release(lease)
    assert forget(home, [name], do=True).ok


def test_unknown_patient_is_not_found(home: Home) -> None:
    with pytest.raises(NotFound, match="no scan, batch row or source of this patient; check the id and its --issuer"):
        forget(home, ["p-0000000000000000"], do=True)


def test_verify_holds_and_training_waits_for_a_new_version(home: Home) -> None:
    from pipelines.status import verify

    name, _ = patient_of(home, 4)
    assert forget(home, [name], do=True).ok
    result: VerbResult = verify(home)
    assert result.ok, result.notes
    catalogue = Catalogue(open_catalogue(home))
    choice = DatasetChoice(
        name="balls", select={"collection": catalogue.collections()[0].name}, test_fraction=0.3, folds=2
    )
    with pytest.raises(ConfigError, match="1 of its 6 cases were erased on request"):
        freeze(choice, "segment", catalogue, home)
    renewed, freshness = freeze(choice, "segment", catalogue, home, refresh=True)
    assert (freshness.state, len(renewed.cases)) == ("refreshed", 5)
    freeze(choice, "segment", catalogue, home)


def test_source_files_inside_of_the_home_go_too(home: Home) -> None:
    name = open_pseudonyms(home).patient("", "dropped")
    source = home.inbox / "drop" / "scan.nii.gz"
    source.parent.mkdir(parents=True)
    source.write_bytes(b"voxels")
    locator = {"kind": "nifti", "image": str(source)}
    open_crosswalk(home).put([Origin("e" * 24, "stamp", locator, patient=name)])
    assert forget(home, [name], do=True).counts["source files in the home"] == 1
    assert not source.parent.exists()


def test_source_file_with_other_patients_is_left(home: Home) -> None:
    crosswalk, names = open_crosswalk(home), open_pseudonyms(home)
    archive = home.root.parent / "all.npz"
    archive.write_bytes(b"voxels")
    for n in range(2):
        locator = {"kind": "medmnist", "image": f"{archive}#train/{n}"}
        crosswalk.put([Origin(f"{n}" * 24, f"stamp-{n}", locator, patient=names.patient("", f"image {n}"))])
    result = forget(home, [names.patient("", "image 0")], do=True)
    assert any("1 source files hold other patients too" in note for note in result.notes)
    assert archive.exists()


def test_annotation_drawn_on_several_patients_keeps_the_others(home: Home) -> None:
    name, scans = patient_of(home, 0)
    _, others = patient_of(home, 1)
    drawn = [scans[0].scan_id, others[0].scan_id]
    crosswalk = open_crosswalk(home)
    both = {"kind": "seg", "files": ["/a"], "scans": drawn, "contents": ["c"]}
    crosswalk.put([Origin("annotation-1", "s1", both), Origin("annotation-2", "s2", {**both, "scans": drawn[:1]})])
    assert forget(home, [name], do=True).ok
    assert crosswalk.locator("annotation-1")["scans"] == drawn[1:]
    with pytest.raises(NotFound):
        crosswalk.locator("annotation-2")


def test_environment_is_left_as_it_was() -> None:
    assert "MLFLOW_TRACKING_URI" not in os.environ
