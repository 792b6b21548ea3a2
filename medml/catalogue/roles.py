"""Which files are label maps and which image each belongs to, told from names alone.

A file is a label map if

* its folder is called like one and nothing else (``labels``, ``labelsTr``, ``masks``, ``seg``, ``GT`` …); or any folder
  above it is, or has such a word in its name, beside a folder called like images; or
* its own name starts or ends with such a word (``case_7_seg``, ``mask-7``, ``sub-01_dseg``), or is one (``mask.nii``).

A label map belongs to the image with the same key: the name without role words; or to the only image whose key goes on
where its own ends (``case_7_seg`` to ``case_7_t1``). The image lies in the same folder, or in a folder beside the label
folder under the same parent with the same folders between; label maps in the ``derivatives`` of BIDS belong to the
subject's own folder, and there to the image that their ``desc-`` or ``space-`` names (``desc-T1w``: ``…_T1w``).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from medml.catalogue.tree import folder_of, stem_of

_LABEL = r"(?:labels?|label_?maps?|masks?|d?segs?|segmentations?|annotations?|ground_?truths?|gts?)"
_IMAGE = r"(?:images?|imgs?|volumes?|vols?|scans?|data|raw|inputs?)"
_PART = r"(?:[_\- ]?(?:tr|ts|train|training|val|valid|validation|test|testing))?"
_LABEL_FOLDER = re.compile(_LABEL + _PART, re.IGNORECASE)
_IMAGE_FOLDER = re.compile(_IMAGE + _PART, re.IGNORECASE)
_HAS_LABEL_WORD = re.compile(r"(?:^|[^a-z])" + _LABEL + r"(?:$|[^a-z])", re.IGNORECASE)
_LABEL_NAME = re.compile(
    rf"(?:(?P<end>.*?)[_\-. ]{_LABEL}|{_LABEL}(?:[_\-. ]|(?=\d))(?P<start>.*)|{_LABEL})", re.IGNORECASE
)
_IMAGE_NAME = re.compile(
    rf"(?:(?P<end>.*?)[_\-. ]{_IMAGE}|{_IMAGE}(?:[_\-. ]|(?=\d))(?P<start>.*)|{_IMAGE})", re.IGNORECASE
)
_DERIVED = re.compile(r"_(?:desc|space|label|seg|res|den)-[A-Za-z0-9]+")
_DRAWN_ON = re.compile(r"_(?:desc|space)-([A-Za-z0-9]+)")
_DERIVATIVES = "derivatives"
_RAW_ROOTS = ("rawdata", "raw", "sourcedata")
_CHANNEL = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})")


@dataclass(frozen=True, slots=True)
class Roles:
    """How a list of files falls apart.

    Attributes
    ----------
    images : dict
        Image to its label map, or None.
    orphans : list
        Label maps without image.
    """

    images: dict[str, str | None]
    orphans: list[str]


def assign(files: Iterable[str]) -> Roles:
    """Tell label maps from images and pair them."""
    names = list(files)
    folders = {folder_of(name) for name in names}
    label_folders = {folder for folder in folders if _label_depth(folder, folders) is not None}
    masks = [name for name in names if folder_of(name) in label_folders or _is_label_name(name)]
    taken = set(masks)
    images: dict[str, str | None] = {name: None for name in names if name not in taken}
    by_place: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for image in images:
        for place in _places_of_image(image):
            by_place[place][image_key(image)].append(image)
    orphans: list[str] = []
    for mask in masks:
        place, key = _place_of_mask(mask, folders)
        keys = [*(f"{key}_{word}" for word in _spaces_of(mask)), key]
        there = by_place.get(place, {})
        chosen = next((found for found in (_image_for(each, there, images) for each in keys) if found), None)
        if chosen is None:
            orphans.append(mask)
        else:
            images[chosen] = mask
    return Roles(images, orphans)


def channel_groups(files: Iterable[str], *, labelled: Iterable[str] = ()) -> dict[str, tuple[str, int, int]]:
    """Return the case, channel and number of channels of files named ``<case>_0000``, ``<case>_0001`` ….

    Only where every case of a folder numbers its files 0 to n - 1 with the same n of at most 16: otherwise four
    digits are a case's number. One case alone counts if it has one file, or is among ``labelled``.
    """
    by_folder: dict[str, dict[str, dict[int, str]]] = defaultdict(lambda: defaultdict(dict))
    for name in files:
        match = _CHANNEL.fullmatch(stem_of(name))
        if match:
            by_folder[folder_of(name)][match["case"]][int(match["channel"])] = name
    cases = set(labelled)
    groups: dict[str, tuple[str, int, int]] = {}
    for found in by_folder.values():
        counts = {len(channels) for channels in found.values()}
        regular = all(sorted(channels) == list(range(len(channels))) for channels in found.values())
        count = max(counts)
        if not regular or len(counts) > 1 or count > 16 or (len(found) == 1 and count > 1 and not cases & set(found)):
            continue
        for case, channels in found.items():
            groups.update({name: (case, channel, count) for channel, name in channels.items()})
    return groups


def image_key(relative: str) -> str:
    """Return what an image's name says beside its role: no role words, no channel 0 suffix."""
    stem = stem_of(relative)
    channel = _CHANNEL.fullmatch(stem)
    if channel and channel["channel"] == "0000":
        stem = channel["case"]
    return _without(_IMAGE_NAME, stem).lower()


