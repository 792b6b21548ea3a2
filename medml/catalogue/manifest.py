"""A table that lists scans, one row each: ``subject_id, image, mask or label, …``."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from medml.catalogue.candidates import FileCase, candidate_of, warning
from medml.catalogue.class_labels import Classes, LabelColumns, label_columns, number_classes
from medml.catalogue.dicom_folder import read_as_one_series
from medml.catalogue.metadata import PATIENT, STUDY, left_findings, load
from medml.catalogue.pairs import is_image, is_picture
from medml.catalogue.tables import Table
from medml.catalogue.tree import Tree, check_path, folder_of, outcome_of, printable
from medml.errors import Refusal
from medml.records.candidate import Candidate
from medml.records.scan import Finding, Outcome

ORIGIN = "manifest"
IMAGE = ("image", "imagepath", "imagefile", "path", "filepath", "file", "filename", "img", "scan", "series", "dicom")
MASK = ("mask", "maskpath", "maskfile", "segmentation", "segmentationpath", "seg", "labelmap", "labelpath")
_NUMBERED = re.compile(r"(?:image|channel|img)[_\- ]?(\d{1,2})", re.IGNORECASE)
_NAMED = re.compile(r"(?:image|channel)_(.+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Headers:
    """Which header of a manifest means what.

    Attributes
    ----------
    images : tuple of (header, channel name)
        One per channel, in order.
    """

    images: tuple[tuple[str, str], ...]
    mask: str | None = None
    labels: LabelColumns | None = None
    patient: str | None = None
    study: str | None = None

    def used(self) -> list[str]:
        """Return every header that is not looked at for columns."""
        others = (self.mask, self.patient, self.study, *(self.labels.headers if self.labels else ()))
        return [*(header for header, _ in self.images), *(header for header in others if header)]


@dataclass(slots=True)
class _Row:
    """One row, its paths resolved; ``mask`` and ``classes`` as far as given."""

    number: int
    cells: Mapping[str, str]
    images: list[str] = field(default_factory=list)
    mask: str | None = None
    classes: tuple[str, ...] | None = None


def find_rows(tree: Tree, name: str) -> Iterator[Candidate | Outcome]:
    """Yield a candidate per channel of each row; a bad row is refused with its number and the others go on."""
    try:
        table = load(tree, name)
        headers = headers_of(table)
    except Refusal as refusal:
        yield outcome_of(printable(name), "refused", refusal.code, str(refusal), files=tree.take([name]))
        return
    rows: list[_Row] = []
    seen: set[str] = set()
    for number, cells in enumerate(table.rows, start=2):
        try:
            rows.append(_resolve(tree, folder_of(name), headers, _Row(number, cells), seen))
        except Refusal as refusal:
            source = printable(cells[headers.images[0][0]] or name)
            yield outcome_of(source, "refused", refusal.code, f"row {number}: {refusal}", files=0)
    classes = _number(headers, rows)
    reason = f"read as a manifest of {len(table.rows)} rows"
    described = outcome_of(printable(name), "ignored", "manifest", reason, files=tree.take([name]))
    yield described.model_copy(update={"findings": left_findings(table, headers.used())})
    for row in rows:
        try:
            yield from _candidates(tree, headers, row, classes)
        except Refusal as refusal:
            named = [*row.images, *([row.mask] if row.mask else [])]
            files = tree.take([path for path in named if path in tree.left])  # not a folder that a cell names
            reason = f"row {row.number}: {refusal}"
            yield outcome_of(printable(row.images[0]), "refused", refusal.code, reason, files=files)


def headers_of(table: Table) -> Headers:
    """Tell what the headers of a manifest mean.

    Raises
    ------
    Refusal
        ``bad_manifest`` if no column holds images.
    """
    images = _image_headers(table)
    if not images:
        raise Refusal(
            "bad_manifest",
            f"no column of images; found {', '.join(table.headers[:12])}, expected `image`, or `image_0`, `image_1` …",
        )
    taken = {header for header, _ in images}
    mask, labels = table.header(*MASK), label_columns(table)
    return Headers(
        images,
        mask=mask if mask not in taken else None,
        labels=labels if labels and not taken & set(labels.headers) else None,
        patient=table.header(*PATIENT),
        study=table.header(*STUDY),
    )


def has_images(tree: Tree, name: str) -> bool:
    """Say whether a table has a column of images."""
    try:
        return bool(headers_of(load(tree, name)).images)
    except Refusal:
        return False


def is_manifest(tree: Tree, name: str) -> bool:
    """Say whether a table of a folder lists scans, rather than facts about pictures that folders sort.

    It does if it has a column of images of which one is there, and a column of masks, several channels, or images
    that are not pictures.
    """
    try:
        table = load(tree, name)
        headers = headers_of(table)
    except Refusal:
        return False
    first = headers.images[0][0]
    base = folder_of(name)
    listed = [os.path.normpath(os.path.join(base, row[first])) for row in table.rows if row[first]]
    there = [image for image in listed if image in tree.left or (tree.root / image).is_dir()]
    masked = headers.mask is not None and any(row[headers.mask] for row in table.rows)
    return bool(there) and (masked or len(headers.images) > 1 or not is_picture(there[0]))


def _image_headers(table: Table) -> tuple[tuple[str, str], ...]:
    numbered = [(int(match[1]), header) for header in table.headers if (match := _NUMBERED.fullmatch(header))]
    if numbered:
        return tuple((header, f"channel_{number}") for number, header in sorted(numbered))
    plain = table.header(*IMAGE)
    if plain:
        return ((plain, ""),)
    named = [(header, match[1]) for header in table.headers if (match := _NAMED.fullmatch(header))]
    return tuple((h, name) for h, name in named if any(is_image(row[h]) for row in table.rows[:100]))


def _resolve(tree: Tree, base: str, headers: Headers, row: _Row, seen: set[str]) -> _Row:
    """Fill in the row's paths; refuse what is absent, outside or used before."""
    for header, _ in headers.images:
        cell = row.cells[header]
        if not cell:
            raise Refusal("missing_file", f"column {header} is empty; every channel needs a path")
        row.images.append(_existing(tree, base, cell))
    if headers.mask and row.cells[headers.mask]:
        row.mask = _existing(tree, base, row.cells[headers.mask])
    label = row.cells[headers.labels.headers[0]] if headers.labels else ""
    if label and row.mask is None and is_image(label):
        row.mask = _existing(tree, base, label)
    elif headers.labels:
        row.classes = headers.labels.of(row.cells)
    again = [image for image in row.images if image in seen]
    if again:
        raise Refusal("listed_twice", "the image stands in an earlier row; keep one row per image")
    seen.update(row.images)
    return row


