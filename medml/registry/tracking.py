"""MLflow runs: one per training, resumed when the training is; nothing in them names a user, a host or a path."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from medml.io.pictures import read_pixels
from medml.records.dataset import Dataset
from medml.records.home import Home
from medml.records.plan import Epoch, Point
from medml.records.report import Evaluation
from medml.registry.inputs import dataset_entity, held_out_entity
from medml.registry.relocate import follow_home

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

RUN_KEY = "medml.run_key"
NOTE = "mlflow.note.content"  # Markdown at the top of a page
PARENT = "mlflow.parentRunId"
STEP_MARK = "step/seconds"
MOST_METRICS = 1000  # what MLflow takes at once
EPOCH_MARK = "epoch_seconds"  # logged with every epoch, so its history says which epochs are there
CONTEXT = "mlflow.data.context"
PARAM_CHARS = 500
NOTE_CHARS = 7900  # what MLflow takes in a tag is 8000
NEUTRAL_TAGS = {
    "mlflow.user": "medml",
    "mlflow.source.name": "medml",
    "mlflow.source.type": "LOCAL",
}
BATCH = 100

Status = Literal["FINISHED", "FAILED", "KILLED"]


class Tracker:
    """The MLflow store of a home.

    Parameters
    ----------
    tracking_uri : str
        Where MLflow keeps runs and models: a database URL, or ``http://…`` of a tracking server.
    artifact_root : str
        Path or URI under which new experiments keep files; ignored by a tracking server, which has its own.
    """

    def __init__(self, tracking_uri: str, artifact_root: str) -> None:
        self.tracking_uri = tracking_uri
        self.artifact_root = artifact_root
        self._client: MlflowClient | None = None

    @classmethod
    def of(cls, home: Home) -> Tracker:
        """Return the tracker of a home; ``MLFLOW_TRACKING_URI`` in the environment wins over its own database."""
        return cls(
            os.environ.get("MLFLOW_TRACKING_URI") or home.mlflow_url,
            str(home.mlartifacts),
        )

    @property
    def client(self) -> MlflowClient:
        """The MLflow client; the first use imports MLflow and makes the database, which takes seconds."""
        if self._client is None:
            self._client = _open(self.tracking_uri, self.artifact_root)
        return self._client

    def start_or_resume(
        self,
        *,
        experiment: str,
        run_name: str,
        run_key: str,
        params: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
        dataset: Dataset | None = None,
        parent: str | None = None,
        description: str = "",
    ) -> str:
        """Take up the unfinished run of ``run_key``, or start one, and return its id.

        Parameters
        ----------
        run_key : str
            Names the work: the same experiment, data and plan give the same key. A run that a killed process left
            RUNNING, FAILED or KILLED under this key goes on; a finished one does not.
        params : mapping
            Shown in the run's table; long values are cut.
        dataset : Dataset, optional
            Logged as the run's inputs: name and digest of what is learned from and of its test set, no paths.
        parent : str, optional
            The run that this one is part of; MLflow shows it folded under that.
        description : str
            Shown at the top of the experiment's page.
        """
        experiment_id = self.experiment(experiment)
        if description:
            self.client.set_experiment_tag(experiment_id, NOTE, description)
        nested = {PARENT: parent} if parent else {}
        run = self._unfinished(experiment_id, run_key)
        if run is None:
            run = self.client.create_run(
                experiment_id,
                run_name=run_name,
                tags={**NEUTRAL_TAGS, **nested, **(tags or {}), RUN_KEY: run_key},
            )
        else:
            self.client.update_run(run.info.run_id, status="RUNNING")
        run_id = str(run.info.run_id)
        self.log_params(run_id, params or {})
        if dataset is not None:
            self.log_dataset_input(run_id, dataset)
        return run_id

    def experiment(self, name: str) -> str:
        """Return the id of an MLflow experiment, made if absent with its files under the artifact root."""
        from mlflow.exceptions import MlflowException

        found = self.client.get_experiment_by_name(name)
        if found is None:
            location = None if self.tracking_uri.startswith("http") else _place(self.artifact_root, name)
            try:
                return str(self.client.create_experiment(name, artifact_location=location))
            except MlflowException:
                # Another process made it meanwhile.
                found = self.client.get_experiment_by_name(name)
                if found is None:
                    raise
        return str(found.experiment_id)

    def log_params(self, run_id: str, params: Mapping[str, Any]) -> None:
        """Log parameters that the run does not have yet; values are text, cut at 500 characters."""
        from mlflow.entities import Param

        known = self.client.get_run(run_id).data.params
        new = [Param(key, _cut(value)) for key, value in params.items() if key not in known]
        for start in range(0, len(new), BATCH):
            self.client.log_batch(run_id, params=new[start : start + BATCH])

    def take_up(self, run_id: str) -> None:
        """Go on with a run, a finished one too."""
        self.client.update_run(run_id, status="RUNNING")

    def tag(self, run_id: str, key: str, value: str) -> None:
        """Put a word on a run that people can search for."""
        self.client.set_tag(run_id, key, value)

    def describe(self, run_id: str, text: str) -> None:
        """Put a description, Markdown, at the top of the run's page."""
        self.client.set_tag(run_id, NOTE, text[:NOTE_CHARS])

    def page(self, run_id: str) -> str:
        """Return the run's page, after the address of the MLflow server."""
        return f"#/experiments/{self.client.get_run(run_id).info.experiment_id}/runs/{run_id}"

    def log_dataset_input(self, run_id: str, dataset: Dataset, *, tested: bool = True) -> None:
        """Show on the run's page what it learns from, and what it is tested on if it is: name, digest, size, labels."""
        from mlflow.entities import DatasetInput, InputTag

        shown = {"training": dataset_entity(dataset)}
        if tested:
            shown["test"] = held_out_entity(dataset.name, dataset.test_digest)
        inputs = [DatasetInput(entity, [InputTag(CONTEXT, context)]) for context, entity in shown.items()]
        self.client.log_inputs(run_id, inputs)

    def log_epochs(self, run_id: str, epochs: Iterable[Epoch]) -> None:
        """Log each epoch's figures at its number; epochs that are there already stay as they are."""
        from mlflow.entities import Metric

        done = {metric.step for metric in self.client.get_metric_history(run_id, EPOCH_MARK)}
        now = int(time.time() * 1000)
        for epoch in epochs:
            if epoch.epoch in done:
                continue
            done.add(epoch.epoch)
            # One batch is one transaction, so the mark is there exactly when all of the epoch is.
            values = {
                **epoch.metrics,
                "learning_rate": epoch.learning_rate,
                EPOCH_MARK: epoch.seconds,
            }
            self.client.log_batch(
                run_id,
                [Metric(key, value, now, epoch.epoch) for key, value in values.items()],
            )

    def log_steps(self, run_id: str, points: Iterable[Point]) -> None:
        """Log figures of single steps under ``step/…`` at the step's number; those up to the last one logged stay."""
        from mlflow.entities import Metric

        last = max((metric.step for metric in self.client.get_metric_history(run_id, STEP_MARK)), default=-1)
        now = int(time.time() * 1000)
        metrics: list[Metric] = []
        for point in points:
            if point.step <= last:
                continue
            values = {**{f"step/{key}": value for key, value in point.metrics.items()}, STEP_MARK: point.seconds}
            if len(metrics) + len(values) > MOST_METRICS:  # one batch is one transaction, of whole points
                self.client.log_batch(run_id, metrics)
                metrics = []
            metrics += [Metric(key, value, now, point.step) for key, value in values.items()]
        if metrics:
            self.client.log_batch(run_id, metrics)

    def log_system(self, run_id: str, seconds: int, figures: Mapping[str, float]) -> None:
        """Log what the machine is busy with, by seconds since the start; MLflow shows ``system/…`` on a page apart."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self.client.log_batch(run_id, [Metric(key, value, now, seconds) for key, value in figures.items()])

    def log_metrics(self, run_id: str, metrics: Mapping[str, float], *, step: int = 0) -> None:
        """Log figures that belong to the whole run; the same ones again change nothing."""
        from mlflow.entities import Metric

        known = self.client.get_run(run_id).data.metrics
        now = int(time.time() * 1000)
        new = [Metric(key, value, now, step) for key, value in metrics.items() if known.get(key) != value]
        for start in range(0, len(new), BATCH):
            self.client.log_batch(run_id, metrics=new[start : start + BATCH])

    def log_figure_bytes(self, run_id: str, name: str, picture: bytes) -> None:
        """Keep a PNG as ``figures/<name>.png`` of the run."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / f"{name}.png"
            file.write_bytes(picture)
            self.client.log_artifact(run_id, str(file), "figures")

    def log_picture(self, run_id: str, name: str, *pictures: bytes, step: int) -> None:
        """Show PNGs, one below the other, among the run's images, where a slider goes through the steps.

        A step that is shown already stays as it is.
        """
        shown = {item.path for item in self.client.list_artifacts(run_id, "images")}
        if not any(path.startswith(f"images/{name}+step+{step}+") for path in shown):
            self.client.log_image(run_id, _sheet([read_pixels(picture) for picture in pictures]), key=name, step=step)

    def log_text_files(self, run_id: str, files: Iterable[Path], folder: str) -> None:
        """Keep files under ``folder`` of the run; those of the same name are replaced."""
        for file in files:
            self.client.log_artifact(run_id, str(file), folder)

    def log_folder(self, run_id: str, source: Path, folder: str) -> None:
        """Keep everything below ``source`` under ``folder`` of the run."""
        self.client.log_artifacts(run_id, str(source), folder)

    def log_evaluation(
        self, model: str, version: str, evaluation: Evaluation, folder: Path, *, tags: Mapping[str, str] | None = None
    ) -> str:
        """Log an evaluation of a registered model as a run of its own, next to its trainings; return its id."""
        from mlflow.entities import DatasetInput, InputTag

        summary = evaluation.summary
        tags = {
            **(tags or {}),
            "medml.kind": "evaluation",
            "medml.model": f"{model}/{version}",
            "medml.dataset": summary.dataset,
            "medml.test_digest": summary.test_digest,
        }
        run = self.client.create_run(
            self.experiment(model),
            run_name=f"version {version} on {summary.dataset}",
            tags={**NEUTRAL_TAGS, **tags},
        )
        run_id = str(run.info.run_id)
        data = DatasetInput(held_out_entity(summary.dataset, summary.test_digest), [InputTag(CONTEXT, "test")])
        self.client.log_inputs(run_id, [data])
        self.log_metrics(
            run_id,
            {f"test_{key}": value for key, value in summary.metrics.items() if value is not None},
        )
        self.log_folder(run_id, folder, "report")
        self.finish(run_id)
        return run_id

    def finish(self, run_id: str, status: Status = "FINISHED") -> None:
        """End the run; a FAILED or KILLED one can be taken up again by its key."""
        self.client.set_terminated(run_id, status)

    def _unfinished(self, experiment_id: str, run_key: str) -> Run | None:
        found = self.client.search_runs(
            [experiment_id],
            filter_string=f"tags.`{RUN_KEY}` = '{run_key}' and attributes.status != 'FINISHED'",
            order_by=["attributes.start_time DESC"],
            max_results=1,
        )
        return found[0] if found else None


