"""The worst cases, drawn: what a reader should look at first."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from medml.evaluation.classes import decided
from medml.evaluation.evaluate import Predicts, read_case
from medml.evaluation.names import label_keys
from medml.evaluation.summary import scored
from medml.geometry import spacing_of
from medml.pages.content import Picture
from medml.pages.overlays import overlay_png
from medml.records.dataset import Case, Dataset


def worst_first(table: pd.DataFrame) -> pd.DataFrame:
    """Return the scored cases, worst first: lowest mean Dice, or confident mistakes and then the least sure."""
    done = scored(table)
    if "dice" in done:
        return done.sort_values(["dice", "case_id"], na_position="last")
    if "predicted" not in done:
        return done
    confidence = done.filter(like="prob_").max(axis=1)
    ranked = done.assign(_rank=confidence.where(done["correct"] == 1, -confidence))
    return ranked.sort_values(["correct", "_rank", "case_id"]).drop(columns="_rank")


def worst_overlays(
    table: pd.DataFrame,
    predictor: Predicts,
    dataset: Dataset,
    scans: Path,
    *,
    n: int = 6,
    threshold: float | None = None,
) -> list[Picture]:
    """Draw the ``n`` worst cases: image, reference, prediction and where they differ; classifiers: the image.

    Parameters
    ----------
    table : DataFrame
        From `medml.evaluation.evaluate.case_table`; its segmentations are predicted again for the picture.
    threshold : float
        Two classes: the threshold of the evaluation, so that mistakes are those that it counts.
    """
    cases = {case.case_id: case for case in dataset.cases}
    rows = worst_first(decided(table, dataset, threshold))
    if "dice" in rows:
        rows = rows[rows["dice"].notna()]
    worst = rows.head(n).to_dict("records")
    return [_draw({str(k): v for k, v in row.items()}, cases, predictor, dataset, scans) for row in worst]


def _draw(
    row: Mapping[str, Any], cases: Mapping[str, Case], predictor: Predicts, dataset: Dataset, scans: Path
) -> Picture:
    case = cases[row["case_id"]]
    volume, reference = read_case(case, scans)
    spacing = spacing_of(volume.affine) if volume.geometry == "mm" else None
    labels = dataset.labels
    if dataset.task == "segment":
        mask = predictor.predict(volume).mask
        title = f"{case.case_id}   Dice {row['dice']:.3f}"
        png = overlay_png(
            volume.voxels, mask, reference, spacing_mm=spacing, labels=labels, title=title, modality=dataset.modality
        )
        return Picture(png, _caption(row), f"Worst case {case.case_id}", kind="image", wide=True)
    png = overlay_png(volume.voxels, spacing_mm=spacing, labels=labels, modality=dataset.modality)
    names = {name: f"prob_{label_keys(labels)[value]}" for value, name in labels.items()}
    shown = ", ".join(f"{name} {row[column]:.2f}" for name, column in names.items()) if len(names) <= 4 else ""
    caption = (
        f"{case.case_id}. Truth: {row['truth'] or 'none'}. Predicted: {row['predicted'] or 'none'}. {shown}".strip()
    )
    return Picture(png, caption, f"Case {case.case_id}", kind="image", wide=volume.voxels.shape[3] > 1)


def _caption(row: Mapping[str, Any]) -> str:
    parts = [f"{key.removeprefix('dice_')} {value:.3f}" for key, value in row.items() if key.startswith("dice_")]
    return f"{row['case_id']}: Dice " + ", ".join(parts)
