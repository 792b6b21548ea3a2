"""An experiment: one YAML that says what to train on what."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from medml.config import Config
from medml.records.dataset import Task


class DatasetChoice(Config):
    """Which frozen dataset, and how to freeze it if there is none.

    Attributes
    ----------
    select : dict
        Catalogue columns and their values; ``collection`` is the usual one.
    annotation : str
        Which annotations, where scans have several: those whose origin begins so, or that name this label.
    split : "patient", "official" or "column"
        Draw by patient; take the split the source publishes; or take the column named by ``split_column``.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$")
    select: dict[str, str] = {}
    annotation: str = ""
    split: Literal["patient", "official", "column"] = "patient"
    split_column: str = "split"
    test_fraction: float = Field(0.2, gt=0, lt=1)
    folds: int = Field(5, ge=2, le=20)
    subgroups: tuple[str, ...] = ("sex", "age_band", "scanner", "site")
    seed: int = 0


class Budget(Config):
    """When training stops, whichever comes first; early stopping may end it before."""

    minutes: PositiveFloat = 20.0
    epochs: PositiveInt | None = None


class CardText(Config):
    """What only a person can say about a model; the gate promotes none whose card leaves it out.

    Attributes
    ----------
    intended_use : str
        For whom, on what images, for which decision.
    limits : str
        Where it must not be used, and how it is known to fail.
    """

    intended_use: str = ""
    limits: str = ""


class Experiment(Config):
    """What to train: ``name`` is the model's name, ``plan`` holds what differs from the computed plan."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$")
    task: Task
    dataset: DatasetChoice
    description: str = ""
    fold: int = Field(0, ge=0)
    plan: dict[str, Any] = {}
    budget: Budget = Budget()
    gate: str = "default"
    card: CardText = CardText()
