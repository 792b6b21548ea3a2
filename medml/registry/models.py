"""Registered models: versions of packages, and the aliases @champion and @challenger."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlparse

from medml.errors import ConfigError, MedmlError, NotFound
from medml.io.files import sha256_file
from medml.records.record import Record
from medml.records.report import Decision, Evaluation
from medml.registry.logged_model import link_metrics, log_model
from medml.registry.tracking import Tracker

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion as MlflowVersion

CHAMPION, CHALLENGER = "champion", "challenger"
PREFIX = "medml."
DIGEST = "package_sha256"
MODEL_ID = f"{PREFIX}model_id"
FORMER = f"{PREFIX}former_champions"
SAID = ("## Intended use", "## Limits")
KEY_FIGURES = ("auroc", "average_precision", "sensitivity", "specificity", "accuracy")

_REFERENCE = re.compile(
    r"(?P<name>[a-z0-9][a-z0-9_.-]{0,63})(@(?P<alias>[a-zA-Z][\w-]{0,63})|/v?(?P<version>[0-9]{1,9}))?"
)


class ModelVersion(Record):
    """One version of a registered model.

    Attributes
    ----------
    package_path : Path
        The package's folder on this machine.
    digest : str
        sha256 over every file of the package.
    tags : dict
        What the training run said of it, e.g. ``dataset``, ``dataset_digest``, ``test_digest``, ``task``.
    alias : str or None
        "champion", "challenger" or another alias it bears.
    """

    name: str
    version: str
    run_id: str
    package_path: Path
    digest: str
    tags: dict[str, str] = {}
    alias: str | None = None


def register(tracker: Tracker, run_id: str, name: str, package: Path, evaluation: Evaluation | None) -> ModelVersion:
    """Log a package with its run and register it: the first version is @champion, later ones are @challenger.

    A second call for the same run and package finds the version that is there.

    Parameters
    ----------
    package : Path
        The package's folder; it is copied.
    evaluation : Evaluation or None
        Its headline figures are shown with the model; None if it was trained elsewhere and not evaluated here.
    """
    digest = folder_digest(package)
    versions = _versions(tracker, name)
    found = next(
        (v for v in versions if v.run_id == run_id and v.tags.get(PREFIX + DIGEST) == digest),
        None,
    )
    if found is not None:
        # A process killed before it gave the alias is put right here.
        return _with_alias(tracker, name, str(found.version))
    tags = _version_tags(tracker, run_id, digest, evaluation)
    model_id = log_model(tracker, run_id, name, package, tags, evaluation)
    client = tracker.client
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    client.update_registered_model(name, description=_purpose(package))
    with _default_store(tracker.tracking_uri):
        version = client.create_model_version(
            name,
            source=f"models:/{model_id}",
            run_id=run_id,
            tags={**tags, MODEL_ID: model_id},
            model_id=model_id,
            description=_key_figures(evaluation),
        )
    # MLflow's model page reads its versions from this tag.
    shown = json.dumps([{"name": name, "version": str(version.version)}])
    client.set_logged_model_tags(model_id, {"mlflow.modelVersions": shown})
    return _with_alias(tracker, name, str(version.version))


def resolve(tracker: Tracker, reference: str) -> ModelVersion:
    """Return what ``name``, ``name@alias`` or ``name/version`` stands for; the champion if only a name is given.

    Raises
    ------
    ConfigError
        If the reference is not written like that.
    NotFound
        If there is no such model, alias or version; the text lists what there is.
    MedmlError
        If the package is not the one that was registered.
    """
    match = _REFERENCE.fullmatch(reference)
    if match is None:
        raise ConfigError(f"model {reference!r}: expected NAME, NAME@alias or NAME/version, e.g. hippocampus@champion")
    name, version = match["name"], match["version"]
    aliases = _aliases(tracker, name)
    if version is None:
        alias = match["alias"] or CHAMPION
        if alias not in aliases:
            raise NotFound(f"model {name!r} has no @{alias}; it has {_listed(tracker, name, aliases)}")
        version = aliases[alias]
    found = next((v for v in _versions(tracker, name) if str(v.version) == version), None)
    if found is None:
        raise NotFound(f"model {name!r} has no version {version}; it has {_listed(tracker, name, aliases)}")
    record = _record(tracker, found, aliases, fetch=True)
    problems = verify([record])
    if problems:
        raise MedmlError(problems[0])
    return record


def link_evaluation(tracker: Tracker, run_id: str, version: ModelVersion, evaluation: Evaluation) -> None:
    """Show the figures of an evaluation's run on the page of the model that it judged, by data set."""
    link_metrics(tracker, run_id, version.tags[MODEL_ID.removeprefix(PREFIX)], evaluation)