def _open(tracking_uri: str, artifact_root: str) -> MlflowClient:
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["DO_NOT_TRACK"] = "1"
    os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    from mlflow import MlflowClient

    path = Path(tracking_uri.removeprefix("sqlite:///"))
    if tracking_uri.startswith("sqlite:///") and not _migrated(path):
        _make_database(tracking_uri, path, artifact_root)
    if path.parent == Path(artifact_root).parent:
        follow_home(path, Path(artifact_root))
    return MlflowClient(tracking_uri, tracking_uri)


def _migrated(path: Path) -> bool:
    """Say whether a database is there that no process is still making."""
    return path.exists() and not path.with_suffix(".making").exists()


def _make_database(tracking_uri: str, path: Path, artifact_root: str) -> None:
    """Make the database, one process at a time: MLflow's own migrations fail when two run at once."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    path.parent.mkdir(parents=True, exist_ok=True)
    making = path.with_suffix(".making")
    with _locked(path.with_suffix(".lock")):
        if _migrated(path):
            return
        making.touch()
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
        store = SqlAlchemyStore(tracking_uri, artifact_root)  # type: ignore[no-untyped-call]
        store.engine.dispose()
        making.unlink()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _sheet(pictures: list[np.ndarray]) -> np.ndarray:
    """Return pictures (rows, columns, 3) one below the other on white."""
    width = max(picture.shape[1] for picture in pictures)
    rows = [
        np.pad(picture, ((0, 0), (0, width - picture.shape[1]), (0, 0)), constant_values=255) for picture in pictures
    ]
    return np.concatenate(rows)


def _place(root: str, name: str) -> str:
    """Return the URI below ``root``; a path becomes a file URI, so that blanks and # in it are safe."""
    return f"{root.rstrip('/')}/{name}" if "://" in root else (Path(root).resolve() / name).as_uri()


def _cut(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= PARAM_CHARS else text[: PARAM_CHARS - 1] + "…"
