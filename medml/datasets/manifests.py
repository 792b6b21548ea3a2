"""The files of frozen datasets: ``datasets/<name>/<digest>.json``."""

from __future__ import annotations

import re
from pathlib import Path

from medml.datasets.digests import verify
from medml.datasets.erasure import check_marked, mark_of
from medml.errors import MedmlError, NotFound
from medml.io.files import read_record, write_record
from medml.records.dataset import Dataset, assert_no_leakage
from medml.records.home import Home


def load(home: Home, name: str, digest: str | None = None) -> Dataset:
    """Return a frozen dataset, checked against its digests.

    Parameters
    ----------
    digest : str or None
        The version's digest or its first digits; None is the newest.

    Raises
    ------
    NotFound
        If there is none of that name or digest.
    MedmlError
        If the file was changed since it was frozen.
    """
    paths = _paths(home, name)
    if digest is None:
        dataset = newest(home, name)
        if dataset is None:
            existing = ", ".join(sorted({path.parent.name for path in home.datasets.glob("*/*.json")})) or "none"
            raise NotFound(f"there is no dataset {name}; frozen are: {existing}")
        return dataset
    found = [path for path in paths if path.stem.startswith(digest)]
    if len(found) != 1:
        versions = ", ".join(path.stem[:12] for path in paths) or "none"
        raise NotFound(f"dataset {name}: {len(found)} versions have the digest {digest}, expected one of: {versions}")
    return _read(found[0])


def newest(home: Home, name: str) -> Dataset | None:
    """Return the version that no other one names as its parent; None if nothing was frozen under the name."""
    versions = [_read(path) for path in _paths(home, name)]
    parents = {version.parent for version in versions}
    heads = [version for version in versions if version.digest not in parents]
    return max(heads, key=lambda version: (version.created, version.digest), default=None)


def write(home: Home, dataset: Dataset) -> Path:
    """Store a dataset under its digest and return the file."""
    verify(dataset)
    path = home.datasets / dataset.name / f"{dataset.digest}.json"
    write_record(path, dataset)
    return path


def verify_datasets(home: Home) -> list[str]:
    """Return one sentence for each frozen dataset of a home that does not hold: damaged, changed or leaking."""
    wrong: list[str] = []
    for path in sorted(home.datasets.glob("*/*.json")):
        try:
            assert_no_leakage(_read(path))
        except MedmlError as error:
            wrong.append(f"datasets/{path.parent.name}/{path.name}: {error}")
    return wrong


def _paths(home: Home, name: str) -> list[Path]:
    return sorted(path for path in (home.datasets / name).glob("*.json") if re.fullmatch(r"[0-9a-f]{64}", path.stem))


def _read(path: Path) -> Dataset:
    dataset = read_record(path, Dataset)
    mark = mark_of(path)
    if mark is None:
        verify(dataset)
    else:
        check_marked(path, mark)
    if dataset.digest != path.stem:
        raise MedmlError(f"{path.name}: holds the dataset {dataset.digest[:12]}; give the file back its own name")
    return dataset
