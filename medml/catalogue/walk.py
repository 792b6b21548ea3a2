"""What a source holds: its layouts are told apart, and every file is accounted for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from medml.catalogue import dataset_json, msd, nnunet
from medml.catalogue.class_tables import is_class_table, take_class_tables
from medml.catalogue.config import IngestConfig
from medml.catalogue.dataset_json import Description
from medml.catalogue.dicom_annotations import AnnotationFile
from medml.catalogue.dicom_folder import find_series
from medml.catalogue.manifest import find_rows, has_images, is_manifest
from medml.catalogue.medmnist import find_arrays
from medml.catalogue.metadata import unused
from medml.catalogue.nifti_folder import find_nifti
from medml.catalogue.pictures import find_pictures
from medml.catalogue.quarantine import Quarantine
from medml.catalogue.tables import SUFFIXES as TABLE_SUFFIXES
from medml.catalogue.tree import Tree, outcome_of, printable, set_aside
from medml.errors import Refusal
from medml.records.candidate import Candidate
from medml.records.scan import WAVEFORMS, Outcome

_OTHER_FORMATS = (
    ".mgz", ".mgh", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".svs", ".ndpi", ".h5",
)  # fmt: skip
_ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".7z", ".rar")


def find_scans(source: Path, config: IngestConfig | None = None) -> Iterator[Candidate | Outcome]:
    """Yield the scans to be of a file or folder, and an outcome for every file that is none; see `find_all`.

    Annotation objects and waveforms are such files here: inference has no use for them.
    """
    for item in find_all(source, config):
        if isinstance(item, AnnotationFile):
            yield outcome_of(item.source, "ignored", "not_an_image", f"an annotation ({item.kind}), no image")
        elif isinstance(item, Candidate) and item.modality in WAVEFORMS:
            yield outcome_of(item.source, "ignored", "not_an_image", "a waveform, no image", files=item.files)
        else:
            yield item


def find_all(
    source: Path, config: IngestConfig | None = None, quarantine: Quarantine | None = None
) -> Iterator[Candidate | Outcome | AnnotationFile]:
    """Yield the scans to be and the annotation objects of a file or folder, and an outcome for every other file.

    The layouts take what they understand, in this order, wherever in the folder it lies: MSD and nnU-Net by
    ``dataset.json``; MedMNIST ``.npz``; manifests; pictures; NIfTI, NRRD and MetaImage; DICOM by
    content. The rest is ignored with a reason. The ``files`` of candidates and outcomes add up to the files seen.

    Raises
    ------
    ConfigError
        If the source does not exist, is empty or cannot be read.
    """
    tree = Tree(source, config or IngestConfig(), quarantine)
    yield from tree.ignored
    descriptions: dict[str, Description] = {}
    yield from _described(tree, descriptions)
    for name in tree.named(".npz"):
        yield from find_arrays(tree, name)
    for name in tree.named(*TABLE_SUFFIXES):
        if is_manifest(tree, name) or (tree.single and (has_images(tree, name) or not is_class_table(tree, name))):
            yield from find_rows(tree, name)
    yield from find_pictures(tree)
    yield from find_nifti(tree, descriptions)
    tables = list(take_class_tables(tree))
    yield from set_aside(tree, list(unused(tree)), "ignored", "table", "a table that lists none of the scans here")
    yield from set_aside(
        tree,
        tree.named(*_OTHER_FORMATS),
        "ignored",
        "unsupported_format",
        "an image format that is not read; convert it to NIfTI, DICOM, PNG or JPEG",
    )
    yield from set_aside(
        tree, tree.named(*_ARCHIVES), "ignored", "archive", "archives are not unpacked; unpack it and ingest the folder"
    )
    yield from find_series(tree)
    yield from (replace(table, issuers=tuple(sorted(tree.issuers))) for table in tables)
    yield from set_aside(tree, list(tree.left), "ignored", "not_an_image", "neither DICOM, NIfTI nor a picture")


def licence_of(source: Path, config: IngestConfig) -> str:
    """Return the licence that the source states for itself in ``dataset.json``, empty if it does not."""
    path = source / dataset_json.NAME
    if not path.is_file():
        return ""
    try:
        return dataset_json.read_description(path, max_bytes=config.max_table_bytes).licence
    except Refusal:
        return ""


def _described(tree: Tree, descriptions: dict[str, Description]) -> Iterator[Candidate | Outcome]:
    """Yield what each ``dataset.json`` lists, and fill ``descriptions`` by folder."""
    for name in tree.named(dataset_json.NAME):
        base, _, file = name.rpartition("/")
        if file != dataset_json.NAME:
            continue
        try:
            description = dataset_json.read_description(tree.path(name), max_bytes=tree.config.max_table_bytes)
        except Refusal as refusal:
            yield outcome_of(printable(name), "refused", refusal.code, str(refusal), files=tree.take([name]))
            continue
        descriptions[base] = description
        reason = f"read as the description of a folder ({description.kind})"
        yield outcome_of(printable(name), "ignored", "metadata", reason, files=tree.take([name]))
        if description.kind == "msd":
            yield from msd.find_listed(tree, base, description)
        else:
            yield from nnunet.find_cases(tree, base, description)
