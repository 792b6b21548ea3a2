from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from medml.datasets.freeze import freeze, load, verify_datasets
from medml.datasets.lineage import parent_places
from medml.datasets.split import TEST
from medml.errors import ConfigError, LeakageError, MedmlError, NotFound
from medml.io.files import Pseudonyms
from medml.metrics.likeness import fingerprint
from medml.records.dataset import Dataset, assert_no_leakage
from medml.records.experiment import DatasetChoice
from medml.records.home import Home
from medml.records.scan import Annotation, Scan
from medml.store.catalogue import Catalogue
from medml.store.database import open_database

Add = Callable[..., list[Scan]]
MakeScan = Callable[..., Scan]
MakeClass = Callable[..., Annotation]


def _choice(**fields: object) -> DatasetChoice:
    return DatasetChoice.model_validate({"name": "demo", "select": {"collection": "demo"}} | fields)


def _contents(dataset: Dataset, case_ids: tuple[str, ...]) -> list[str]:
    return sorted(case.digest for case in dataset.cases if case.case_id in case_ids)


def test_first_freeze_writes_a_dataset_that_loads_again(catalogue: Catalogue, home: Home, add_classified: Add) -> None:
    add_classified(range(30), columns={"sex": "F", "age": 45})
    catalogue.add_collection("demo", licence="CC-BY-4.0")
    dataset, freshness = freeze(_choice(), "classify", catalogue, home)
    assert freshness.state == "frozen"
    assert len(dataset.test) == 6
    assert [len(fold) for fold in dataset.folds] == [5, 5, 5, 5, 4]
    assert {case_id for part in (dataset.test, *dataset.folds) for case_id in part} == {
        c.case_id for c in dataset.cases
    }
    assert dataset.subgroups == ("sex", "age_band")
    assert dataset.licences == {"demo": "CC-BY-4.0"}
    assert dataset.labels == {0: "benign", 1: "malignant"}
    assert (home.datasets / "demo" / f"{dataset.digest}.json").exists()
    assert load(home, "demo") == load(home, "demo", dataset.digest[:10]) == dataset
    assert_no_leakage(dataset)


def test_frozen_dataset_is_kept_and_growth_is_told(catalogue: Catalogue, home: Home, add_classified: Add) -> None:
    add_classified(range(30))
    first, _ = freeze(_choice(), "classify", catalogue, home)
    again, freshness = freeze(_choice(), "classify", catalogue, home)
    assert (again, freshness.state, freshness.added, freshness.notes) == (first, "kept", 0, ())
    add_classified(range(100, 107))
    again, freshness = freeze(_choice(), "classify", catalogue, home)
    assert again == first
    assert (freshness.state, freshness.added, freshness.removed) == ("kept", 7, 0)
    assert freshness.notes == (
        "the selection has grown by 7 cases since it was frozen; --refresh freezes a new version",
    )


def test_refresh_keeps_the_test_set_and_its_digest(catalogue: Catalogue, home: Home, add_classified: Add) -> None:
    add_classified(range(30))
    first, _ = freeze(_choice(), "classify", catalogue, home)
    add_classified(range(100, 110))
    second, freshness = freeze(_choice(), "classify", catalogue, home, refresh=True)
    assert freshness.state == "refreshed"
    assert "10 cases joined, 0 left" in freshness.notes
    assert second.parent == first.digest
    assert (second.test_digest, second.test_parent) == (first.test_digest, None)
    before, after = parent_places(first), parent_places(second)
    assert {patient: after[patient] for patient in before} == before
    assert {after[patient] for patient in set(after) - set(before)} == {0, 1, 2, 3, 4}
    assert load(home, "demo") == second
    assert load(home, "demo", first.digest) == first


def test_refresh_without_change_makes_no_version(catalogue: Catalogue, home: Home, add_classified: Add) -> None:
    add_classified(range(30))
    first, _ = freeze(_choice(), "classify", catalogue, home)
    again, freshness = freeze(_choice(), "classify", catalogue, home, refresh=True)
    assert (again, freshness.state) == (first, "unchanged")
    assert len(list((home.datasets / "demo").iterdir())) == 1


def test_extended_test_set_has_a_digest_with_a_parent(catalogue: Catalogue, home: Home, add_classified: Add) -> None:
    add_classified(range(30))
    first, _ = freeze(_choice(), "classify", catalogue, home)
    add_classified(range(100, 120))
    second, freshness = freeze(_choice(), "classify", catalogue, home, extend_test=True)
    assert set(first.test) < set(second.test)
    assert len(second.test) == 6 + 4
    assert second.test_digest != first.test_digest
    assert second.test_parent == first.test_digest
    assert "the test set has changed: evaluate the champion on it before a challenger is compared" in freshness.notes


