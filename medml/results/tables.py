"""``results.csv``, ``results.parquet`` and ``ledger.json``: one row per scan.

Clinical side: they name sources by their path in SRC.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from medml.io.files import write_atomic, write_json, write_text
from medml.records.batch import BatchMeta, Job, LedgerRow, Prediction
from medml.records.plan import Plan
from medml.results.doubts import Doubt, Standards, conformal_set, doubts_of
from medml.results.measures import INTENSITIES, LabelMeasures, measure_labels, unit_of

Cell = str | int | float | None
MODE = 0o600
BASE = ("source", "scan_id", "status", "reason", "model", "model_version", "model_digest", "input_digest")
TAIL = {
    "uncertainty": float,
    "disagreement": float,
    "ood_score": float,
    "ood_share": float,
    "ood_geometry": float,
    "ood_intensity": float,
    "ood_layout": float,
    "ood_features": float,
    "review_codes": str,
    "review": str,
    "seconds": float,
}
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def result_row(
    job: Job,
    prediction: Prediction,
    plan: Plan,
    standards: Standards | None = None,
    *,
    measures: Mapping[int, LabelMeasures] | None = None,
) -> dict[str, Cell]:
    """Return what the model found in one scan, under the column names of ``results.csv``; see docs/results.md.

    Parameters
    ----------
    standards : Standards or None
        What the package promises and when to doubt; None: nothing.
    measures : mapping or None
        What `measure_labels` gave for this very mask; None: it is measured here.
    """
    standards = standards or Standards()
    found: dict[str, Cell] = {}
    if prediction.mask is not None:
        measures = measure_labels(job, prediction.mask, plan) if measures is None else measures
        found |= _measured(job, measures, plan)
    if prediction.probabilities is not None:
        found |= _classes(prediction.probabilities, plan, standards)
    found |= {"uncertainty": _rounded(prediction.uncertainty), "disagreement": _rounded(prediction.disagreement)}
    found |= {"ood_score": _rounded(max(prediction.unlike.values(), default=np.nan))}
    found |= {"ood_share": _rounded(prediction.unlike_share)}
    found |= {f"ood_{name}": _rounded(value) for name, value in prediction.unlike.items()}
    found |= _review(doubts_of(prediction, measures or {}, plan, standards))
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
    """Write ``results.csv`` and ``results.parquet``: the same rows, sorted by source, with every column always there.

    Text of the CSV is made harmless for spreadsheets; Parquet holds it as it is.

    Returns
    -------
    Path
        Of the CSV.
    """
    columns = {**dict.fromkeys(BASE, str), **result_columns(meta), **TAIL}
    values = [_values(row, meta) for row in sorted(rows, key=lambda row: (row.source, row.scan_id))]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow([safe_cell(column) for column in columns])
    table.writerows([safe_cell(value.get(column)) for column in columns] for value in values)
    path = out / "results.csv"
    write_text(path, text.getvalue(), MODE)
    _write_parquet(out / "results.parquet", values, columns)
    return path


def write_ledger(out: Path, rows: Sequence[LedgerRow]) -> Path:
    """Write ``ledger.json``: a list with one object per scan, sorted by source."""
    path = out / "ledger.json"
    ordered = sorted(rows, key=lambda row: (row.source, row.scan_id))
    write_json(path, [row.model_dump(mode="json") for row in ordered], MODE)
    return path


def result_columns(meta: BatchMeta) -> dict[str, type]:
    """Return the columns that depend on the model's task and labels, in label order, with their types."""
    if meta.task == "segment":
        names = [meta.labels[value] for value in sorted(meta.labels) if value != 0]
        kinds: dict[str, type] = {"volume_ml": float, "voxels": int, **dict.fromkeys(INTENSITIES, float)}
        return {f"{kind}_{name}": of for kind, of in kinds.items() for name in names} | {"unit": str}
    shares = {f"prob_{meta.labels[value]}": float for value in sorted(meta.labels)}
    return {**shares, "predicted": str, "conformal_set": str, "conformal_coverage": float}


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


def _values(row: LedgerRow, meta: BatchMeta) -> dict[str, Cell]:
    values: dict[str, Cell] = {**row.model_dump(include=set(BASE)), "model_version": meta.version, **row.result}
    values["model"] = row.model or meta.model
    values["model_digest"] = row.model_digest or meta.digest
    return values


def _write_parquet(path: Path, values: Sequence[Mapping[str, Cell]], columns: Mapping[str, type]) -> None:
    """Write typed columns; what is missing is null, in columns of whole numbers too."""
    import pyarrow as pa
    from pyarrow import parquet

    kinds = {str: pa.string(), int: pa.int64(), float: pa.float64()}
    table = pa.table(
        {name: pa.array([value.get(name) for value in values], kinds[kind]) for name, kind in columns.items()}
    )
    write_atomic(path, lambda temporary: parquet.write_table(table, temporary), mode=MODE)


def _measured(job: Job, measures: Mapping[int, LabelMeasures], plan: Plan) -> dict[str, Cell]:
    found: dict[str, Cell] = {"unit": unit_of(job, plan)}
    for label, measured in measures.items():
        name = plan.labels[label]
        found |= {f"volume_ml_{name}": measured.volume_ml, f"voxels_{name}": measured.shape.voxels}
        found |= {f"{kind}_{name}": measured.intensity.get(kind) for kind in INTENSITIES}
    return found


def _classes(probabilities: np.ndarray, plan: Plan, standards: Standards) -> dict[str, Cell]:
    calibration = standards.calibration
    found: dict[str, Cell] = {
        f"prob_{plan.labels[value]}": round(float(probabilities[value]), 6) for value in sorted(plan.labels)
    }
    classes = conformal_set(probabilities, plan, calibration)
    return found | {
        "predicted": predicted_class(probabilities, plan, calibration.threshold),
        "conformal_set": None if classes is None else "; ".join(classes),
        "conformal_coverage": None if classes is None else round(1 - calibration.miss, 6),
    }


def _review(doubts: Sequence[Doubt]) -> dict[str, Cell]:
    """Return codes and sentences of the doubts, in the same order; both None without any."""
    if not doubts:
        return {"review_codes": None, "review": None}
    return {
        "review_codes": " ".join(doubt.code for doubt in doubts),
        "review": "\n".join(doubt.reason for doubt in doubts),
    }


def _rounded(value: float) -> float | None:
    return round(float(value), 6) if np.isfinite(value) else None
