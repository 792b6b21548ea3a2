"""MONAI in a process that only trains or predicts, without what it imports for servers, tables and plots."""

from __future__ import annotations

import sys

MONAI_EXTRAS = ("mlflow", "pandas", "matplotlib")  # of its handlers, tables and plots, which we do not use


def import_monai() -> None:
    """Import MONAI without its optional extras, a third of its time; for a process that only trains or predicts.

    Others import the extras as ever; MONAI itself takes them for not installed, as long as the process lives.
    """
    hidden = [name for name in MONAI_EXTRAS if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]  # Python's own way to say: there is no such module
    try:
        import monai  # noqa: F401
    finally:
        for name in hidden:
            del sys.modules[name]
