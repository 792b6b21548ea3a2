"""Flow: say what would be trained and why, without training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow

from medml.records.dataset import Dataset
from medml.records.experiment import Experiment
from medml.records.plan import Fingerprint, Plan
from pipelines import dataset as dataset_flow
from pipelines.audit import AUDITED
from pipelines.requests import read_request
from pipelines.tasks import current_home, step
from pipelines.verb import VerbResult

FROM_DATASET = "from the dataset"
SET = "set by the experiment"
MARK = "*"


@flow(name="plan", flow_run_name="plan {request}", persist_result=False, **AUDITED)
def plan(request: str, device: str = "auto") -> VerbResult:
    """Freeze or use the dataset, measure it, and make the plan; nothing is trained.

    Parameters
    ----------
    request : str
        A request id that holds the experiment and where the plan goes, if anywhere.
    device : str
        "auto", "cpu", "cuda" or "cuda:0"; a GPU that is not there needs ``budget.memory_gb``.
    """
    return explain_plan(request, device)


@step("plan")
def explain_plan(request: str, device: str) -> VerbResult:
    """Return every choice of the plan with its reason."""
    from medml.io.files import write_record

    asked = read_request(current_home(), request)
    wanted = Experiment.model_validate(asked["experiment"])
    frozen, freshness = dataset_flow.freeze(wanted.dataset.model_dump(mode="json"), wanted.task)
    measured, made = measure_and_plan(wanted, frozen, device)
    outputs = {}
    if asked["output"]:
        write_record(Path(asked["output"]), made)
        outputs["plan"] = asked["output"]
    return VerbResult(
        verb="plan",
        ok=True,
        outputs=outputs,
        summary={
            "experiment": wanted.name,
            "dataset": frozen.name,
            "digest": frozen.digest,
            "folds": [member.fold for member in wanted.members(len(frozen.folds))],
            "fingerprint": _short(measured),
            "plan": made.model_dump(mode="json"),
        },
        table=(("key", "value", "why"), *plan_rows(made), _folds(wanted, frozen)),
        notes=(*freshness.notes, *_marked(made)),
    )


def measure_and_plan(wanted: Experiment, frozen: Dataset, device: str) -> tuple[Fingerprint, Plan]:
    """Measure the training cases of the first fold and derive the plan."""
    from medml.datasets.fingerprint import fingerprint
    from medml.training.plan import make_plan

    measured = fingerprint(frozen, current_home().scans, fold=wanted.fold)
    return measured, make_plan(measured, frozen, wanted, device=device)


def plan_rows(made: Plan) -> list[tuple[str, str, str]]:
    """Return key, value and reason of every choice, in the order of the record; what an experiment set is marked."""
    rows = []
    for key in Plan.model_fields:
        if key == "reasons":
            continue
        reason = made.reasons.get(key, FROM_DATASET)
        mark = f" {MARK}" if reason == SET else ""
        rows.append((f"{key}{mark}", _shown(key, getattr(made, key)), reason))
    return rows


def _shown(key: str, value: Any) -> str:
    """Return a value as a person writes it."""
    if value is None:
        return "–"
    if key == "labels":
        return ", ".join(f"{number} {name}" for number, name in value.items())
    if key in ("patch", "size"):
        return " x ".join(map(str, value))
    if key == "spacing_mm":
        return " x ".join(f"{step:g}" for step in value)
    if key == "normalisation":
        return "; ".join(dict.fromkeys(_rule(rule.model_dump()) for rule in value))
    if key in ("augmentation", "network_options"):
        parts = value.model_dump() if key == "augmentation" else value
        return ", ".join(f"{name} {_plain(part)}" for name, part in parts.items()) or "the network's own"
    return _plain(value)


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, tuple | list):
        return "(" + ", ".join(_plain(part) for part in value) + ")" if value else "none"
    return str(value) or "none"


def _rule(rule: dict[str, Any]) -> str:
    if rule["kind"] == "zscore":
        return "zscore"
    clipped = f"{rule['kind']} {rule['low']:.4g} to {rule['high']:.4g}"
    return clipped if rule["kind"] == "range" else f"{clipped}, mean {rule['mean']:.4g}, spread {rule['std']:.4g}"


def _folds(wanted: Experiment, frozen: Dataset) -> tuple[str, str, str]:
    """Return the row about folds: how many are trained on, of how many."""
    members, there = wanted.members(len(frozen.folds)), len(frozen.folds)
    trained = sorted({member.fold for member in members})
    if there == 1:
        reason = "the split names its validation set"
    elif len(trained) == 1:
        reason = f"one of {there}: one model; folds: all makes an ensemble of {there} for {there} times the minutes"
    else:
        reason = f"{len(trained)} of {there}: their networks form one model"
    seeds = f", {wanted.seeds} seeds each" if wanted.seeds else ""
    return ("folds", ", ".join(map(str, trained)) + seeds, reason)


def _marked(made: Plan) -> tuple[str, ...]:
    marked = sorted(key for key, reason in made.reasons.items() if reason == SET)
    return (f"{MARK} set by the experiment: {', '.join(marked)}",) if marked else ()


def _short(measured: Fingerprint) -> dict[str, Any]:
    """Return the fingerprint without one line for every case."""
    import numpy as np

    from medml.training.grids import median_shape

    values = measured.model_dump(mode="json", exclude={"shapes", "spacings", "boxes"})
    values["median_shape"] = list(median_shape(measured))
    if measured.spacings:
        values["median_spacing_mm"] = [float(step) for step in np.median(np.array(measured.spacings), axis=0)]
    if measured.boxes:
        values["median_box"] = [int(side) for side in np.median(np.array(measured.boxes), axis=0)]
    return values
