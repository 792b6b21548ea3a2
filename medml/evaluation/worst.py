"""The worst cases, drawn: what a reader should look at first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medml.errors import MedmlError
from medml.evaluation.classes import decided
from medml.evaluation.evaluate import Predicts, read_case
from medml.evaluation.names import label_keys
from medml.evaluation.summary import scored
from medml.geometry import spacing_of
from medml.io.nifti_write import nifti_bytes
from medml.pages.content import Picture
from medml.pages.heat import uncertainty_picture
from medml.pages.overlays import overlay_png
from medml.pages.viewed import viewer_case
from medml.pages.viewer import ViewerCase
from medml.records.batch import Prediction
from medml.records.dataset import Case, Dataset
from medml.records.scan import Volume

Explains = Callable[[str, Volume], Picture]


@dataclass(frozen=True, slots=True, eq=False)
class Worst:
    """One of the worst cases: a picture for the report, voxels for the viewer.

    Attributes
    ----------
    explanation : Picture or str or None
        What the model looked at, or why that cannot be shown; None where nobody asked.
    uncertainty : Picture or None
        Where a segmenter is unsure.
    """

    case_id: str
    picture: Picture
    viewed: ViewerCase
    explanation: Picture | str | None = None
    uncertainty: Picture | None = None


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


def worst_cases(
    table: pd.DataFrame,
    predictor: Predicts,
    dataset: Dataset,
    scans: Path,
    *,
    n: int = 6,
    threshold: float | None = None,
    explain: Explains | None = None,
    n_explained: int = 3,
) -> list[Worst]:
    """Draw the ``n`` worst cases: image, reference, prediction and where they differ; classifiers: the image.

    Parameters
    ----------
    table : DataFrame
        From `medml.evaluation.evaluate.case_table`; its segmentations are predicted again for the picture.
    threshold : float
        Two classes: the threshold of the evaluation, so that mistakes are those that it counts.
    explain : callable
        Draws what a classifier looked at, of a case's id and volume.
    n_explained : int
        Of how many cases it is asked, and of how many a segmenter's uncertainty is drawn.
    """
    cases = {case.case_id: case for case in dataset.cases}
    rows = worst_first(decided(table, dataset, threshold))
    if "dice" in rows:
        rows = rows[rows["dice"].notna()]
    worst = [{str(k): v for k, v in row.items()} for row in rows.head(n).to_dict("records")]
    return [
        _worst(row, cases[row["case_id"]], predictor, dataset, scans, explain, closely=number < n_explained)
        for number, row in enumerate(worst)
    ]


def _worst(
    row: Mapping[str, Any],
    case: Case,
    predictor: Predicts,
    dataset: Dataset,
    scans: Path,
    explain: Explains | None,
    *,
    closely: bool,
) -> Worst:
    volume, reference = read_case(case, scans)
    segments = dataset.task == "segment"
    prediction = predictor.predict(volume, detailed=closely) if segments else Prediction()
    mask = prediction.mask
    caption = _dice_caption(row) if segments else _class_caption(row, dataset.labels)
    picture = _draw(row, case, volume, mask, reference if segments else None, dataset, caption)
    viewed = viewer_case(
        volume,
        mask,
        reference if segments else None,
        name=f"{case.case_id}, Dice {row['dice']:.3f}" if segments else case.case_id,
        caption=caption,
        labels=dataset.labels,
        pack=nifti_bytes,
        modality=dataset.modality,
    )
    explanation = _explained(explain, case, volume) if explain and closely and not segments else None
    unsure = uncertainty_picture(volume, prediction, name=case.case_id, modality=dataset.modality)
    return Worst(case.case_id, picture, viewed, explanation, unsure)


def _draw(
    row: Mapping[str, Any],
    case: Case,
    volume: Volume,
    mask: np.ndarray | None,
    reference: np.ndarray | None,
    dataset: Dataset,
    caption: str,
) -> Picture:
    spacing = spacing_of(volume.affine) if volume.geometry == "mm" else None
    title = f"{case.case_id}   Dice {row['dice']:.3f}" if mask is not None else ""
    png = overlay_png(
        volume.voxels,
        mask,
        reference,
        spacing_mm=spacing,
        labels=dataset.labels,
        title=title,
        modality=dataset.modality,
    )
    if mask is not None:
        return Picture(png, caption, f"Worst case {case.case_id}", kind="image", wide=True)
    return Picture(png, caption, f"Case {case.case_id}", kind="image", wide=volume.voxels.shape[3] > 1)


def _explained(explain: Explains, case: Case, volume: Volume) -> Picture | str:
    try:
        return explain(case.case_id, volume)
    except MedmlError as error:
        return f"{case.case_id}: no map, because {error}"


def _dice_caption(row: Mapping[str, Any]) -> str:
    parts = [f"{key.removeprefix('dice_')} {value:.3f}" for key, value in row.items() if key.startswith("dice_")]
    return f"{row['case_id']}: Dice " + ", ".join(parts)


def _class_caption(row: Mapping[str, Any], labels: Mapping[int, str]) -> str:
    names = {name: f"prob_{label_keys(labels)[value]}" for value, name in labels.items()}
    shown = ", ".join(f"P({name}) {row[column]:.2f}" for name, column in names.items()) if len(names) <= 4 else ""
    truth, said = row["truth"] or "none", row["predicted"] or "none"
    return f"{row['case_id']}. Truth: {truth}. Predicted: {said}. {shown}".strip()
