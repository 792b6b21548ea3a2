"""The report of an evaluation: one page for a reader, the table of cases and ``summary.json`` for the next step."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from medml.errors import NotFound
from medml.evaluation.charts import Charts, class_charts, segment_charts, subgroup_chart, training_chart
from medml.evaluation.classes import decided
from medml.evaluation.gate import Judged
from medml.evaluation.spread import Crossed, spread_section
from medml.evaluation.summary import scored
from medml.evaluation.wording import cards, facts, headline, metric_tables, subgroup_tables
from medml.evaluation.worst import Worst, worst_cases, worst_first
from medml.io.files import read_record, write_atomic, write_json, write_record
from medml.pages.content import Link, Picture, Section, Table, Value
from medml.pages.shell import render
from medml.pages.viewer import write_viewer
from medml.records.dataset import Dataset
from medml.records.plan import Epoch, Plan
from medml.records.report import Evaluation

__all__ = ["read_report", "worst_cases", "write_report"]

CASES = "cases.parquet"
VIEWER = "viewer.html"
LOOKED = "What the model looked at"
LOOKED_HOW = (
    "Bright is where the score of the named class comes from, in the first of the worst cases. A map is no proof: one "
    "that an untrained network gives too, or whose voxels matter no more than others, is said to be no reason."
)
UNSURE = "Where the model is unsure"
UNSURE_HOW = (
    "Entropy of the label probabilities, in the first of the worst cases: bright along a border is usual, bright in "
    "whole regions, or dark over a mistake, is not. Where the model has several members or looks at mirrored views, "
    "their disagreement is shown beside it: what more training data might resolve, while the rest lies in the image."
)
MAX_ROWS = 200
TASKS = {"segment": "segmentation", "classify": "classification"}
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
PLAN_KEYS = (
    "network", "spacing_mm", "size", "patch", "normalisation", "loss", "batch", "epochs", "steps_per_epoch", "minutes",
    "learning_rate", "augmentation", "overlap", "tta_flips", "keep_largest", "precision", "class_weights",
)  # fmt: skip


def write_report(
    folder: Path,
    evaluation: Evaluation,
    table: pd.DataFrame,
    *,
    dataset: Dataset,
    plan: Plan | None = None,
    epochs: Sequence[Epoch] | None = None,
    worst: Sequence[Worst] = (),
    validation: Evaluation | None = None,
    crossed: Crossed | None = None,
    warning: str = "",
) -> Path:
    """Write the page and viewer, ``cases.parquet`` and ``.csv``, ``summary.json``, ``evaluation.json`` and the figures.

    Parameters
    ----------
    folder : Path
        Made if absent; files of the same names are replaced.
    worst : sequence of Worst
        From `worst_cases`, worst first; the viewer is written if there are any.
    validation : Evaluation
        Shown beside the test figures, never mixed with them.
    crossed : Crossed
        Of a model of several folds or seeds, in place of ``validation``; its cases are written too, as
        ``cross_validation.csv``, and the spread of its trainings as ``spread.json``.
    warning : str
        Opens the page: why its figures are no independent test.

    Returns
    -------
    Path
        The page.
    """
    table = decided(table, dataset, evaluation.threshold)
    charts = _charts(evaluation, table, dataset, epochs or ())
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "summary.json", evaluation.summary.model_dump(mode="json"))
    write_record(folder / "evaluation.json", evaluation)
    write_atomic(folder / CASES, lambda path: _plain(table).to_parquet(path, index=False))
    write_atomic(folder / "cases.csv", lambda path: _quoted(table).to_csv(path, index=False))
    if crossed is not None:
        validation = crossed.evaluation
        write_record(folder / "spread.json", crossed.spread)
        cases = _quoted(decided(crossed.table, dataset, validation.threshold))
        write_atomic(folder / "cross_validation.csv", lambda path: cases.to_csv(path, index=False))
    pictures = charts | {f"worst_{number:02d}": item.picture for number, item in enumerate(worst, start=1)}
    for name, picture in pictures.items():
        write_atomic(folder / "figures" / f"{name}.png", partial(_write_bytes, picture.png))
    summary = evaluation.summary
    title = f"{summary.model} on {summary.dataset}"
    viewed = _view(folder / VIEWER, worst, title)
    return render(
        "page.html",
        folder / "report.html",
        title=title,
        kicker=f"Evaluation · {summary.split} set · {TASKS[evaluation.task]}",
        lead=f"{warning} {headline(evaluation, table, seen=bool(warning))}".strip(),
        facts=facts(evaluation, table, dataset),
        cards=cards(evaluation),
        sections=_sections(evaluation, table, dataset, plan, charts, worst, validation, viewed, crossed),
    )


def read_report(folder: Path) -> Judged:
    """Return the evaluation and the table of cases that `write_report` left in a folder.

    Raises
    ------
    NotFound
        If the folder holds no finished report.
    """
    for name in ("evaluation.json", CASES):
        if not (folder / name).is_file():
            raise NotFound(f"{folder}: no {name} there; run the evaluation first")
    return Judged(read_record(folder / "evaluation.json", Evaluation), pd.read_parquet(folder / CASES))


def _write_bytes(content: bytes, path: Path) -> None:
    path.write_bytes(content)


def _charts(evaluation: Evaluation, table: pd.DataFrame, dataset: Dataset, epochs: Sequence[Epoch]) -> Charts:
    done = scored(table)
    own = segment_charts(evaluation, done) if dataset.task == "segment" else class_charts(evaluation)
    return own | subgroup_chart(evaluation) | training_chart(epochs)


def _sections(
    evaluation: Evaluation,
    table: pd.DataFrame,
    dataset: Dataset,
    plan: Plan | None,
    charts: Charts,
    worst: Sequence[Worst],
    validation: Evaluation | None,
    viewed: int,
    crossed: Crossed | None = None,
) -> list[Section]:
    """Return the parts of the page, in reading order; a part with nothing in it is left out."""
    own = [picture for name, picture in charts.items() if name not in ("subgroups", "training")]
    sections = [
        Section("Figures", tables=metric_tables(evaluation, validation), pictures=own),
        Section(
            "Subgroups",
            text=[
                "Does it work equally well for everyone? Small groups are shown too, greyed and without an interval "
                "where fewer than ten patients (with the event that a rate is about) count. A gap is marked when its p "
                "stays below 0.05 after Holm's correction for all gaps of this audit; a gap that is not marked may "
                "still be real where patients are few."
            ],
            tables=subgroup_tables(evaluation.subgroups),
            pictures=[charts["subgroups"]] if "subgroups" in charts else [],
        ),
        *([spread_section(crossed.spread)] if crossed else []),
        _worst_section(table, worst, viewed),
        _looked_section(worst),
        Section(UNSURE, [UNSURE_HOW], pictures=[item.uncertainty for item in worst if item.uncertainty]),
        Section("Training", pictures=[charts["training"]] if "training" in charts else []),
        Section("How the model was set up", tables=_plan_tables(plan)),
        Section("Limits and notes", notes=[*evaluation.notes, *_dataset_notes(dataset)]),
    ]
    return [part for part in sections if part.tables or part.pictures or part.notes]


def _view(path: Path, worst: Sequence[Worst], title: str) -> int:
    """Write the viewer beside the report and return how many cases it shows; without cases there is none."""
    path.unlink(missing_ok=True)
    if not worst:
        return 0
    return write_viewer(path, [item.viewed for item in worst], title=f"Worst cases of {title}", kicker="Viewer")


def _worst_section(table: pd.DataFrame, worst: Sequence[Worst], viewed: int) -> Section:
    rows = worst_first(table)
    hidden = {"part", "status", "reason", "diagonal_mm", "peak_memory_mb"}
    columns = [c for c in rows.columns if c not in hidden and not c.startswith(("iou_", "assd_", "truth_"))][:14]
    lines = [[_value(value) for value in row] for row in rows[columns].head(MAX_ROWS).itertuples(index=False)]
    failed = table[table["status"] != "done"]
    tables = []
    if len(lines):
        more = "" if len(rows) <= MAX_ROWS else f" (the first {MAX_ROWS} of {len(rows)})"
        tables.append(
            Table([c.replace("_", " ") for c in columns], lines, f"All scored scans, worst first{more}", True)
        )
    if len(failed):
        lost = [[row["case_id"], row["reason"]] for _, row in failed.head(MAX_ROWS).iterrows()]
        tables.append(Table(["Scan", "Why it could not be scored"], lost, f"{len(failed)} scans were not scored"))
    text = []
    if worst and worst[0].picture.wide:
        text.append(
            "Radiological convention: the patient's left is on the right of the picture. Slices run through the "
            "largest area of the reference; a white frame marks where the other pictures are enlarged."
        )
    scans = "1 scan" if viewed == 1 else f"{viewed} scans"
    links = [Link(f"Look through the voxels of {scans} in {VIEWER}", VIEWER)] if viewed else []
    return Section("Worst cases first", text, tables, [item.picture for item in worst], links=links)


def _looked_section(worst: Sequence[Worst]) -> Section:
    found = [item.explanation for item in worst]
    pictures = [item for item in found if isinstance(item, Picture)]
    return Section(LOOKED, [LOOKED_HOW], pictures=pictures, notes=[item for item in found if isinstance(item, str)])


def _plan_tables(plan: Plan | None) -> list[Table]:
    if plan is None:
        return []
    values = plan.model_dump(mode="json")
    rows = [
        [key.replace("_", " "), _short(values[key]), plan.reasons.get(key, "")]
        for key in PLAN_KEYS
        if values.get(key) not in (None, [], {}) or key in plan.reasons
    ]
    rest = [
        [key.replace("_", " "), _short(values.get(key)), why]
        for key, why in plan.reasons.items()
        if key not in PLAN_KEYS
    ]
    return [Table(["Choice", "Value", "Why"], rows + rest)]


def _dataset_notes(dataset: Dataset) -> list[str]:
    notes = [f"{len(dataset.omitted)} scans of the selection did not become cases."] if dataset.omitted else []
    notes += [f"Licence of {name}: {licence}" for name, licence in dataset.licences.items() if licence]
    return notes + [f"Consent for {name}: {consent}" for name, consent in dataset.consents.items() if consent]


def _short(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_short(inner)}" for key, inner in value.items())
    if isinstance(value, list):
        joint = "; " if value and isinstance(value[0], dict) else " x "
        return joint.join(_short(inner) for inner in value)
    return f"{value:.4g}" if isinstance(value, float) else "–" if value is None else str(value)


def _value(value: object) -> Value:
    if value is None or isinstance(value, float | str):
        return value
    return int(value) if isinstance(value, int | np.integer) else str(value)


def _quoted(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with text that a spreadsheet would run as a formula made harmless by a leading quote."""
    return table.map(
        lambda value: f"'{value}" if isinstance(value, str) and value.startswith(FORMULA_STARTS) else value
    )


def _plain(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with one kind of value a column: catalogue columns that mix numbers and words become words."""
    mixed = [name for name in table if len({type(value) for value in table[name].dropna()}) > 1]
    return table.assign(**{str(name): table[name].map(str, na_action="ignore") for name in mixed})
