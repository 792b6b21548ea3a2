"""Digests of datasets and test sets: of contents, labels and patient grouping alone, so equal in every home."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable

from medml.errors import MedmlError
from medml.records.dataset import Case, Dataset


def digest_of(dataset: Dataset) -> str:
    """Return the digest of all cases, labels, test set and folds."""
    body = {
        **_question(dataset),
        "cases": _grouped(dataset.cases),
        "test": _contents(dataset, dataset.test),
        "folds": [_contents(dataset, fold) for fold in dataset.folds],
    }
    return _sha256(body)


def digest_of_test(dataset: Dataset) -> str:
    """Return the digest of the test set: its cases, how they belong to patients, and the labels they are tested for."""
    test = set(dataset.test)
    return _sha256({**_question(dataset), "cases": _grouped(case for case in dataset.cases if case.case_id in test)})


def verify(dataset: Dataset) -> None:
    """Raise `MedmlError` unless a dataset is what its digests say and its test set and folds hold only listed cases."""
    stray = {case_id for part in (dataset.test, *dataset.folds) for case_id in part}
    stray -= {case.case_id for case in dataset.cases}
    if stray:
        raise MedmlError(
            f"dataset {dataset.name}: {len(stray)} cases of its test set or folds are not listed; "
            "the file was changed, restore it from a backup"
        )
    for what, stored, found in (
        ("digest", dataset.digest, digest_of(dataset)),
        ("test digest", dataset.test_digest, digest_of_test(dataset)),
    ):
        if stored != found:
            raise MedmlError(
                f"dataset {dataset.name}: its {what} is {stored[:12]}, its cases give {found[:12]}; "
                "the file was changed, restore it from a backup"
            )


def _question(dataset: Dataset) -> dict[str, object]:
    labels = [[value, name] for value, name in sorted(dataset.labels.items())]
    return {"task": dataset.task, "labels": labels, "multi_label": dataset.multi_label}


def _grouped(cases: Iterable[Case]) -> list[list[str]]:
    """Return the case digests of each patient; a patient has no other name here."""
    patients: dict[str, list[str]] = {}
    for case in cases:
        patients.setdefault(case.patient, []).append(case.digest)
    return sorted(sorted(digests) for digests in patients.values())


def _contents(dataset: Dataset, case_ids: Iterable[str]) -> list[str]:
    wanted = set(case_ids)
    return sorted(case.digest for case in dataset.cases if case.case_id in wanted)


def _sha256(body: dict[str, object]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
