"""Flow: try settings of the plan on validation cases; the best ones become an experiment that is ready to train."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from prefect import flow

from medml.records.dataset import Dataset
from medml.records.experiment import Experiment, Knob
from medml.records.plan import Epoch, Fingerprint, Plan
from pipelines import dataset as dataset_flow
from pipelines import training_runs
from pipelines.artifacts import told
from pipelines.audit import AUDITED
from pipelines.child import run_training
from pipelines.first_weights import locate_weights
from pipelines.progress import quiet_bar
from pipelines.requests import read_request
from pipelines.studies import Study, digest_of, folder_of, only_one
from pipelines.tasks import current_home, device_slot, step
from pipelines.verb import VerbResult

if TYPE_CHECKING:
    import optuna

INTERRUPT_SECONDS = 2.0
STATES = {"finished": "complete", "given up early": "pruned", "failed": "fail"}
METRIC = {"segment": "val_dice", "classify": "val_auroc"}


class GivenUp(Exception):
    """A trial fell behind and is ended early."""


@dataclass(frozen=True, slots=True)
class Search:
    """What a study is about: an experiment, its dataset, the plan its trials vary, and how."""

    folder: Path
    wanted: Experiment
    frozen: Dataset
    fingerprint: Fingerprint
    plan: Plan
    space: dict[str, Knob]
    devices: tuple[str, ...]
    weights: str
    run_id: str
    notes: tuple[str, ...]

    @property
    def metric(self) -> str:
        """What trials are compared by; only validation cases are looked at."""
        return METRIC[self.wanted.task]


@flow(name="tune", flow_run_name="tune {request}", persist_result=False, **AUDITED)
def tune(request: str, trials: int = 20, workers: int = 1, device: str = "auto") -> VerbResult:
    """Try settings until there are ``trials`` of them, in so many workers at once, and write the best as a YAML.

    Parameters
    ----------
    request : str
        A request id that holds the experiment and where the YAML goes.
    trials : int
        Of the whole study: the same experiment and data go on with the same trials.
    workers : int
        Trainings at once; each waits for a free slot of its device.
    device : str
        "auto", "cpu", "cuda" or "cuda:0"; with "auto" workers take turns on the GPUs there are.
    """
    search = open_search(request, device)
    with only_one(search.folder):
        study = open_study(search)
        worker_task: Any = work  # `step` says what the function takes; the task it makes can be submitted too
        running = [worker_task.submit(search, study, trials, number) for number in range(workers)]
        try:
            failures = [failure for worker in running for failure in worker.result()]
        except BaseException:
            study.stop()
            raise
        return told(conclude(search, study, request, failures))


@step("open search")
def open_search(request: str, device: str) -> Search:
    """Freeze or find the dataset, measure it, plan as a training would, and start or find the MLflow run."""
    from medml.datasets.fingerprint import fingerprint
    from medml.io.files import read_record, write_record
    from medml.networks.precision import choose_devices
    from medml.training.plan import make_plan
    from medml.training.search import check_space, default_space

    home = current_home()
    wanted = Experiment.model_validate(read_request(home, request)["experiment"])
    check_space(wanted.tune.space)
    minutes = wanted.tune.minutes or wanted.budget.minutes
    wanted = wanted.model_copy(
        update={"seeds": 1, "budget": wanted.budget.model_copy(update={"minutes": minutes})},
    )
    frozen, freshness = dataset_flow.freeze(wanted.dataset.model_dump(mode="json"), wanted.task)
    asked = wanted.model_dump(mode="json", exclude={"card", "gate", "description"})
    folder = home.runs / f"tune-{wanted.name}-{digest_of(asked, frozen.digest)}"
    folder.mkdir(parents=True, exist_ok=True)
    measured = fingerprint(frozen, home.scans, fold=wanted.fold)
    if not (folder / "plan.json").exists():
        write_record(folder / "plan.json", make_plan(measured, frozen, wanted, device=device))
    plan = read_record(folder / "plan.json", Plan)
    _open_run(folder, wanted, frozen, plan)
    return Search(
        folder=folder,
        wanted=wanted,
        frozen=frozen,
        fingerprint=measured,
        plan=plan,
        space=wanted.tune.space or default_space(plan),
        devices=choose_devices(device),
        weights=locate_weights(plan, frozen),
        run_id=training_runs.mlflow_run(folder),
        notes=freshness.notes,
    )


@step("open study")
def open_study(search: Search) -> Study:
    """Open the home's database of studies; trials that a killed process left are queued again."""
    from medml.training.search import usual_values

    return Study(
        current_home().root / "tuning.db",
        search.folder.name,
        search.space,
        usual_values(search.space, search.plan),
        search.wanted.tune,
        search.plan.seed,
    )


