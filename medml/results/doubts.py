"""Which results a person should look at, and why, in sentences with the number found and the limit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from medml.config import Config
from medml.metrics.conformal import prediction_sets
from medml.records.batch import LedgerRow, Prediction
from medml.records.calibration import Calibration
from medml.records.norms import ASPECTS, Norms, Structure
from medml.records.plan import Plan
from medml.results.measures import LabelMeasures

if TYPE_CHECKING:
    from medml.networks.package import Package


class DoubtLimits(Config):
    """From where on a result is for a person to look at. ``configs/review/*.yaml``; null switches a limit off.

    Attributes
    ----------
    uncertainty_quantile : float
        Of the uncertainty of validation scans.
    disagreement : float
        Share of the largest entropy that comes from members and views that differ.
    one_class : bool
        Whether a conformal set must hold one class.
    unlike : float
        Distance from the training data, as a multiple of the farthest scan that the model knows.
    volume_factor : float
        How many times larger than the largest, or smaller than the smallest, reference a label may be.
    empty : bool
        Whether a label must be there, if every reference has it.
    touching_share : float
        A label may touch the border of the image if more than this share of references does.
    pieces : bool
        Whether a label may have no more large pieces than any reference has.
    fewest_scans : int
        References below which none of the last four limits counts.
    """

    uncertainty_quantile: float | None = Field(0.99, gt=0, le=1)
    disagreement: float | None = Field(0.15, gt=0, le=1)
    one_class: bool = True
    unlike: float | None = Field(1.5, ge=1)
    volume_factor: float | None = Field(2.0, ge=1)
    empty: bool = True
    touching_share: float | None = Field(0.05, ge=0, lt=1)
    pieces: bool = True
    fewest_scans: int = Field(10, ge=1)


@dataclass(frozen=True, slots=True)
class Standards:
    """What a result is held against.

    Attributes
    ----------
    norms : Norms or None
        What the training data look like; None in packages that do not say.
    """

    calibration: Calibration = field(default_factory=Calibration)
    norms: Norms | None = None
    limits: DoubtLimits = field(default_factory=DoubtLimits)

    @classmethod
    def of(cls, package: Package, limits: DoubtLimits | None = None) -> Standards:
        """Return what a package promises, with the limits given or the usual ones."""
        return cls(package.calibration, package.norms, limits or DoubtLimits())


@dataclass(frozen=True, slots=True)
class Doubt:
    """One reason to look.

    Attributes
    ----------
    code : str
        "uncertain", "undecided", "unlike" or "implausible".
    reason : str
        A sentence.
    """

    code: str
    reason: str


def doubts_of(
    prediction: Prediction, measures: Mapping[int, LabelMeasures], plan: Plan, standards: Standards
) -> list[Doubt]:
    """Return what speaks against trusting a result without a look; empty if nothing does.

    Parameters
    ----------
    measures : mapping
        Of a segmenter's labels, as `measure_labels` gives them; empty for a classifier.
    """
    norms, limits = standards.norms, standards.limits
    found = [*_uncertain(prediction, standards), *_undecided(prediction, plan, standards)]
    if norms is not None:
        found += _unlike(prediction, norms, limits)
        for label, measured in measures.items():
            structure = norms.structures.get(label)
            if structure is not None and structure.scans >= limits.fewest_scans:
                reasons = _implausible(plan.labels[label], measured, structure, limits)
                found += [Doubt("implausible", reason) for reason in reasons]
    return found


def conformal_set(probabilities: np.ndarray, plan: Plan, calibration: Calibration) -> list[str] | None:
    """Return the classes that cannot be ruled out, likeliest first; None where the package promises nothing."""
    if calibration.quantile is None or plan.multi_label:
        return None
    inside = prediction_sets(np.asarray(probabilities)[np.newaxis], calibration.quantile)[0]
    order = np.argsort(-np.asarray(probabilities), kind="stable")
    return [plan.labels[int(n)] for n in order if inside[n]]


def reasons_of(row: LedgerRow) -> list[tuple[str, str]]:
    """Return the doubts of a ledger row as (code, sentence)."""
    codes, lines = str(row.result.get("review_codes") or ""), str(row.result.get("review") or "")
    return list(zip(codes.split(), lines.split("\n"), strict=False))


def _uncertain(prediction: Prediction, standards: Standards) -> Iterator[Doubt]:
    norms, limits = standards.norms, standards.limits
    if norms is not None and norms.uncertainty and limits.uncertainty_quantile is not None:
        limit = float(np.quantile(norms.uncertainty, limits.uncertainty_quantile))
        if prediction.uncertainty > limit:
            yield Doubt(
                "uncertain",
                f"Uncertain: mean entropy {prediction.uncertainty:.3f}, limit {limit:.3f} "
                f"(quantile {limits.uncertainty_quantile:g} of {len(norms.uncertainty)} validation scans).",
            )
    if limits.disagreement is not None and prediction.disagreement > limits.disagreement:
        yield Doubt(
            "uncertain",
            f"The model's members disagree: {prediction.disagreement:.3f}, limit {limits.disagreement:.3f}.",
        )


def _undecided(prediction: Prediction, plan: Plan, standards: Standards) -> Iterator[Doubt]:
    if prediction.probabilities is None or not standards.limits.one_class:
        return
    classes = conformal_set(prediction.probabilities, plan, standards.calibration)
    if classes is not None and len(classes) != 1:
        coverage = 1 - standards.calibration.miss
        yield Doubt(
            "undecided",
            f"{len(classes)} classes cannot be ruled out at {coverage:.0%} coverage: {', '.join(classes)}; expected 1.",
        )


def _unlike(prediction: Prediction, norms: Norms, limits: DoubtLimits) -> Iterator[Doubt]:
    if limits.unlike is None:
        return
    far = sorted(((score, name) for name, score in prediction.unlike.items() if score > limits.unlike), reverse=True)
    if far:
        known = norms.learned + norms.judged
        found = ", ".join(f"{score:.1f} in {ASPECTS[name]}" for score, name in far)
        yield Doubt(
            "unlike",
            f"Unlike the training data: {found}, where 1 is the farthest of {known} known scans; "
            f"limit {limits.unlike:g}.",
        )


def _implausible(name: str, found: LabelMeasures, usual: Structure, limits: DoubtLimits) -> Iterator[str]:
    shape, volume = found.shape, found.volume_ml
    if shape.voxels == 0:
        if limits.empty and usual.absent == 0:
            yield f"Nothing found of {name}, which each of {usual.scans} known scans has."
        return
    if limits.volume_factor is not None and volume is not None and usual.most_ml is not None:
        most, least = usual.most_ml * limits.volume_factor, (usual.least_ml or 0.0) / limits.volume_factor
        if volume > most:
            yield f"{name} has {volume:.4g} mL, limit {most:.4g} (largest of {usual.scans} known: {usual.most_ml:.4g})."
        if volume < least:
            yield (
                f"{name} has {volume:.4g} mL, at least {least:.4g} expected (smallest of {usual.scans} known: "
                f"{usual.least_ml:.4g})."
            )
    share = limits.touching_share
    if share is not None and shape.touching and usual.touching <= share * usual.scans:
        yield (
            f"{name} touches the border of the image and may go on beyond it, as in {usual.touching} of {usual.scans} "
            f"known scans; limit {share:.0%}."
        )
    if limits.pieces and shape.pieces > usual.pieces:
        yield f"{name} is in {shape.pieces} large pieces, limit {usual.pieces} as in {usual.scans} known scans."
