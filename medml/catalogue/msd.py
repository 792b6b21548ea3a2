"""A Medical Segmentation Decathlon folder: what its ``dataset.json`` lists."""

from __future__ import annotations

import os
from collections.abc import Iterator

from medml.catalogue.candidates import FileCase, candidate_of, warning
from medml.catalogue.dataset_json import Description
from medml.catalogue.metadata import Metadata
from medml.catalogue.nnunet import beside, read_case
from medml.catalogue.tree import Tree, folder_of, outcome_of, printable, stem_of
from medml.errors import Refusal
from medml.records.candidate import Candidate
from medml.records.scan import Finding, Outcome

ORIGIN = "msd"


def find_listed(tree: Tree, base: str, description: Description) -> Iterator[Candidate | Outcome]:
    """Yield what ``dataset.json`` in the folder ``base`` lists; other files are left for the other layouts.

    The patient of a case is the case's name, unless a table beside it says otherwise. A list in the older nnU-Net way,
    ``case.nii.gz`` for files ``case_0000.nii.gz`` …, gives one candidate per channel.
    """
    listed = [(image, label, "train") for image, label in description.training]
    listed += [(image, _test_label(tree, base, image), "test") for image in description.test]
    metadata = beside(tree, base, [stem_of(image) for image, _, _ in listed])
    yield from metadata.outcomes
    for image, label, split in listed:
        try:
            yield from _case(tree, base, image, label, split, description, metadata)
        except Refusal as refusal:
            yield outcome_of(printable(image), "refused", refusal.code, str(refusal), files=0)


def _case(
    tree: Tree,
    base: str,
    listed: str,
    listed_label: str | None,
    split: str,
    description: Description,
    metadata: Metadata,
) -> Iterator[Candidate | Outcome]:
    image = tree.inside(listed, base=base)
    label = tree.inside(listed_label, base=base) if listed_label else None
    mask = label if label in tree.left else None
    if image not in tree.left:
        channels = _channel_files(tree, image)
        if channels:
            yield from read_case(tree, stem_of(image), channels, mask, description, metadata, split, origin=ORIGIN)
            return
        twice = tree.path(image).is_file()
        code = "listed_twice" if twice else "missing_file"
        reason = "listed before in dataset.json" if twice else "listed in dataset.json, but there is no such file"
        yield outcome_of(printable(image), "refused", code, reason, files=0)
        return
    findings: tuple[Finding, ...] = ()
    if label and mask is None:
        findings = (
            warning(
                "label_missing",
                "dataset.json lists a label map for this image, but there is none to read",
                "put the label map back; until then the scan has no label",
            ),
        )
    case = stem_of(image)
    given = metadata.classes()
    listed_classes = description.classes.get(listed)
    classes = given.values.get(case) if listed_classes is None else listed_classes
    yield candidate_of(
        FileCase(
            image=image,
            mask=mask,
            case=case,
            patient=metadata.value(case, "patient"),
            channel_names=description.channels or None,
            labels=description.labels if mask else None,
            classes=classes,
            class_labels=given.names if listed_classes is None else description.labels,
            multi_label=given.multi_label or any(len(held) != 1 for held in description.classes.values()),
            facts={**metadata.facts(case), "split": split},
            findings=findings,
            origin=ORIGIN,
        ),
        tree,
    )


def _test_label(tree: Tree, base: str, image: str) -> str | None:
    """Return the label map of a test image in ``labelsTs``, where there is one; MSD itself does not list them."""
    label = image.replace("imagesTs", "labelsTs", 1)
    there = label != image and os.path.normpath(os.path.join(base, label)) in tree.left
    return label if there else None


def _channel_files(tree: Tree, image: str) -> list[str]:
    """Return ``case_0000.nii.gz``, ``case_0001.nii.gz`` … of ``case.nii.gz``, as far as they are there."""
    folder, stem = folder_of(image), stem_of(image)
    ending = image.rpartition("/")[2][len(stem) :]
    prefix = f"{folder}/{stem}" if folder else stem
    found: list[str] = []
    while (name := f"{prefix}_{len(found):04d}{ending}") in tree.left:
        found.append(name)
    return found
