"""``dataset.json`` of the Medical Segmentation Decathlon and of nnU-Net, told apart and checked."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from medml.catalogue.columns import clean_text
from medml.errors import Refusal

NAME = "dataset.json"


@dataclass(frozen=True, slots=True)
class Description:
    """What a ``dataset.json`` says.

    Attributes
    ----------
    kind : "msd" or "nnunet"
        MSD lists its files and maps label values to names; nnU-Net maps names to values and finds files by name.
    channels : tuple of str
        Channel names in order; empty if not given.
    labels : dict or None
        Value to name.
    training : tuple of (image, label or None)
        As listed, relative to the file.
    classes : dict
        Image to the numbers of its classes, where the list gives these instead of a label map.
    ignored : int or None
        The value that nnU-Net leaves out of training (a label called ``ignore``).
    test : tuple of str
        As listed.
    ending : str
        nnU-Net's ``file_ending``.
    """

    kind: Literal["msd", "nnunet"]
    channels: tuple[str, ...] = ()
    labels: dict[int, str] | None = None
    training: tuple[tuple[str, str | None], ...] = ()
    test: tuple[str, ...] = ()
    ending: str = ".nii.gz"
    licence: str = ""
    cases: dict[str, tuple[tuple[str, ...], str | None]] = field(default_factory=dict)
    classes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    ignored: int | None = None


def read_description(path: Path, *, max_bytes: int) -> Description:
    """Read a ``dataset.json``.

    Raises
    ------
    Refusal
        ``bad_dataset_json`` if it is not JSON, or neither MSD's nor nnU-Net's.
    """
    content = _load(path, max_bytes)
    licence = clean_text(content.get("licence") or content.get("license"))
    channels = content.get("channel_names", content.get("modality"))
    names = _in_order(channels)
    labels = _labels(content.get("labels"))
    if "training" in content and isinstance(content["training"], list):
        training = tuple(_listed(entry) for entry in content["training"])
        test = tuple(_listed(entry)[0] for entry in content.get("test") or [])
        listed = [*content["training"], *(content.get("test") or [])]
        return Description("msd", names, labels, training, test, licence=licence, classes=_classes(listed))
    if "file_ending" in content or "channel_names" in content:
        ending = str(content.get("file_ending") or ".nii.gz")
        cases = {str(case): _case(entry) for case, entry in (content.get("dataset") or {}).items()}
        ignored = next((value for value, name in (labels or {}).items() if name.lower() == "ignore"), None)
        return Description("nnunet", names, labels, ending=ending, licence=licence, cases=cases, ignored=ignored)
    raise _bad("it has neither `training` (MSD) nor `channel_names` and `file_ending` (nnU-Net)")


def _load(path: Path, max_bytes: int) -> dict[str, Any]:
    try:
        if path.stat().st_size > max_bytes:
            raise _bad(f"it has {path.stat().st_size} bytes, at most {max_bytes} are read")
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise _bad(f"it is not JSON ({type(error).__name__})") from None
    if not isinstance(content, dict):
        raise _bad("it is not an object")
    return content


def _in_order(channels: Any) -> tuple[str, ...]:
    """Return channel names sorted by their number."""
    if isinstance(channels, list):
        return tuple(clean_text(name) for name in channels)
    if not isinstance(channels, dict):
        return ()
    try:
        return tuple(clean_text(name) for _, name in sorted(channels.items(), key=lambda item: int(item[0])))
    except ValueError:
        raise _bad("the keys of its channels are not numbers") from None


def _labels(labels: Any) -> dict[int, str] | None:
    """Return value to name from MSD's value to name or nnU-Net's name to value.

    Each value of nested regions is called by the smallest region that holds it; if that names another value already,
    the value is added to the name.
    """
    if not isinstance(labels, dict) or not labels:
        return None
    found: dict[int, str] = {}
    try:
        if all(str(key).lstrip("-").isdigit() for key in labels):
            found = {int(key): clean_text(name) for key, name in labels.items()}
        else:
            pairs = [(clean_text(n), v if isinstance(v, list) else [v]) for n, v in labels.items()]
            for name, values in sorted(pairs, key=lambda pair: len(pair[1])):
                for value in values:
                    found.setdefault(int(value), name if name not in found.values() else f"{name}_{int(value)}")
    except (TypeError, ValueError):
        raise _bad("its labels are not names with whole numbers") from None
    if not all(0 <= value <= 255 for value in found):
        raise _bad(f"its label values run from {min(found)} to {max(found)}, expected 0 to 255")
    return dict(sorted(found.items()))


def _listed(entry: Any) -> tuple[str, str | None]:
    if isinstance(entry, str):
        return entry, None
    if isinstance(entry, dict) and isinstance(entry.get("image"), str):
        label = entry.get("label")
        return entry["image"], label if isinstance(label, str) else None
    raise _bad("an entry of `training` or `test` names no image")


def _classes(entries: list[Any]) -> dict[str, tuple[int, ...]]:
    """Return image to classes of the entries whose label is a number, or a list of numbers."""
    found = {}
    for entry in entries:
        label = entry.get("label") if isinstance(entry, dict) else None
        numbers = label if isinstance(label, list) else [label]
        if all(isinstance(number, int) and not isinstance(number, bool) and number >= 0 for number in numbers):
            found[str(entry["image"])] = tuple(sorted(numbers))
    return found


def _case(entry: Any) -> tuple[tuple[str, ...], str | None]:
    if isinstance(entry, dict) and isinstance(entry.get("images"), list):
        label = entry.get("label")
        return tuple(str(image) for image in entry["images"]), label if isinstance(label, str) else None
    raise _bad("an entry of `dataset` names no images")


def _bad(why: str) -> Refusal:
    return Refusal("bad_dataset_json", f"{NAME}: {why}; the files beside it are read by their names alone")
