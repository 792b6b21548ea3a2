"""Flow: the gate decides whether a challenger becomes champion; a person may have the last word."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from prefect import flow
from prefect.exceptions import FlowPauseTimeout
from prefect.flow_runs import pause_flow_run
from prefect.input import RunInput
from pydantic import Field

from medml.records.dataset import Dataset
from medml.records.home import Home
from medml.records.report import Decision, Signature
from pipelines.artifacts import told
from pipelines.audit import AUDITED
from pipelines.configs import load_gate
from pipelines.evaluate import evaluate_package
from pipelines.independence import compare, trained_on
from pipelines.tasks import current_home, step
from pipelines.verb import VerbResult

if TYPE_CHECKING:
    from medml.evaluation.gate import Judged
    from medml.registry.models import ModelVersion

POLL_SECONDS = 5


class Approval(RunInput):
    """What a person answers when a promotion waits: the form that Prefect shows under Resume."""

    approve: bool = Field(title="Make it champion?")
    name: str = Field(title="Your name, as a signature", min_length=2, max_length=80)
    reason: str = Field(title="Why", min_length=3, max_length=500)


@flow(name="promote", flow_run_name="promote {model}", persist_result=False, **AUDITED)
def promote(
    model: str,
    gate: str = "default",
    on: str | None = None,
    ask: bool = False,
    minutes: float = 60.0,
    rollback: bool = False,
) -> VerbResult:
    """Compare the challenger with the champion on the same test digest; move @champion only if the gate says so.

    Parameters
    ----------
    model : str
        The model's name; its @challenger is judged.
    gate : str
        Name of a YAML in ``configs/gates``.
    on : str, optional
        Name of a frozen dataset whose test set both are judged on; default: each on its own, which must be the same.
    ask : bool
        If every rule passes, pause until a person approves or rejects; the gate's refusal needs no person.
    minutes : float
        How long to wait for that person; then nothing is promoted.
    rollback : bool
        Undo the last promotion instead.
    """
    if rollback:
        return told(roll_back(model))
    decision = judge(model, gate, on)
    if ask and decision.promoted:
        decision = ask_person(decision, minutes)
    return told(conclude(decision))


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
def judge(model: str, gate: str, on: str | None) -> Decision:
    """Two case tables in, one decision out; nothing is moved yet."""
    from medml.datasets.freeze import load
    from medml.evaluation.gate import decide
    from medml.registry import models
    from medml.registry.tracking import Tracker

    home = current_home()
    tracker = Tracker.of(home)
    challenger = models.resolve(tracker, f"{model}@challenger")
    champion = models.resolve(tracker, f"{model}@champion")
    new, old = (
        _judged(home, version, load(home, on) if on else load(home, *_judged_on(version, other)))
        for version, other in ((challenger, champion), (champion, challenger))
    )
    return decide(
        new,
        old,
        load_gate(gate),
        challenger=f"{model}/{challenger.version}",
        champion=f"{model}/{champion.version}",
        card=_card(challenger),
    )


def ask_person(decision: Decision, minutes: float) -> Decision:
    """Pause the flow run until a person answers; the run's page in Prefect shows the rules and a form."""
    from medml.evaluation.gate import answered

    form = Approval.with_initial_data(description=_asked(decision))
    try:
        said = pause_flow_run(wait_for_input=form, timeout=round(minutes * 60), poll_interval=POLL_SECONDS)
    except FlowPauseTimeout:
        return answered(decision, None, minutes=minutes)
    signed = datetime.now(UTC).isoformat(timespec="seconds")
    signature = Signature(approved=said.approve, name=said.name, reason=said.reason, signed=signed)
    return answered(decision, signature, minutes=minutes)


@step("record decision")
def conclude(decision: Decision) -> VerbResult:
    """Keep the decision with the challenger, whichever way it went, and move @champion if it says so."""
    from medml.registry import models
    from medml.registry.tracking import Tracker

    tracker = Tracker.of(current_home())
    models.record_decision(tracker, models.resolve(tracker, decision.challenger), decision)
    return VerbResult(
        verb="promote",
        ok=decision.promoted,
        model=decision.challenger,
        table=(("rule", "found", "limit", "verdict"), *map(_line, decision.rules)),
        summary={str(rule["rule"]): _verdict(rule) for rule in decision.rules},
        notes=(decision.reason,),
    )


def _judged_on(version: ModelVersion, other: ModelVersion) -> tuple[str, str]:
    """Return name and digest of a version's own dataset; of the other's, where it is foreign.

    Raises
    ------
    ConfigError
        If both were trained elsewhere.
    """
    from medml.errors import ConfigError

    for candidate in (version, other):
        if "dataset" in candidate.tags:
            return candidate.tags["dataset"], candidate.tags["dataset_digest"]
    raise ConfigError(
        f"{version.name}: versions {version.version} and {other.version} were both trained elsewhere, so there is no "
        "test set to compare them on; name one: medml promote MODEL --on DATASET"
    )


def _judged(home: Home, version: ModelVersion, frozen: Dataset) -> Judged:
    """Return a version's results on a test set; the report of an earlier look at the same cases serves."""
    from dataclasses import replace

    from medml.errors import NotFound
    from medml.evaluation.question import check_question
    from medml.evaluation.report import read_report
    from medml.io.files import read_record
    from medml.records.plan import Plan

    who, trained = f"{version.name}/{version.version}", trained_on(home, version)
    own = trained is not None and trained.test_digest == frozen.test_digest
    found = compare(home, who, frozen, trained, allow_seen=True)
    folder = home.reports / f"{version.name}-v{version.version}-on-{frozen.name}-{frozen.test_digest[:8]}"
    folder = folder.with_name(f"{folder.name}-seen") if found.warning else folder
    for place in (home.reports / f"{version.name}-v{version.version}", folder):
        try:
            judged = read_report(place)
        except NotFound:
            continue
        if judged.evaluation.summary.test_digest == frozen.test_digest:
            return replace(judged, seen=found.seen)
    notes = check_question(read_record(version.package_path / "plan.json", Plan), frozen)
    evaluate_package(
        version.package_path,
        frozen,
        model=who,
        folder=folder,
        own=own,
        notes=(*found.notes, *notes),
        warning=found.warning,
    )
    return replace(read_report(folder), seen=found.seen)


def _asked(decision: Decision) -> str:
    """Return what the person reads before answering, as Markdown."""
    lines = [
        f"**{decision.challenger}** against {decision.champion}: every rule of the gate passes.",
        "",
        "| rule | found | limit |",
        "| --- | --- | --- |",
        *(f"| {rule} | {found} | {limit} |" for rule, found, limit, _ in map(_line, decision.rules)),
    ]
    return "\n".join(lines)


def _card(version: ModelVersion) -> str | None:
    path = version.package_path / "docs" / "README.md"
    return path.read_text(encoding="utf-8") if path.is_file() else None


def _line(rule: Mapping[str, object]) -> tuple[str, str, str, str]:
    return str(rule["rule"]), _figure(rule["value"]), _figure(rule["limit"]), _verdict(rule)


def _verdict(rule: Mapping[str, object]) -> str:
    return "pass" if rule["passed"] else "FAIL"


def _figure(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else "–"
