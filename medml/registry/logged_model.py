"""A package as an MLflow model: loaded by import, never by unpickling; shown with its run and its test figures."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Mapping
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import TYPE_CHECKING

from medml.io.files import read_record
from medml.records.dataset import Task
from medml.records.plan import Plan
from medml.records.report import Evaluation
from medml.registry.inputs import held_out_entity
from medml.registry.tracking import NEUTRAL_TAGS, Tracker

if TYPE_CHECKING:
    from mlflow.models import ModelSignature

LOADER = "medml.registry.serving_model"


def log_model(
    tracker: Tracker,
    run_id: str,
    name: str,
    package: Path,
    tags: dict[str, str],
    evaluation: Evaluation | None,
) -> str:
    """Log the package as an MLflow model of the run and return its id; the files lie under ``data/package``."""
    from mlflow.entities import LoggedModelOutput
    from mlflow.models import Model
    from mlflow.pyfunc import save_model

    client = tracker.client
    run = client.get_run(run_id)
    asked = evaluation or read_record(package / "plan.json", Plan)
    model = client.create_logged_model(
        run.info.experiment_id,
        name=name,
        source_run_id=run_id,
        tags={**NEUTRAL_TAGS, **tags},
        params=run.data.params,
        model_type=asked.task,
    )
    with tempfile.TemporaryDirectory() as folder:
        staged = Path(folder) / "package"
        os.symlink(package.resolve(), staged)
        with warnings.catch_warnings():
            # MLflow asks for an example image; ours would be a patient's.
            warnings.filterwarnings("ignore", message=".*input example was not provided")
            save_model(
                path=Path(folder) / "model",
                loader_module=LOADER,
                data_path=str(staged),
                mlflow_model=Model(
                    artifact_path=name,
                    model_uuid=model.model_id,
                    run_id=run_id,
                    model_id=model.model_id,
                ),
                signature=_signature(asked.task, asked.labels),
                pip_requirements=[f"medml=={installed_version('medml')}"],
            )
        client.log_model_artifacts(model.model_id, str(Path(folder) / "model"))
    client.finalize_logged_model(model.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
    if evaluation is not None:
        link_metrics(tracker, run_id, model.model_id, evaluation)
    return str(model.model_id)


def link_metrics(tracker: Tracker, run_id: str, model_id: str, evaluation: Evaluation) -> None:
    """Show a run's test figures on the model's page too, under the name and digest of the test set."""
    from mlflow.entities import Metric

    summary = evaluation.summary
    data = held_out_entity(summary.dataset, summary.test_digest)
    keys = [f"test_{key}" for key, value in summary.metrics.items() if value is not None]
    linked = [
        Metric(
            m.key,
            m.value,
            m.timestamp,
            m.step,
            model_id=model_id,
            dataset_name=data.name,
            dataset_digest=data.digest,
            run_id=run_id,
        )
        for key in keys
        for m in tracker.client.get_metric_history(run_id, key)[-1:]
    ]
    if linked:
        tracker.client.log_batch(run_id, metrics=linked)


def _signature(task: Task, labels: Mapping[int, str]) -> ModelSignature:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema, TensorSpec

    outputs: list[ColSpec | TensorSpec]
    if task == "segment":
        outputs = [ColSpec(DataType.string, "mask")]
    else:
        outputs = [ColSpec(DataType.double, f"p_{name}") for name in labels.values()]
    return ModelSignature(inputs=Schema([ColSpec(DataType.string, "image")]), outputs=Schema(outputs))
