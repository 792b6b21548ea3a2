"""How labels and columns are called in tables, metrics and file names."""

from __future__ import annotations

import re
from collections.abc import Mapping


def label_keys(labels: Mapping[int, str]) -> dict[int, str]:
    """Return, for every label value, its name fit for a column or a metric.

    Letters, digits, ``_``, ``-`` and ``.`` stay; anything else becomes ``_``. Names that fall together get their value.
    """
    keys: dict[int, str] = {}
    for value, name in sorted(labels.items()):
        key = re.sub(r"[^A-Za-z0-9_.-]+", "_", name).strip("_") or f"label_{value}"
        keys[value] = f"{key}_{value}" if key in keys.values() else key
    return keys


def foreground(labels: Mapping[int, str]) -> dict[int, str]:
    """Return the labels of a mask without background (value 0)."""
    return {value: name for value, name in labels.items() if value != 0}
