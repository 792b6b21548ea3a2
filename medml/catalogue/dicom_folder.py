"""DICOM files of any name in any folders: sorted into series by their headers, each proved before it is a candidate."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from medml.catalogue.case_rule import ChannelRule
from medml.catalogue.columns import keep_columns
from medml.catalogue.dicom_annotations import KINDS, AnnotationFile, DrawingRules
from medml.catalogue.dicom_waveforms import waveform_candidate
from medml.catalogue.pairs import ReadImage
from medml.catalogue.parts import ProvedSeries, RefusedSeries, is_flat
from medml.catalogue.pet import in_unit, pet_facts
from medml.catalogue.quarantine import CODES as QUARANTINE_CODES
from medml.catalogue.quarantine import Released, advice
from medml.catalogue.series import group_series, patient_of, prove_series
from medml.catalogue.series_facts import series_facts
from medml.catalogue.tree import Tree, folder_of, outcome_of, printable, set_aside
from medml.errors import Refusal
from medml.io.deskew import Kind
from medml.io.dicom import Header, columns_of, read_frames, read_headers, read_series, straight_grid
from medml.io.dicom_kinds import is_image, is_waveform, modality_of
from medml.records.candidate import Candidate, FileState, Reading
from medml.records.scan import Column, Finding, Outcome

NOT_AN_IMAGE = "not_an_image"


@dataclass(frozen=True, slots=True, eq=False)
class OneSeries:
    """The one series that a manifest's cell names.

    Attributes
    ----------
    files : tuple of str
        Relative paths of all its files.
    owner : tuple of str
        Issuer and id of the patient.
    """

    read: ReadImage
    files: tuple[str, ...]
    owner: tuple[str, str]
    modality: str
    columns: Mapping[str, Column]
    locator: dict[str, Any]


def find_series(tree: Tree) -> Iterator[Candidate | Outcome | AnnotationFile]:
    """Yield a candidate for each series among the files left, each annotation object, an outcome for any other file."""
    names = {tree.path(relative): relative for relative in tree.left}
    headers: list[Header] = []
    for path, found in read_headers(list(names), cine=tree.config.policies.cine):
        relative = names[path]
        if isinstance(found, Refusal):
            yield from set_aside(tree, [relative], "refused", found.code, str(found))
        elif found is None:
            reason = "neither DICOM, NIfTI nor a picture"
            yield from set_aside(tree, [relative], "ignored", NOT_AN_IMAGE, reason)
        elif found[0].sop_class in KINDS:
            yield _annotation_file(tree, relative, found[0])
        elif is_waveform(found[0]):
            yield waveform_candidate(tree, relative, found[0])
        else:
            tree.issuers.add(found[0].issuer)
            headers.extend(found)
    groups = sorted(group_series(headers), key=lambda group: min(names[header.path] for header in group))
    sources = _sources([sorted({names[header.path] for header in group}) for group in groups])
    for source, group in zip(sources, groups, strict=True):
        film = group[0].expanded and is_flat(group[0])
        yield from _prove(tree, f"{source}#frame{group[0].frame + 1}" if film else source, group, names)


def read_as_one_series(tree: Tree, relative: str) -> OneSeries:
    """Return the one series of a folder, or the image of a file, that a manifest names.

    Raises
    ------
    Refusal
        If there is not exactly one series, or it cannot be proved.
    """
    names = dict(_files_of(tree, relative))
    policies = tree.config.policies
    found = [read_frames(path, policies.cine) for path in names]
    groups = group_series(header for frames in found for header in frames or () if is_image(header))
    if len(groups) != 1:
        raise Refusal(
            "several_series" if groups else NOT_AN_IMAGE,
            f"the path holds {len(groups)} DICOM series in {len(names)} files, expected 1; name one series' folder",
        )
    parts = prove_series(groups[0], policies, _released(tree))
    proved = [part for part in parts if isinstance(part, ProvedSeries)]
    refused = [part.refusal for part in parts if isinstance(part, RefusedSeries)]
    if len(proved) != 1:
        if refused:
            raise refused[0]
        raise Refusal(
            "several_volumes",
            f"the series holds {len(proved)} volumes, expected 1; name a folder or file of one volume",
        )
    series = in_unit(proved[0], tree.config.pet)
    first = series.headers[0]
    return OneSeries(
        read=_reader(series),
        files=tuple(sorted({names[header.path] for header in groups[0]})),
        owner=patient_of(first),
        modality=modality_of(first),
        columns=keep_columns({**columns_of(first), **pet_facts(series)}),
        locator=_locator(series),
    )


def _annotation_file(tree: Tree, relative: str, header: Header) -> AnnotationFile:
    config = tree.config
    rules = DrawingRules(tuple(sorted(config.labels.items())), config.fractional_threshold, config.overlaps)
    tree.take([relative])
    return AnnotationFile(
        source=printable(relative),
        path=header.path,
        kind=KINDS[header.sop_class],
        stamp=tree.stamp([header.path], str(rules)),
        rules=rules,
        owner=patient_of(header),
        seen=((str(header.path), header.size, header.changed),),
    )


def _prove(
    tree: Tree, source: str, group: Sequence[Header], names: Mapping[Path, str]
) -> Iterator[Candidate | Outcome]:
    """Yield what a group becomes, part by part; a file of which one frame is accepted counts as accepted."""
    try:
        parts = prove_series(group, tree.config.policies, _released(tree))
    except OSError as error:
        reason = f"a file of the series cannot be read ({error.strerror}); it may have gone while this ran"
        files = tree.take(names[header.path] for header in group)
        yield outcome_of(source, "refused", "unreadable", reason, files=files)
        return
    for part in sorted(parts, key=lambda part: isinstance(part, RefusedSeries)):
        files = tree.take(names[header.path] for header in part.members)
        name = f"{source}#{part.name}" if part.name else source
        if isinstance(part, ProvedSeries):
            yield _candidate(tree, name, part, files)
        else:
            code = part.refusal.code
            outcome = "ignored" if code == NOT_AN_IMAGE else "refused"
            yield outcome_of(name, outcome, code, f"{part.refusal}{_held(tree, part)}", files=files)


def _released(tree: Tree) -> Released | None:
    return tree.quarantine.released if tree.quarantine is not None else None


def _held(tree: Tree, part: RefusedSeries) -> str:
    """Put what may show a name into quarantine; return what a person does about it."""
    if tree.quarantine is None or part.refusal.code not in QUARANTINE_CODES:
        return ""
    paths = list(dict.fromkeys(header.path for header in part.members))
    return f"; {advice(tree.quarantine.hold(part.refusal.code, paths))}"


def _candidate(tree: Tree, source: str, proved: ProvedSeries, files: int) -> Candidate:
    pet = tree.config.pet
    proved = in_unit(proved, pet)
    first = proved.headers[0]
    owner = patient_of(first)
    flat = f"{first.sop_uid}{f' {first.frame}' if first.frame else ''}" if len(proved.headers) == 1 else ""
    modality = modality_of(first)
    unit = pet if first.pet is not None else ""
    whole = not (proved.key or proved.components or proved.repair or unit)
    how = [tree.collection, proved.key, proved.components, proved.repair, unit]
    channel, rule = _channel(tree, first, modality)
    if rule is not None:
        whole, how = False, [*how, f"{channel} {rule.name}"]
    return Candidate(
        source=source,
        files=files,
        identity="\n".join((*owner, first.study_uid, first.series_uid, flat, *filter(None, [proved.key]))),
        stamp=tree.stamp(dict.fromkeys(header.path for header in proved.members), tree.collection if whole else how),
        read=_reader(proved),
        patient=owner,
        study=first.study_uid,
        group=(
            f"study {first.study_uid}"
            if rule is not None
            else " ".join(filter(None, (first.series_uid, "" if proved.key else flat, proved.group)))
        ),
        channel=channel,
        channel_names=proved.components or _names(proved, rule, modality),
        modality=modality,
        columns=keep_columns({**columns_of(first), **pet_facts(proved), "part": proved.name}),
        origin="dicom",
        locator=_locator(proved),
        series=series_facts(proved, modality),
        seen=_seen(tree, proved.members),
    )


def _channel(tree: Tree, header: Header, modality: str) -> tuple[int, ChannelRule | None]:
    """Return the first channel of the case rule that a series fits."""
    for number, rule in enumerate(tree.config.case_rule):
        if rule.fits_series(modality, (header.description, header.protocol), header.echo_number):
            return number, rule
    return 0, None


def _names(proved: ProvedSeries, rule: ChannelRule | None, modality: str) -> tuple[str, ...]:
    if rule is not None:
        return (rule.name,)
    return (proved.name,) if proved.key else (modality,)


def _seen(tree: Tree, group: Sequence[Header]) -> tuple[FileState, ...]:
    """Return the files of a series and their folders: one slice more would have made it another scan."""
    files = dict.fromkeys((str(header.path), header.size, header.changed) for header in group)
    return (*files, *tree.folder_states(header.path for header in group))


def _reader(proved: ProvedSeries) -> ReadImage:
    return partial(_read, proved.headers, proved.findings, max(1, len(proved.components)), proved.repair)


def _read(headers: tuple[Header, ...], findings: tuple[Finding, ...], components: int, repair: Kind | None) -> Reading:
    volume, grid, more = read_series(headers, components=components, repair=repair)
    return Reading(volume, grid, findings + more)


def _locator(proved: ProvedSeries) -> dict[str, Any]:
    """Return where the slices are and how to know them again; private.

    UIDs, frames and positions are those of the first component; those of others of a stack stand in ``stacked``. How
    repaired slices lie in the regular grid stands in ``repair``, as in the scan's own `SourceGrid`.
    """
    components = max(1, len(proved.components))
    count = len(proved.headers) // components
    parts = [proved.headers[start : start + count] for start in range(0, len(proved.headers), count)]
    first = parts[0][0]
    locator: dict[str, Any] = {
        "kind": "dicom",
        "study_uid": first.study_uid,
        "series_uid": first.series_uid,
        "files": list(dict.fromkeys(str(header.path) for header in proved.headers)),
        "sop_uids": [header.sop_uid for header in parts[0]],
        "frames": [header.frame for header in parts[0]],
        "positions": [header.position for header in parts[0]],
    }
    if components > 1:
        locator["stacked"] = [[header.sop_uid for header in part] for part in parts[1:]]
    if proved.repair is not None:
        locator["repair"] = straight_grid(proved.headers, proved.repair, components).slices.model_dump(mode="json")
    return locator


def _sources(groups: Sequence[Sequence[str]]) -> list[str]:
    """Name each series: its one file, else its folder, with the first file's name where a folder holds several."""
    folders = [os.path.commonpath([folder_of(name) for name in group]) or "." for group in groups]
    shared = Counter(folder for folder, group in zip(folders, groups, strict=True) if len(group) > 1)
    named = []
    for folder, group in zip(folders, groups, strict=True):
        first = min(group)
        if len(group) == 1:
            named.append(printable(first))
        elif shared[folder] > 1:
            named.append(printable(f"{folder}#{os.path.relpath(first, folder)}"))
        else:
            named.append(printable(folder))
    return named


def _files_of(tree: Tree, relative: str) -> Iterable[tuple[Path, str]]:
    """Yield path and relative path of a file, or of the plain files of a folder, whether the walk saw them or not."""
    path = tree.path(relative)
    if not path.is_dir():
        yield path, relative
        return
    for name in sorted(os.listdir(path)):
        if not name.startswith(".") and (path / name).is_file() and not (path / name).is_symlink():
            yield path / name, os.path.normpath(f"{relative}/{name}")
