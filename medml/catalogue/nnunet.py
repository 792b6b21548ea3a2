"""An nnU-Net folder: ``imagesTr/<case>_0000``, ``labelsTr/<case>``, and the same for test."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from medml.catalogue.candidates import FileCase, candidate_of, warning
from medml.catalogue.dataset_json import Description
from medml.catalogue.metadata import Metadata, join
from medml.catalogue.tree import Tree, outcome_of, printable, set_aside
from medml.errors import Refusal
from medml.records.candidate import Candidate
from medml.records.scan import Finding, Outcome

ORIGIN = "nnunet"


def find_cases(tree: Tree, base: str, description: Description) -> Iterator[Candidate | Outcome]:
    """Yield the cases of an nnU-Net folder ``base``; files of other names are left for the other layouts."""
    metadata = beside(tree, base, _case_names(tree, base, description))
    yield from metadata.outcomes
    for case, (images, label) in description.cases.items():
        yield from _listed_case(tree, base, case, images, label, description, metadata)
    for part, split in (("Tr", "train"), ("Ts", "test"), ("Val", "val")):
        yield from _part(tree, base, part, split, description, metadata)


def beside(tree: Tree, base: str, cases: Iterable[str]) -> Metadata:
    """Return what a table beside ``dataset.json`` says about cases: patient, class, columns."""
    return join(tree, {case: (case,) for case in cases}, folder=base)


def read_case(
    tree: Tree,
    case: str,
    images: Sequence[str],
    mask: str | None,
    description: Description,
    metadata: Metadata,
    split: str,
    *,
    origin: str = ORIGIN,
) -> Iterator[Candidate | Outcome]:
    """Yield one candidate per channel; the label map goes with the first. A case with another number is refused."""
    wanted = description.channels or tuple(f"channel_{n}" for n in range(len(images)))
    if len(images) != len(wanted):
        files = [*images, *([mask] if mask else [])]
        reason = (
            f"found {len(images)} channel files, dataset.json names {len(wanted)} "
            f"({', '.join(wanted)}); add the missing file or correct dataset.json"
        )
        yield outcome_of(printable(images[0]), "refused", "missing_channel", reason, files=tree.take(files))
        return
    classes = metadata.classes()
    held = classes.values.get(case)
    for channel, image in enumerate(images):
        first = channel == 0
        unlabelled = first and mask is None and held is None and split == "train"
        yield candidate_of(
            FileCase(
                image=image,
                mask=mask if first else None,
                case=case,
                channel=channel,
                channel_names=(wanted[channel],),
                patient=metadata.value(case, "patient"),
                labels=description.labels if first and mask else None,
                classes=held if first else None,
                class_labels=classes.names if first and held is not None else None,
                multi_label=classes.multi_label,
                facts={**metadata.facts(case), "split": split},
                findings=_findings(unlabelled, description if first and mask else None),
                origin=origin,
            ),
            tree,
        )


def _listed_case(
    tree: Tree,
    base: str,
    case: str,
    images: tuple[str, ...],
    label: str | None,
    description: Description,
    metadata: Metadata,
) -> Iterator[Candidate | Outcome]:
    try:
        found = [tree.inside(image, base=base) for image in images]
        mask = tree.inside(label, base=base) if label else None
    except Refusal as refusal:
        yield outcome_of(printable(case), "refused", refusal.code, str(refusal), files=0)
        return
    missing = [image for image in found if image not in tree.left]
    if missing or not found:
        reason = f"{len(missing)} of {len(found)} files listed in dataset.json are not there or listed twice"
        yield outcome_of(printable(case), "refused", "missing_file", reason, files=0)
        return
    mask = mask if mask in tree.left else None
    yield from read_case(tree, case, found, mask, description, metadata, "train")


def _part(
    tree: Tree, base: str, part: str, split: str, description: Description, metadata: Metadata
) -> Iterator[Candidate | Outcome]:
    images = f"{base}/images{part}" if base else f"images{part}"
    labels = f"{base}/labels{part}" if base else f"labels{part}"
    pattern = re.compile(re.escape(images) + r"/(?P<case>[^/]+)_(?P<channel>\d{4})" + re.escape(description.ending))
    cases: dict[str, dict[int, str]] = defaultdict(dict)
    for name in tree.below(images):
        match = pattern.fullmatch(name)
        if match:
            cases[match["case"]][int(match["channel"])] = name
    for case, channels in cases.items():
        label = f"{labels}/{case}{description.ending}"
        ordered = [channels[number] for number in sorted(channels)]
        complete = sorted(channels) == list(range(len(channels)))
        mask = label if label in tree.left else None
        if not complete:
            reason = f"the channel files are numbered {sorted(channels)}, expected 0 to {len(channels) - 1}"
            files = [*ordered, *([mask] if mask else [])]
            yield outcome_of(printable(ordered[0]), "refused", "missing_channel", reason, files=tree.take(files))
            continue
        yield from read_case(tree, case, ordered, mask, description, metadata, split)
    orphans = [name for name in tree.below(labels) if name.endswith(description.ending)]
    yield from set_aside(tree, orphans, "refused", "label_without_image", f"no image of this case in images{part}")


def _case_names(tree: Tree, base: str, description: Description) -> list[str]:
    """Return the names of all cases that the folder may hold."""
    folders = [f"{base}/images{part}" if base else f"images{part}" for part in ("Tr", "Ts", "Val")]
    found = [name for folder in folders for name in tree.below(folder) if name.endswith(description.ending)]
    names = [name.rpartition("/")[2].removesuffix(description.ending)[:-5] for name in found]
    return list(dict.fromkeys([*description.cases, *names]))


def _findings(unlabelled: bool, described: Description | None) -> tuple[Finding, ...]:
    if unlabelled:
        message = "a training image without a label map"
        return (warning("image_without_label", message, "add the label map, or leave it"),)
    if described is not None and described.ignored is not None:
        message = f"the value {described.ignored} marks voxels to ignore; here it is a label of its own, called ignore"
        return (warning("ignore_label", message, "select scans without such voxels, or label them"),)
    return ()
