"""The folder of a training while it runs: what it was asked, its members, its MLflow runs. It can be taken up again."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medml.records.dataset import Dataset
from medml.records.experiment import Experiment
from medml.records.plan import Epoch, Member, Plan, Trained, TrainingJob
from medml.records.report import Spread
from pipelines.child import read_epochs, run_training
from pipelines.first_weights import locate_weights
from pipelines.progress import progress_bar
from pipelines.tasks import current_home, device_slot

if TYPE_CHECKING:
    from medml.registry.tracking import Tracker

QUIET = {"reasons", "normalisation", "augmentation"}


@dataclass(frozen=True, slots=True)
class TrainingRun:
    """One experiment on one dataset: a member for each fold and seed; a single member has the folder to itself.

    Attributes
    ----------
    folder : Path
        Named after experiment and dataset, so that the same command finds what it left unfinished.
    """

    folder: Path
    wanted: Experiment
    frozen: Dataset
    members: tuple[Member, ...]

    @classmethod
    def of(cls, wanted: Experiment, frozen: Dataset, *, starts: int = 1) -> TrainingRun:
        """Name what is trained on what; ``starts`` as the plan says."""
        asked = wanted.model_dump(mode="json", exclude={"tune"})
        digest = hashlib.sha256(json.dumps([asked, frozen.digest], sort_keys=True).encode()).hexdigest()
        folder = current_home().runs / f"{wanted.name}-{digest[:12]}"
        return cls(folder, wanted, frozen, wanted.members(len(frozen.folds), starts=starts))

    @property
    def several(self) -> bool:
        """Whether the model will be an ensemble."""
        return len(self.members) > 1

    @property
    def title(self) -> str:
        """What its MLflow run is called."""
        if not self.several:
            return f"{self.wanted.name} ({self.members[0].name})"
        folds = len({member.fold for member in self.members})
        return f"{self.wanted.name} ({folds} {'folds' if folds > 1 else 'fold'}, {len(self.members)} trainings)"

    @property
    def run_id(self) -> str:
        """The id of its MLflow run."""
        return mlflow_run(self.folder)

    def place(self, member: Member) -> Path:
        """Return the folder in which a member is trained."""
        return self.folder / f"fold-{member.fold}-seed-{member.seed}" if self.several else self.folder


def open_training(run: TrainingRun, plan: Plan, device: str) -> None:
    """Write what is asked into the folder and start its MLflow run, or take up the unfinished one."""
    from medml.io.files import write_json, write_record
    from medml.registry.tracking import Tracker

    run.folder.mkdir(parents=True, exist_ok=True)
    weights = _first_weights(run, plan)
    plan = plan.model_copy(update={"pretrained": named(plan.pretrained)})
    asked = run.wanted.model_dump(mode="json")
    if "pretrained" in run.wanted.plan:
        asked["plan"]["pretrained"] = plan.pretrained
    write_record(run.folder / "plan.json", plan)
    write_json(run.folder / "experiment.json", asked)
    tracker = Tracker.of(current_home())
    folds = sorted({member.fold for member in run.members})
    counts = {"folds": folds, "seeds": len(run.members) // len(folds)}
    run_id = tracker.start_or_resume(
        experiment=run.wanted.name,
        run_name=run.title,
        run_key=run.folder.name,
        params={**parameters(plan), **counts, "split": run.wanted.dataset.split},
        tags=_tags(run) | {"medml.kind": "training", "medml.folds": ",".join(map(str, folds))},
        dataset=run.frozen,
        description=run.wanted.description,
    )
    write_json(run.folder / "mlflow.json", {"run_id": run_id})
    saved = [run.folder / f"{name}.json" for name in ("plan", "experiment", "fingerprint")]
    tracker.log_text_files(run_id, [path for path in saved if path.exists()], "configuration")
    for member in run.members:
        place = run.place(member)
        place.mkdir(exist_ok=True)
        if run.several:
            write_record(place / "plan.json", plan.model_copy(update={"seed": plan.seed + member.seed}))
        job = job_of(run.frozen, place, fold=member.fold, device=device, pretrained=weights)
        write_record(place / "job.json", job)


def _first_weights(run: TrainingRun, plan: Plan) -> str:
    """Return where the first weights lie; of a training taken up, where they lay when it began."""
    from medml.io.files import read_record

    begun = run.place(run.members[0]) / "job.json"
    return read_record(begun, TrainingJob).pretrained if begun.exists() else locate_weights(plan, run.frozen)


def named(pretrained: str) -> str:
    """Return what records and MLflow may show of ``plan.pretrained``: a registered model's name, or a file's digest."""
    from medml.io.files import sha256_file
    from medml.registry.models import folder_digest

    path = Path(pretrained).expanduser()
    if not pretrained or not path.exists():
        return pretrained
    return f"sha256:{(folder_digest(path) if path.is_dir() else sha256_file(path))[:16]}"


def train_member(run: TrainingRun, member: Member) -> None:
    """Train in a child while its epochs go to MLflow; a finished member is left as it is."""
    from medml.io.files import write_json
    from medml.registry.tracking import Tracker

    place = run.place(member)
    tracker = Tracker.of(current_home())
    if run.several and not (place / "mlflow.json").exists():
        run_id = tracker.start_or_resume(
            experiment=run.wanted.name,
            run_name=member.name,
            run_key=f"{run.folder.name}/{place.name}",
            params={"fold": member.fold, "seed": member.seed},
            tags=_tags(run) | {"medml.kind": "member"},
            parent=run.run_id,
        )
        write_json(place / "mlflow.json", {"run_id": run_id})
    if not finished(place):
        follow_training(place, tracker, f"training {member.name}" if run.several else "training")
    if run.several:
        tracker.finish(mlflow_run(place))


def join_members(run: TrainingRun) -> None:
    """Make one package of all members, in a child; skipped when it is there."""
    from medml.io.files import read_record, write_record
    from medml.networks.precision import choose_device

    if finished(run.folder):
        return
    trained = [
        Trained(fold=member.fold, seed=member.seed, package=str(run.place(member) / "package"))
        for member in run.members
    ]
    first = read_record(run.place(run.members[0]) / "job.json", TrainingJob)
    asked = {"run": str(run.folder), "plan": str(run.folder / "plan.json"), "members": tuple(trained), "processes": 1}
    write_record(run.folder / "job.json", first.model_copy(update=asked))
    with device_slot(str(choose_device(first.device))), progress_bar("joining the members") as bar:
        run_training(run.folder, on_epochs=lambda _: None, bar=bar)


def follow_training(place: Path, tracker: Tracker, title: str) -> None:
    """Run the child of a folder's job on a free device slot; its epochs go to the folder's MLflow run."""
    from medml.io.files import read_record
    from medml.networks.precision import choose_device

    run_id = mlflow_run(place)
    device = read_record(place / "job.json", TrainingJob).device
    shown: set[Path] = set()

    def follow(epochs: list[Epoch]) -> None:
        tracker.log_epochs(run_id, epochs)
        for picture in sorted(set((place / "pictures").glob("*-*.png")) - shown):
            name, _, epoch = picture.stem.rpartition("-")
            tracker.log_picture(run_id, name, picture.read_bytes(), step=int(epoch))
            shown.add(picture)

    with device_slot(str(choose_device(device))), progress_bar(title) as bar:
        run_training(
            place,
            on_epochs=follow,
            on_steps=lambda points: tracker.log_steps(run_id, points),
            on_system=lambda seconds, figures: tracker.log_system(run_id, seconds, figures),
            bar=bar,
        )


def log_worst(run: TrainingRun, tracker: Tracker, report: Path, *, most: int = 6) -> None:
    """Show the worst test cases as one picture of the model's run, at its last epoch."""
    worst = sorted((report / "figures").glob("worst_*.png"))[:most]
    epochs = learning_curve(run)
    if worst:
        pictures = [file.read_bytes() for file in worst]
        tracker.log_picture(run.run_id, "worst_test_cases", *pictures, step=epochs[-1].epoch if epochs else 0)


