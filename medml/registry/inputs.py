"""What MLflow shows of the data that a model learned from or was tested on: names, digests, counts; no place of it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from medml.records.dataset import Dataset

if TYPE_CHECKING:
    from mlflow.entities import Dataset as MlflowDataset

DIGEST_CHARS = 36  # what MLflow keeps of a dataset's digest


def dataset_entity(dataset: Dataset) -> MlflowDataset:
    """Return what MLflow keeps of a frozen dataset."""
    from mlflow.entities import Dataset as MlflowDataset

    profile = {
        "cases": len(dataset.cases),
        "patients": len({case.patient for case in dataset.cases}),
        "test_cases": len(dataset.test),
        "labels": {str(value): name for value, name in dataset.labels.items()},
        "modality": dataset.modality,
        "test_digest": dataset.test_digest,
    }
    return MlflowDataset(
        name=dataset.name,
        digest=dataset.digest[:DIGEST_CHARS],
        source_type="medml dataset",
        source=json.dumps({"dataset": dataset.name, "digest": dataset.digest}),
        schema=json.dumps({"channels": list(dataset.channels), "task": dataset.task}),
        profile=json.dumps(profile),
    )


def held_out_entity(name: str, test_digest: str) -> MlflowDataset:
    """Return what MLflow keeps of a test set: figures of models on the same one stand side by side."""
    from mlflow.entities import Dataset as MlflowDataset

    return MlflowDataset(
        name=f"{name} (test set)",
        digest=test_digest[:DIGEST_CHARS],
        source_type="medml dataset",
        source=json.dumps({"dataset": name, "test_digest": test_digest}),
    )
