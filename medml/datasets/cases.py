"""Scans and what is known about them, grouped into cases."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from medml.errors import ConfigError
from medml.metrics.likeness import alike
from medml.records.dataset import Case, Omitted, Task
from medml.records.scan import Annotation, Column, Scan

AGE_BANDS = ((40, "<40"), (60, "40-59"), (80, "60-79"))
OLDEST_BAND = "80+"
KIND: dict[Task, Literal["mask", "class"]] = {"segment": "mask", "classify": "class"}


@dataclass(frozen=True, slots=True)
class Gathered:
    """The cases of a selection and what they have in common.

    Attributes
    ----------
    labels : dict
        Of the masks (segmenters) or classes (classifiers).
    omitted : tuple of Omitted
        Scans of the selection that are in no case.
    """

    cases: tuple[Case, ...]
    omitted: tuple[Omitted, ...]
    labels: dict[int, str]
    multi_label: bool
    channels: tuple[str, ...]
    modality: str
    geometry: Literal["mm", "none"]


@dataclass(frozen=True, slots=True)
class _Candidate:
    """The scans of a case to be, in channel order, and the annotation that makes it useful for the task."""

    scans: tuple[Scan, ...]
    mask: Annotation | None
    classes: Annotation | None

    def wanted(self, task: Task) -> Annotation | None:
        return self.mask if task == "segment" else self.classes

    @property
    def channels(self) -> tuple[str, ...]:
        return tuple(name for scan in self.scans for name in scan.channel_names)


def gather_cases(scans: Sequence[Scan], annotations: Iterable[Annotation], task: Task, *, chosen: str = "") -> Gathered:
    """Group scans into cases; what cannot be used for the task is omitted with its reason.

    Of several annotations of the task's kind, those count whose origin begins with ``chosen`` or that name it as a
    label; of those, what a person said in a review counts alone, because it was said last. Scans of one patient and
    group that were given different channels are one case; a group in which every scan is channel 0 holds as many cases
    as scans.

    Raises
    ------
    ConfigError
        If nothing is left, or if cases differ in channels, in labels, or mix CT with other modalities.
    """
    known: dict[str, list[Annotation]] = {}
    for annotation in annotations:
        if annotation.kind == KIND[task] and not _is_chosen(annotation, chosen):
            continue
        known.setdefault(annotation.scan_id, []).append(annotation)
    known = {scan_id: _reviewed_first(items) for scan_id, items in known.items()}
    omitted: list[Omitted] = []
    found: list[_Candidate] = []
    for group in _groups(scans, omitted):
        candidate = _annotate(group, known, task, omitted)
        if candidate is not None:
            found.append(candidate)
    if not found:
        raise ConfigError(_nothing_left(len(scans), omitted, task))
    labels, multi_label = _common_labels(found, task)
    return Gathered(
        cases=_with_likeness(found, task),
        omitted=tuple(sorted(omitted, key=lambda item: item.scan_id)),
        labels=labels,
        multi_label=multi_label,
        channels=_common_channels(found),
        modality=_common_modality(found),
        geometry="none" if any(scan.geometry == "none" for item in found for scan in item.scans) else "mm",
    )


def _is_chosen(annotation: Annotation, chosen: str) -> bool:
    return annotation.origin.startswith(chosen) or chosen in annotation.labels.values()


def _reviewed_first(annotations: list[Annotation]) -> list[Annotation]:
    """Return those that count: where a kind was reviewed, only the reviewed ones of that kind."""
    reviewed = {item.kind for item in annotations if item.review is not None}
    return [item for item in annotations if item.review is not None or item.kind not in reviewed]


def age_band(age: Column) -> str | None:
    """Return the band of an age in years; None if it is no number."""
    try:
        years = float(age) if age is not None else float("nan")
    except ValueError:
        return None
    if not 0 <= years < float("inf"):
        return None
    return next((band for limit, band in AGE_BANDS if years < limit), OLDEST_BAND)


def case_digest(contents: Sequence[str], mask: str | None, classes: Sequence[int] | None) -> str:
    """Return the sha256 over content digests of scans and mask, and over the classes: the same in every home."""
    body = [list(contents), mask, None if classes is None else list(classes)]
    return hashlib.sha256(json.dumps(body).encode()).hexdigest()


def _groups(scans: Sequence[Scan], omitted: list[Omitted]) -> list[tuple[Scan, ...]]:
    """Return the scans of each case to be, in channel order; incomplete and ambiguous groups are omitted."""
    grouped: dict[tuple[str, str, str], list[Scan]] = {}
    expected: dict[str, set[int]] = {}
    for scan in scans:
        grouped.setdefault((scan.collection, scan.patient, scan.group), []).append(scan)
        expected.setdefault(scan.collection, set()).add(scan.channel)
    complete: list[tuple[Scan, ...]] = []
    for (collection, _, _), members in grouped.items():
        members.sort(key=lambda scan: (scan.channel, scan.scan_id))
        channels = [scan.channel for scan in members]
        wanted = sorted(expected[collection])
        if wanted == [0]:
            complete.extend((scan,) for scan in members)
        elif missing := [str(channel) for channel in wanted if channel not in channels]:
            reason = f"its case has no channel {', '.join(missing)}; cases of {collection} have {len(wanted)} channels"
            omitted.extend(Omitted(scan_id=scan.scan_id, code="missing_channel", reason=reason) for scan in members)
        elif len(set(channels)) < len(channels):
            twice = next(channel for channel, count in Counter(channels).items() if count > 1)
            reason = f"its case has channel {twice} more than once, so which one is meant cannot be known"
            omitted.extend(Omitted(scan_id=scan.scan_id, code="duplicate_channel", reason=reason) for scan in members)
        else:
            complete.append(tuple(members))
    return complete


def _annotate(
    scans: tuple[Scan, ...], known: Mapping[str, list[Annotation]], task: Task, omitted: list[Omitted]
) -> _Candidate | None:
    """Attach the mask of the first scan and the classes of any; None, with the reason, if the task's is not there."""
    masks = [item for item in known.get(scans[0].scan_id, []) if item.kind == "mask" and item.file]
    classes = [item for scan in scans for item in known.get(scan.scan_id, []) if item.kind == "class"]
    classes = [item for item in classes if item.multi_label or len(item.classes) == 1]
    useful = masks if task == "segment" else classes
    if len({_meaning(item) for item in useful}) > 1:
        origins = ", ".join(sorted({item.origin for item in useful}))
        code, reason = (
            "several_labels",
            f"annotations of its case differ ({origins}), so which one holds is not known; choose with `annotation`",
        )
    elif not useful:
        code, reason = "unlabelled", f"its case has no {'mask' if task == 'segment' else 'class'}"
    else:
        return _Candidate(scans, _only(masks), _only(classes))
    omitted.extend(Omitted(scan_id=scan.scan_id, code=code, reason=reason) for scan in scans)
    return None