def record_decision(tracker: Tracker, challenger: ModelVersion, decision: Decision) -> None:
    """Keep a gate's decision with the challenger's version and run; move @champion if it says so.

    Raises
    ------
    MedmlError
        If the champion is no longer the one that the challenger was compared with.
    """
    client, name = tracker.client, challenger.name
    champion = _aliases(tracker, name).get(CHAMPION)
    compared = decision.champion.rpartition("/")[2] if decision.champion else None
    if decision.promoted and champion != compared:
        raise MedmlError(
            f"{name}: the champion is version {champion}, the decision compared with {compared}; decide anew"
        )
    client.log_text(
        challenger.run_id,
        decision.model_dump_json(indent=1),
        f"decisions/{_file_time(decision.decided)}.json",
    )
    verdict = "promoted" if decision.promoted else "kept back"
    signature = decision.signature
    signed = (("signed_by", signature.name), ("signed_reason", signature.reason)) if signature else ()
    for key, value in (
        ("decision", verdict),
        ("decision_reason", decision.reason),
        ("decided", decision.decided),
        *signed,
    ):
        client.set_model_version_tag(name, challenger.version, PREFIX + key, value)
        client.set_tag(challenger.run_id, PREFIX + key, value)
    if not decision.promoted:
        return
    former = _former(tracker, name)
    client.set_registered_model_tag(name, FORMER, json.dumps([*former, champion] if champion else former))
    client.set_registered_model_alias(name, CHAMPION, challenger.version)
    if _aliases(tracker, name).get(CHALLENGER) == challenger.version:
        client.delete_registered_model_alias(name, CHALLENGER)


def rollback(tracker: Tracker, name: str) -> ModelVersion:
    """Undo the last promotion: the champion before is @champion again, the undone one @challenger if none is newer.

    Raises
    ------
    NotFound
        If there is no such model, or no champion before.
    """
    client, aliases, former = (
        tracker.client,
        _aliases(tracker, name),
        _former(tracker, name),
    )
    if not former:
        raise NotFound(
            f"model {name!r} has no earlier champion to go back to; it has {_listed(tracker, name, aliases)}"
        )
    undone = aliases[CHAMPION]
    client.set_registered_model_alias(name, CHAMPION, former[-1])
    client.set_registered_model_tag(name, FORMER, json.dumps(former[:-1]))
    client.set_model_version_tag(name, undone, f"{PREFIX}decision", "rolled back")
    if CHALLENGER not in aliases:
        client.set_registered_model_alias(name, CHALLENGER, undone)
    return resolve(tracker, f"{name}/{former[-1]}")


def all_versions(tracker: Tracker) -> list[ModelVersion]:
    """Return every version of every registered model, by name, oldest first; packages are not read."""
    names = sorted(model.name for model in tracker.client.search_registered_models(max_results=1000))
    return [
        _record(tracker, version, aliases)
        for name in names
        for aliases in [_aliases(tracker, name)]
        for version in _versions(tracker, name)
    ]


def verify(versions: Iterable[ModelVersion]) -> list[str]:
    """Return one sentence for each version whose package is gone or not what was registered."""
    problems = []
    for version in versions:
        who = f"model {version.name}/{version.version}"
        if not version.package_path.is_dir():
            problems.append(f"{who}: its package is not there; restore the artifacts from a backup or train again")
        elif (found := folder_digest(version.package_path)) != version.digest:
            problems.append(
                f"{who}: its package has digest {found[:12]}, registered was {version.digest[:12]}; "
                "files were changed, restore them from a backup or train again"
            )
    return problems


def folder_digest(folder: Path) -> str:
    """Return the sha256 over the relative path and content of every file below ``folder``."""
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{file.relative_to(folder).as_posix()}\0{sha256_file(file)}\n".encode())
    return digest.hexdigest()


@contextmanager
def _default_store(tracking_uri: str) -> Iterator[None]:
    """Name our store to MLflow's registry, which looks ``models:/`` up in the process's default one."""
    before = os.environ.get("MLFLOW_TRACKING_URI")
    os.environ["MLFLOW_TRACKING_URI"] = tracking_uri
    try:
        yield
    finally:
        del os.environ["MLFLOW_TRACKING_URI"]
        if before is not None:
            os.environ["MLFLOW_TRACKING_URI"] = before


