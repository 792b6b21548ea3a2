"""An experiment: one YAML that says what to train on what."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from medml.config import Config
from medml.errors import ConfigError
from medml.records.dataset import Task
from medml.records.plan import Member


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
    """When training stops, whichever comes first; early stopping may end it before.

    Attributes
    ----------
    steps : int or None
        Steps in all, rounded up to epochs of equal length; ``epochs`` says the same in validations.
    memory_gb : float or None
        Memory that a training step may take on its device, in GB; patch and batch follow. Default: what a GPU has.
    """

    minutes: PositiveFloat = 20.0
    steps: PositiveInt | None = None
    epochs: PositiveInt | None = None
    memory_gb: PositiveFloat | None = None


class Knob(Config):
    """What a tuning may choose for one key of the plan: one of ``choices``, or a number from ``low`` to ``high``.

    Attributes
    ----------
    log : bool
        Whether factors count rather than differences, as for learning rates.
    """

    choices: tuple[Any, ...] = ()
    low: float | None = None
    high: float | None = None
    log: bool = False

    @model_validator(mode="after")
    def _one_of_both(self) -> Knob:
        ranged = self.low is not None and self.high is not None
        if ranged == bool(self.choices) or (self.low is None) != (self.high is None):
            raise ValueError("expected either choices, or low and high")
        if ranged and not self.low < self.high:  # type: ignore[operator]
            raise ValueError(f"low {self.low:g} is not below high {self.high:g}")
        if self.log and not (ranged and self.low > 0):  # type: ignore[operator]
            raise ValueError("log needs low and high above 0")
        return self


class Tuning(Config):
    """What `medml tune` tries; it looks at validation cases only.

    Attributes
    ----------
    space : dict
        Key of the plan to `Knob`, e.g. ``learning_rate``; ``augmentation.rotate_deg`` names a part of one.
        ``augmentation.strength`` scales all of the augmentation. Empty: a space that follows from the plan.
    minutes : float or None
        Budget of one trial; default: the experiment's.
    pruner : "median", "hyperband" or "none"
        How trials that fall behind are ended early.
    """

    space: dict[str, Knob] = {}
    minutes: PositiveFloat | None = None
    pruner: Literal["median", "hyperband", "none"] = "median"


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


class ForeignCard(CardText):
    """What only a person can say about weights from elsewhere (``medml register --card CARD.yaml``).

    Attributes
    ----------
    data : str
        What it learned from, and where that is written.
    terms : str
        The licence of the weights, one sentence.
    """

    data: str = ""
    terms: str = ""


class Experiment(Config):
    """What to train: ``name`` is the model's name, ``plan`` holds what differs from the computed plan.

    Attributes
    ----------
    folds : "all", int or tuple of int
        Which of the dataset's folds to train on; several make a cross-validation, whose networks form one model.
    seeds : int or None
        How many trainings for each fold, each from another start; None leaves it to the plan (``starts``).
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$")
    task: Task
    dataset: DatasetChoice
    description: str = ""
    folds: Literal["all"] | NonNegativeInt | tuple[NonNegativeInt, ...] = 0
    seeds: PositiveInt | None = None
    plan: dict[str, Any] = {}
    budget: Budget = Budget()
    gate: str = "default"
    card: CardText = CardText()
    tune: Tuning = Tuning()

    @property
    def fold(self) -> int:
        """The fold whose training cases the plan is made from: the first."""
        if isinstance(self.folds, tuple):
            return self.folds[0] if self.folds else 0
        return 0 if self.folds == "all" else self.folds

    def members(self, folds: int, *, starts: int = 1) -> tuple[Member, ...]:
        """Return the trainings on a dataset with ``folds`` folds: seed by seed for each fold.

        Parameters
        ----------
        starts : int
            What the plan says where ``seeds`` says nothing.

        Raises
        ------
        ConfigError
            If a fold is not there or named twice, or none is named.
        """
        wanted = tuple(range(folds)) if self.folds == "all" else self.folds
        wanted = (wanted,) if isinstance(wanted, int) else wanted
        if not wanted or len(set(wanted)) < len(wanted) or max(wanted) >= folds:
            raise ConfigError(
                f"folds {list(wanted)}: the dataset has {folds}, counted from 0; expected 'all', one, or several "
                "different ones"
            )
        return tuple(Member(fold=fold, seed=seed) for fold in wanted for seed in range(self.seeds or starts))
