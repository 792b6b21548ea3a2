"""Which patients and pictures of an evaluation a model has learned from."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from medml.datasets.overlap import all_cases, find_overlap, learned_cases
from medml.errors import LeakageError
from medml.metrics.likeness import fingerprint
from medml.records.dataset import Case, Dataset
from medml.records.scan import Scan

MakeScan, MakeCase = Callable[..., Scan], Callable[..., Case]


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(32, 32, 1))


@pytest.fixture
def scans(make_scan: MakeScan) -> list[Scan]:
    """Pictures 1 to 4 of the training, then: new, identical to 1, a flipped and brighter 2, patient 3, and 4 = test."""
    brighter = 2 * picture(2)[::-1] + 5
    taught = [make_scan(f"t{n}", patient=f"p-{n}", likeness=fingerprint(picture(n))) for n in (1, 2, 3, 4)]
    return [
        *taught,
        make_scan("new", patient="p-10", likeness=fingerprint(picture(10))),
        make_scan("same", patient="p-11", content=taught[0].content, likeness=taught[0].likeness),
        make_scan("copy", patient="p-12", likeness=fingerprint(brighter)),
        make_scan("again", patient="p-3", likeness=fingerprint(picture(13))),
        make_scan("tested", patient="p-14", content=taught[3].content, likeness=taught[3].likeness),
    ]


def cases_of(scans: list[Scan], make_case: MakeCase) -> tuple[Case, ...]:
    return tuple(
        make_case(scan.content, scan.patient, case_id=scan.scan_id, scans=(scan.scan_id,), digest=scan.content)
        for scan in scans
    )


def dataset(cases: tuple[Case, ...], test: tuple[Case, ...]) -> Dataset:
    held = {case.case_id for case in test}
    rest = [case.case_id for case in cases if case.case_id not in held]
    return Dataset(
        name="trained",
        digest="d" * 64,
        created="2026-01-01T00:00:00+00:00",
        task="segment",
        select={},
        split="patient",
        seed=0,
        labels={0: "background", 1: "organ"},
        channels=("MRI",),
        modality="MR",
        geometry="mm",
        cases=cases,
        test=tuple(held),
        folds=((rest[0],), tuple(rest[1:])),
        test_digest="e" * 64,
    )


def test_patients_identical_images_and_same_pictures_are_counted(scans: list[Scan], make_case: MakeCase) -> None:
    taught, evaluated = cases_of(scans[:4], make_case), cases_of(scans[4:], make_case)
    overlap = find_overlap(evaluated, dataset(taught, taught[3:]), scans)
    assert (overlap.patients, overlap.seen_patients) == (5, 1)
    assert (overlap.cases, overlap.seen_cases) == (5, 3)
    assert (overlap.identical, overlap.alike, overlap.unknown) == (1, 1, 0)
    assert overlap.sentence() == (
        "of 5 patients evaluated, 1 stand in train or validation of trained (dddddddddddd), which the model learned "
        "from; of 5 cases, 1 hold an identical image and 1 more the same picture as one it learned from"
    )


def test_a_models_own_test_set_is_new_to_it(scans: list[Scan], make_case: MakeCase) -> None:
    taught = cases_of(scans[:4], make_case)
    trained = dataset(taught, taught[3:])
    assert [case.case_id for case in learned_cases(trained)] == [scan.scan_id for scan in scans[:3]]
    assert find_overlap(trained.cases_of("test"), trained, scans).seen_cases == 0


def test_all_cases_make_a_test_set_with_a_digest_of_its_own(scans: list[Scan], make_case: MakeCase) -> None:
    taught = cases_of(scans[:4], make_case)
    trained = dataset(taught, taught[3:])
    whole = all_cases(trained)
    assert whole.cases_of("test") == taught
    assert whole.cases_of("validation") == ()
    assert len({whole.test_digest, trained.test_digest}) == 2
    assert find_overlap(whole.cases_of("test"), trained, scans).seen_patients == 3


def test_a_scan_without_fingerprint_is_counted(scans: list[Scan], make_case: MakeCase) -> None:
    taught, evaluated = cases_of(scans[:4], make_case), cases_of(scans[4:5], make_case)
    blank = [scan.model_copy(update={"likeness": ""}) for scan in scans]
    overlap = find_overlap(evaluated, dataset(taught, taught[3:]), blank)
    assert (overlap.unknown, overlap.seen_cases) == (4, 0)


def test_what_is_not_in_the_catalogue_cannot_be_compared(scans: list[Scan], make_case: MakeCase) -> None:
    taught, evaluated = cases_of(scans[:4], make_case), cases_of(scans[4:], make_case)
    with pytest.raises(LeakageError, match=r"2 of 8 scans of the evaluation and of trained are not in the catalogue"):
        find_overlap(evaluated, dataset(taught, taught[3:]), scans[2:])
