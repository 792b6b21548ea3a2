"""Where a training's first weights lie, and whether they may be used."""

from __future__ import annotations

from pathlib import Path

from medml.records.dataset import Dataset
from medml.records.plan import Plan
from pipelines.independence import compare, trained_on
from pipelines.tasks import current_home


def locate_weights(plan: Plan, frozen: Dataset) -> str:
    """Return the folder or file that ``plan.pretrained`` names; empty where it names nothing.

    Raises
    ------
    ConfigError
        If it is neither there nor written like a registered model.
    NotFound
        If there is no such model.
    LeakageError
        If a registered model learned from cases of the dataset's test set: the figures would flatter what begins
        with its weights.
    """
    from medml.errors import ConfigError, LeakageError
    from medml.networks.foreign import SUFFIXES
    from medml.registry import models
    from medml.registry.tracking import Tracker

    if not plan.pretrained:
        return ""
    path = Path(plan.pretrained).expanduser()
    if path.exists():
        return str(path.resolve())
    if plan.pretrained.startswith(("/", ".", "~")) or path.suffix in SUFFIXES:
        raise ConfigError(
            f"plan.pretrained {plan.pretrained}: no such file or folder; expected weights, a bundle, a package or a "
            "registered model such as NAME@champion"
        )
    home = current_home()
    version = models.resolve(Tracker.of(home), plan.pretrained)
    learned = trained_on(home, version)
    if learned is not None:
        found = compare(home, plan.pretrained, frozen, learned, allow_seen=True)
        if found.seen or found.warning:
            raise LeakageError(
                f"plan.pretrained {plan.pretrained} learned from cases of the test set of {frozen.name}. "
                f"{found.warning} Begin with other weights, or with none"
            )
    return str(version.package_path)
