"""Freeze a dataset, keep it, or make its next version."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

from medml.datasets.cases import Gathered, gather_cases
from medml.datasets.digests import digest_of, digest_of_test
from medml.datasets.erasure import refuse_erased
from medml.datasets.lineage import Succession, succeed
from medml.datasets.manifests import load, newest, verify_datasets, write
from medml.datasets.split import TEST, Places, column_places, draw_places
from medml.errors import ConfigError, MedmlError, NotFound
from medml.records.dataset import Case, Dataset, Omitted, Task, assert_no_leakage
from medml.records.experiment import DatasetChoice
from medml.records.home import Home
from medml.records.record import Record
from medml.records.scan import WAVEFORMS

if TYPE_CHECKING:
    from medml.store.catalogue import Catalogue

__all__ = ["Freshness", "freeze", "load", "verify_datasets"]

OFFICIAL_COLUMN = "split"


class Freshness(Record):
    """How a frozen dataset stands to what the catalogue holds now.

    Attributes
    ----------
    state : str
        "frozen" now for the first time, "kept" as it was, "refreshed" by a new version, or "unchanged" by a refresh.
    added, removed : int
        Cases that the selection has and the returned dataset has not, and the other way round (a case whose label
        changed counts as both).
    notes : tuple of str
        Sentences for the user.
    """

    state: Literal["frozen", "kept", "refreshed", "unchanged"]
    added: int = 0
    removed: int = 0
    notes: tuple[str, ...] = ()


def freeze(
    choice: DatasetChoice,
    task: Task,
    catalogue: Catalogue,
    home: Home,
    *,
    refresh: bool = False,
    extend_test: bool = False,
) -> tuple[Dataset, Freshness]:
    """Use the frozen dataset of this name, freeze one if there is none, or make its next version.

    Parameters
    ----------
    refresh : bool
        Make a new version if the selection has changed. Its test set stays; newcomers join train and validation.
    extend_test : bool
        A refresh that also adds to the test set.

    Raises
    ------
    NotFound
        If nothing in the catalogue matches the selection.
    ConfigError
        If the selection makes no dataset, the name belongs to one with another task or split, or cases of the kept one
        were erased.
    LeakageError
        If the split asked for puts a patient on two sides.
    """
    parent = newest(home, choice.name)
    if parent is not None:
        _check_same_question(parent, choice, task)
        assert_no_leakage(parent)
        if not refresh and not extend_test:
            refuse_erased(home, parent, "trained on")
            return parent, _kept(parent, choice, catalogue)
    gathered = _gather(choice, task, catalogue)
    dataset, notes = _first(choice, task, gathered) if parent is None else _next(parent, choice, gathered, extend_test)
    dataset = _sealed(dataset, choice, catalogue)
    assert_no_leakage(dataset)
    left_out = _left_out(dataset.omitted)
    if parent is not None and dataset.digest == parent.digest:
        return parent, Freshness(state="unchanged", notes=("no new version: it would be the same", *left_out))
    write(home, dataset)
    return dataset, Freshness(state="frozen" if parent is None else "refreshed", notes=(*notes, *left_out))


def _check_same_question(parent: Dataset, choice: DatasetChoice, task: Task) -> None:
    for what, frozen, asked in (("task", parent.task, task), ("split", parent.split, choice.split)):
        if frozen != asked:
            raise ConfigError(
                f"dataset {choice.name} is frozen with {what}: {frozen}, found {what}: {asked}; a version keeps its "
                "parent's test set, so give the other one another name"
            )


def _gather(choice: DatasetChoice, task: Task, catalogue: Catalogue) -> Gathered:
    scans = [scan for scan in catalogue.scans(**choice.select) if scan.modality not in WAVEFORMS]
    if not scans:
        asked = ", ".join(f"{key}: {value}" for key, value in choice.select.items()) or "everything"
        existing = ", ".join(f"{item.name} ({item.scans} scans)" for item in catalogue.collections()) or "none"
        raise NotFound(
            f"dataset {choice.name}: no scan matches its selection ({asked}); collections: {existing}. Ingest first, "
            "or correct `select`"
        )
    annotations = catalogue.annotations(scan.scan_id for scan in scans)
    return gather_cases(scans, annotations, task, chosen=choice.annotation)


def _kept(parent: Dataset, choice: DatasetChoice, catalogue: Catalogue) -> Freshness:
    """Compare a frozen dataset with the catalogue; whatever the catalogue holds now, the dataset can be used."""
    notes = []
    if dict(parent.select) != choice.select:
        notes.append("its selection differs from the one asked for; --refresh freezes a new version")
    try:
        cases, succession = _succession(parent, choice, _gather(choice, parent.task, catalogue), [], extend_test=False)
    except MedmlError as error:
        notes.append(f"kept as frozen; it could not be frozen again now: {error}")
        return Freshness(state="kept", removed=len(parent.cases), notes=tuple(notes))
    current = Counter(case.digest for case in cases)
    frozen = Counter(case.digest for case in parent.cases)
    added, removed = (current - frozen).total(), (frozen - current).total()
    if added:
        notes.append(f"the selection has grown by {added} cases since it was frozen; --refresh freezes a new version")
    if removed:
        notes.append(f"{removed} frozen cases are no longer selected, or their labels changed")
    if succession.held_back:
        notes.append(f"{len(succession.held_back)} scans could only join the test set; --extend-test adds them")
    return Freshness(state="kept", added=added, removed=removed, notes=tuple(notes))


def _first(choice: DatasetChoice, task: Task, gathered: Gathered) -> tuple[Dataset, tuple[str, ...]]:
    """Make the first version, without its digests."""
    cases, omitted = gathered.cases, list(gathered.omitted)
    column = _column(choice)
    if column is None:
        places, notes = draw_places(cases, test_fraction=choice.test_fraction, folds=choice.folds, seed=choice.seed)
        notes += _joined(cases)
    else:
        cases = _placed_by(column, cases, omitted, choice)
        places, notes = column_places(cases, column, folds=choice.folds, seed=choice.seed)
        notes += _twins(cases, places)
    return _dataset(choice, task, gathered, cases, places, omitted), tuple(notes)


def _next(
    parent: Dataset, choice: DatasetChoice, gathered: Gathered, extend_test: bool
) -> tuple[Dataset, tuple[str, ...]]:
    """Make the version after ``parent``, without its digests."""
    if gathered.labels != parent.labels or gathered.multi_label != parent.multi_label:
        raise ConfigError(
            f"dataset {choice.name}: its labels were {parent.labels}, found {gathered.labels}; a version keeps its "
            "parent's labels, so give the new one another name"
        )
    omitted = list(gathered.omitted)
    cases, succession = _succession(parent, choice, gathered, omitted, extend_test=extend_test)
    dataset = _dataset(
        choice, parent.task, gathered, cases, succession.places, [*omitted, *succession.held_back], len(parent.folds)
    )
    if not dataset.test or not all(dataset.folds) or not dataset.cases_of("train"):
        raise ConfigError(
            f"dataset {choice.name}: too few of its frozen cases are still selected, so its test set, its training set "
            "or a fold would be empty; correct `select`, or give the new one another name"
        )
    changed = digest_of_test(dataset) != parent.test_digest
    lineage = {"parent": parent.digest, "test_parent": parent.test_digest if changed else parent.test_parent}
    before = {case.case_id for case in parent.cases}
    joined = sum(case.case_id not in before for case in cases)
    notes = [f"{joined} cases joined, {len(before - {case.case_id for case in cases})} left"]
    notes += _twins(cases, succession.places)
    if changed:
        notes.append("the test set has changed: evaluate the champion on it before a challenger is compared")
    return dataset.model_copy(update=lineage), tuple(notes)


def _succession(
    parent: Dataset, choice: DatasetChoice, gathered: Gathered, omitted: list[Omitted], *, extend_test: bool
) -> tuple[tuple[Case, ...], Succession]:
    """Return the cases of a next version and where their patients stand."""
    cases, column = gathered.cases, _column(choice)
    if column is not None:
        cases = _placed_by(column, cases, omitted, choice)
    succession = succeed(
        parent,
        cases,
        column=column,
        test_fraction=choice.test_fraction,
        seed=choice.seed,
        extend_test=extend_test,
    )
    held = {item.scan_id for item in succession.held_back}
    return tuple(case for case in cases if case.case_id not in held), succession


def _column(choice: DatasetChoice) -> str | None:
    return {"patient": None, "official": OFFICIAL_COLUMN, "column": choice.split_column}[choice.split]


def _placed_by(column: str, cases: tuple[Case, ...], omitted: list[Omitted], choice: DatasetChoice) -> tuple[Case, ...]:
    """Return the cases that a column places; the others are omitted."""
    placed = tuple(case for case in cases if case.columns.get(column) is not None)
    if not placed:
        columns = ", ".join(sorted({key for case in cases for key in case.columns})) or "none"
        raise ConfigError(
            f"dataset {choice.name}: split: {choice.split} needs the column {column}, which no case has (columns: "
            f"{columns}); use split: patient"
        )
    reason = f"its column {column} is empty, so it has no part in the split"
    left = [case for case in cases if case.columns.get(column) is None]
    omitted.extend(Omitted(scan_id=scan_id, code="no_split", reason=reason) for case in left for scan_id in case.scans)
    return placed


def _twins(cases: Iterable[Case], places: Places) -> list[str]:
    """Count test cases that a published split, or an older version, also trains on under other patients."""
    twins = []
    for words, keys in (("identical to", _own_digest), ("the same picture as", _pictures)):
        trained = {key for case in cases if places[case.patient] != TEST for key in keys(case)}
        tested = sum(places[case.patient] == TEST and not trained.isdisjoint(keys(case)) for case in cases)
        if tested:
            twins.append(f"{tested} test cases are {words} cases that are trained on, under other patients")
    return twins


def _own_digest(case: Case) -> tuple[str, ...]:
    return (case.digest,)


def _pictures(case: Case) -> tuple[str, ...]:
    return case.alike


def _joined(cases: Iterable[Case]) -> list[str]:
    """Count patients who were drawn together because they share a picture."""
    joined = {case.patient for case in cases if case.alike}
    return [f"{len(joined)} patients share pictures with others and stand on one side with them"] if joined else []


def _dataset(
    choice: DatasetChoice,
    task: Task,
    gathered: Gathered,
    cases: tuple[Case, ...],
    places: Places,
    omitted: list[Omitted],
    folds: int = 0,
) -> Dataset:
    count = folds or max([*places.values(), 0]) + 1
    return Dataset(
        name=choice.name,
        digest="",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        task=task,
        select=choice.select,
        split=choice.split,
        seed=choice.seed,
        labels=gathered.labels,
        multi_label=gathered.multi_label,
        channels=gathered.channels,
        modality=gathered.modality,
        geometry=gathered.geometry,
        cases=cases,
        test=tuple(case.case_id for case in cases if places[case.patient] == TEST),
        folds=tuple(tuple(case.case_id for case in cases if places[case.patient] == fold) for fold in range(count)),
        test_digest="",
        omitted=tuple(omitted),
    )


def _sealed(dataset: Dataset, choice: DatasetChoice, catalogue: Catalogue) -> Dataset:
    """Add what is derived from the cases: digests, subgroup columns, licences and consent notes."""
    present = {key for case in dataset.cases for key, value in case.columns.items() if value is not None}
    used = {str(case.columns["collection"]) for case in dataset.cases}
    collections = [item for item in catalogue.collections() if item.name in used]
    return dataset.model_copy(
        update={
            "subgroups": tuple(column for column in choice.subgroups if column in present),
            "licences": {item.name: item.licence for item in collections},
            "consents": {item.name: item.consent for item in collections},
            "digest": digest_of(dataset),
            "test_digest": digest_of_test(dataset),
        }
    )


def _left_out(omitted: Iterable[Omitted]) -> tuple[str, ...]:
    counts = Counter(item.code for item in omitted)
    return tuple(f"{count} scans left out: {code}" for code, count in sorted(counts.items()))
