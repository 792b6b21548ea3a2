"""From an image file, its label map and the facts about them to a `Candidate`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from medml.catalogue.columns import clean_text, keep_columns
from medml.catalogue.pairs import ReadImage, is_picture, reader
from medml.catalogue.tree import Tree, printable, states_of
from medml.records.candidate import Candidate
from medml.records.scan import Finding

_MODALITIES = (
    ("CT", ("ct", "cta", "cect", "ncct", "ldct")),
    ("PT", ("pet", "pt", "suv", "fdg")),
    ("MR", ("mr", "mri", "t1", "t2", "flair", "dwi", "adc", "swi", "t1w", "t2w", "t1c", "t1ce", "t1gd", "pd", "dixon")),
    ("US", ("us", "ultrasound", "sonography")),
    ("MG", ("mg", "mammography")),
    ("DX", ("dx", "cr", "xr", "cxr", "xray", "radiograph")),
    ("OP", ("fundus", "op")),
    ("OCT", ("oct",)),
)


@dataclass(frozen=True, slots=True)
class FileCase:
    """One image file as a layout describes it.

    Attributes
    ----------
    image, mask : str
        Relative paths.
    case : str
        What belongs together: the scans of one case have the same text.
    patient : str
        As the source names the patient; the case when it does not.
    study : str
        As the source names it; the case when it does not.
    owner : tuple of str
        Issuer and id of the patient, where a DICOM header names them and ``patient`` is empty.
    locator : dict
        Private facts about where the image lies, added to the paths.
    read_image : callable or None
        Reads the image when it is not a NIfTI file or picture.
    channel, channel_names : int, tuple of str
        Place in the case; names of the image's components, None if the source does not say.
    labels : mapping or None
        The values that the mask may hold.
    files : tuple of str
        What it accounts for; the image and the mask if empty.
    facts : dict
        Possible columns, not yet cleaned.
    """

    image: str
    case: str
    mask: str | None = None
    patient: str = ""
    study: str = ""
    owner: tuple[str, str] | None = None
    read_image: ReadImage | None = None
    channel: int = 0
    channel_names: tuple[str, ...] | None = None
    modality: str = ""
    labels: Mapping[int, str] | None = None
    classes: tuple[int, ...] | None = None
    class_labels: Mapping[int, str] | None = None
    multi_label: bool = False
    files: tuple[str, ...] = ()
    facts: Mapping[str, object] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()
    origin: str = "folder"
    locator: Mapping[str, Any] = field(default_factory=dict)


def candidate_of(item: FileCase, tree: Tree) -> Candidate:
    """Return the candidate for one image file, and take its files out of the tree."""
    files = item.files or tuple(name for name in (item.image, item.mask) if name)
    paths = [tree.path(name) for name in files]
    image, mask = tree.path(item.image), tree.path(item.mask) if item.mask else None
    columns = keep_columns(item.facts)
    labels = item.labels if item.labels is not None else (tree.config.labels or None)
    names = item.channel_names
    own = (f"collection:{tree.collection}", (item.patient or item.case).strip())
    facts = [
        tree.collection,
        item.case,
        item.patient,
        item.channel,
        names,
        columns,
        labels,
        item.classes,
        item.class_labels,
        item.multi_label,
    ]
    stamp = tree.stamp(paths, [str(fact) for fact in facts])
    return Candidate(
        source=printable(item.image),
        files=tree.take(files),
        identity=f"{tree.collection}/{item.image}",
        stamp=stamp,
        read=reader(
            item.read_image or image,
            mask,
            labels=labels,
            components=len(names) if names else None,
            conflict=tree.config.affine_conflict,
            findings=item.findings,
        ),
        patient=item.owner if item.owner and not item.patient else own,
        study=f"{tree.collection}/{item.patient}/{item.study or item.case}",
        group=f"{tree.collection}/{item.case}",
        channel=item.channel,
        channel_names=tuple(clean_text(name) or "image" for name in names) if names else ("image",),
        modality=item.modality or modality_of(names or ()) or str(columns.get("modality") or "OT").upper()[:16],
        columns={name: value for name, value in columns.items() if name != "modality"},
        mask_labels=dict(labels) if labels is not None and mask else None,
        classes=item.classes,
        class_labels=dict(item.class_labels) if item.class_labels is not None else None,
        multi_label=item.multi_label,
        origin=item.origin,
        locator={
            "kind": "picture" if is_picture(item.image) else "file",
            "image": str(image),
            "files": [str(path) for path in paths],
            **item.locator,
        },
        seen=states_of(paths),
    )


def modality_of(names: tuple[str, ...]) -> str:
    """Return the DICOM modality that channel names speak of, empty if they do not agree on one."""
    found = set()
    for name in names:
        words = set(re.findall(r"[a-z0-9]+", name.lower()))
        found.add(next((modality for modality, known in _MODALITIES if words & set(known)), ""))
    return found.pop() if len(found) == 1 else ""


def warning(code: str, message: str, advice: str, **numbers: float) -> Finding:
    """Return a finding of severity "warning"."""
    return Finding(code=code, severity="warning", message=message, advice=advice, numbers=numbers)
