"""How a process of ours runs: Python looks for garbage less often, and not at all at the end."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")

NEW_OBJECTS = 10_000  # between two looks for garbage; every 700, Python's own, they are a quarter of importing MONAI


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


@contextmanager
def imported_for_good() -> Iterator[None]:
    """Import large packages inside: no garbage is looked for meanwhile, nor ever again among what is there then."""
    sought = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if sought:
            gc.enable()