def test_new_scan_of_a_tested_patient_is_held_back(
    catalogue: Catalogue, home: Home, add_classified: Add, make_scan: MakeScan, make_class: MakeClass
) -> None:
    add_classified(range(30))
    first, _ = freeze(_choice(), "classify", catalogue, home)
    tested = next(case.patient for case in first.cases if case.case_id in first.test)
    follow_up = make_scan("follow-up", patient=tested)
    twin = make_scan("twin", content=next(s.content for s in catalogue.scans() if s.patient == tested))
    classes = next(case.classes for case in first.cases if case.patient == tested) or ()
    catalogue.add([follow_up, twin], [make_class(follow_up, 0), make_class(twin, *classes)])
    _, kept = freeze(_choice(), "classify", catalogue, home)
    assert kept.added == 0
    assert kept.notes == ("2 scans could only join the test set; --extend-test adds them",)
    second, freshness = freeze(_choice(), "classify", catalogue, home, refresh=True)
    assert second == first
    assert freshness.notes == ("no new version: it would be the same", "2 scans left out: test_patient")
    extended, _ = freeze(_choice(), "classify", catalogue, home, extend_test=True)
    assert {follow_up.scan_id, twin.scan_id} <= set(extended.test)


def test_new_scan_of_a_trained_patient_stays_in_its_fold(
    catalogue: Catalogue, home: Home, add_classified: Add, make_scan: MakeScan, make_class: MakeClass
) -> None:
    add_classified(range(30))
    first, _ = freeze(_choice(), "classify", catalogue, home)
    patient = next(case.patient for case in first.cases if case.case_id in first.folds[3])
    follow_up = make_scan("follow-up", patient=patient)
    catalogue.add([follow_up], [make_class(follow_up, 1)])
    second, _ = freeze(_choice(), "classify", catalogue, home, refresh=True)
    assert follow_up.scan_id in second.folds[3]


def test_corrected_label_of_a_test_case_changes_the_test_digest(
    catalogue: Catalogue, home: Home, add_classified: Add, make_class: MakeClass
) -> None:
    scans = add_classified(range(30))
    first, _ = freeze(_choice(), "classify", catalogue, home)
    scan = next(scan for scan in scans if scan.scan_id in first.test)
    old = next(case.classes for case in first.cases if case.case_id == scan.scan_id)
    catalogue.add([], [make_class(scan, 0 if old == (1,) else 1)])
    kept, freshness = freeze(_choice(), "classify", catalogue, home)
    assert (kept, freshness.added, freshness.removed) == (first, 1, 1)
    second, _ = freeze(_choice(), "classify", catalogue, home, refresh=True)
    assert set(second.test) == set(first.test)
    assert second.test_parent == first.test_digest != second.test_digest


def test_same_data_gives_the_same_digests_and_folds_in_every_home(
    tmp_path: Path, make_scan: MakeScan, make_class: MakeClass
) -> None:
    frozen = []
    for number in (0, 1):
        home = Home(tmp_path / f"home{number}")
        names, catalogue = Pseudonyms(home.key_file), Catalogue(open_database(home.catalogue_url))
        scans = [
            make_scan(
                f"{n}",
                scan_id=names.scan_id(f"{n}", f"{n}"),
                patient=names.patient("", f"{n // 2}"),
                group=names.group(f"{n}"),
                collection=("demo", "elsewhere")[number],
            )
            for n in range(60)
        ]
        catalogue.add(scans, [make_class(scan, int(n % 7 == 0)) for n, scan in enumerate(scans)])
        frozen.append(freeze(_choice(select={}), "classify", catalogue, home)[0])
    one, other = frozen
    assert {case.patient for case in one.cases}.isdisjoint({case.patient for case in other.cases})
    assert (one.digest, one.test_digest) == (other.digest, other.test_digest)
    assert _contents(one, one.test) == _contents(other, other.test)
    assert [_contents(one, fold) for fold in one.folds] == [_contents(other, fold) for fold in other.folds]


