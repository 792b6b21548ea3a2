"""Every case of the corpus, by group."""

from __future__ import annotations

import importlib
from pathlib import Path

from corpus.source import CASES

GROUPS = tuple(sorted(path.stem for path in Path(__file__).parent.glob("cases_*.py")))
for _group in GROUPS:
    importlib.import_module(f"corpus.{_group}")

ALL = tuple(CASES.values())