@step("work", task_run_name="worker {number}")
def work(search: Search, study: Study, trials: int, number: int) -> list[str]:
    """Ask the study for trials until there are enough; one that fails is noted and ends nothing."""
    from medml.errors import MedmlError

    failures = []
    device = search.devices[number % len(search.devices)]
    while (trial := study.next(trials)) is not None:
        outcome = "done"
        try:
            value = _try(search, trial, device)
            study.tell(trial, value)
            outcome = "given up early" if value is None else f"{search.metric} {value:.4f}"
        except Exception as error:
            # Settings may fail in any way, in our code or in a network's; the next ones are tried all the same.
            if study.stopping(INTERRUPT_SECONDS):  # an interrupt ends the trainings before it reaches the flow
                break
            study.tell(trial, None, error=type(error).__name__)
            reason = str(error) if isinstance(error, MedmlError) else f"{type(error).__name__}: {error}"
            failures.append(f"trial {trial.number} failed: {reason}")
            outcome = "failed"
        print(f"trial {trial.number}: {outcome}", file=sys.stderr, flush=True)
    return failures


@step("conclude")
def conclude(search: Search, study: Study, request: str, failures: list[str]) -> VerbResult:
    """Write the best trial's settings as an experiment and say how trials compare.

    Raises
    ------
    MedmlError
        If no trial was finished.
    """
    from medml.errors import MedmlError
    from medml.io.files import write_text
    from medml.registry.tracking import Tracker

    home = current_home()
    best, trials = study.best(), study.counted()
    tracker = Tracker.of(home)
    if best is None:
        tracker.finish(search.run_id, "FAILED")
        raise MedmlError(f"none of {len(trials)} trials was finished; {'; '.join(failures) or 'all were given up'}")
    asked = read_request(home, request)
    text = _experiment_text(search, asked["experiment"], best, len(trials))
    output = Path(asked["output"] or home.reports / "tuning" / f"{search.wanted.name}.yaml")
    output.parent.mkdir(parents=True, exist_ok=True)
    write_text(output, text)
    write_text(search.folder / "best.yaml", text)
    tracker.log_text_files(search.run_id, [search.folder / "best.yaml"], "configuration")
    tracker.log_metrics(search.run_id, {f"best_{search.metric}": float(best.value or 0.0)})
    tracker.finish(search.run_id)
    states = [trial.state.name.lower() for trial in trials]
    return VerbResult(
        verb="tune",
        ok=True,
        counts={name: states.count(state) for name, state in STATES.items()},
        outputs={"experiment": str(output)},
        summary={
            "best_trial": best.number,
            search.metric: best.value,
            "plan": _overrides(search, best),
            "mlflow_run": search.run_id,
        },
        table=_table(search, trials),
        notes=(
            *search.notes,
            *failures,
            f"Trial {best.number} is the best of {len(trials)} by {search.metric} on validation cases, which flatters "
            f"it a little; the test set was not looked at. Train it: medml train {output}",
        ),
    )


def _open_run(folder: Path, wanted: Experiment, frozen: Dataset, plan: Plan) -> None:
    """Start the MLflow run of a tuning, or go on with it; the test set is no input of it."""
    from medml.io.files import write_json
    from medml.registry.tracking import Tracker

    tracker = Tracker.of(current_home())
    if (folder / "mlflow.json").exists():
        tracker.take_up(training_runs.mlflow_run(folder))
        return
    named = plan.model_copy(update={"pretrained": training_runs.named(plan.pretrained)})
    run_id = tracker.start_or_resume(
        experiment=wanted.name,
        run_name=f"tune {wanted.name}",
        run_key=folder.name,
        params=training_runs.parameters(named) | {"folds": [wanted.fold]},
        tags={"medml.kind": "tuning", "medml.task": wanted.task, "medml.dataset": frozen.name},
    )
    tracker.log_dataset_input(run_id, frozen, tested=False)
    write_json(folder / "mlflow.json", {"run_id": run_id})


