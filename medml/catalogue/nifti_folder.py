"""NIfTI, NRRD and MetaImage in any folders: label maps told from images by names, patients by folders or names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from medml.catalogue.candidates import FileCase, candidate_of, warning
from medml.catalogue.columns import clean_text, split_of
from medml.catalogue.dataset_json import Description
from medml.catalogue.metadata import join, load
from medml.catalogue.pairs import VOLUME_SUFFIXES
from medml.catalogue.roles import assign, channel_groups, is_container
from medml.catalogue.tree import Tree, folder_of, outcome_of, printable, set_aside, stem_of
from medml.errors import Refusal
from medml.io.text_headers import read_text_header
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
    pairs = _header_pairs(tree) | _detached(tree)
    names = sorted({*tree.named(*VOLUME_SUFFIXES), *pairs})
    if not names:
        return
    roles = assign(names)
    yield from set_aside(
        tree, roles.orphans, "refused", "label_without_image", "a label map without an image of its name beside it"
    )
    images = list(roles.images)
    patients = patients_of(images)
    metadata = join(tree, {name: _keys(name, patients[name]) for name in images})
    classes = metadata.classes()
    labels, named = _bids_labels(tree)
    yield from (*metadata.outcomes, *named)
    labelled = [stem_of(name) for name, mask in roles.images.items() if mask]
    channels = channel_groups(images, labelled=labelled) if tree.config.channels == "auto" else {}
    expected = any(roles.images.values()) or bool(roles.orphans)
    rules = tree.config.case_rule
    for image, mask in roles.images.items():
        case, channel, count = channels.get(image, (stem_of(image), 0, 1))
        rule = next(((n, r) for n, r in enumerate(rules) if r.fits_file(image.rpartition("/")[2])), None)
        if rule is not None:
            channel = rule[0]
        description = _nearest(image, descriptions)
        wanted = expected or (description is not None and image not in classes.values)
        alone = mask is None and channel == 0 and wanted
        yield candidate_of(
            FileCase(
                image=image,
                mask=mask,
                case=f"{folder_of(image)}/{case}" if rule is None else _case_of(image, patients[image]),
                patient=metadata.value(image, "patient") or patients[image],
                study=metadata.value(image, "study") or _first(_BIDS_SESSION, image),
                channel=channel,
                channel_names=(rule[1].name,) if rule else _channel_names(description, channel, count),
                labels=_labels(description, labels, mask),
                classes=classes.values.get(image) if channel == 0 else None,
                class_labels=classes.names if channel == 0 and image in classes.values else None,
                multi_label=classes.multi_label,
                files=(image, *([pairs[image]] if image in pairs else []), *([mask] if mask else [])),
                facts={**metadata.facts(image), **_split_fact(image)},
                findings=(_no_label(),) if alone else (),
                origin=ORIGIN,
            ),
            tree,
        )


def _case_of(image: str, patient: str) -> str:
    """Return what the channels of a case rule have in common: subject and session of BIDS, else the folder."""
    session = _first(_BIDS_SESSION, image)
    return f"rule {patient} {session}" if _first(_BIDS_SUBJECT, image) else f"rule {folder_of(image)}"


def _keys(image: str, patient: str) -> tuple[str, ...]:
    """Return what a table may call an image, the most telling first; ``sub-01`` is also called ``01``."""
    stem, session = stem_of(image), _first(_BIDS_SESSION, image)
    visits = (f"{patient}_{session}",) if session else ()
    case = re.sub(r"_0\d{3}$", "", stem)
    return (image, image.rpartition("/")[2], stem, case, *visits, patient, patient.removeprefix("sub-"))


def _bids_labels(tree: Tree) -> tuple[dict[str, dict[int, str]], list[Outcome]]:
    """Return folder, or mask without its ending, to the names of mask values that BIDS ``…dseg.tsv`` tables give."""
    found: dict[str, dict[int, str]] = {}
    outcomes = []
    for name in tree.named("/dseg.tsv", "_dseg.tsv"):
        try:
            rows = [(int(row["index"]), clean_text(row["name"])) for row in load(tree, name).rows]
        except (Refusal, KeyError, ValueError):
            continue
        if rows and all(0 <= value <= 255 for value, _ in rows):
            place = folder_of(name) if name.endswith("/dseg.tsv") else name.removesuffix(".tsv")
            found[place] = dict(rows)
            reason = "read as the names of label values"
            outcomes.append(outcome_of(printable(name), "ignored", "metadata", reason, files=tree.take([name])))
    return found, outcomes


def _labels(
    description: Description | None, named: dict[str, dict[int, str]], mask: str | None
) -> dict[int, str] | None:
    """Return the names of a mask's values: of ``dataset.json``, of its own table, or of the nearest table above."""
    if mask is None:
        return None
    if description is not None:
        return description.labels
    own = f"{folder_of(mask)}/{stem_of(mask)}".lstrip("/")
    above = [place for place in named if place == own or mask.startswith(f"{place}/")]
    return named[max(above, key=len)] if above else None


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


def _detached(tree: Tree) -> dict[str, str]:
    """Return header file to voxel file of NRRD and MetaImage volumes in two files; a bad header is for its reader."""
    pairs = {}
    for name in tree.named(".nhdr", ".mhd", ".nrrd", ".mha"):
        try:
            data = read_text_header(tree.path(name)).data
        except Refusal:
            continue
        beside = f"{folder_of(name)}/{data}".lstrip("/")
        if data and beside in tree.left:
            pairs[name] = beside
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
