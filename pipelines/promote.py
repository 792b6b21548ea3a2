"""Flow: the gate decides whether a challenger becomes champion."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from prefect import flow

from pipelines.configs import load_gate
from pipelines.evaluate import evaluate_package
from pipelines.tasks import current_home, step
from pipelines.verb import VerbResult

if TYPE_CHECKING:
    from pathlib import Path

    from medml.evaluation.gate import Judged
    from medml.records.dataset import Dataset
    from medml.registry.models import ModelVersion


@flow(name="promote", flow_run_name="promote {model}", persist_result=False)
def promote(model: str, gate: str = "default", rollback: bool = False) -> VerbResult:
    """Compare the challenger with the champion on the same test digest; move @champion only if the gate says so.

    Parameters
    ----------
    model : str
        The model's name; its @challenger is judged.
    gate : str
        Name of a YAML in ``configs/gates``.
    rollback : bool
        Undo the last promotion instead.
    """
    return roll_back(model) if rollback else judge(model, gate)


@step("roll back champion")
def roll_back(model: str) -> VerbResult:
    """Give @champion back to the version before."""
    from medml.registry import models
    from medml.registry.tracking import Tracker

    version = models.rollback(Tracker.of(current_home()), model)
    return VerbResult(
        verb="promote",
        ok=True,
        model=f"{version.name}/{version.version}",
        notes=(f"@champion is version {version.version} again",),
    )


@step("judge challenger")
def judge(model: str, gate: str) -> VerbResult:
    """Two case tables in, one decision out; the decision is logged whichever way it goes."""
    from medml.datasets.freeze import load
    from medml.evaluation.gate import decide
    from medml.registry import models
    from medml.registry.tracking import Tracker

    home = current_home()
    tracker = Tracker.of(home)
    challenger = models.resolve(tracker, f"{model}@challenger")
    champion = models.resolve(tracker, f"{model}@champion")
    frozen = load(home, *_judged_on(challenger, champion))
    results = {}
    for version in (challenger, champion):
        folder = home.reports / f"{version.name}-v{version.version}-on-{frozen.name}-{frozen.test_digest[:8]}"
        results[version.version] = _judged(version, frozen, folder)
    decision = decide(
        results[challenger.version],
        results[champion.version],
        load_gate(gate),
        challenger=f"{model}/{challenger.version}",
        champion=f"{model}/{champion.version}",
        card=_card(challenger),
    )
    models.record_decision(tracker, challenger, decision)
    return VerbResult(
        verb="promote",
        ok=decision.promoted,
        model=f"{model}/{challenger.version}",
        table=(("rule", "found", "limit", "verdict"), *map(_line, decision.rules)),
        summary={str(rule["rule"]): _verdict(rule) for rule in decision.rules},
        notes=(decision.reason,),
    )


def _judged_on(challenger: ModelVersion, champion: ModelVersion) -> tuple[str, str]:
    """Return name and digest of the challenger's dataset; of the champion's, where the challenger is foreign.

    Raises
    ------
    ConfigError
        If both were trained elsewhere.
    """
    from medml.errors import ConfigError

    for version in (challenger, champion):
        if "dataset" in version.tags:
            return version.tags["dataset"], version.tags["dataset_digest"]
    raise ConfigError(
        f"{challenger.name}: versions {challenger.version} and {champion.version} were both trained elsewhere, so "
        "there is no test set to compare them on; evaluate each on a dataset: medml evaluate MODEL DATASET"
    )


def _card(version: ModelVersion) -> str | None:
    path = version.package_path / "docs" / "README.md"
    return path.read_text(encoding="utf-8") if path.is_file() else None


def _line(rule: Mapping[str, object]) -> tuple[str, ...]:
    return str(rule["rule"]), _figure(rule["value"]), _figure(rule["limit"]), _verdict(rule)


def _verdict(rule: Mapping[str, object]) -> str:
    return "pass" if rule["passed"] else "FAIL"


def _figure(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else "–"


def _judged(version: ModelVersion, frozen: Dataset, folder: Path) -> Judged:
    """Return the version's results on the test set; the report of an earlier look at the same cases serves."""
    from medml.errors import NotFound
    from medml.evaluation.report import read_report

    home = current_home()
    for place in (home.reports / f"{version.name}-v{version.version}", folder):
        try:
            judged = read_report(place)
        except NotFound:
            continue
        if judged.evaluation.summary.test_digest == frozen.test_digest:
            return judged
    evaluate_package(version.package_path, frozen, model=f"{version.name}/{version.version}", folder=folder)
    return read_report(folder)