def _try(search: Search, trial: optuna.Trial, device: str) -> float | None:
    """Train one trial in a child on a free slot; return its best validation figure, None if it was given up."""
    from medml.errors import MedmlError
    from medml.io.files import write_record
    from medml.registry.tracking import Tracker
    from medml.training.plan import make_plan

    overrides = _overrides(search, trial)
    plan = {**search.wanted.plan, **overrides}
    asked = search.wanted.model_copy(update={"plan": plan})
    place = search.folder / folder_of(trial)
    place.mkdir(exist_ok=True)
    write_record(place / "plan.json", make_plan(search.fingerprint, search.frozen, asked, device=device))
    job = training_runs.job_of(search.frozen, place, fold=search.wanted.fold, device=device, keep=False)
    write_record(place / "job.json", job.model_copy(update={"pretrained": search.weights}))
    tracker = Tracker.of(current_home())
    run_id = tracker.start_or_resume(
        experiment=search.wanted.name,
        run_name=f"trial {trial.number}",
        run_key=f"{search.folder.name}/{place.name}",
        params={"trial": trial.number, **{key: _readable(value) for key, value in trial.params.items()}},
        tags={"medml.kind": "trial", "medml.dataset": search.frozen.name},
        parent=search.run_id,
    )
    seen: dict[int, float] = {}

    def follow(epochs: list[Epoch]) -> None:
        tracker.log_epochs(run_id, epochs)
        for epoch in epochs:
            if epoch.epoch in seen or search.metric not in epoch.metrics:
                continue
            seen[epoch.epoch] = epoch.metrics[search.metric]
            trial.report(seen[epoch.epoch], epoch.epoch)
            if trial.should_prune():
                raise GivenUp

    value: float | None = None
    try:
        with device_slot(device), quiet_bar(f"trial {trial.number}") as bar:
            run_training(place, on_epochs=follow, bar=bar)
        if not seen:
            raise MedmlError(
                f"no epoch has {search.metric}; look whether the validation cases of fold {search.wanted.fold} have "
                "every class, or masks that are not empty"
            )
        value = max(seen.values())
    except GivenUp:
        tracker.tag(run_id, "medml.given_up", "fell behind the other trials")
    except Exception:
        tracker.finish(run_id, "FAILED")
        raise
    if value is not None:
        tracker.log_metrics(run_id, {f"best_{search.metric}": value})
    tracker.finish(run_id)
    shutil.rmtree(place)
    return value


def _overrides(search: Search, trial: Any) -> dict[str, Any]:
    from medml.training.search import overrides_of

    return overrides_of(trial.params, search.plan)


def _experiment_text(search: Search, asked: dict[str, Any], best: Any, trials: int) -> str:
    """Return the experiment as it was asked, with the best trial's settings in its plan."""
    wanted = Experiment.model_validate(asked)
    values = wanted.model_copy(update={"plan": {**wanted.plan, **_overrides(search, best)}})
    shown = values.model_dump(mode="json", exclude_defaults=True, exclude={"tune"})
    head = (
        f"# Trial {best.number} of {trials}: {search.metric} {best.value:.4f} on the validation cases of fold "
        f"{search.wanted.fold}.\n"
    )
    return head + yaml.safe_dump(shown, sort_keys=False, allow_unicode=True)


def _table(search: Search, trials: list[Any]) -> tuple[tuple[str, ...], ...]:
    """Return the trials, best first."""
    ranked = sorted(trials, key=lambda trial: -(trial.value if trial.value is not None else float("-inf")))
    names = {state: name for name, state in STATES.items()}
    rows = [
        (
            str(trial.number),
            f"{trial.value:.4f}" if trial.state.name == "COMPLETE" else "–",
            names.get(trial.state.name.lower(), trial.state.name.lower()),
            *(_readable(trial.params.get(key)) for key in search.space),
        )
        for trial in ranked
    ]
    return (("trial", search.metric, "outcome", *search.space), *rows)


def _readable(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "–" if value is None else str(value)