def _version_tags(tracker: Tracker, run_id: str, digest: str, evaluation: Evaluation | None) -> dict[str, str]:
    """Return the run's own tags and the package's digest: what a later stage asks of a version."""
    run = tracker.client.get_run(run_id)
    own = {key: value for key, value in run.data.tags.items() if key.startswith(PREFIX)}
    tested = {f"{PREFIX}test_digest": evaluation.summary.test_digest} if evaluation else {}
    return own | {PREFIX + DIGEST: digest} | tested


def _with_alias(tracker: Tracker, name: str, version: str) -> ModelVersion:
    aliases = _aliases(tracker, name)
    if CHAMPION not in aliases:
        tracker.client.set_registered_model_alias(name, CHAMPION, version)
    elif aliases[CHAMPION] != version and int(aliases.get(CHALLENGER, "0")) < int(version):
        tracker.client.set_registered_model_alias(name, CHALLENGER, version)
    return resolve(tracker, f"{name}/{version}")


def _record(
    tracker: Tracker,
    found: MlflowVersion,
    aliases: dict[str, str],
    *,
    fetch: bool = False,
) -> ModelVersion:
    version = str(found.version)
    tags = {key.removeprefix(PREFIX): value for key, value in found.tags.items() if key.startswith(PREFIX)}
    return ModelVersion(
        name=found.name,
        version=version,
        run_id=str(found.run_id),
        package_path=_package_path(tracker, found.tags[MODEL_ID], fetch=fetch),
        digest=tags.get(DIGEST, ""),
        tags=tags,
        alias=next(
            (a for a in (CHAMPION, CHALLENGER, *sorted(aliases)) if aliases.get(a) == version),
            None,
        ),
    )


def _package_path(tracker: Tracker, model_id: str, *, fetch: bool) -> Path:
    """Return the package's folder where it lies; artifacts that live elsewhere are fetched once."""
    location = tracker.client.get_logged_model(model_id).artifact_location
    parts = urlparse(location)
    if parts.scheme in ("", "file"):
        return Path(unquote(parts.path) if parts.scheme else location) / "data" / "package"
    local = Path(tracker.artifact_root) / "fetched" / model_id
    if fetch and not local.is_dir():
        from mlflow.artifacts import download_artifacts

        local.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=local.parent) as partial:
            os.rename(
                download_artifacts(
                    artifact_uri=f"{location}/data/package",
                    dst_path=partial,
                    tracking_uri=tracker.tracking_uri,
                ),
                local,
            )
    return local


def _versions(tracker: Tracker, name: str) -> list[MlflowVersion]:
    found = tracker.client.search_model_versions(f"name = '{name}'", max_results=10000)
    return sorted(found, key=lambda version: int(version.version))


def _aliases(tracker: Tracker, name: str) -> dict[str, str]:
    found = tracker.client.search_registered_models(f"name = '{name}'")
    if not found:
        names = ", ".join(sorted(model.name for model in tracker.client.search_registered_models(max_results=1000)))
        raise NotFound(f"model {name!r} is not registered; registered are: {names or 'none'}")
    return {alias: str(version) for alias, version in found[0].aliases.items()}


def _listed(tracker: Tracker, name: str, aliases: dict[str, str]) -> str:
    versions = ", ".join(str(version.version) for version in _versions(tracker, name))
    named = ", ".join(f"@{alias} (version {version})" for alias, version in sorted(aliases.items()))
    return f"versions {versions or 'none'}; aliases {named or 'none'}"


def _former(tracker: Tracker, name: str) -> list[str]:
    model = tracker.client.get_registered_model(name)
    return [str(version) for version in json.loads(model.tags.get(FORMER, "[]"))]


def _purpose(package: Path) -> str:
    """Return what a person said of the model in its card, or at least what it may not be used for."""
    card = package / "docs" / "README.md"
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    own = re.sub(r"^- .*\n?", "", text, flags=re.MULTILINE)  # notes of one evaluation
    parts = [f"## {part}" for part in re.split(r"^## ", own, flags=re.MULTILINE)[1:]]
    said = [part.strip() for part in parts if part.startswith(SAID)]
    return "\n\n".join(["Research use only. Not a medical device.", *said])


def _key_figures(evaluation: Evaluation | None) -> str:
    if evaluation is None:
        return "trained elsewhere; not evaluated here"
    summary = evaluation.summary
    shown = [key for key in summary.metrics if key in KEY_FIGURES or re.fullmatch(r"dice_.*(?<!_low)(?<!_high)", key)]
    lines = [f"- {summary.figure(key)}" for key in shown if summary.metrics[key] is not None]
    return "\n".join([f"On {summary.n} test cases of {summary.dataset} (95 % interval over patients):", *lines])


def _file_time(text: str) -> str:
    return re.sub(r"[^0-9TZ]", "", text) or "undated"
