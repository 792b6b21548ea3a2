"""A frozen dataset whose cases were erased: its digest stays, it says so, and it is used no more."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medml.datasets.digests import digest_of, digest_of_test
from medml.datasets.erasure import datasets_of_patient, erase_cases, mark_of, refuse_erased
from medml.datasets.manifests import load, verify_datasets, write
from medml.errors import ConfigError, MedmlError
from medml.records.dataset import Case, Dataset, Omitted
from medml.records.home import Home

SCANS = [f"{n}a" * 12 for n in range(4)]


def frozen(home: Home, name: str = "liver") -> Path:
    """Four patients with one case each, the first of them tested; the fifth was left out."""
    cases = tuple(
        Case(
            case_id=SCANS[n],
            patient=f"p-{n}",
            scans=(SCANS[n],),
            digest=f"{n:064x}",
            shape=(2, 2, 2),
            spacing_mm=None,
            alike=("c" * 64,) if n == 1 else (),
        )
        for n in range(4)
    )
    ids = [case.case_id for case in cases]
    dataset = Dataset(
        name=name,
        digest="",
        created="2026-01-01",
        task="segment",
        select={"collection": "liver"},
        split="patient",
        seed=0,
        labels={0: "background", 1: "liver"},
        channels=("image",),
        modality="CT",
        geometry="mm",
        cases=cases,
        test=(ids[0],),
        folds=((ids[1],), (ids[2], ids[3])),
        test_digest="",
        omitted=(Omitted(scan_id="4" * 24, code="no_mask", reason="it has none"),),
    )
    sealed = {"digest": digest_of(dataset), "test_digest": digest_of_test(dataset)}
    return write(home, dataset.model_copy(update=sealed))


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_case_goes_the_digest_stays_and_a_mark_counts(home: Home) -> None:
    path = frozen(home)
    digest = path.stem
    gone = [SCANS[0]]
    assert datasets_of_patient(home, gone, "p-0") == {path: 1}
    erase_cases(path, gone, "p-0")
    erase_cases(path, gone, "p-0")
    dataset = load(home, "liver")
    assert (dataset.digest, len(dataset.cases), dataset.test) == (digest, 3, ())
    mark = mark_of(path)
    assert mark is not None
    assert (mark.total, mark.left, mark.erased) == (4, 3, 1)
    assert SCANS[0] not in path.read_text()
    assert "p-0" not in path.read_text()
    assert verify_datasets(home) == []
    assert datasets_of_patient(home, gone, "p-0") == {}


def test_second_patient_adds_to_the_mark(home: Home) -> None:
    path = frozen(home)
    erase_cases(path, [SCANS[0]], "p-0")
    erase_cases(path, [SCANS[2]], "p-2")
    mark = mark_of(path)
    assert mark is not None
    assert mark.erased == 2
    assert verify_datasets(home) == []


def test_erased_content_no_longer_names_a_picture_that_others_share(home: Home) -> None:
    path = frozen(home)
    erase_cases(path, [SCANS[0], "c" * 64], "p-0")
    assert "c" * 64 not in path.read_text()


def test_patient_who_was_only_left_out_leaves_no_mark(home: Home) -> None:
    path = frozen(home)
    erase_cases(path, ["4" * 24], "p-9")
    assert mark_of(path) is None
    assert "4" * 24 not in path.read_text()
    assert verify_datasets(home) == []


def test_marked_dataset_is_refused_and_its_file_still_proved(home: Home) -> None:
    path = frozen(home)
    refuse_erased(home, load(home, "liver"), "trained on")
    erase_cases(path, [SCANS[0]], "p-0")
    with pytest.raises(ConfigError, match=r"1 of its 4 cases were erased .* cannot be trained on; .* --refresh"):
        refuse_erased(home, load(home, "liver"), "trained on")
    value = json.loads(path.read_text())
    path.write_text(json.dumps({**value, "cases": value["cases"][1:]}))
    with pytest.raises(MedmlError, match="is not as the last erasure left it"):
        load(home, "liver")