def _meaning(annotation: Annotation) -> tuple[object, ...]:
    """Return what an annotation says, whoever says it."""
    return annotation.kind, annotation.content if annotation.kind == "mask" else tuple(sorted(annotation.classes))


def _only(annotations: list[Annotation]) -> Annotation | None:
    """Return the annotation if all say the same, None if there is none or they differ."""
    return annotations[0] if len({_meaning(item) for item in annotations}) == 1 else None


def _case(candidate: _Candidate, pictures: tuple[str, ...], task: Task) -> Case:
    first, mask, wanted = candidate.scans[0], candidate.mask, candidate.wanted(task)
    classes = None if candidate.classes is None else tuple(sorted(candidate.classes.classes))
    return Case(
        case_id=first.scan_id,
        patient=first.patient,
        scans=tuple(scan.scan_id for scan in candidate.scans),
        mask=None if mask is None else mask.file,
        classes=classes,
        digest=case_digest([s.content for s in candidate.scans], None if mask is None else mask.content, classes),
        shape=first.shape,
        spacing_mm=first.spacing_mm,
        columns=_columns(candidate.scans),
        alike=pictures,
        origin="" if wanted is None else wanted.origin,
    )


def _with_likeness(found: Sequence[_Candidate], task: Task) -> tuple[Case, ...]:
    """Return the cases by digest, with the keys of the pictures that cases of several patients share."""
    shown = [(scan, number) for number, candidate in enumerate(found) for scan in candidate.scans]
    keys: dict[int, set[str]] = {}
    for group in alike([scan.likeness for scan, _ in shown]):
        members = [shown[index] for index in group]
        if len({scan.patient for scan, _ in members}) > 1:
            for _, number in members:
                keys.setdefault(number, set()).add(min(scan.content for scan, _ in members))
    cases = [_case(candidate, tuple(sorted(keys.get(number, ()))), task) for number, candidate in enumerate(found)]
    return tuple(sorted(cases, key=lambda case: (case.digest, case.case_id)))


