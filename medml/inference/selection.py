"""Which of a source's series a model looks at; every other one is passed over with its reason."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import translate
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from medml.errors import Refusal
from medml.geometry import plane_of, spacing_of
from medml.io.nifti import read_nifti_header
from medml.records.candidate import Candidate
from medml.records.scan import Outcome
from medml.records.selection import Between, SeriesFacts, SeriesRule

NOT_SELECTED = "not_selected"
# Refusals of what nearly every study has and no model is for: a batch is not the worse for them.
NEVER_WANTED = frozenset({"localizer"})
MAX_TEXT = 256


def select(found: Iterable[Candidate | Outcome], rule: SeriesRule) -> Iterator[Candidate | Outcome]:
    """Yield the candidates that a model is for, and an outcome with the code ``not_selected`` for every other one.

    With a rule for the best series of a study, candidates are held back, voxels on disk, until all are seen.
    """
    fit: list[tuple[Candidate, SeriesFacts]] = []
    for item in found:
        if isinstance(item, Outcome):
            scout = item.outcome == "refused" and item.code in NEVER_WANTED
            yield item.model_copy(update={"outcome": "ignored", "code": NOT_SELECTED}) if scout else item
            continue
        facts = facts_of(item)
        reason = why_not(facts, rule)
        if reason:
            yield _passed_over(item, reason)
        elif rule.best == "all":
            yield item
        else:
            fit.append((item, facts))
    yield from _best(fit, rule)


def why_not(facts: SeriesFacts, rule: SeriesRule) -> str:
    """Return why a series is not one that a model is for, empty if it is; the text quotes no free text."""
    texts = (facts.description, facts.protocol)
    checks = (
        _one_of("modality", facts.modality, rule.modality),
        _like("body part", (facts.body_part,), rule.body_part),
        _one_of("plane", facts.plane, rule.plane),
        _between("pixel size in mm", facts.pixel_mm, rule.pixel_mm),
        _between("slice distance in mm", facts.slice_mm, rule.slice_mm),
        _between("number of slices", facts.slices, rule.slices),
        _like("description", texts, rule.description),
        _unlike("description", texts, rule.without),
        _has(facts.image_type, rule.image_type),
        _has_none(facts.image_type, rule.without_type),
        _like("manufacturer", (facts.manufacturer,), rule.manufacturer),
        _like("kernel", (facts.kernel,), rule.kernel),
        _same("contrast", facts.contrast, rule.contrast),
    )
    return next((reason for reason in checks if reason), "")


def facts_of(candidate: Candidate) -> SeriesFacts:
    """Return what is known of a candidate: of DICOM what the walk saw, of NIfTI what its header says."""
    if candidate.series is not None:
        return candidate.series
    columns = candidate.columns
    facts = SeriesFacts(
        modality=candidate.modality,
        body_part=str(columns.get("body_part") or ""),
        kernel=str(columns.get("kernel") or ""),
        contrast=None if columns.get("contrast") is None else columns["contrast"] == "yes",
        manufacturer=str(columns.get("scanner") or ""),
    )
    return facts.model_copy(update=_measures(candidate))


def _measures(candidate: Candidate) -> dict[str, Any]:
    image = str(candidate.locator.get("image", ""))
    if not image.lower().endswith((".nii", ".nii.gz")):
        return {}
    try:
        header = read_nifti_header(Path(image))
    except (Refusal, OSError):
        return {}  # reading it says why, if the rules let it come to that
    affine = np.asarray(header.grid.affine)
    i, j, k = spacing_of(affine)
    return {
        "plane": plane_of(np.cross(affine[:3, 0], affine[:3, 1])),
        "pixel_mm": max(i, j),
        "slice_mm": k,
        "slices": header.grid.shape[2],
    }


def _best(fit: Sequence[tuple[Candidate, SeriesFacts]], rule: SeriesRule) -> Iterator[Candidate | Outcome]:
    """Yield of each study the best series that fits; of equal ones the first by name."""
    studies: dict[tuple[object, ...], list[tuple[Candidate, SeriesFacts]]] = {}
    for candidate, facts in fit:
        studies.setdefault((candidate.patient, candidate.study, candidate.channel), []).append((candidate, facts))
    word = "thinner" if rule.best == "thinnest" else "more"
    for series in studies.values():
        first, *others = sorted(series, key=lambda one: _rank(one[1], one[0].source, rule))
        yield first[0]
        for candidate, _ in others:
            yield _passed_over(candidate, f"another series of its study fits as well and has {word} slices, or as many")


def _rank(facts: SeriesFacts, source: str, rule: SeriesRule) -> tuple[float, float, str]:
    thickness = float("inf") if facts.slice_mm is None else round(facts.slice_mm, 3)
    number = -float(facts.slices or 0)
    return (thickness, number, source) if rule.best == "thinnest" else (number, thickness, source)


def _passed_over(candidate: Candidate, reason: str) -> Outcome:
    return Outcome(source=candidate.source, files=candidate.files, outcome="ignored", code=NOT_SELECTED, reason=reason)


def _one_of(what: str, found: str, wanted: Sequence[str]) -> str:
    if not wanted or found in wanted:
        return ""
    return f"its {what} is {found or 'not known'}, expected {' or '.join(wanted)}"


def _between(what: str, found: float | None, wanted: Between | None) -> str:
    if wanted is None:
        return ""
    if found is None:
        return f"its {what} is not known, expected {wanted[0]:g} to {wanted[1]:g}"
    if wanted[0] <= round(found, 3) <= wanted[1]:
        return ""
    return f"its {what} is {found:.4g}, expected {wanted[0]:g} to {wanted[1]:g}"


def _like(what: str, found: Sequence[str], patterns: Sequence[str]) -> str:
    if not patterns or any(_fits(text, pattern) for text in found for pattern in patterns):
        return ""
    return f"its {what} fits none of the {len(patterns)} patterns"


def _unlike(what: str, found: Sequence[str], patterns: Sequence[str]) -> str:
    pattern = next((pattern for text in found for pattern in patterns if _fits(text, pattern)), None)
    return "" if pattern is None else f"its {what} fits the pattern {pattern!r}, which is left out"


def _has(found: Sequence[str], wanted: Sequence[str]) -> str:
    missing = [value for value in wanted if value not in found]
    return f"its ImageType lacks {', '.join(missing)}" if missing else ""


def _has_none(found: Sequence[str], unwanted: Sequence[str]) -> str:
    there = [value for value in unwanted if value in found]
    return f"its ImageType has {', '.join(there)}, which is left out" if there else ""


def _same(what: str, found: bool | None, wanted: bool | None) -> str:
    if wanted is None or found == wanted:
        return ""
    return f"its {what} is {'not known' if found is None else found}, expected {wanted}"


def _fits(text: str, pattern: str) -> bool:
    return _compiled(pattern.casefold()).match(" ".join(text.split())[:MAX_TEXT].casefold()) is not None


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    """Return what matches a whole text; `fnmatch` writes atomic groups, so that no text takes long."""
    return re.compile(translate(pattern))
