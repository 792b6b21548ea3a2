"""Whether a model is judged on cases that it has not seen."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from medml.records.dataset import Dataset
from medml.records.home import Home
from pipelines.stores import open_catalogue

if TYPE_CHECKING:
    from medml.registry.models import ModelVersion


class Independence(NamedTuple):
    """What a model has seen of the cases it is to be judged on.

    Attributes
    ----------
    warning : str
        Marks the report; empty if nothing is wrong.
    notes : tuple of str
        What a reader of the report must know.
    seen : int or None
        Cases that it learned from; None: nobody knows.
    """

    warning: str
    notes: tuple[str, ...]
    seen: int | None


def trained_on(home: Home, version: ModelVersion) -> Dataset | None:
    """Return the dataset that a model learned from; None of a foreign model, which names none."""
    from medml.datasets.freeze import load

    if "dataset" not in version.tags:
        return None
    return load(home, version.tags["dataset"], version.tags["dataset_digest"])


def chosen_test(home: Home, who: str, name: str | None, trained: Dataset | None, every_case: bool) -> Dataset:
    """Return the dataset whose test set is evaluated: its own, or all its cases."""
    from medml.datasets.erasure import refuse_erased
    from medml.datasets.freeze import load
    from medml.datasets.overlap import all_cases
    from medml.errors import ConfigError

    frozen = load(home, name) if name else trained
    if frozen is None:
        raise ConfigError(
            f"{who} was trained elsewhere and has no dataset of its own; name one: medml evaluate {who} DATASET"
        )
    refuse_erased(home, frozen, "tested on")
    return all_cases(frozen) if every_case or not frozen.test else frozen


def compare(home: Home, who: str, frozen: Dataset, trained: Dataset | None, *, allow_seen: bool) -> Independence:
    """Say what a model has seen of the cases it is to be judged on.

    Raises
    ------
    LeakageError
        If it has seen any, or nobody can say, and ``allow_seen`` is not given.
    """
    from medml.datasets.overlap import find_overlap, learned_cases
    from medml.errors import LeakageError
    from medml.store.catalogue import Catalogue

    scope = "all cases" if len(frozen.test) == len(frozen.cases) else "the test set"
    if trained is None:
        note = (
            f"External validation on {scope} of {frozen.name}. What the model learned from is not known here, so "
            "nobody has compared it with these patients and images."
        )
        return Independence("", (note,), None)
    evaluated = frozen.cases_of("test")
    ids = {scan_id for case in (*evaluated, *learned_cases(trained)) for scan_id in case.scans}
    own = frozen.test_digest == trained.test_digest
    try:
        overlap = find_overlap(evaluated, trained, Catalogue(open_catalogue(home)).by_id(ids))
    except LeakageError as error:
        if own:
            return Independence("", (), 0)
        if not allow_seen:
            raise
        return Independence(f"Not proved to be an independent test: {error}.", (), None)
    if own:
        # The split was accepted, and its twins named, when the dataset was frozen.
        twins = (f"The split lets pictures stand on both sides: {overlap.sentence()}.",) if overlap.seen_cases else ()
        return Independence("", twins, 0)
    notes: tuple[str, ...] = (f"External validation on {scope} of {frozen.name}: {overlap.sentence()}.",)
    if overlap.unknown:
        notes += (
            f"{overlap.unknown} cases have images without fingerprint; only identical ones would be found there.",
        )
    if not overlap.seen_cases:
        return Independence("", notes, 0)
    if not allow_seen:
        raise LeakageError(
            f"{who} on {frozen.name}: {overlap.sentence()}. Figures would flatter the model: evaluate it on other "
            "cases, or pass --allow-seen, which marks the report"
        )
    return Independence(f"Not an independent test: {overlap.sentence()}.", notes[1:], overlap.seen_cases)
