"""Cases of a patient taken out of frozen datasets: the digest stays, a mark beside says that cases are missing."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path

from medml.errors import ConfigError, MedmlError
from medml.io.files import read_record, sha256_file, temporary_path, write_record
from medml.records.dataset import Dataset
from medml.records.erasure import Forgotten
from medml.records.home import Home

MARK = ".forgotten"


def mark_of(path: Path) -> Forgotten | None:
    """Return the mark beside a frozen dataset's file, if cases of it were erased."""
    mark = path.with_suffix(MARK)
    return read_record(mark, Forgotten) if mark.exists() else None


def check_marked(path: Path, mark: Forgotten) -> None:
    """Raise `MedmlError` unless a marked dataset's file is as the last erasure left it."""
    if sha256_file(path) != mark.sha256:
        raise MedmlError(
            f"{path.name}: is not as the last erasure left it; run medml forget again if one was interrupted, "
            "else restore the file from a backup"
        )


def refuse_erased(home: Home, dataset: Dataset, purpose: str) -> None:
    """Refuse a frozen dataset some of whose cases were erased.

    Parameters
    ----------
    purpose : str
        What it is wanted for: "trained on", "tested on", ….

    Raises
    ------
    ConfigError
        If it is marked.
    """
    mark = mark_of(home.datasets / dataset.name / f"{dataset.digest}.json")
    if mark is not None:
        raise ConfigError(
            f"dataset {dataset.name} ({dataset.digest[:12]}): {mark.erased} of its {mark.total} cases were erased on "
            f"request, so it is not what its digest says and cannot be {purpose}; freeze a new version without them: "
            "--refresh"
        )


def datasets_of_patient(home: Home, names: Collection[str], patient: str) -> dict[Path, int]:
    """Return the frozen datasets that name a patient or one of its scans, and how many cases of it they hold.

    Parameters
    ----------
    names : collection of str
        Scan ids and content digests of the patient alone.
    """
    gone, found = set(names), {}
    for path in sorted(home.datasets.glob("*/*.json")):
        dataset = read_record(path, Dataset)
        kept = _without(dataset, gone, patient)
        if kept != dataset:
            found[path] = len(dataset.cases) - len(kept.cases)
    return found


def erase_cases(path: Path, names: Collection[str], patient: str) -> None:
    """Take a patient's cases out of a frozen dataset's file, and write the mark; done again, it changes nothing."""
    dataset = read_record(path, Dataset)
    kept = _without(dataset, set(names), patient)
    if kept == dataset:
        return
    before = mark_of(path)
    if before is None and len(kept.cases) == len(dataset.cases):
        write_record(path, kept)  # only named among what was left out; its digest holds
        return
    staged = temporary_path(path)
    try:
        write_record(staged, kept)
        mark = Forgotten(
            digest=dataset.digest,
            total=before.total if before else len(dataset.cases),
            left=len(kept.cases),
            when=datetime.now(UTC).isoformat(timespec="seconds"),
            sha256=sha256_file(staged),
        )
        # The mark comes first: from now on nobody trains on it, whatever happens to this process.
        write_record(path.with_suffix(MARK), mark)
        write_record(path, kept)
    finally:
        staged.unlink(missing_ok=True)


def _without(dataset: Dataset, gone: set[str], patient: str) -> Dataset:
    """Return a dataset without a patient's cases, its digests as they were."""
    cases = tuple(
        case.model_copy(update={"alike": tuple(key for key in case.alike if key not in gone)})
        for case in dataset.cases
        if case.patient != patient and gone.isdisjoint({case.case_id, *case.scans})
    )
    left = {case.case_id for case in cases}
    omitted = tuple(item for item in dataset.omitted if item.scan_id not in gone)
    update = {
        "cases": cases,
        "test": tuple(case_id for case_id in dataset.test if case_id in left),
        "folds": tuple(tuple(case_id for case_id in fold if case_id in left) for fold in dataset.folds),
        "omitted": omitted,
    }
    # Selected by the patient's own pseudonym, a dataset would still name it.
    select = {key: value for key, value in dataset.select.items() if value != patient}
    return dataset.model_copy(update={**update, "select": select})