def _columns(scans: Sequence[Scan]) -> dict[str, Column]:
    """Return the facts of the first scan that has each, the collection and the age band."""
    columns: dict[str, Column] = {}
    for scan in scans:
        for key, value in scan.columns.items():
            if columns.get(key) is None:
                columns[key] = value
    band = age_band(columns.get("age"))
    if band is not None:
        columns.setdefault("age_band", band)
    return {**columns, "collection": scans[0].collection}


def _common_labels(found: Sequence[_Candidate], task: Task) -> tuple[dict[int, str], bool]:
    """Return the labels of all cases; inside a collection they may add up, across collections they must be equal."""
    sets: dict[str, dict[int, str]] = {}
    kinds: set[bool] = set()
    for candidate in found:
        annotation, collection = candidate.wanted(task), candidate.scans[0].collection
        if annotation is None:
            continue
        kinds.add(annotation.multi_label)
        labels = sets.setdefault(collection, {})
        for value, name in annotation.labels.items():
            if labels.setdefault(value, name) != name:
                raise ConfigError(
                    f"collection {collection}: label {value} is called both {labels[value]!r} and {name!r}; "
                    "select the scans of one naming"
                )
    if len({json.dumps(sorted(labels.items())) for labels in sets.values()}) > 1:
        listed = "; ".join(f"{name}: {_listed(labels)}" for name, labels in sorted(sets.items()))
        raise ConfigError(f"the collections have different labels ({listed}); select one collection")
    if len(kinds) > 1:
        raise ConfigError("some cases have exactly one class and others any number (multi-label); select one kind")
    labels = next(iter(sets.values()))
    if task == "classify":
        _check_classes(found, labels, multi_label=kinds == {True})
    return dict(sorted(labels.items())), kinds == {True}


def _check_classes(found: Sequence[_Candidate], labels: Mapping[int, str], *, multi_label: bool) -> None:
    present = {value for item in found if item.classes is not None for value in item.classes.classes}
    if unknown := sorted(present - set(labels)):
        raise ConfigError(f"cases have the class {unknown[0]}, which has no name among the labels ({_listed(labels)})")
    if not multi_label and len(present) < 2:
        only = labels[next(iter(present))]
        raise ConfigError(f"all {len(found)} cases have the class {only!r}; a classifier needs at least two classes")


def _listed(labels: Mapping[int, str]) -> str:
    return ", ".join(f"{value} {name}" for value, name in sorted(labels.items()))


def _common_channels(found: Sequence[_Candidate]) -> tuple[str, ...]:
    """Return the channel names of all cases; the name of a single channel does not matter."""
    names = Counter(candidate.channels for candidate in found)
    numbers = Counter(len(candidate.channels) for candidate in found)
    if len(numbers) > 1:
        listed = ", ".join(f"{count} with {number}" for number, count in sorted(numbers.items()))
        raise ConfigError(
            f"cases differ in their number of channels: found {listed}, expected one number; "
            "select the scans of one kind"
        )
    if len(names) > 1 and len(next(iter(names))) > 1:
        listed = "; ".join(f"{count} with {', '.join(channels)}" for channels, count in sorted(names.items()))
        raise ConfigError(f"cases differ in their channels: found {listed}; select the scans of one kind")
    channels = min(names, key=lambda item: (-names[item], item))
    if len(set(channels)) < len(channels):
        return tuple(f"{name}_{number}" for number, name in enumerate(channels))
    return channels


def _common_modality(found: Sequence[_Candidate]) -> str:
    """Return the modality of most cases; CT is never mixed with others, because its values are Hounsfield units."""
    modalities = Counter(candidate.scans[0].modality for candidate in found)
    if len(modalities) > 1 and "CT" in modalities:
        listed = ", ".join(f"{count} {modality}" for modality, count in sorted(modalities.items()))
        raise ConfigError(f"CT is mixed with other modalities ({listed}); select one with select: {{modality: CT}}")
    return min(modalities, key=lambda item: (-modalities[item], item))


def _nothing_left(scans: int, omitted: Sequence[Omitted], task: Task) -> str:
    codes = Counter(item.code for item in omitted)
    listed = ", ".join(f"{count} {code}" for code, count in sorted(codes.items()))
    need = "a mask" if task == "segment" else "a class"
    return f"none of the {scans} scans selected can be used to {task} ({listed}); cases need {need}: ingest the labels"
