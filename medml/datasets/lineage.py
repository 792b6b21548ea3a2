"""A new version of a dataset: nobody moves into or out of its parent's test set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from medml.datasets.split import TEST, TRAIN, Places, Unit, every_nth, part_of, refuse_shared, shuffled, units_of
from medml.records.dataset import Case, Dataset, Omitted

HELD_BACK = {
    "test_patient": "its patient, or one with the same picture, is tested on; --extend-test adds it to the test set",
    "test_newcomer": "its column puts it into the test set, which stays as it is; --extend-test adds it",
}


@dataclass(slots=True)
class Succession:
    """Where the patients of a new version stand.

    Attributes
    ----------
    held_back : list of Omitted
        Cases that would have to join the test set, which stays as it is.
    """

    places: Places
    held_back: list[Omitted] = field(default_factory=list)


def succeed(
    parent: Dataset,
    cases: Sequence[Case],
    *,
    column: str | None,
    test_fraction: float,
    seed: int,
    extend_test: bool,
) -> Succession:
    """Place the cases of a new version: known patients where they were, newcomers into train and validation.

    Parameters
    ----------
    column : str or None
        The column that newcomers follow; None draws them.
    extend_test : bool
        Add to the test set new cases of its patients and a share of the newcomers.
    """
    known = parent_places(parent)
    succession = Succession({case.patient: known[case.patient] for case in cases if case.patient in known})
    newcomers: list[Unit] = []
    for unit in units_of(cases):
        places = {known[patient] for patient in unit.patients if patient in known}
        if not places:
            newcomers.append(unit)
            continue
        # A newcomer who shares a case or a picture with a known patient stands where that one does, test before all.
        place = TEST if TEST in places else max(places)
        succession.places.update({patient: place for patient in unit.patients if patient not in known})
    new = {patient for unit in newcomers for patient in unit.patients}
    if column is None:
        succession.places.update(_draw(newcomers, parent, test_fraction, seed, extend_test=extend_test))
    else:
        _follow(succession.places, [case for case in cases if case.patient in new], column, parent, seed)
    if not extend_test:
        _hold_back(succession, parent, cases, new)
    return succession


def parent_places(parent: Dataset) -> Places:
    """Return where each patient of a frozen dataset stands."""
    fold_of = {case_id: number for number, fold in enumerate(parent.folds) for case_id in fold}
    fold_of |= dict.fromkeys(parent.test, TEST)
    return {case.patient: fold_of.get(case.case_id, TRAIN) for case in parent.cases}


def _draw(units: Sequence[Unit], parent: Dataset, fraction: float, seed: int, *, extend_test: bool) -> Places:
    ordered = shuffled(units, np.random.default_rng(seed))
    test = {unit.key for unit in every_nth(ordered, fraction)} if extend_test else set()
    places = {patient: TEST for unit in ordered if unit.key in test for patient in unit.patients}
    return places | _deal([unit for unit in ordered if unit.key not in test], parent)


def _deal(units: Sequence[Unit], parent: Dataset) -> Places:
    """Deal newcomers to the parent's folds in turn, the smallest fold first."""
    smallest_first = sorted(range(len(parent.folds)), key=lambda number: (len(parent.folds[number]), number))
    return {
        patient: smallest_first[turn % len(smallest_first)]
        for turn, unit in enumerate(units)
        for patient in unit.patients
    }


def _follow(places: Places, cases: Sequence[Case], column: str, parent: Dataset, seed: int) -> None:
    """Place newcomers as the column says; to folds in turn where the parent's folds were drawn."""
    parts = {case.case_id: part_of(case, column) for case in cases}
    refuse_shared((parts[case.case_id], case.patient) for case in cases)
    fixed = {"test": TEST, "train": TRAIN, "validation": 0}
    places.update({case.patient: fixed[parts[case.case_id]] for case in cases})
    if TRAIN not in parent_places(parent).values():
        train = [case for case in cases if parts[case.case_id] == "train"]
        places.update(_deal(shuffled(units_of(train), np.random.default_rng(seed)), parent))


def _hold_back(succession: Succession, parent: Dataset, cases: Sequence[Case], newcomers: set[str]) -> None:
    """Omit what would change the test set."""
    tested = set(parent.test)
    for case in cases:
        if succession.places[case.patient] == TEST and case.case_id not in tested:
            code = "test_newcomer" if case.patient in newcomers else "test_patient"
            succession.held_back.extend(
                Omitted(scan_id=scan_id, code=code, reason=HELD_BACK[code]) for scan_id in case.scans
            )