def test_official_split_is_followed(
    catalogue: Catalogue, home: Home, make_scan: MakeScan, make_class: MakeClass
) -> None:
    parts = {"train": 12, "val": 4, "test": 6}
    scans = [make_scan(f"{part}{n}", columns={"split": part}) for part, count in parts.items() for n in range(count)]
    lost = make_scan("lost")
    catalogue.add([*scans, lost], [make_class(scan, n % 2) for n, scan in enumerate([*scans, lost])])
    dataset, freshness = freeze(_choice(split="official"), "classify", catalogue, home)
    assert {part: len(dataset.cases_of(part)) for part in ("train", "validation", "test")} == {
        "train": 12,
        "validation": 4,
        "test": 6,
    }
    assert [(item.scan_id, item.code) for item in dataset.omitted] == [(lost.scan_id, "no_split")]
    assert freshness.notes == ("1 scans left out: no_split",)
    assert freeze(_choice(split="official"), "classify", catalogue, home)[1].added == 0


def test_official_split_is_followed_by_newcomers(
    catalogue: Catalogue, home: Home, make_scan: MakeScan, make_class: MakeClass
) -> None:
    def add(prefix: str, parts: dict[str, int]) -> dict[str, str]:
        scans = [make_scan(f"{prefix}{p}{n}", columns={"split": p}) for p, count in parts.items() for n in range(count)]
        catalogue.add(scans, [make_class(scan, n % 2) for n, scan in enumerate(scans)])
        return {scan.scan_id: str(scan.columns["split"]) for scan in scans}

    add("old", {"train": 8, "val": 4, "test": 4})
    choice = _choice(split="column", split_column="split")
    first, _ = freeze(choice, "classify", catalogue, home)
    new = add("new", {"train": 2, "val": 1, "test": 1})
    second, _ = freeze(choice, "classify", catalogue, home, refresh=True)
    assert (len(second.cases_of("train")), len(second.folds[0]), second.test) == (10, 5, first.test)
    assert {(new[item.scan_id], item.code) for item in second.omitted} == {("test", "test_newcomer")}
    third, _ = freeze(choice, "classify", catalogue, home, extend_test=True)
    assert len(third.test) == 5


def test_newcomers_of_a_split_without_validation_are_dealt_to_the_folds(
    catalogue: Catalogue, home: Home, make_scan: MakeScan, make_class: MakeClass
) -> None:
    def add(prefix: str, train: int) -> None:
        names = [*(f"{prefix}train{n}" for n in range(train)), f"{prefix}test"]
        scans = [make_scan(name, columns={"split": "test" if name.endswith("test") else "train"}) for name in names]
        catalogue.add(scans, [make_class(scan, n % 2) for n, scan in enumerate(scans)])

    add("old", 10)
    first, _ = freeze(_choice(split="official"), "classify", catalogue, home)
    add("new", 5)
    second, _ = freeze(_choice(split="official"), "classify", catalogue, home, refresh=True)
    assert [len(fold) for fold in first.folds] == [2] * 5
    assert [len(fold) for fold in second.folds] == [3] * 5


def test_identical_cases_across_an_official_split_are_told(
    catalogue: Catalogue, home: Home, make_scan: MakeScan, make_class: MakeClass
) -> None:
    scans = [make_scan(f"{n}", columns={"split": "train"}) for n in range(10)]
    twin = make_scan("twin", content=scans[0].content, columns={"split": "test"})
    catalogue.add([*scans, twin], [make_class(scan, n % 2) for n, scan in enumerate([*scans, twin])])
    _, freshness = freeze(_choice(split="official"), "classify", catalogue, home)
    assert freshness.notes == ("1 test cases are identical to cases that are trained on, under other patients",)


