"""Runs and models that used a patient who was erased: marked, and where their files lie."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from medml.registry.models import PREFIX
from medml.registry.tracking import NOTE, NOTE_CHARS, PARENT, Tracker

FORGOTTEN = f"{PREFIX}forgotten"
UNFINISHED = ("RUNNING", "SCHEDULED")


@dataclass(frozen=True, slots=True)
class UsedIn:
    """What used some datasets.

    Attributes
    ----------
    runs : dict
        MLflow run id to the folder of its files; None where they lie on another machine.
    versions : tuple of (name, version)
        Registered models that learned from one of the datasets.
    """

    runs: dict[str, Path | None]
    versions: tuple[tuple[str, str], ...]


def used_in(tracker: Tracker, digests: Collection[str], test_digests: Collection[str]) -> UsedIn:
    """Return the trainings on some datasets, the evaluations on their test sets, and the models they made."""
    runs: dict[str, Path | None] = {}
    experiments = [experiment.experiment_id for experiment in tracker.client.search_experiments()]
    for key, values in (("dataset_digest", digests), ("test_digest", test_digests)):
        for value in values:
            for run in _search(tracker, experiments, f"tags.`{PREFIX}{key}` = '{value}'"):
                runs[run.info.run_id] = _local(run.info.artifact_uri)
    for parent in list(runs):
        for run in _search(tracker, experiments, f"tags.`{PARENT}` = '{parent}'"):
            runs[run.info.run_id] = _local(run.info.artifact_uri)
    wanted = set(digests)
    versions = [
        (model.name, str(version.version))
        for model in tracker.client.search_registered_models(max_results=1000)
        for version in tracker.client.search_model_versions(f"name = '{model.name}'", max_results=10000)
        if version.tags.get(f"{PREFIX}dataset_digest") in wanted
    ]
    return UsedIn(runs, tuple(sorted(versions)))


def mark(tracker: Tracker, used: UsedIn, said: str) -> None:
    """Say on the pages of runs and model versions that a patient was erased; end what was never finished."""
    client = tracker.client
    for run_id in used.runs:
        run = client.get_run(run_id)
        note = run.data.tags.get(NOTE, "")
        if said not in note:
            client.set_tag(run_id, NOTE, f"**{said}**\n\n{note}"[:NOTE_CHARS])
        client.set_tag(run_id, FORGOTTEN, said)
        if run.info.status in UNFINISHED:
            client.set_terminated(run_id, "KILLED")
    for name, version in used.versions:
        found = client.get_model_version(name, version)
        if said not in (found.description or ""):
            client.update_model_version(name, version, description=f"**{said}**\n\n{found.description or ''}")
        client.set_model_version_tag(name, version, FORGOTTEN, said)


def _search(tracker: Tracker, experiments: list[str], condition: str) -> Iterable[Any]:
    token: str | None = None
    while True:
        page = tracker.client.search_runs(experiments, condition, max_results=1000, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _local(uri: str) -> Path | None:
    parts = urlparse(uri)
    if parts.scheme not in ("", "file"):
        return None
    return Path(unquote(parts.path) if parts.scheme else uri)
