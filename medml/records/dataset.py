"""Cases and the frozen dataset."""

from __future__ import annotations

from typing import Literal

from medml.errors import LeakageError
from medml.records.record import Record
from medml.records.scan import Column

Task = Literal["segment", "classify"]


class Case(Record):
    """One or more scans of one patient as ordered channels, with at most one mask and any class labels.

    Attributes
    ----------
    case_id : str
        The scan id of the first channel.
    scans : tuple of str
        Scan ids in channel order; the first one's grid is the case's grid.
    mask : str
        File name of the mask in the first scan's folder, if there is one.
    digest : str
        sha256 over the content digests of scans, mask and classes: the same in every home.
    shape, spacing_mm
        Of the first scan's canonical grid; spacing is None when unknown.
    alike : tuple of str
        One key for each picture that cases of several patients share: the smallest content digest of its copies.
    origin : str
        Of the mask or the classes that the case stands on, such as ``review``: a person's word on a model's result.
    """

    case_id: str
    patient: str
    scans: tuple[str, ...]
    mask: str | None = None
    classes: tuple[int, ...] | None = None
    digest: str
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float] | None
    columns: dict[str, Column] = {}
    alike: tuple[str, ...] = ()
    origin: str = ""


class Omitted(Record):
    """A scan of the selection that did not become part of a case, and why."""

    scan_id: str
    code: str
    reason: str


class Dataset(Record):
    """A frozen, versioned list of cases with a test set and folds; ``digest`` names it.

    Attributes
    ----------
    labels : dict
        Value to name; masks: 0 is background.
    channels : tuple of str
        Names of the channels that networks see (an RGB picture has three).
    test : tuple of str
        Case ids held out.
    folds : tuple of tuple of str
        Validation case ids of each fold; what is in neither test nor the fold is trained on. An official or column
        split that names its validation set has one fold.
    test_digest : str
        Digest of the test set alone, the same in every home.
    subgroups : tuple of str
        Columns to audit.
    licences, consents : dict
        Collection to what was stated about its licence and consent; empty where nothing was.
    """

    name: str
    digest: str
    parent: str | None = None
    created: str
    task: Task
    select: dict[str, str]
    split: Literal["patient", "official", "column"]
    seed: int
    labels: dict[int, str]
    multi_label: bool = False
    channels: tuple[str, ...]
    modality: str
    geometry: Literal["mm", "none"]
    cases: tuple[Case, ...]
    test: tuple[str, ...]
    folds: tuple[tuple[str, ...], ...]
    test_digest: str
    test_parent: str | None = None
    subgroups: tuple[str, ...] = ()
    licences: dict[str, str] = {}
    consents: dict[str, str] = {}
    omitted: tuple[Omitted, ...] = ()

    def cases_of(self, part: Literal["train", "validation", "test"], *, fold: int = 0) -> tuple[Case, ...]:
        """Return the cases of one part, in manifest order."""
        test, validation = set(self.test), set(self.folds[fold])
        if part == "train":
            held = test | validation
            return tuple(case for case in self.cases if case.case_id not in held)
        wanted = test if part == "test" else validation
        return tuple(case for case in self.cases if case.case_id in wanted)


def assert_no_leakage(dataset: Dataset) -> None:
    """Prove that no patient stands on two sides of any split of a dataset.

    Raises
    ------
    LeakageError
        With how many patients are shared, and by which sides.
    """
    for fold in range(len(dataset.folds)):
        sides = {
            part: {case.patient for case in dataset.cases_of(part, fold=fold)}
            for part in ("train", "validation", "test")
        }
        for first, second in (("train", "test"), ("train", "validation"), ("validation", "test")):
            shared = sides[first] & sides[second]
            if shared:
                raise LeakageError(
                    f"dataset {dataset.name}, fold {fold}: {len(shared)} patients stand in both {first} and {second}; "
                    "figures would flatter the model. Freeze it with split: patient"
                )
