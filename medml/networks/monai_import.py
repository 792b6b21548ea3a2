"""MONAI in a process that only trains or predicts, without the packages that only other parts of it use."""

from __future__ import annotations

import sys

from medml.interpreter import imported_for_good

MONAI_EXTRAS = (  # of its handlers, tables, plots, bundles, metrics and slide readers: MONAI has them as optional
    "mlflow",
    "pandas",
    "matplotlib",
    "optuna",
    "sklearn",
    "skimage",
    "scipy",
    "tifffile",
    "jsonschema",
    "requests",
)


def import_monai() -> None:
    """Import MONAI without its optional extras, most of its time; for a process that only trains or predicts.

    Others import the extras as ever; MONAI itself takes them for not installed, as long as the process lives.
    """
    hidden = [name for name in MONAI_EXTRAS if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]  # Python's own way to say: there is no such module
    try:
        with imported_for_good():
            import monai  # noqa: F401
    finally:
        for name in hidden:
            del sys.modules[name]
