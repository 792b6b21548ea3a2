"""Make this package's data anew from installed packages: ``python -m medml.io.confidentiality.build``.

``iods.json.gz``: which attributes each SOP class has, and of which type, from highdicom's copy of PS3.3 (MIT).
``words.txt``: technical vocabulary, from pydicom's data dictionary and code tables (MIT) and our own ``terms.txt``.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import highdicom
from pydicom._dicom_dict import DicomDictionary
from pydicom.datadict import tag_for_keyword
from pydicom.sr._concepts_dict import concepts

HERE = Path(__file__).parent
_TYPES = {"1": 1, "1C": 1, "2": 2, "2C": 2, "3": 3}


def build_iods() -> bytes:
    """Return ``iods.json.gz``: modules as {parent tag + tag: type}, IODs as lists of modules, SOP classes to IODs.

    An attribute that a module has several times below the same parent counts with its strictest type.
    """
    source = Path(highdicom.__file__).parent / "_standard"
    modules = {name: _module(attributes) for name, attributes in _load(source / "module_attribute_map.json").items()}
    iods = {
        name: sorted({module["key"] for module in used} & modules.keys())
        for name, used in _load(source / "iod_module_map.json").items()
    }
    classes = _load(source / "sop_class_iod_map.json")
    used = {module for name in set(classes.values()) for module in iods[name]}
    data = {
        "modules": {name: modules[name] for name in sorted(used)},
        "iods": {name: iods[name] for name in sorted(set(classes.values()))},
        "classes": classes,
    }
    return gzip.compress(json.dumps(data, sort_keys=True, separators=(",", ":")).encode(), 9, mtime=0)


def build_words() -> str:
    """Return ``words.txt``: one lower-case word a line.

    Of the code tables only words that some meaning writes in lower case are taken, which leaves out eponyms.
    """
    words = {word.lower() for entry in DicomDictionary.values() for word in (*_words(entry[2]), *_words(entry[4]))}
    words |= {word for meaning in _meanings() for word in _words(meaning) if word.islower()}
    words |= set((HERE / "terms.txt").read_text(encoding="utf-8").lower().split())
    return "".join(f"{word}\n" for word in sorted(words))


def _module(attributes: list[dict[str, Any]]) -> dict[str, int]:
    found: dict[str, int] = {}
    for attribute in attributes:
        tag = tag_for_keyword(attribute["keyword"])
        parent = tag_for_keyword(attribute["path"][-1]) if attribute["path"] else 0
        if tag is None or parent is None:
            continue
        key = f"{parent:08X}{tag:08X}"
        found[key] = min(found.get(key, 3), _TYPES.get(attribute["type"], 3))
    return found


def _meanings() -> Iterator[str]:
    tables: dict[str, dict[str, dict[str, Any]]] = concepts  # type: ignore[assignment]
    for scheme in tables.values():
        for codes in scheme.values():
            for meaning, _ in codes.values():
                yield meaning


def _words(text: str) -> list[str]:
    return re.findall(r"[A-Za-z]{2,}", text)


def _load(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    (HERE / "iods.json.gz").write_bytes(build_iods())
    (HERE / "words.txt").write_text(build_words(), encoding="utf-8")
