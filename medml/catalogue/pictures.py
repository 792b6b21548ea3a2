"""Folders of pictures: a folder per class, maybe a folder per split, maybe a table of metadata, maybe masks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from medml.catalogue.candidates import FileCase, candidate_of, warning
from medml.catalogue.class_labels import Classes, number_classes
from medml.catalogue.columns import clean_text, split_of
from medml.catalogue.metadata import Metadata, join
from medml.catalogue.pairs import PICTURE_SUFFIXES, VOLUME_SUFFIXES, is_picture
from medml.catalogue.roles import assign, is_container
from medml.catalogue.tree import Tree, folder_of, set_aside, stem_of
from medml.errors import Refusal
from medml.io.dicom import read_header
from medml.records.candidate import Candidate
from medml.records.scan import Finding, Outcome

ORIGIN = "folder"
LOOKED_AT = 64


def find_pictures(tree: Tree) -> Iterator[Candidate | Outcome]:
    """Yield a candidate for each picture left in the tree."""
    names = tree.named(*PICTURE_SUFFIXES)
    if tree.config.pictures == "ignore":
        yield from set_aside(tree, names, "ignored", "picture", "pictures are not wanted (pictures: ignore)")
        return
    if not names:
        return
    roles = assign(names)
    yield from set_aside(
        tree, roles.orphans, "refused", "label_without_image", "a label picture without an image of its name"
    )
    metadata = join(tree, {name: (name, name.rpartition("/")[2], stem_of(name)) for name in roles.images})
    yield from metadata.outcomes
    beside = _beside_scans(tree)
    classes, origin = _classes(tree, list(roles.images), metadata, by_folder=not beside)
    for image, mask in roles.images.items():
        found = classes.values.get(image)
        yield candidate_of(
            FileCase(
                image=image,
                mask=mask,
                case=image,
                patient=metadata.value(image, "patient"),
                study=metadata.value(image, "study"),
                classes=found,
                class_labels=None if found is None else classes.names,
                multi_label=classes.multi_label,
                facts={**metadata.facts(image), **_split_fact(image)},
                findings=_findings(image, metadata, unclassed=bool(classes.values) and found is None, beside=beside),
                origin=origin,
            ),
            tree,
        )


def _classes(tree: Tree, images: Sequence[str], metadata: Metadata, *, by_folder: bool) -> tuple[Classes, str]:
    """Return the classes of images: of their folders, else of the table's label column."""
    found = class_folders(images, max_classes=tree.config.max_classes) if by_folder else {}
    if found:
        return number_classes({image: (name,) for image, name in found.items()}), ORIGIN
    return metadata.classes(), "metadata"


def class_folders(images: Sequence[str], *, max_classes: int) -> dict[str, str]:
    """Return image to the folder that is its class; empty if the folders do not look like classes.

    Folders of a split (``train``, ``valid`` …) and folders that only say that images lie in them are passed over.
    What remains are levels of folders; of those that most images share, the one with the fewest names, at least two,
    is the class, if it has at most ``max_classes`` names and twice as many images.
    """
    parts = {image: _telling(image) for image in images}
    depths = Counter(len(found) for found in parts.values() if found)
    if not depths:
        return {}
    depth = max(depths, key=lambda level: (depths[level], -level))
    deep = {image: found for image, found in parts.items() if len(found) == depth}
    levels = [(len({found[level] for found in deep.values()}), level) for level in range(depth)]
    fit = [(count, level) for count, level in levels if 2 <= count <= max_classes and 2 * count <= len(deep)]
    if not fit:
        return {}
    _, level = min(fit)
    return {image: clean_text(found[level]) for image, found in deep.items()}


def _telling(image: str) -> list[str]:
    """Return the folders of an image that may say something about it."""
    parts = folder_of(image).split("/") if folder_of(image) else []
    split = next((n for n, part in enumerate(parts) if split_of(part)), None)
    return [part for n, part in enumerate(parts) if n != split and not is_container(part)]


def _split_fact(image: str) -> Mapping[str, object]:
    """Return the split that a folder of the image says; it wins over a table's, which may be of another version."""
    found = [split for part in folder_of(image).split("/") if (split := split_of(part))]
    return {"split": found[0]} if found else {}


def _beside_scans(tree: Tree) -> bool:
    """Say whether the pictures lie among NIfTI or DICOM files; of files without a telling name, some are opened."""
    others = [name for name in tree.left if not is_picture(name)]
    if any(name.lower().endswith((".dcm", *VOLUME_SUFFIXES)) for name in others):
        return True
    return any(_is_dicom(tree, name) for name in others[:LOOKED_AT])


def _is_dicom(tree: Tree, name: str) -> bool:
    try:
        return read_header(tree.path(name)) is not None
    except Refusal as refusal:
        return refusal.code != "unreadable"


def _findings(image: str, metadata: Metadata, *, unclassed: bool, beside: bool) -> tuple[Finding, ...]:
    findings = []
    if metadata.headers.get("patient") and not metadata.value(image, "patient"):
        findings.append(
            warning("no_metadata", "the table names no patient for this picture", "it counts as a patient of its own")
        )
    if unclassed:
        findings.append(warning("no_class", "the other pictures have a class, this one has none", "it is unlabelled"))
    if beside:
        findings.append(
            warning(
                "picture_beside_scans",
                "a picture among scans; it may be a screenshot with names in it",
                "look at it, or ingest with pictures: ignore",
            )
        )
    return tuple(findings)