def is_container(folder: str) -> bool:
    """Say whether a folder's name only says what kind of file lies in it (``images``, ``labelsTr``, ``data``)."""
    return bool(_IMAGE_FOLDER.fullmatch(folder) or _LABEL_FOLDER.fullmatch(folder))


def _is_label_name(relative: str) -> bool:
    return _LABEL_NAME.fullmatch(stem_of(relative)) is not None


def _without(pattern: re.Pattern[str], stem: str) -> str:
    match = pattern.fullmatch(stem)
    if match is None:
        return stem
    return next((part for part in (match["end"], match["start"]) if part), "")


def _label_depth(folder: str, folders: set[str]) -> int | None:
    """Return which part of a folder's path makes it a label folder."""
    parts = folder.split("/") if folder else []
    for depth, part in enumerate(parts):
        if depth == len(parts) - 1 and _LABEL_FOLDER.fullmatch(part):
            return depth
        if _HAS_LABEL_WORD.search(part) and _beside_images(parts[:depth], folders):
            return depth
    return None


def _beside_images(parent: list[str], folders: set[str]) -> bool:
    children = {tuple(folder.split("/"))[: len(parent) + 1] for folder in folders if folder}
    return any(
        list(child[:-1]) == parent and len(child) == len(parent) + 1 and _IMAGE_FOLDER.fullmatch(child[-1])
        for child in children
    )


def _places_of_image(image: str) -> list[str]:
    """Return the folder of an image, and that folder with each container part struck out."""
    parts = folder_of(image).split("/") if folder_of(image) else []
    struck = [[*parts[:depth], "*", *parts[depth + 1 :]] for depth in range(len(parts))]
    subject = [_bids_place(parts)] if _bids_place(parts) else []
    return ["/".join(parts), *("/".join(place) for place in struck), "/".join([*parts, "*"]), *subject]


def _place_of_mask(mask: str, folders: set[str]) -> tuple[str, str]:
    folder = folder_of(mask)
    depth = _label_depth(folder, folders)
    key = _without(_LABEL_NAME, stem_of(mask))
    if _is_derived(mask) and _bids_place(folder.split("/")):
        return _bids_place(folder.split("/")), _DERIVED.sub("", key).lower()
    if depth is None:
        return folder, key.lower()
    parts = folder.split("/")
    parts[depth] = "*"
    return "/".join(parts), _without(_IMAGE_NAME, key).lower()


def _bids_place(parts: list[str]) -> str:
    """Return the root of a BIDS dataset and the folders of the subject in it; empty if there is none."""
    first = next((n for n, part in enumerate(parts) if part.startswith("sub-")), None)
    if first is None:
        return ""
    root = parts[:first]
    if _DERIVATIVES in root:
        root = root[: root.index(_DERIVATIVES)]
    elif root and root[-1] in _RAW_ROOTS:
        root = root[:-1]
    return "/".join(["bids:", *root, *parts[first:]])


def _is_derived(mask: str) -> bool:
    return _DERIVATIVES in folder_of(mask).split("/")


def _spaces_of(mask: str) -> list[str]:
    """Return what a BIDS derivative says it was drawn on: the ``T1w`` of ``desc-T1w`` or ``space-T1w``."""
    return [word.lower() for word in _DRAWN_ON.findall(stem_of(mask))] if _is_derived(mask) else []


def _image_for(key: str, by_key: dict[str, list[str]], images: dict[str, str | None]) -> str | None:
    """Return the image of a label map among those of one place: of the same key, else the only one it can mean."""
    same = [image for image in by_key.get(key, ()) if images[image] is None]
    if same:
        return same[0]
    goes_on = [image for other, found in by_key.items() if _goes_on(other, key) for image in found]
    return goes_on[0] if len(goes_on) == 1 and images[goes_on[0]] is None else None


def _goes_on(key: str, start: str) -> bool:
    """Say whether ``key`` is ``start`` and more words; every key goes on from none (``mask.nii`` beside ``ct.nii``)."""
    return not start or (key.startswith(start) and key[len(start) : len(start) + 1] in ("_", "-", ".", " "))
