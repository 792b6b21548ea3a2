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

from medml.records.dataset import Dataset
from medml.records.home import Home
from medml.records.plan import Epoch
from medml.records.report import Evaluation

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

RUN_KEY = "medml.run_key"
EPOCH_MARK = "epoch_seconds"  # logged with every epoch, so its history says which epochs are there
PARAM_CHARS = 500
DIGEST_CHARS = 36  # what MLflow keeps of a dataset's digest
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
            Logged as the run's input: name and digest, no paths.
        """
        experiment_id = self.experiment(experiment)
        run = self._unfinished(experiment_id, run_key)
        if run is None:
            run = self.client.create_run(
                experiment_id,
                run_name=run_name,
                tags={**NEUTRAL_TAGS, **(tags or {}), RUN_KEY: run_key},
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

    def log_dataset_input(self, run_id: str, dataset: Dataset) -> None:
        """Show the dataset on the run's page: its name, digest, size, labels and test digest."""
        from mlflow.entities import Dataset as MlflowDataset
        from mlflow.entities import DatasetInput, InputTag

        counts = {
            "cases": len(dataset.cases),
            "patients": len({case.patient for case in dataset.cases}),
        }
        profile = {
            **counts,
            "test_cases": len(dataset.test),
            "labels": {str(value): name for value, name in dataset.labels.items()},
            "modality": dataset.modality,
            "test_digest": dataset.test_digest,
        }
        entity = MlflowDataset(
            name=dataset.name,
            digest=dataset.digest[:DIGEST_CHARS],
            source_type="medml dataset",
            source=json.dumps({"dataset": dataset.name, "digest": dataset.digest}),
            schema=json.dumps({"channels": list(dataset.channels), "task": dataset.task}),
            profile=json.dumps(profile),
        )
        self.client.log_inputs(
            run_id,
            [DatasetInput(entity, [InputTag("mlflow.data.context", "training")])],
        )

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
            run_name=f"evaluate {model} version {version}",
            tags={**NEUTRAL_TAGS, **tags},
        )
        run_id = str(run.info.run_id)
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


def _place(root: str, name: str) -> str:
    """Return the URI below ``root``; a path becomes a file URI, so that blanks and # in it are safe."""
    return f"{root.rstrip('/')}/{name}" if "://" in root else (Path(root).resolve() / name).as_uri()


def _cut(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= PARAM_CHARS else text[: PARAM_CHARS - 1] + "…"