def log_spread(run: TrainingRun, tracker: Tracker, spread: Spread) -> None:
    """Give each member's MLflow run its own figures, and the model's run their mean and deviations."""
    places = {(member.fold, member.seed): run.place(member) for member in run.members}
    for single in spread.runs:
        tracker.log_metrics(mlflow_run(places[single.fold, single.seed]), finite(single.metrics, "validation_"))
    for name, found in spread.deviations.items():
        values = {"mean": found.mean, "std_between_seeds": found.seeds, "std_between_folds": found.folds}
        tracker.log_metrics(run.run_id, finite(values, f"members_{name}_"))


def job_of(
    frozen: Dataset, place: Path, *, fold: int, device: str, keep: bool = True, pretrained: str = ""
) -> TrainingJob:
    """Return what the training child is told."""
    home = current_home()
    return TrainingJob(
        dataset=str(home.datasets / frozen.name / f"{frozen.digest}.json"),
        plan=str(place / "plan.json"),
        fold=fold,
        scans=str(home.scans),
        cache=str(home.cache),
        run=str(place),
        device=device,
        keep=keep,
        pretrained=pretrained,
    )


def parameters(plan: Plan) -> dict[str, Any]:
    """Return what a run's table shows of a plan."""
    return plan.model_dump(mode="json", exclude=QUIET)


def finished(place: Path) -> bool:
    """Say whether a folder's package is there; it appears whole or not at all."""
    return (place / "package" / "digests.json").exists()


def mlflow_run(place: Path) -> str:
    """Return the id of a folder's MLflow run."""
    return str(json.loads((place / "mlflow.json").read_text(encoding="utf-8"))["run_id"])


def learning_curve(run: TrainingRun) -> list[Epoch]:
    """Return the epochs for the report: of a single training only; members have theirs in MLflow."""
    return [] if run.several else read_epochs(run.folder / "epochs.jsonl")


def finite(metrics: dict[str, float | None], prefix: str) -> dict[str, float]:
    """Return what is defined, named."""
    return {f"{prefix}{key}": value for key, value in metrics.items() if value is not None}


def _tags(run: TrainingRun) -> dict[str, str]:
    return {
        "medml.task": run.wanted.task,
        "medml.dataset": run.frozen.name,
        "medml.dataset_digest": run.frozen.digest,
        "medml.test_digest": run.frozen.test_digest,
    }
