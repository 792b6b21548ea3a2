"""What a model has seen of the cases it is to be judged on: patients, identical images, and the same pictures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from medml.datasets.digests import digest_of_test
from medml.errors import LeakageError
from medml.metrics.likeness import alike
from medml.records.dataset import Case, Dataset
from medml.records.record import Record
from medml.records.scan import Scan


class Overlap(Record):
    """Counts over the cases of an evaluation, against train and validation of the dataset a model learned from.

    Attributes
    ----------
    dataset, digest : str
        What the model learned from.
    patients, seen_patients : int
        Patients of the evaluation, and those of them that the model learned from.
    cases, seen_cases : int
        Cases of the evaluation, and those of a patient or with a picture that the model learned from.
    identical, alike : int
        Cases with an image of the same content; further cases with one that is the same picture.
    unknown : int
        Cases of both sides with an image that has no fingerprint: only identical content is found there.
    """

    dataset: str
    digest: str
    patients: int
    seen_patients: int
    cases: int
    seen_cases: int
    identical: int
    alike: int
    unknown: int

    def sentence(self) -> str:
        """Return the counts for a reader."""
        return (
            f"of {self.patients} patients evaluated, {self.seen_patients} stand in train or validation of "
            f"{self.dataset} ({self.digest[:12]}), which the model learned from; of {self.cases} cases, "
            f"{self.identical} hold an identical image and {self.alike} more the same picture as one it learned from"
        )


def all_cases(dataset: Dataset) -> Dataset:
    """Return a dataset all of whose cases are tested on, with the digest of that test set."""
    whole = dataset.model_copy(update={"test": tuple(case.case_id for case in dataset.cases), "folds": ((),)})
    return whole.model_copy(update={"test_digest": digest_of_test(whole)})


def learned_cases(trained: Dataset) -> tuple[Case, ...]:
    """Return train and validation of a dataset: a model is fitted on one and chosen by the other, in any fold."""
    held = set(trained.test)
    return tuple(case for case in trained.cases if case.case_id not in held)


def find_overlap(evaluated: Sequence[Case], trained: Dataset, scans: Iterable[Scan]) -> Overlap:
    """Compare cases with those that a model learned from.

    Parameters
    ----------
    evaluated : sequence of Case
        The cases it is to be judged on.
    trained : Dataset
        The frozen dataset it was trained on.
    scans : iterable of Scan
        The scans of both; content and fingerprint are read from them.

    Raises
    ------
    LeakageError
        If scans are missing, so that nothing can be said of their pictures.
    """
    learned = learned_cases(trained)
    by_id = {scan.scan_id: scan for scan in scans}
    wanted = {scan_id for case in (*evaluated, *learned) for scan_id in case.scans}
    if missing := wanted - by_id.keys():
        raise LeakageError(
            f"{len(missing)} of {len(wanted)} scans of the evaluation and of {trained.name} are not in the catalogue, "
            "so nobody can say whether the model has seen them; ingest them again, or pass --allow-seen"
        )
    patients = {case.patient for case in evaluated}
    known = {case.patient for case in learned}
    contents = {by_id[scan_id].content for case in learned for scan_id in case.scans}
    identical = {case.case_id for case in evaluated if any(by_id[scan].content in contents for scan in case.scans)}
    pictured = _pictured(evaluated, learned, by_id) - identical
    unknown = {case.case_id for case in (*evaluated, *learned) if any(not by_id[scan].likeness for scan in case.scans)}
    of_known = {case.case_id for case in evaluated if case.patient in known}
    return Overlap(
        dataset=trained.name,
        digest=trained.digest,
        patients=len(patients),
        seen_patients=len(patients & known),
        cases=len(evaluated),
        seen_cases=len(of_known | identical | pictured),
        identical=len(identical),
        alike=len(pictured),
        unknown=len(unknown),
    )


def _pictured(evaluated: Sequence[Case], learned: Sequence[Case], by_id: dict[str, Scan]) -> set[str]:
    """Return the ids of evaluated cases with an image that is the same picture as one learned from."""
    owners: dict[str, set[str]] = {}
    for case in evaluated:
        for scan_id in case.scans:
            owners.setdefault(by_id[scan_id].likeness, set()).add(case.case_id)
    taught = {by_id[scan_id].likeness for case in learned for scan_id in case.scans}
    fingerprints = sorted((owners.keys() | taught) - {""})
    found: set[str] = set()
    for text in owners.keys() & taught - {""}:
        found |= owners[text]
    for group in alike(fingerprints):
        texts = {fingerprints[index] for index in group}
        if texts & taught:
            found.update(*(owners.get(text, set()) for text in texts))
    return found
