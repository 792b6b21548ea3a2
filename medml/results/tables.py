"""``results.csv`` and ``ledger.json``: one row per scan. Clinical side: they name sources by their path in SRC."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medml.io.files import write_json, write_text
from medml.records.batch import BatchMeta, Job, LedgerRow, Prediction
from medml.records.plan import Plan

Cell = str | int | float | None
MODE = 0o600
BASE = ("source", "scan_id", "status", "reason", "model", "model_version", "input_digest")
TAIL = ("uncertainty", "seconds")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def result_row(
    job: Job, prediction: Prediction, plan: Plan, *, threshold: float | None = None
) -> dict[str, str | int | float | None]:
    """Return what the model found in one scan, under the column names of ``results.csv``.

    Volumes are None where the source has no spacing; voxels are always counted.
    """
    found: dict[str, Cell] = {}
    if prediction.mask is not None:
        found |= _volumes(job, prediction.mask, plan)
    if prediction.probabilities is not None:
        found |= _classes(prediction.probabilities, plan, threshold)
    uncertainty = prediction.uncertainty
    found["uncertainty"] = round(float(uncertainty), 6) if np.isfinite(uncertainty) else None
    found["seconds"] = round(sum(prediction.seconds.values()), 3)
    return found


def predicted_class(probabilities: np.ndarray, plan: Plan, threshold: float | None) -> str:
    """Return the name of the class called present; all names above the threshold, if several may hold."""
    if plan.multi_label:
        limit = 0.5 if threshold is None else threshold
        return "; ".join(plan.labels[n] for n in sorted(plan.labels) if probabilities[n] >= limit)
    if threshold is not None and len(plan.labels) == 2:
        return plan.labels[int(probabilities[1] >= threshold)]
    return plan.labels[int(np.argmax(probabilities))]


def write_results(out: Path, rows: Sequence[LedgerRow], meta: BatchMeta) -> Path:
    """Write ``results.csv``, sorted by source, with every column even if no scan has a value for it."""
    columns = [*BASE, *result_columns(meta), *TAIL]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow([safe_cell(column) for column in columns])
    for row in sorted(rows, key=lambda row: (row.source, row.scan_id)):
        values: dict[str, Cell] = {**row.model_dump(include=set(BASE)), "model_version": meta.version, **row.result}
        values["model"] = row.model or meta.model
        table.writerow([safe_cell(values.get(column)) for column in columns])
    path = out / "results.csv"
    write_text(path, text.getvalue(), MODE)
    return path


def write_ledger(out: Path, rows: Sequence[LedgerRow]) -> Path:
    """Write ``ledger.json``: a list with one object per scan, sorted by source."""
    path = out / "ledger.json"
    ordered = sorted(rows, key=lambda row: (row.source, row.scan_id))
    write_json(path, [row.model_dump(mode="json") for row in ordered], MODE)
    return path


def result_columns(meta: BatchMeta) -> list[str]:
    """Return the columns that depend on the model's labels, in label order."""
    if meta.task == "segment":
        names = [meta.labels[value] for value in sorted(meta.labels) if value != 0]
        return [f"{kind}_{name}" for kind in ("volume_ml", "voxels") for name in names]
    return [*(f"prob_{meta.labels[value]}" for value in sorted(meta.labels)), "predicted"]


def safe_cell(value: Cell) -> str:
    """Return a CSV cell that no spreadsheet takes for a formula; control characters become spaces."""
    if value is None:
        return ""
    if not isinstance(value, str):
        return str(value)
    text = "".join(letter if letter.isprintable() else " " for letter in value)
    if text.lstrip().startswith(("=", "+", "-", "@")) and not NUMBER.fullmatch(text):
        return f"'{text}"
    return text


def _volumes(job: Job, mask: np.ndarray, plan: Plan) -> dict[str, Cell]:
    volume = job.reading.volume
    counts = np.bincount(mask.ravel(), minlength=max(plan.labels) + 1)
    voxel_ml = abs(float(np.linalg.det(volume.affine[:3, :3]))) / 1000
    found: dict[str, Cell] = {}
    for value in sorted(plan.labels):
        if value != 0:
            known = volume.geometry == "mm"
            found[f"volume_ml_{plan.labels[value]}"] = round(float(counts[value]) * voxel_ml, 4) if known else None
            found[f"voxels_{plan.labels[value]}"] = int(counts[value])
    return found


def _classes(probabilities: np.ndarray, plan: Plan, threshold: float | None) -> dict[str, Cell]:
    found: dict[str, Cell] = {
        f"prob_{plan.labels[value]}": round(float(probabilities[value]), 6) for value in sorted(plan.labels)
    }
    return found | {"predicted": predicted_class(probabilities, plan, threshold)}
