"""DICOM files of any name in any folders: sorted into series by their headers, each proved before it is a candidate."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from medml.catalogue.columns import clean_text, keep_columns
from medml.catalogue.pairs import ReadImage
from medml.catalogue.series import ProvedSeries, group_series, is_image, patient_of, prove_series
from medml.catalogue.tree import Tree, folder_of, outcome_of, printable, set_aside
from medml.errors import Refusal
from medml.io.dicom import Header, columns_of, read_header, read_series
from medml.records.candidate import Candidate, Reading
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


def find_series(tree: Tree) -> Iterator[Candidate | Outcome]:
    """Yield a candidate for each series among the files left, and an outcome for every other file."""
    names: dict[Path, str] = {}
    headers: list[Header] = []
    for relative in list(tree.left):
        try:
            header = read_header(tree.path(relative))
        except Refusal as refusal:
            yield from set_aside(tree, [relative], "refused", refusal.code, str(refusal))
            continue
        if header is None:
            reason = "neither DICOM, NIfTI nor a picture"
            yield from set_aside(tree, [relative], "ignored", NOT_AN_IMAGE, reason)
        else:
            names[header.path] = relative
            headers.append(header)
    groups = sorted(group_series(headers), key=lambda group: min(names[header.path] for header in group))
    sources = _sources([[names[header.path] for header in group] for group in groups])
    for source, group in zip(sources, groups, strict=True):
        yield _prove(tree, source, group, names)


def read_as_one_series(tree: Tree, relative: str) -> OneSeries:
    """Return the one series of a folder, or the image of a file, that a manifest names.

    Raises
    ------
    Refusal
        If there is not exactly one series, or it cannot be proved.
    """
    names = dict(_files_of(tree, relative))
    headers = [header for path in names if (header := read_header(path)) is not None and is_image(header)]
    groups = group_series(headers)
    if len(groups) != 1:
        raise Refusal(
            "several_series" if groups else NOT_AN_IMAGE,
            f"the path holds {len(groups)} DICOM series in {len(names)} files, expected 1; name one series' folder",
        )
    proved = prove_series(groups[0])
    first = proved.headers[0]
    return OneSeries(
        read=_reader(proved),
        files=tuple(sorted(names[header.path] for header in groups[0])),
        owner=patient_of(first),
        modality=_modality(first),
        columns=keep_columns(columns_of(first)),
        locator=_locator(proved),
    )


def _prove(tree: Tree, source: str, group: Sequence[Header], names: Mapping[Path, str]) -> Candidate | Outcome:
    files = tree.take(names[header.path] for header in group)
    try:
        proved = prove_series(group)
    except Refusal as refusal:
        outcome = "ignored" if refusal.code == NOT_AN_IMAGE else "refused"
        return outcome_of(source, outcome, refusal.code, str(refusal), files=files)
    except OSError as error:
        reason = f"a file of the series cannot be read ({error.strerror}); it may have gone while this ran"
        return outcome_of(source, "refused", "unreadable", reason, files=files)
    first = proved.headers[0]
    owner = patient_of(first)
    flat = first.sop_uid if len(proved.headers) == 1 else ""
    modality = _modality(first)
    return Candidate(
        source=source,
        files=files,
        identity="\n".join((*owner, first.study_uid, first.series_uid, flat)),
        stamp=tree.stamp([header.path for header in group], tree.collection),
        read=_reader(proved),
        patient=owner,
        study=first.study_uid,
        group=f"{first.series_uid} {flat}".strip(),
        channel_names=(modality,),
        modality=modality,
        columns=keep_columns(columns_of(first)),
        origin="dicom",
        locator=_locator(proved),
    )


def _reader(proved: ProvedSeries) -> ReadImage:
    return partial(_read, proved.headers, proved.findings)


def _read(headers: tuple[Header, ...], findings: tuple[Finding, ...]) -> Reading:
    volume, grid, more = read_series(headers)
    return Reading(volume, grid, findings + more)


def _locator(proved: ProvedSeries) -> dict[str, Any]:
    """Return where the slices are and how to know them again; private."""
    first = proved.headers[0]
    return {
        "kind": "dicom",
        "study_uid": first.study_uid,
        "series_uid": first.series_uid,
        "files": [str(header.path) for header in proved.headers],
        "sop_uids": [header.sop_uid for header in proved.headers],
        "positions": [header.position for header in proved.headers],
    }


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


def _modality(header: Header) -> str:
    return clean_text(header.modality).upper()[:16] or "OT"
