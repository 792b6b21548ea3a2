from __future__ import annotations

import csv
import os
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medml.datasets.split import TEST, TRAIN, column_places, draw_places, every_nth, part_of, units_of
from medml.errors import ConfigError, LeakageError
from medml.records.dataset import Case

MakeCase = Callable[..., Case]
SHARED = Path(os.environ.get("MEDML_DATA", Path(__file__).parents[4] / "shared" / "data"))

populations = st.lists(st.tuples(st.integers(0, 20), st.integers(0, 2)), min_size=6, max_size=60)
quiet = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def _draw(cases: list[Case], seed: int = 0) -> dict[str, int]:
    return draw_places(cases, test_fraction=0.2, folds=5, seed=seed)[0]


def _population(make_case: MakeCase, people: list[tuple[int, int]]) -> list[Case]:
    return [make_case(f"{n}", f"p-{patient}", classes=(value,)) for n, (patient, value) in enumerate(people)]


@quiet
@given(people=populations, seed=st.integers(0, 5))
def test_every_patient_stands_in_one_part_and_no_part_is_empty(
    make_case: MakeCase, people: list[tuple[int, int]], seed: int
) -> None:
    patients = {f"p-{patient}" for patient, _ in people}
    cases = _population(make_case, people)
    if len(patients) < 3:
        with pytest.raises(ConfigError, match="expected at least 3"):
            _draw(cases, seed)
        return
    places = _draw(cases, seed)
    assert set(places) == patients
    folds = sorted(set(places.values()) - {TEST})
    assert TEST in places.values()
    assert folds == list(range(len(folds)))
    assert len(folds) >= 2  # so that one validates and another is trained on


@quiet
@given(people=populations, seed=st.integers(0, 5), shuffle=st.randoms())
def test_neither_order_nor_names_change_the_draw(
    make_case: MakeCase, people: list[tuple[int, int]], seed: int, shuffle: random.Random
) -> None:
    cases = _population(make_case, people)
    if len({case.patient for case in cases}) < 3:
        return
    renamed = [
        case.model_copy(update={"patient": f"{hash(case.patient)}", "case_id": f"x{case.case_id}"}) for case in cases
    ]
    shuffle.shuffle(renamed)
    one, other = _draw(cases, seed), _draw(renamed, seed)
    assert {c.digest: one[c.patient] for c in cases} == {c.digest: other[c.patient] for c in renamed}


def test_another_seed_gives_another_draw(make_case: MakeCase) -> None:
    cases = [make_case(f"{n}", f"p-{n}") for n in range(50)]
    assert _draw(cases, 0) == _draw(cases, 0)
    assert _draw(cases, 0) != _draw(cases, 1)


def test_fractions_and_classes_are_kept(make_case: MakeCase) -> None:
    # 80 of class 0 and 20 of class 1; a fifth is tested on, the other 80 patients are dealt to 5 folds of 16.
    cases = [make_case(f"{n}", f"p-{n}", classes=(int(n < 20),)) for n in range(100)]
    places = _draw(cases)
    found = Counter((places[case.patient], case.classes) for case in cases)
    assert found[TEST, (0,)] == 16
    assert found[TEST, (1,)] == 4
    for fold in range(5):
        assert found[fold, (0,)] + found[fold, (1,)] == 16
        assert found[fold, (1,)] in {3, 4}


def test_rare_class_is_tested_and_trained_on(make_case: MakeCase) -> None:
    cases = [make_case(f"{n}", f"p-{n}", classes=(int(n < 3),)) for n in range(60)]
    places, notes = draw_places(cases, test_fraction=0.2, folds=5, seed=0)
    rare = [places[f"p-{n}"] for n in range(3)]
    assert rare.count(TEST) == 1
    assert notes == ["class 1 has 3 patients only: some folds validate without it"]


def test_class_is_not_tested_on_so_much_that_none_is_left(make_case: MakeCase) -> None:
    cases = [make_case(f"{n}", f"p-{n}", classes=(n % 2,)) for n in range(10)]
    places, _ = draw_places(cases, test_fraction=0.95, folds=5, seed=0)
    left = Counter(case.classes for case in cases if places[case.patient] != TEST)
    assert left == {(0,): 2, (1,): 2}


def test_patient_with_several_classes_counts_for_the_rarest(make_case: MakeCase) -> None:
    cases = [make_case(f"{n}", f"p-{n}", classes=(0,)) for n in range(5)]
    cases += [make_case("x", "p-0", classes=(1,)), make_case("multi", "p-9", classes=(0, 2))]
    strata = {unit.patients[0]: unit.stratum[0] for unit in units_of(cases)}
    assert strata["p-0"] == "1"
    assert strata["p-1"] == "0"
    assert strata["p-9"] == "2"