def _existing(tree: Tree, base: str, cell: str) -> str:
    relative = _allowed(tree, base, cell)
    if not (relative in tree.left or (tree.root / relative).exists()):
        raise Refusal("missing_file", "the file it names does not exist; check the path, relative to the manifest")
    return relative


def _allowed(tree: Tree, base: str, cell: str) -> str:
    if not tree.config.allow_outside:
        return tree.inside(cell, base=base)
    check_path(cell)
    resolved = os.path.realpath(os.path.join(tree.root, base, cell))
    inside = os.path.relpath(resolved, tree.root)
    return resolved if inside.startswith("..") else inside


def _number(headers: Headers, rows: list[_Row]) -> Classes:
    """Number the classes of the rows."""
    if headers.labels is None:
        return Classes()
    found = {str(row.number): row.classes for row in rows if row.classes is not None}
    multi_label = headers.labels.multi_label([row.cells for row in rows if row.classes is not None])
    return number_classes(found, multi_label=multi_label, names=headers.labels.names)


def _candidates(tree: Tree, headers: Headers, row: _Row, classes: Classes) -> Iterator[Candidate]:
    used = set(headers.used())
    facts = {header: cell for header, cell in row.cells.items() if header not in used}
    patient = row.cells[headers.patient] if headers.patient else ""
    several = len(headers.images) > 1
    held = classes.values.get(str(row.number))
    cases = []
    for channel, (image, (_, name)) in enumerate(zip(row.images, headers.images, strict=True)):
        first = channel == 0
        series = None if is_image(image) else read_as_one_series(tree, image)
        files = series.files if series else (image,)
        cases.append(
            FileCase(
                image=image,
                mask=row.mask if first else None,
                case=row.images[0],
                patient=patient,
                study=row.cells[headers.study] if headers.study else "",
                owner=series.owner if series else None,
                read_image=series.read if series else None,
                locator=series.locator if series else {},
                channel=channel,
                channel_names=(name,) if several else None,
                modality=series.modality if series else "",
                classes=held if first else None,
                class_labels=classes.names if first and held is not None else None,
                multi_label=classes.multi_label,
                files=(*files, *([row.mask] if first and row.mask else [])),
                facts={**(series.columns if series else {}), **{k: v for k, v in facts.items() if v}},
                findings=() if patient or series else (_no_subject(),),
                origin=ORIGIN,
            )
        )
    for case in cases:
        yield candidate_of(case, tree)


def _no_subject() -> Finding:
    return warning(
        "no_subject",
        "the manifest names no subject for this row",
        "the scan counts as a patient of its own; add subject_id",
    )
