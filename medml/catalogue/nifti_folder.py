"""NIfTI files in any folders: label maps told from images by their names, patients by folders or names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from medml.catalogue.candidates import FileCase, candidate_of, warning
from medml.catalogue.columns import split_of
from medml.catalogue.dataset_json import Description
from medml.catalogue.metadata import join
from medml.catalogue.pairs import NIFTI_SUFFIXES
from medml.catalogue.roles import assign, channel_groups, is_container
from medml.catalogue.tree import Tree, folder_of, set_aside, stem_of
from medml.records.candidate import Candidate
from medml.records.scan import Finding, Outcome

ORIGIN = "folder"
_BIDS_SUBJECT = re.compile(r"(sub-[A-Za-z0-9]+)")
_BIDS_SESSION = re.compile(r"(ses-[A-Za-z0-9]+)")
_FEW = 16


def find_nifti(tree: Tree, descriptions: dict[str, Description]) -> Iterator[Candidate | Outcome]:
    """Yield a candidate for each NIfTI image left in the tree; a label map without image is refused.

    Parameters
    ----------
    descriptions : dict
        Folder to the ``dataset.json`` in it: its labels hold for the files below that it does not list.
    """
    pairs = _header_pairs(tree)
    names = sorted([*tree.named(*NIFTI_SUFFIXES), *pairs])
    if not names:
        return
    roles = assign(names)
    yield from set_aside(
        tree, roles.orphans, "refused", "label_without_image", "a label map without an image of its name beside it"
    )
    images = list(roles.images)
    patients = patients_of(images)
    metadata = join(tree, {name: (name, name.rpartition("/")[2], stem_of(name), patients[name]) for name in images})
    yield from metadata.outcomes
    labelled = [stem_of(name) for name, mask in roles.images.items() if mask]
    channels = channel_groups(images, labelled=labelled) if tree.config.channels == "auto" else {}
    expected = any(roles.images.values()) or bool(roles.orphans)
    for image, mask in roles.images.items():
        case, channel, count = channels.get(image, (stem_of(image), 0, 1))
        description = _nearest(image, descriptions)
        alone = mask is None and channel == 0 and (expected or description is not None)
        yield candidate_of(
            FileCase(
                image=image,
                mask=mask,
                case=f"{folder_of(image)}/{case}",
                patient=metadata.value(image, "patient") or patients[image],
                study=metadata.value(image, "study") or _first(_BIDS_SESSION, image),
                channel=channel,
                channel_names=_channel_names(description, channel, count),
                labels=description.labels if description and mask else None,
                files=(image, *([pairs[image]] if image in pairs else []), *([mask] if mask else [])),
                facts={**metadata.facts(image), **_split_fact(image)},
                findings=(_no_label(),) if alone else (),
                origin=ORIGIN,
            ),
            tree,
        )


def patients_of(images: Sequence[str]) -> dict[str, str]:
    """Return image to patient, as the names tell it.

    ``sub-…`` of BIDS wins. Else, where there are at least two folders of at most 16 images each, the folder is the
    patient: better two patients taken for one than one patient on both sides of a split. Else the file is.
    """
    folders = {image: _telling_folder(image) for image in images}
    counts = Counter(folder for folder in folders.values() if folder)
    by_folder = len(counts) >= 2 and max(counts.values()) <= _FEW
    found = {}
    for image, folder in folders.items():
        case = re.sub(r"_0\d{3}$", "", stem_of(image))
        found[image] = _first(_BIDS_SUBJECT, image) or (folder if by_folder and folder else case)
    return found


def _telling_folder(image: str) -> str:
    """Return the folder of an image without the parts that only say what kind of file lies there."""
    parts = folder_of(image).split("/") if folder_of(image) else []
    return "/".join(part for part in parts if not is_container(part) and not split_of(part))


def _header_pairs(tree: Tree) -> dict[str, str]:
    """Return header file to voxel file of NIfTI and Analyze pairs."""
    pairs = {}
    for name in tree.named(".hdr", ".hdr.gz"):
        base, _, ending = name.rpartition(".hdr") if ".hdr" in name else name.rpartition(".HDR")
        found = [voxels for voxels in (f"{base}.img{ending}", f"{base}.IMG{ending}") if voxels in tree.left]
        if found:
            pairs[name] = found[0]
    return pairs


def _nearest(image: str, descriptions: dict[str, Description]) -> Description | None:
    above = [base for base in descriptions if not base or image.startswith(f"{base}/")]
    return descriptions[max(above, key=len)] if above else None


def _channel_names(description: Description | None, channel: int, count: int) -> tuple[str, ...] | None:
    if description is None or not description.channels:
        return (f"channel_{channel}",) if count > 1 else None
    if description.kind == "msd":
        return description.channels
    return (description.channels[channel],) if channel < len(description.channels) else (f"channel_{channel}",)


def _split_fact(image: str) -> dict[str, object]:
    found = [split for part in folder_of(image).split("/") if (split := split_of(part))]
    return {"split": found[0]} if found else {}


def _first(pattern: re.Pattern[str], text: str) -> str:
    match = pattern.search(text)
    return match[1] if match else ""


def _no_label() -> Finding:
    return warning(
        "image_without_label",
        "there are label maps in this source, but none for this image",
        "add its label map, or leave it: the scan is kept as unlabelled",
    )