def test_leaking_column_is_refused_and_nothing_is_written(
    catalogue: Catalogue, home: Home, make_scan: MakeScan, make_class: MakeClass
) -> None:
    scans = [make_scan(f"{n}", patient=f"p-{n % 4}", columns={"split": ("train", "test")[n // 4]}) for n in range(8)]
    catalogue.add(scans, [make_class(scan, n % 2) for n, scan in enumerate(scans)])
    with pytest.raises(LeakageError, match="train/test 4 patients stand on both sides; use split: patient"):
        freeze(_choice(split="column"), "classify", catalogue, home)
    assert not home.datasets.exists()
    assert freeze(_choice(split="patient"), "classify", catalogue, home)[1].state == "frozen"


def test_split_without_its_column_is_refused(catalogue: Catalogue, home: Home, add_classified: Add) -> None:
    add_classified(range(10), columns={"sex": "F"})
    with pytest.raises(ConfigError, match=r"needs the column split, which no case has \(columns: collection, sex\)"):
        freeze(_choice(split="official"), "classify", catalogue, home)


def test_other_task_or_split_under_the_same_name_is_refused(
    catalogue: Catalogue, home: Home, add_classified: Add
) -> None:
    add_classified(range(10))
    freeze(_choice(), "classify", catalogue, home)
    with pytest.raises(ConfigError, match=r"demo is frozen with task: classify, found task: segment; .* another name"):
        freeze(_choice(), "segment", catalogue, home)
    with pytest.raises(ConfigError, match="demo is frozen with split: patient, found split: official"):
        freeze(_choice(split="official"), "classify", catalogue, home)


def test_other_selection_is_told_and_followed_by_a_refresh(
    catalogue: Catalogue, home: Home, add_classified: Add
) -> None:
    add_classified(range(10))
    add_classified(range(20, 30), collection="other")
    first, _ = freeze(_choice(), "classify", catalogue, home)
    kept, freshness = freeze(_choice(select={}), "classify", catalogue, home)
    assert (kept, freshness.added) == (first, 10)
    assert "its selection differs from the one asked for; --refresh freezes a new version" in freshness.notes
    assert len(freeze(_choice(select={}), "classify", catalogue, home, refresh=True)[0].cases) == 20


def test_other_labels_need_another_name(
    catalogue: Catalogue, home: Home, add_classified: Add, make_scan: MakeScan, make_class: MakeClass
) -> None:
    add_classified(range(10))
    freeze(_choice(), "classify", catalogue, home)
    scan = make_scan("new")
    catalogue.add([scan], [make_class(scan, 2, labels={2: "unclear"})])
    with pytest.raises(ConfigError, match=r"its labels were .*malignant.*, found .*unclear.* another name"):
        freeze(_choice(), "classify", catalogue, home, refresh=True)


def test_refresh_that_would_empty_a_part_is_refused(catalogue: Catalogue, home: Home, add_classified: Add) -> None:
    add_classified(range(10), columns={"view": "PA"})
    first, _ = freeze(_choice(), "classify", catalogue, home)
    add_classified(range(20, 30), columns={"view": "AP"})
    with pytest.raises(ConfigError, match="too few of its frozen cases are still selected"):
        freeze(_choice(select={"view": "AP"}), "classify", catalogue, home, refresh=True)
    assert load(home, "demo") == first


def test_frozen_dataset_is_used_when_the_catalogue_lost_its_scans(
    catalogue: Catalogue, home: Home, add_classified: Add
) -> None:
    add_classified(range(10))
    first, _ = freeze(_choice(), "classify", catalogue, home)
    kept, freshness = freeze(_choice(select={"collection": "gone"}), "classify", catalogue, home)
    assert (kept, freshness.state, freshness.removed) == (first, "kept", 10)
    assert "no scan matches its selection (collection: gone)" in freshness.notes[1]


def test_empty_selection_is_not_found(catalogue: Catalogue, home: Home, add_classified: Add) -> None:
    add_classified(range(3))
    with pytest.raises(
        NotFound, match=r"no scan matches its selection \(collection: x\); collections: demo \(3 scans\)"
    ):
        freeze(_choice(select={"collection": "x"}), "classify", catalogue, home)


def test_unknown_dataset_or_version_is_not_found(catalogue: Catalogue, home: Home, add_classified: Add) -> None:
    add_classified(range(10))
    dataset, _ = freeze(_choice(), "classify", catalogue, home)
    with pytest.raises(NotFound, match="there is no dataset lungs; frozen are: demo"):
        load(home, "lungs")
    with pytest.raises(NotFound, match=f"0 versions have the digest xyz, expected one of: {dataset.digest[:12]}"):
        load(home, "demo", "xyz")


def test_changed_file_is_refused_and_named(catalogue: Catalogue, home: Home, add_classified: Add) -> None:
    add_classified(range(10))
    dataset, _ = freeze(_choice(), "classify", catalogue, home)
    path = home.datasets / "demo" / f"{dataset.digest}.json"
    assert verify_datasets(home) == []
    path.write_text(path.read_text().replace("malignant", "malign"))
    with pytest.raises(MedmlError, match=f"its digest is {dataset.digest[:12]}, its cases give .* restore it"):
        load(home, "demo")
    (wrong,) = verify_datasets(home)
    assert wrong.startswith(f"datasets/demo/{dataset.digest}.json: dataset demo: its digest is")


def test_case_moved_out_of_the_test_set_is_noticed(catalogue: Catalogue, home: Home, add_classified: Add) -> None:
    add_classified(range(10))
    dataset, _ = freeze(_choice(), "classify", catalogue, home)
    path = home.datasets / "demo" / f"{dataset.digest}.json"
    path.write_text(dataset.model_copy(update={"test": ("absent", *dataset.test)}).model_dump_json())
    with pytest.raises(MedmlError, match="1 cases of its test set or folds are not listed"):
        load(home, "demo")


def test_file_under_another_name_is_refused(catalogue: Catalogue, home: Home, add_classified: Add) -> None:
    add_classified(range(10))
    dataset, _ = freeze(_choice(), "classify", catalogue, home)
    path = home.datasets / "demo" / f"{dataset.digest}.json"
    path.rename(path.with_name(f"{'0' * 64}.json"))
    with pytest.raises(MedmlError, match=f"holds the dataset {dataset.digest[:12]}; give the file back its own name"):
        load(home, "demo")


def test_leaking_file_is_reported(catalogue: Catalogue, home: Home, add_classified: Add) -> None:
    from medml.datasets.digests import digest_of, digest_of_test
    from medml.datasets.manifests import write

    add_classified(range(10))
    dataset, _ = freeze(_choice(), "classify", catalogue, home)
    tested = next(case for case in dataset.cases if case.case_id in dataset.test)
    cases = tuple(
        case.model_copy(update={"patient": tested.patient}) if case.case_id in dataset.folds[0] else case
        for case in dataset.cases
    )
    leaking = dataset.model_copy(update={"cases": cases, "parent": dataset.digest})
    leaking = leaking.model_copy(update={"digest": digest_of(leaking), "test_digest": digest_of_test(leaking)})
    write(home, leaking)
    assert TEST in parent_places(leaking).values()
    with pytest.raises(LeakageError, match="patients stand in both"):
        freeze(_choice(), "classify", catalogue, home)
    assert len(verify_datasets(home)) == 1


def _fingerprint(seed: int, *, flipped: bool = False) -> str:
    image = np.random.default_rng(seed).integers(0, 255, (32, 32, 1))
    return fingerprint(255 - image[::-1] if flipped else image)


def test_a_changed_copy_under_another_patient_is_kept_on_one_side(
    catalogue: Catalogue, home: Home, make_scan: MakeScan, make_class: MakeClass
) -> None:
    scans = [make_scan(f"{n}", likeness=_fingerprint(n)) for n in range(12)]
    copies = [make_scan(f"copy {n}", likeness=_fingerprint(n, flipped=True)) for n in range(12)]
    catalogue.add([*scans, *copies], [make_class(scan, n % 2) for n, scan in enumerate([*scans, *copies])])
    dataset, freshness = freeze(_choice(), "classify", catalogue, home)
    tested = set(dataset.test)
    assert tested
    assert all((a.scan_id in tested) == (b.scan_id in tested) for a, b in zip(scans, copies, strict=True))
    assert "24 patients share pictures with others and stand on one side with them" in freshness.notes
    newcomer = make_scan("late", likeness=_fingerprint(scans.index(next(s for s in scans if s.scan_id in tested))))
    catalogue.add([newcomer], [make_class(newcomer, 0)])
    second, _ = freeze(_choice(), "classify", catalogue, home, refresh=True)
    assert newcomer.scan_id not in {case.case_id for case in second.cases}


def test_copies_across_an_official_split_are_told(
    catalogue: Catalogue, home: Home, make_scan: MakeScan, make_class: MakeClass
) -> None:
    scans = [make_scan(f"{n}", likeness=_fingerprint(n), columns={"split": "train"}) for n in range(10)]
    copy = make_scan("copy", likeness=_fingerprint(0, flipped=True), columns={"split": "test"})
    catalogue.add([*scans, copy], [make_class(scan, n % 2) for n, scan in enumerate([*scans, copy])])
    _, freshness = freeze(_choice(split="official"), "classify", catalogue, home)
    assert freshness.notes == ("1 test cases are the same picture as cases that are trained on, under other patients",)


def test_copies_of_one_patient_are_not_marked(
    catalogue: Catalogue, home: Home, make_scan: MakeScan, make_class: MakeClass
) -> None:
    scans = [make_scan(f"{n}", likeness=_fingerprint(n)) for n in range(10)]
    again = make_scan("again", likeness=_fingerprint(0, flipped=True), patient=scans[0].patient)
    catalogue.add([*scans, again], [make_class(scan, n % 2) for n, scan in enumerate([*scans, again])])
    dataset, freshness = freeze(_choice(), "classify", catalogue, home)
    assert {case.alike for case in dataset.cases} == {()}
    assert not [note for note in freshness.notes if "picture" in note]