def test_without_classes_collections_and_scanners_are_spread(make_case: MakeCase) -> None:
    cases = [
        make_case(f"{n}", f"p-{n}", columns={"collection": "ab"[n % 2], "scanner": "xy"[n % 4 // 2]}) for n in range(40)
    ]
    places = _draw(cases)
    tested = Counter(tuple(case.columns.values()) for case in cases if places[case.patient] == TEST)
    assert tested == {("a", "x"): 2, ("a", "y"): 2, ("b", "x"): 2, ("b", "y"): 2}


def test_patients_with_many_cases_are_spread(make_case: MakeCase) -> None:
    cases = [make_case(f"{n}", f"p-{n}") for n in range(20)]
    cases += [make_case(f"{n} {k}", f"p-{n}") for n in range(5) for k in range(9)]
    tested = [patient for patient, place in _draw(cases).items() if place == TEST]
    assert len(tested) == 4
    assert sum(patient in {f"p-{n}" for n in range(5)} for patient in tested) == 1


def test_identical_cases_of_two_patients_stand_on_one_side(make_case: MakeCase) -> None:
    cases = [make_case(f"{n}", f"p-{n}") for n in range(20)]
    twins = [make_case(f"{n}", f"twin-{n}", case_id=f"twin-{n}") for n in range(20)]
    places = _draw(cases + twins)
    assert all(places[f"p-{n}"] == places[f"twin-{n}"] for n in range(20))
    assert len(units_of(cases + twins)) == 20


def test_fewer_patients_than_folds_give_fewer_folds(make_case: MakeCase) -> None:
    places, notes = draw_places([make_case(f"{n}", f"p-{n}") for n in range(4)], test_fraction=0.2, folds=5, seed=0)
    assert sorted(places.values()) == [TEST, 0, 1, 2]
    assert notes == ["3 folds instead of 5: only 3 patients are left to train on"]


def test_two_patients_are_too_few(make_case: MakeCase) -> None:
    with pytest.raises(ConfigError, match="found 2 patients, expected at least 3"):
        _draw([make_case("a", "p"), make_case("b", "q"), make_case("c", "q")])


def test_every_nth_keeps_the_fraction(make_case: MakeCase) -> None:
    units = units_of([make_case(f"{n}", f"p-{n}") for n in range(10)])
    assert [units.index(unit) for unit in every_nth(units, 0.3)] == [1, 4, 8]  # 0.3 n rounds up at n = 2, 5, 9


def _column(make_case: MakeCase, parts: str) -> list[Case]:
    names = {"t": "Training", "v": "valid", "x": "TEST"}
    return [make_case(f"{n}", f"p-{n}", columns={"split": names[part]}) for n, part in enumerate(parts)]


def test_column_with_validation_gives_one_fold(make_case: MakeCase) -> None:
    places, notes = column_places(_column(make_case, "ttvx"), "split", folds=5, seed=0)
    assert places == {"p-0": TRAIN, "p-1": TRAIN, "p-2": 0, "p-3": TEST}
    assert notes == []


def test_column_without_validation_draws_folds_from_train(make_case: MakeCase) -> None:
    places, _ = column_places(_column(make_case, "tttttxx"), "split", folds=5, seed=0)
    assert sorted(places[f"p-{n}"] for n in range(5)) == [0, 1, 2, 3, 4]
    assert places["p-5"] == places["p-6"] == TEST


def test_column_without_test_or_train_is_refused(make_case: MakeCase) -> None:
    for parts, found in (("ttv", "2 train, 1 validation"), ("vx", "1 test, 1 validation")):
        with pytest.raises(ConfigError, match=f"column split: found {found}, expected cases to train on and to test"):
            column_places(_column(make_case, parts), "split", folds=5, seed=0)


def test_column_with_one_patient_to_train_on_is_refused(make_case: MakeCase) -> None:
    with pytest.raises(ConfigError, match="found 1 patients to train on, expected at least 2"):
        column_places(_column(make_case, "tx"), "split", folds=5, seed=0)


def test_unknown_part_is_refused(make_case: MakeCase) -> None:
    with pytest.raises(ConfigError, match="column split: found 'third', expected train, validation or test"):
        part_of(make_case("a", "p", columns={"split": "third"}), "split")


def test_column_that_shares_patients_is_refused_with_their_numbers(make_case: MakeCase) -> None:
    sides = {"a": ("train", "test"), "b": ("train", "test"), "c": ("val", "test"), "d": ("train", "train")}
    cases = [
        make_case(f"{name}{n}", f"p-{name}", columns={"split": part})
        for name, parts in sides.items()
        for n, part in enumerate(parts)
    ]
    words = "^train/test 2, validation/test 1 patients stand on both sides; use split: patient$"
    with pytest.raises(LeakageError, match=words):
        column_places(cases, "split", folds=5, seed=0)


def test_leaking_folders_of_real_radiographs_are_counted(make_case: MakeCase) -> None:
    table = SHARED / "nih_cxr_1000" / "metadata_joined.csv"
    if not table.exists():
        pytest.skip("the real data is absent: set MEDML_DATA to its folder")
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    cases = [
        make_case(row["file"], row["patient_id"], columns={"split": row["split"]}, classes=(int(row["label"]),))
        for row in rows
    ]
    words = "train/test 8, train/validation 15, validation/test 9 patients stand on both sides; use split: patient"
    with pytest.raises(LeakageError, match=words):
        column_places(cases, "split", folds=5, seed=0)
    places = _draw(cases)
    tested = [case for case in cases if places[case.patient] == TEST]
    assert 0.17 < len(tested) / len(cases) < 0.23


def test_patients_who_share_a_picture_stand_on_one_side(make_case: MakeCase) -> None:
    cases = [make_case(f"{n}", f"p-{n}", alike=(f"picture {n // 2}",)) for n in range(20)]
    bridge = make_case("bridge", "p-bridge", alike=("picture 0", "picture 1"))  # a T1 of one, a T2 of the other
    places = _draw([*cases, bridge])
    assert all(places[f"p-{n}"] == places[f"p-{n + 1}"] for n in range(0, 20, 2))
    assert len({places["p-bridge"], places["p-0"], places["p-3"]}) == 1
    assert len(units_of([*cases, bridge])) == 9
