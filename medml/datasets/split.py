"""Test set and folds: whole patients, stratified, the same draw from the same data in every home."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from medml.errors import ConfigError, LeakageError
from medml.records.dataset import Case

TEST, TRAIN = -1, -2
PARTS = {
    **dict.fromkeys(("train", "training", "tr"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "ts", "holdout", "heldout", "hold-out", "held-out"), "test"),
}

Places = dict[str, int]
"""Patient to `TEST`, `TRAIN` or the number of the fold that validates on it."""


@dataclass(frozen=True, slots=True)
class Unit:
    """Patients that must stand on one side: one patient, or several who share an identical case or one picture.

    Attributes
    ----------
    key : str
        Smallest case digest: says which unit it is in every home.
    stratum : tuple of str
        Class first (empty if there is none), then collection, scanner, and how many cases there are, to a power of two.
    """

    key: str
    patients: tuple[str, ...]
    stratum: tuple[str, ...]


def draw_places(cases: Sequence[Case], *, test_fraction: float, folds: int, seed: int) -> tuple[Places, list[str]]:
    """Draw a test set and folds by patient.

    Parameters
    ----------
    cases : sequence of Case
        In any order.
    folds : int
        How many; fewer if there are fewer patients.

    Returns
    -------
    places : dict
        Patient to `TEST` or fold number.
    notes : list of str
        What a reader should know about the draw.

    Raises
    ------
    ConfigError
        If there are fewer than three patients.
    """
    units = units_of(cases)
    if len(units) < 3:
        raise ConfigError(
            f"found {len(units)} patients, expected at least 3, one each to train, validate and test; add patients"
        )
    generator = np.random.default_rng(seed)
    ordered = shuffled(units, generator)
    test = _choose_test(ordered, test_fraction)
    places, notes = deal_folds([unit for unit in ordered if unit.key not in test], folds)
    notes += _rare(units, folds=max(places.values()) + 1)
    tested = {patient: TEST for unit in units if unit.key in test for patient in unit.patients}
    return places | tested, notes


def column_places(cases: Sequence[Case], column: str, *, folds: int, seed: int) -> tuple[Places, list[str]]:
    """Take test and validation from a column; folds are drawn from train where it names no validation.

    Raises
    ------
    ConfigError
        If a value of the column is not a part's name, or no case is to be trained on or tested on.
    LeakageError
        If the column puts a patient on two sides.
    """
    parts = {case.case_id: part_of(case, column) for case in cases}
    counts = Counter(parts.values())
    if not counts["test"] or not counts["train"]:
        found = ", ".join(f"{count} {part}" for part, count in sorted(counts.items())) or "nothing"
        raise ConfigError(
            f"column {column}: found {found}, expected cases to train on and to test on; use split: patient"
        )
    refuse_shared((parts[case.case_id], case.patient) for case in cases)
    fixed = {"test": TEST, "train": TRAIN, "validation": 0}
    places = {case.patient: fixed[parts[case.case_id]] for case in cases}
    if counts["validation"]:
        return places, []
    train = units_of([case for case in cases if places[case.patient] == TRAIN])
    if len(train) < 2:
        raise ConfigError(f"column {column}: found {len(train)} patients to train on, expected at least 2 for folds")
    drawn, notes = deal_folds(shuffled(train, np.random.default_rng(seed)), folds)
    return places | drawn, notes


def part_of(case: Case, column: str) -> str:
    """Return "train", "validation" or "test" as a column says for a case."""
    value = case.columns.get(column)
    part = PARTS.get(str(value).strip().lower())
    if part is None:
        raise ConfigError(f"column {column}: found {value!r}, expected train, validation or test; use split: patient")
    return part


def units_of(cases: Iterable[Case]) -> list[Unit]:
    """Return what is drawn as a whole, by key: patients, joined where they share an identical case or one picture."""
    ordered = sorted(cases, key=lambda case: (case.digest, case.patient))
    root: dict[str, str] = {case.patient: case.patient for case in ordered}

    def find(patient: str) -> str:
        while root[patient] != patient:
            root[patient] = root[root[patient]]
            patient = root[patient]
        return patient

    for one, other in pairwise(ordered):
        if one.digest == other.digest:
            root[find(other.patient)] = find(one.patient)
    first: dict[str, str] = {}
    for case in ordered:
        for picture in case.alike:
            root[find(case.patient)] = find(first.setdefault(picture, case.patient))
    members: dict[str, list[Case]] = {}
    for case in ordered:
        members.setdefault(find(case.patient), []).append(case)
    counts = Counter(value for case in ordered for value in case.classes or ())
    return sorted((_unit(group, counts) for group in members.values()), key=lambda unit: unit.key)


def shuffled(units: Sequence[Unit], generator: np.random.Generator) -> list[Unit]:
    """Shuffle units inside their strata; strata stand by class, then by smallest key: names differ by home."""
    strata: dict[tuple[str, ...], list[Unit]] = {}
    for unit in sorted(units, key=lambda unit: unit.key):
        strata.setdefault(unit.stratum, []).append(unit)
    ordered: list[Unit] = []
    for _, members in sorted(strata.items(), key=lambda item: (item[0][0], item[1][0].key)):
        ordered.extend(members[index] for index in generator.permutation(len(members)))
    return ordered


def every_nth(ordered: Sequence[Unit], fraction: float) -> list[Unit]:
    """Choose a fraction of sorted units at even distances, so in proportion from every stratum."""
    rounded = np.floor(np.arange(len(ordered) + 1) * fraction + 0.5)
    return [unit for unit, step in zip(ordered, np.diff(rounded), strict=True) if step > 0]


def deal_folds(ordered: Sequence[Unit], folds: int) -> tuple[Places, list[str]]:
    """Deal shuffled units, sorted by stratum, to the folds in turn."""
    count = min(folds, len(ordered))
    places = {patient: number % count for number, unit in enumerate(ordered) for patient in unit.patients}
    few = [f"{count} folds instead of {folds}: only {count} patients are left to train on"] if count < folds else []
    return places, few


def refuse_shared(placed: Iterable[tuple[str, str]]) -> None:
    """Raise if (part, patient) pairs show a patient in two parts, with the number for each pair of parts."""
    patients: dict[str, set[str]] = {"train": set(), "test": set(), "validation": set()}
    for part, patient in placed:
        patients[part].add(patient)
    pairs = [("train", "test"), ("train", "validation"), ("validation", "test")]
    shared = {f"{one}/{other}": len(patients[one] & patients[other]) for one, other in pairs}
    if any(shared.values()):
        listed = ", ".join(f"{pair} {count}" for pair, count in shared.items() if count)
        raise LeakageError(f"{listed} patients stand on both sides; use split: patient")


def _unit(cases: Sequence[Case], counts: Mapping[int, int]) -> Unit:
    """Make a unit of cases sorted by digest; its class is the rarest one that any of them has."""
    classes = sorted(
        {value for case in cases for value in case.classes or ()}, key=lambda value: (counts[value], value)
    )
    columns = cases[0].columns
    rarest = str(classes[0]) if classes else ""
    stratum = (rarest, str(columns.get("collection")), str(columns.get("scanner")), str(len(cases).bit_length()))
    return Unit(cases[0].digest, tuple(sorted({case.patient for case in cases})), stratum)


def _choose_test(ordered: Sequence[Unit], fraction: float) -> set[str]:
    """Choose the keys of the test units in proportion from every stratum.

    A class of three or more patients is tested on at least one of them and leaves at least two.
    """
    chosen = {unit.key for unit in every_nth(ordered, fraction)}
    classes: dict[str, list[str]] = {}
    for unit in ordered:
        classes.setdefault(unit.stratum[0], []).append(unit.key)
    for members in classes.values():
        tested = [key for key in members if key in chosen]
        if not tested and len(members) >= 3:
            chosen.add(members[0])
        most = len(members) - (2 if len(members) >= 3 else 1)
        chosen.difference_update(tested[most:])
    return chosen or {ordered[0].key}


def _rare(units: Sequence[Unit], *, folds: int) -> list[str]:
    counts = Counter(unit.stratum[0] for unit in units if unit.stratum[0])
    return [
        f"class {value} has {count} patients only: some folds validate without it"
        for value, count in sorted(counts.items())
        if count < folds + 1
    ]
