"""How a process of ours starts and ends: without what takes seconds and serves nobody."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

NEW_OBJECTS = 10_000  # between two looks for garbage; every 700, Python's own, they are a quarter of importing MONAI
MONAI_EXTRAS = ("mlflow", "pandas", "matplotlib")  # of its handlers, tables and plots, which we do not use


def run_quickly(main: Callable[[], T]) -> T:
    """Run a process's main function; its imports belong inside it.

    Objects that refer to one another are freed up to ten thousand new objects later than Python would by itself, all
    others at once, as ever.
    """
    gc.set_threshold(NEW_OBJECTS, *gc.get_threshold()[1:])
    try:
        return main()
    finally:
        gc.freeze()  # a last look at all that torch, MLflow and Prefect brought would take two seconds


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
